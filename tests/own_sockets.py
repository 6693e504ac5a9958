"""Sockets of a test alone, for galleries that another process, or a thread, answers for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval.resident import place


@contextmanager
def own_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder where they will lie; its name is short, as a socket's must be."""
    folder = tempfile.mkdtemp(prefix="r-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    monkeypatch.delenv(place.SWITCH, raising=False)
    yield Path(folder) / "retrieval"
    shutil.rmtree(folder)
