"""Shared fixtures. Real pictures and oracles lie beside the project (RETRIEVAL_TEST_DATA names another place)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny  # noqa: F401  # makes its backbones known

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pictures and oracles; the test skips, with a reason, when it is absent."""
    folder = Path(os.environ.get("RETRIEVAL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set RETRIEVAL_TEST_DATA to its folder)")
    return folder


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """PostgreSQL or Milvus by kind, started when first asked for and shared by all modules: each gives its galleries names of its
    own, and who kills a server starts it again."""
    from engines_served import started_when_asked

    with started_when_asked(tmp_path_factory.mktemp) as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that engines prepare are kept for the whole run, for all of its workers, and not in the user's cache. Those of
    large networks go when others come: a compiled ResNet-18 has 145 MB."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "engine-cache"
    shared.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRIEVE_CACHE", str(shared))
        patch.setattr("retrieval.engines.openvino.cache.LIMIT", 400 << 20)
        yield
