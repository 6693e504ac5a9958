"""Paths as a user reads them."""

from __future__ import annotations

import os


def show_path(absolute: str) -> str:
    """A path as a user wants to read it: relative when it lies below the current folder; it opens as printed."""
    try:
        here = os.getcwd()
    except OSError:
        return absolute
    return os.path.relpath(absolute, here) if absolute.startswith(here.rstrip(os.sep) + os.sep) else absolute
