"""What is installed; versions are read off the names of their folders.

:mod:`importlib.metadata` tells the same, and imports readers of mail and archives for it, which a query would wait for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec

_SUFFIX = ".dist-info"


def importable(module: str) -> bool:
    """Whether a module is there; nothing is imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # imports of it are forbidden
        return False


def versions_of(packages: Sequence[str]) -> list[str | None]:
    """The versions of these packages as their metadata tell them, None for what is not installed."""
    found: dict[str, str] = {}
    for folder in sys.path:
        with suppress(OSError):
            for entry in os.listdir(folder or os.curdir):
                name, dash, version = entry.removesuffix(_SUFFIX).partition("-")
                if dash and entry.endswith(_SUFFIX):
                    found.setdefault(_plain(name), version)  # the first on the path is what is imported
    return [found.get(_plain(package)) or _asked(package) for package in packages]


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _asked(package: str) -> str | None:
    """Of a package that is installed in another way, or not at all."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
