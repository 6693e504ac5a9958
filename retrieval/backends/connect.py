"""Which back end is at an address."""

from __future__ import annotations

from typing import Any

from retrieval.backends.base import Backend


def connect(address: str, description: dict[str, Any] | None = None) -> Backend:
    """The back end at an address; a gallery is made there for ``description`` where there is none. Raises UsageError,
    GalleryError."""
    if address.startswith("postgresql://"):
        from retrieval.backends.postgres import PostgresBackend

        return PostgresBackend(address, description)
    from retrieval.backends.milvus import MilvusBackend

    return MilvusBackend(address, description)
