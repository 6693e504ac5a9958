"""What a person waits for: first paint of the page, and a photo's answers, measured in Chromium; the figures of the docs.

retrieve serve --index GALLERY --port 8000 &
python scripts/web_paint.py http://127.0.0.1:8000 PHOTO [--shots FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
# From the request for answers to the frame after they stand in the grid, and the request alone.
ASKED = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/api/search')).at(-1)"


WATCH = """() => {
  const drawn = () => document.querySelector(".card .score");
  window.shown = new Promise((done) => {
    const look = () => { if (drawn()) requestAnimationFrame(() => done(performance.now())); };
    new MutationObserver(look).observe(document.getElementById("grid"), { childList: true });
  });
}"""


def answered(page: Any, photo: Path) -> tuple[float, float]:
    """Milliseconds until the answers are drawn, and of the request alone."""
    page.click("#clear") if page.locator("#clear").is_visible() else None
    page.wait_for_selector("#invite")
    page.evaluate(WATCH)
    page.set_input_files("#file", str(photo))
    shown = page.evaluate("window.shown")
    begun, ended = page.evaluate(f"[{ASKED}.startTime, {ASKED}.responseEnd]")
    return shown - begun, ended - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--shots", type=Path, help="Also write the pictures of the docs into this folder")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        paints, waits, requests = [], [], []
        for _ in range(10):  # each in a browser profile of its own: nothing is cached
            page = browser.new_page(base_url=given.address, viewport={"width": 1280, "height": 820})
            page.goto("/")
            page.wait_for_selector(".card img")
            paints.append(page.evaluate(PAINTED))
            wait, request = answered(page, given.photo)
            waits.append(wait)
            requests.append(request)
            page.close()
        for what, values in (("first paint", paints), ("answers drawn", waits), ("of that the request", requests)):
            print(f"{what}: {statistics.median(values):.0f} ms (median of {len(values)})")
        if given.shots is not None:
            page = browser.new_page(base_url=given.address, viewport={"width": 1180, "height": 740})
            page.goto("/")
            page.set_input_files("#file", str(given.photo))
            page.wait_for_selector(".card .score")
            page.wait_for_timeout(800)
            page.screenshot(path=given.shots / "web_search.jpg", type="jpeg", quality=82)
            page.locator(".thumb").first.click()
            page.wait_for_selector("#detail[data-ready]")
            page.wait_for_timeout(300)
            page.locator("#detail").screenshot(path=given.shots / "web_why.jpg", type="jpeg", quality=82)
        browser.close()


if __name__ == "__main__":
    main()
