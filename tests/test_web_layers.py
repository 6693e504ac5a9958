"""What is laid over the two pictures of the detail view: contributions, attention, a head of it; in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from textures import write_textures

pytest.importorskip("fastapi", reason="the page needs the extra [web]")

from browser import chromium
from web_album import on_a_port

from retrieval import Gallery, load_model

PIXELS = "document.getElementById('stage').toDataURL()"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two galleries of the same photos: one described by the class token, one by the mean of all."""
    folder = tmp_path_factory.mktemp("layers")
    write_textures(folder / "album", 4)
    made = []
    for pooling in ("cls", "mean"):
        model = load_model(f"deit_tiny-{pooling}@random:0", size=96, engine="torch")
        made.append(Gallery.create(folder / pooling, model, local=False))
        made[-1].index([folder / "album"])
    with on_a_port(made) as base:
        yield base
    for gallery in made:
        gallery.close()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    with chromium() as browser:
        page = browser.new_page(base_url=address)
        page.set_default_timeout(20_000)
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        yield page
        assert said == []


def shown(page: Any, gallery: str) -> list[str]:
    page.goto(f"/?gallery={gallery}&id=1&show=2")
    page.wait_for_selector("#detail[data-ready]")
    options: list[str] = page.locator("#layer option").all_text_contents()
    return options


def test_a_class_token_has_attention_alone(page: Any, address: str) -> None:
    assert shown(page, "cls") == [
        "attention, mean of heads",
        "attention, head 1",
        "attention, head 2",
        "attention, head 3",
    ]
    assert "one token describes each" in (page.locator("#why").text_content() or "")
    assert page.locator("#warm").text_content() == "most"
    assert not page.locator("#points").is_visible()
    seen = [page.evaluate(PIXELS)]
    for head in ("0", "2"):  # the first asks the server for all heads
        page.select_option("#layer", head)
        for _ in range(400):
            if page.evaluate(PIXELS) not in seen:
                break
            page.wait_for_timeout(50)
        seen.append(page.evaluate(PIXELS))
    page.uncheck("#heat")
    seen.append(page.evaluate(PIXELS))
    assert len(set(seen)) == 4
    assert not page.locator("#legend").is_visible()
    page.check("#heat")


def test_of_tokens_both_are_told(page: Any) -> None:
    options = shown(page, "mean")
    assert options[0] == "contributions to the cosine"
    page.select_option("#layer", "terms")
    assert page.locator("#warm").text_content() == "adds most"
    terms = page.evaluate(PIXELS)
    page.select_option("#layer", "mean")
    assert page.evaluate(PIXELS) != terms
    page.keyboard.press("Escape")


def test_what_was_chosen_stays_for_the_next_answer(page: Any) -> None:
    shown(page, "cls")
    page.select_option("#layer", "1")
    page.keyboard.press("Tab")
    page.click("#after" if page.locator("#after").is_enabled() else "#before")
    page.wait_for_selector("#detail[data-ready]:not([data-ready='2'])")
    assert page.locator("#layer").input_value() == "1"


@pytest.mark.slow
def test_no_serious_fault_for_people_with_aids(page: Any, address: str) -> None:
    """Slow: axe-core looks at every element; in the dark, where nothing but colours differs, by its rule of contrast alone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    context = page.context.browser.new_context(base_url=address, bypass_csp=True)
    other = context.new_page()
    other.set_default_timeout(20_000)
    shown(other, "cls")
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        other.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(other, options={"resultTypes": ["violations"], **rules}).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == [], scheme
    context.close()
