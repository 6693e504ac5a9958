"""Where what can be made again is kept: the one folder of the user's in which this package leaves anything by itself."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``RETRIEVE_CACHE``, else ``retrieval`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("RETRIEVE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "retrieval"
