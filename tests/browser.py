"""A real browser for the tests of the page: Debian's Chromium through Playwright, or a skip that says why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; the test skips where there is none."""
    found = os.environ.get("RETRIEVE_TEST_BROWSER") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no Chromium here (apt-get install chromium, or RETRIEVE_TEST_BROWSER)")
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
