"""How the list of a large gallery scrolls in Chromium: time between frames, elements in the document, requests.

    python scripts/web_scroll.py ADDRESS [--frames 300] [--pixels 120]
    python scripts/web_scroll.py --keys 100000     # serves that many keys with descriptors, without pictures, by itself

Scrolls so many pixels a frame (a wheel's step is about 100), then jumps to twenty places as a dragged scroll bar does, and waits
at each until all cards in sight are there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCROLL = """async ([frames, pixels]) => {
  const times = [];
  let before = await new Promise(requestAnimationFrame), most = 0;
  for (let i = 0; i < frames; i++) {
    scrollBy(0, pixels);
    const now = await new Promise(requestAnimationFrame);
    times.push(now - before);
    before = now;
    most = Math.max(most, document.querySelectorAll("*").length);
  }
  return [times, most];
}"""
JUMP = """async (part) => {
  scrollTo(0, part * document.documentElement.scrollHeight);
  const begun = performance.now();
  const there = () => [...document.querySelectorAll("#grid li")].filter((one) => {
    const { top, bottom } = one.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  do await new Promise(requestAnimationFrame); while (!there().length || there().some((one) => !one.querySelector(".name")));
  return performance.now() - begun;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?")
    parser.add_argument("--keys", type=int)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=120)
    options = parser.parse_args()
    if (options.address is None) == (options.keys is None):
        parser.error("name an address or --keys")
    with served(options.keys) if options.keys else given(options.address) as address:
        measure(address, options.frames, options.pixels)


def measure(address: str, frames: int, pixels: int) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url) if "/api/images" in one.url else None)
        page.goto(address)
        page.wait_for_selector(".card .name")
        times, most = page.evaluate(SCROLL, [frames, pixels])
        times.sort()
        print(f"{page.locator('#status').text_content()}")
        print(
            f"between frames: median {statistics.median(times):.1f} ms, 99 of 100 below {times[int(0.99 * len(times))]:.1f} ms"
        )
        jumps = sorted(page.evaluate(JUMP, (7 * i % 20) / 20) for i in range(20))
        print(f"20 jumps: cards in sight after {statistics.median(jumps):.0f} ms (median), {jumps[-1]:.0f} ms at most")
        print(f"elements in the document: {most} at most; {len(asked)} pages of the list asked for")
        browser.close()


@contextmanager
def given(address: str) -> Iterator[str]:
    yield address


@contextmanager
def served(count: int) -> Iterator[str]:
    """A server in this process over so many keys."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from fakes import DIM, fake_gallery
    from web_album import on_a_port

    with tempfile.TemporaryDirectory() as folder:
        gallery: Any
        with fake_gallery(Path(folder) / ".retrieval") as gallery:
            vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
            gallery.add([f"key {i:07d}" for i in range(count)], vector=vectors)
            with on_a_port([gallery]) as address:
                yield address


if __name__ == "__main__":
    main()
