"""The page in a real browser: what one drops, draws, clicks, types and sees."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textures import write_textures

pytest.importorskip("fastapi", reason="the page needs the extra [web]")

from browser import chromium
from fakes import DIM, fake_gallery
from web_album import known, on_a_port

from retrieval import Gallery, load_model

HOSTILE = "<img src=x onerror=window.ran=1>.png"
STATIC = Path(__file__).parent.parent / "retrieval" / "web"
RAN = "() => window.ran === undefined"

# A file that is given to the page as a person would drop or paste it.
GIVE = """([kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "mine.png", { type: "image/png" }));
  const event = kind === "drop"
    ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  (kind === "drop" ? document.getElementById("drop") : document.body).dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    folder = tmp_path_factory.mktemp("page")
    write_textures(folder / "album", 10)
    write_textures(folder / "album" / "deep", 3, first=10)
    (folder / "album" / "0001.png").rename(folder / "album" / HOSTILE)
    (folder / "album" / "twin.png").write_bytes((folder / "album" / "0003.png").read_bytes())
    (folder / "album" / "broken<b>.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    model = load_model("tiny-gem@random:0", size=160, engine="torch")
    with Gallery.create(folder / ".retrieval", model) as made:
        made.index([folder / "album"])
        yield made


@pytest.fixture(scope="module")
def address(gallery: Gallery) -> Iterator[str]:
    with on_a_port([gallery]) as base:
        yield base


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    yield from opened(browser, address)


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    yield from opened(
        browser, address, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme="dark"
    )


def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page whose console must stay silent, that talks to no other host, and runs no script but its own."""
    context = browser.new_context(base_url=address, accept_downloads=True, **options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda line: said.append(line.text) if "Content Security" in line.text else None)
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith((address, "blob:")) else None)
    yield page
    assert page.evaluate(RAN)
    assert said == []
    context.close()


def start(page: Any, where: str = "/") -> None:
    page.goto(where)
    page.wait_for_selector("html[data-ready]")


def until(page: Any, true: str) -> None:
    """Wait for an expression. (Playwright's own way needs eval, which the page's policy forbids.)"""
    for _ in range(400):
        if page.evaluate(true):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {true}")


def answers(page: Any) -> list[str]:
    """Names of the answers in the grid, once they are there."""
    page.wait_for_selector("#grid[aria-busy=false] .card .line")
    return page.locator("#grid .name").all_text_contents()


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(page: Any, gallery: Gallery, kind: str) -> None:
    start(page)
    page.evaluate(GIVE, [kind, base64.b64encode(known(4)).decode()])
    own = [Path(m.path).name for m in gallery.query(known(4), 20).matches]
    assert answers(page) == own
    assert own[0] == "0004.png"
    assert page.locator(".card .badge").first.text_content() == "same"


def test_choosing_boxing_looking_and_going_back(page: Any, gallery: Gallery) -> None:
    start(page)
    page.set_input_files("#file", files=[{"name": "q.png", "mimeType": "image/png", "buffer": known(4)}])
    assert answers(page)[0] == "0004.png"
    # A box from a quarter to three quarters of the picture.
    until(page, "document.getElementById('asked').naturalWidth > 0")
    until(page, "document.querySelector('#boxform [name=x2]').value === '240'")
    edges = page.locator("#asked").bounding_box()
    page.mouse.move(edges["x"] + edges["width"] / 4, edges["y"] + edges["height"] / 4)
    page.mouse.down()
    page.mouse.move(edges["x"] + edges["width"] * 0.6, edges["y"] + edges["height"] / 2)
    page.mouse.move(edges["x"] + edges["width"] * 3 / 4, edges["y"] + edges["height"] * 3 / 4)
    with page.expect_response(lambda r: "box=" in r.url and r.request.method == "POST") as waited:
        page.mouse.up()
    box = waited.value.json()["query"]["box"]
    assert box == pytest.approx([60, 45, 180, 135], abs=2)
    assert "box=" in page.url
    own = [Path(m.path).name for m in gallery.query(known(4), 20, box).matches]
    assert answers(page) == own
    # Why the first matched.
    page.locator(".thumb").first.click()
    page.wait_for_selector("#detail[data-ready]")
    assert "cells sum to" in page.locator("#why").text_content()
    assert "show=" in page.url
    page.go_back()
    page.wait_for_selector("#detail:not([open])", state="hidden")
    assert page.locator("#box").is_visible()
    page.go_back()  # without the box, the same photo still
    page.wait_for_selector("#box", state="hidden")
    assert answers(page)[0] == "0004.png"
    page.go_back()  # all pictures
    page.wait_for_selector("#invite")
    assert page.locator("#title").text_content() == "Pictures"


def test_heat_maps_are_drawn_over_the_pictures(page: Any) -> None:
    start(page, "/?id=3&show=5")
    page.wait_for_selector("#detail[data-ready]")
    hot = page.locator("#stage").screenshot()
    page.uncheck("#heat")
    plain = page.locator("#stage").screenshot()
    assert hot != plain
    assert "side by side with heat-maps" in page.locator("#stage").get_attribute("aria-label")


def test_an_address_can_be_shared(page: Any) -> None:
    start(page)
    page.locator(".thumb").nth(4).click()
    first = answers(page)
    shared = page.url
    assert "id=" in shared
    start(page, shared)
    assert answers(page) == first
    # Another one by its link, and through the detail view.
    page.locator(".askby").nth(1).click()
    until(page, f"location.href !== {shared!r}")
    assert answers(page)[0] == first[1]


def test_filters(page: Any) -> None:
    start(page, "/?id=3")
    everything = answers(page)
    page.wait_for_selector("option[value='album/deep']", state="attached")
    page.select_option("[name=under]", "album/deep")
    until(page, "document.querySelectorAll('#grid .name').length === 3")
    assert "under=album%2Fdeep" in page.url
    page.click("button[type=reset]")
    until(page, "document.querySelectorAll('#grid .name').length > 3")
    page.select_option("[name=verdict]", "same")
    until(page, f"document.querySelectorAll('#grid .name').length < {len(everything)}")
    assert set(page.locator(".badge").all_text_contents()) == {"same"}
    assert "hidden by the filter" in page.locator("#status").text_content()
    page.go_back()
    assert answers(page) == everything
    # One of two equal files goes beside the other.
    page.select_option("[name=fold]", "1")
    until(page, f"document.querySelectorAll('#grid .name').length === {len(everything) - 1}")
    assert "and 1 copy" in page.locator(".card").first.text_content()


def test_by_the_keyboard_alone(page: Any) -> None:
    start(page)
    page.wait_for_selector(".thumb")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert "thumb" in page.evaluate("document.activeElement.className")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")  # search by the second
    answers(page)
    page.locator(".thumb").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    before = page.url
    page.keyboard.press("ArrowRight")
    until(page, f"location.href !== {before!r}")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    # A box in numbers.
    until(page, "document.querySelector('#boxform [name=x2]').value === '240'")
    page.locator("#boxed summary").focus()
    page.keyboard.press("Enter")
    page.locator("[name=x2]").fill("120")
    page.locator("[name=y2]").fill("90")
    page.locator("[name=y2]").press("Enter")
    until(page, "location.search.includes('box=0%2C0%2C120%2C90')")


def test_on_a_phone_in_the_dark(phone: Any) -> None:
    start(phone, "/?id=3")
    answers(phone)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert phone.locator("#camera").get_attribute("capture") == "environment"
    assert phone.locator(".camera").is_visible()
    red, green, blue = (
        int(v) for v in phone.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)").copy()[:3]
    )
    assert max(red, green, blue) < 60
    phone.locator(".thumb").nth(1).tap()
    phone.wait_for_selector("#detail[data-ready]")
    size = phone.locator("#stage").bounding_box()
    assert size["height"] > size["width"] * 0.8  # one above the other
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for view in ("/gallery", "/duplicates", "/map"):
        start(phone, view)
        phone.wait_for_selector("main h1 >> visible=true")
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_duplicates_are_marked_and_exported(page: Any, gallery: Gallery) -> None:
    start(page, "/duplicates")
    page.wait_for_selector(".member")
    assert page.locator(".member").count() == 2
    assert page.locator(".member input:checked").count() == 1
    # The one of a group that is left cannot be given up.
    page.locator(".member input:checked").click()
    assert page.locator(".member input:checked").count() == 1
    with page.expect_download() as waited:
        page.click("#export")
    listed = Path(waited.value.path()).read_text().splitlines()
    [path] = listed
    assert Path(path).name in ("0003.png", "twin.png")
    assert Path(path).is_file()  # nothing was deleted


def test_the_gallery_tells_what_cannot_be_read_and_grows(page: Any, tmp_path: Path) -> None:
    start(page, "/gallery")
    page.wait_for_selector("td")
    assert page.locator("td").first.text_content() == "album/broken<b>.jpg"
    page.locator(".folders a", has_text="album/deep").click()
    until(page, "document.querySelectorAll('#grid .name').length === 3")


def test_the_map_leads_to_a_search(page: Any) -> None:
    start(page, "/map")
    page.wait_for_selector("canvas.plane")
    page.locator("canvas.plane").focus()
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    answers(page)
    assert "id=" in page.url


def test_growth_an_empty_gallery_and_a_server_that_is_gone(browser: Any, tmp_path: Path) -> None:
    model = load_model("tiny-gem@random:0", size=64, engine="torch")
    with Gallery.create(tmp_path / ".retrieval", model) as empty:
        with on_a_port([empty]) as address:
            page = browser.new_page(base_url=address)
            start(page)
            page.wait_for_selector(".note")
            assert "No pictures yet" in page.locator(".note").text_content()
            start(page, "/gallery")
            page.wait_for_selector(".tile")
            write_textures(tmp_path / "album", 3)
            empty.index([tmp_path / "album"])
            until(page, "document.querySelector('.tile b')?.textContent === '3'")
            assert "+3" in page.locator(".tiles").text_content()
            start(page)
            page.wait_for_selector(".card img")
        page.locator(".thumb").first.click()
        page.wait_for_selector(".note.wrong")
        assert "does not answer" in page.locator(".note.wrong").text_content()
        page.close()


def test_wrong_pictures_are_told(page: Any) -> None:
    start(page)
    page.set_input_files("#file", files=[{"name": "q.png", "mimeType": "image/png", "buffer": b"no picture at all"}])
    page.wait_for_selector(".note.wrong")
    assert page.locator("#grid .card").count() == 0
    assert page.locator(".note.wrong button").is_visible()


def test_no_script_in_a_name_runs(page: Any) -> None:
    start(page)
    page.wait_for_selector(".card img")
    assert HOSTILE in page.locator(".name").all_text_contents()
    start(page, "/?id=1&under=%3Cimg%20src%3Dx%20onerror%3Dwindow.ran%3D1%3E&show=1")
    page.wait_for_selector(".note.wrong")
    start(page, "/?id=2&k=100")
    at = answers(page).index(HOSTILE)
    page.locator(".thumb").nth(at).click()
    page.wait_for_selector("#detail[data-ready]")
    assert page.locator("#detailname").text_content() == HOSTILE
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0


def test_what_the_page_weighs(page: Any) -> None:
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(len(r.body())) if "/api/thumbnails" not in r.url else None)
    start(page)
    page.wait_for_selector(".card img")
    assert 20_000 < sum(sizes) < 200_000


def of_vectors(folder: Path, count: int) -> Gallery:
    """Keys with descriptors, without pictures."""
    import numpy as np

    made = fake_gallery(folder / ".retrieval")
    vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
    made.add([f"key {i:06d}" for i in range(count)], vector=vectors)
    return made


SEEN = """() => [...document.querySelectorAll("#grid .name")].map((one) => one.textContent)"""
IN_SIGHT = """() => {
  const near = [...document.querySelectorAll("#grid li")].filter((one) => {
    const { top, bottom } = one.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  return near.length > 0 && near.every((one) => one.querySelector(".name"));
}"""


def test_all_of_hundreds_are_met_as_one_scrolls(browser: Any, tmp_path: Path) -> None:
    with of_vectors(tmp_path, 400) as many, on_a_port([many]) as address:
        page = browser.new_page(base_url=address, viewport={"width": 1000, "height": 700})
        start(page)
        page.wait_for_selector(".card .name")
        height = page.evaluate("document.documentElement.scrollHeight")
        met: list[str] = []
        for y in range(0, height, 700):
            page.evaluate(f"scrollTo(0, {y})")
            page.wait_for_timeout(20)
            until(page, f"({IN_SIGHT})()")
            shown = page.evaluate(SEEN)
            assert shown == sorted(shown)
            assert len(shown) < 60
            met += shown
            assert abs(page.evaluate("document.documentElement.scrollHeight") - height) < 3  # nothing jumps
        assert sorted(set(met)) == [f"key {i:06d}" for i in range(400)]
        # The arrows go on where the window ends, and the focus comes back with its card.
        page.evaluate("scrollTo(0, 0)")
        until(page, "document.querySelector('#grid li').dataset.i === '0'")
        page.locator(".thumb").first.focus()
        for _ in range(12):
            page.keyboard.press("ArrowDown")
        at = page.evaluate("Number(document.activeElement.closest('li').dataset.i)")
        assert at == 12 * page.evaluate(
            "getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
        )
        page.evaluate("scrollTo(0, 0)")
        until(page, "document.activeElement === document.body")
        page.evaluate(f"scrollTo(0, {height})")
        page.wait_for_timeout(50)
        page.evaluate(f"scrollTo(0, {height // 4})")
        page.close()


def test_back_leads_to_where_one_was_in_a_long_list(browser: Any, tmp_path: Path) -> None:
    with of_vectors(tmp_path, 3000) as many, on_a_port([many]) as address:
        page = browser.new_page(base_url=address, viewport={"width": 1000, "height": 700})
        start(page)
        page.wait_for_selector(".card .name")
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        page.wait_for_timeout(100)
        until(page, f"({IN_SIGHT})()")
        at = page.evaluate("scrollY")
        card = page.locator(".card", has_text="key 0015").first
        name = card.locator(".name").text_content()
        card.locator(".thumb").click()
        assert answers(page)[0] == name
        page.go_back()
        until(page, f"Math.abs(scrollY - {at}) < 2 && ({IN_SIGHT})()")
        assert name in page.evaluate(SEEN)
        page.close()


@pytest.mark.slow
def test_tens_of_thousands_take_no_more_of_the_page(browser: Any, tmp_path: Path) -> None:
    """Slow: thirty thousand keys are written first."""
    with of_vectors(tmp_path, 30_000) as many, on_a_port([many]) as address:
        page = browser.new_page(base_url=address)
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url) if "/api/images" in one.url else None)
        start(page)
        page.wait_for_selector(".card .name")
        assert "30,000" in (page.locator("#status").text_content() or "")
        elements = []
        for part in (0.0, 0.5, 0.25, 0.9, 1.0):
            page.evaluate(f"scrollTo(0, {part} * document.documentElement.scrollHeight)")
            page.wait_for_timeout(100)
            until(page, f"({IN_SIGHT})()")
            elements.append(page.evaluate("document.querySelectorAll('*').length"))
            assert page.locator("#grid li").count() < 120
        assert max(elements) < 1500
        assert page.evaluate(SEEN)[-1] == "key 029999"
        assert len(asked) < 15  # only pages that were in sight
        most = page.evaluate(
            """async () => {
              let most = 0;
              for (let i = 0; i < 200; i++) {
                scrollBy(0, -2000);
                await new Promise(requestAnimationFrame);
                most = Math.max(most, document.querySelectorAll("*").length);
              }
              return most;
            }"""
        )
        assert most < 1500
        # Pages that were left long ago are let go; rows are still measured anew, and what was left comes again.
        for part in range(70):
            page.evaluate(f"scrollTo(0, {part / 70} * document.documentElement.scrollHeight)")
            until(page, f"({IN_SIGHT})()")
        page.set_viewport_size({"width": 700, "height": 900})
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 3)")
        until(page, f"({IN_SIGHT})() && document.querySelectorAll('#grid .name').length > 0")
        page.evaluate("scrollTo(0, 0)")
        until(page, f"({IN_SIGHT})() && document.querySelector('#grid .name')?.textContent === 'key 000000'")
        page.close()


def test_no_serious_fault_for_people_with_aids(browser: Any, address: str) -> None:
    """All rules of axe-core in light; in the dark, where nothing but colours differs, the one of contrast."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    context = browser.new_context(base_url=address, bypass_csp=True)
    page = context.new_page()
    for where, ready in (
        ("/", ".card img"),
        ("/?id=3", ".card .badge"),
        ("/?id=3&show=5", "#detail[data-ready]"),
        ("/gallery", ".tile"),
        ("/duplicates", ".member"),
        ("/map", "canvas.plane"),
    ):
        start(page, where)
        page.wait_for_selector(ready)
        for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page.emulate_media(color_scheme=scheme)
            found = axe.Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
            serious = [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")]
            assert serious == [], (where, scheme)
    context.close()
