"""A gallery in Milvus: a collection of entries, an HNSW index over their vectors.

``milvus://HOST:PORT/NAME``. Credentials come from MILVUS_TOKEN, or MILVUS_USER and MILVUS_PASSWORD. Reads are strongly
consistent: what was acknowledged is found. What lies under a folder is looked at one by one, on our side.
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.backends.address import require_named, without_secrets
from retrieval.backends.base import Candidates, Entry, Seen, folder_range, in_parts, key_of
from retrieval.backends.milvus_client import connected
from retrieval.backends.scores import Best
from retrieval.errors import GalleryError, GalleryMissing, UsageError
from retrieval.gallery.address import shown

_BLOCK = 1000
_LONGEST_NAME = 4096
_LONGEST_DESCRIPTION = 60_000
_GALLERIES = "retrieval_galleries"  # a row a gallery: what was kept with it when it was made
_STRONG = "Strong"
_NUMBERS = ("size", "mtime_ns", "width", "height")


class MilvusBackend:
    """See :class:`retrieval.backends.base.Backend`. Raises GalleryError where there is none and ``description`` is None."""

    longest_name: int | None = _LONGEST_NAME

    def __init__(self, address: str, description: dict[str, Any] | None = None) -> None:
        self.address = address
        parts = urllib.parse.urlsplit(address)
        name = parts.path.strip("/")
        require_named(address, name, parts.hostname, "milvus://HOST:PORT/NAME")
        self.collection = f"retrieval_{name}"
        self._secrets = [parts.password, os.environ.get("MILVUS_TOKEN"), os.environ.get("MILVUS_PASSWORD")]
        try:
            import pymilvus
        except ImportError:
            raise UsageError("galleries in Milvus take pymilvus", "Run: pip install 'retrieval[milvus]'.") from None
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what goes wrong is raised
        self._library = pymilvus
        user = parts.username or os.environ.get("MILVUS_USER", "")
        password = parts.password or os.environ.get("MILVUS_PASSWORD", "")
        with self._errors():
            self._client = connected(pymilvus, f"http://{parts.hostname}:{parts.port or 19530}", user, password)
        try:
            self.description = self._opened(name, description)
            self.dim = int(self.description["dim"])
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._library.MilvusException, OSError) as error:
            text = without_secrets(getattr(error, "message", error), self._secrets)
            raise GalleryError(f"{shown(self.address)}: {text}") from None

    def _opened(self, name: str, description: dict[str, Any] | None) -> dict[str, Any]:
        with self._errors():
            if description is None and not self._client.has_collection(self.collection):
                raise GalleryMissing(
                    f"there is no gallery {name} at {shown(self.address)}", "Make one with: retrieve index FOLDER."
                )
            if not self._client.has_collection(_GALLERIES):
                if description is None:
                    raise self._foreign()
                self._make(_GALLERIES, {"name": 64, "description": _LONGEST_DESCRIPTION}, (), 2)
            self._client.load_collection(_GALLERIES)
            found = self._described()
            if found is None:
                if description is None or self._client.has_collection(self.collection):
                    raise self._foreign()
                self._keep(description)
                found = self._described() or description
            if description is not None and not self._client.has_collection(self.collection):
                texts = {"key": 32, "name": _LONGEST_NAME, "hash": 64}
                self._make(self.collection, texts, _NUMBERS, int(found["dim"]))
            self._client.load_collection(self.collection)
        return found

    def _foreign(self) -> GalleryError:
        return GalleryError(f"{shown(self.address)}: the collection {self.collection} is no gallery's")

    def _described(self) -> dict[str, Any] | None:
        rows = self._client.query(
            _GALLERIES,
            filter=f"name == {_quoted(self.collection)}",
            output_fields=["description"],
            consistency_level=_STRONG,
        )
        return json.loads(rows[0]["description"]) if rows else None

    def _keep(self, description: dict[str, Any]) -> None:
        row = {"name": self.collection, "description": json.dumps(description), "vector": [1.0, 0.0]}
        self._client.upsert(_GALLERIES, [row])

    def _make(self, collection: str, texts: dict[str, int], numbers: Sequence[str], dim: int) -> None:
        """A collection of such texts (name: longest), the first of which is the key, numbers, and a vector."""
        kind = self._library.DataType
        schema = self._library.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        for place, (name, longest) in enumerate(texts.items()):
            schema.add_field(name, kind.VARCHAR, max_length=longest, is_primary=place == 0)
        for name in numbers:
            schema.add_field(name, kind.INT64)
        schema.add_field("vector", kind.FLOAT_VECTOR, dim=dim)
        index = self._library.MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
        self._client.create_collection(collection, schema=schema, index_params=index, consistency_level=_STRONG)

    # -- entries -------------------------------------------------------------------------------------------------

    def upsert(self, entries: Sequence[Entry]) -> None:
        rows = [
            {
                "key": key_of(e.name).hex(),
                "name": e.name,
                "hash": e.hash,
                "size": e.size,
                "mtime_ns": e.mtime_ns,
                "width": -1 if e.width is None else e.width,
                "height": -1 if e.height is None else e.height,
                "vector": np.asarray(e.vector, np.float32),
            }
            for e in entries
        ]
        with self._errors():
            for begin in range(0, len(rows), _BLOCK):
                self._client.upsert(self.collection, rows[begin : begin + _BLOCK])

    def delete(self, names: Sequence[str]) -> None:
        with self._errors():
            for part in in_parts(names):
                self._client.delete(self.collection, ids=[key_of(name).hex() for name in part])

    def seen(self, names: Sequence[str]) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for part in in_parts(names):
            keys = [key_of(name).hex() for name in part]
            fields = ["hash", "size", "mtime_ns", "width", "height"]
            for row in self._query(f"key in {json.dumps(keys)}", ["name", *fields]):
                width, height = (None if row[side] < 0 else row[side] for side in ("width", "height"))
                found[row["name"]] = Seen(row["hash"], row["size"], row["mtime_ns"], width, height)
        return found

    def entries(self, names: Sequence[str]) -> list[Entry]:
        found: list[Entry] = []
        for part in in_parts(names):
            keys = [key_of(name).hex() for name in part]
            rows = self._query(f"key in {json.dumps(keys)}", ["name", "hash", *_NUMBERS, "vector"])
            for row, vector in zip(rows, self._vectors(rows), strict=True):
                width, height = (None if row[side] < 0 else int(row[side]) for side in ("width", "height"))
                found.append(Entry(row["name"], row["hash"], row["size"], row["mtime_ns"], width, height, vector))
        return found

    def has(self, hashes: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for part in in_parts(hashes):
            found.update(row["hash"] for row in self._query(f"hash in {json.dumps(list(part))}", ["hash"]))
        return found

    def names(self, under: str | None = None) -> Iterator[str]:
        found = [row["name"] for block in self._scan(under, ["name"]) for row in block]
        return iter(sorted(found, key=str.encode))

    def page(self, after: bytes, limit: int, under: str | None = None) -> list[str]:
        found: list[str] = []
        for block in self._scan(under, ["name"], f'key > "{after.hex()}"', limit):  # an iterator goes by the key
            found += [row["name"] for row in block]
            if len(found) >= limit:
                break
        return found[:limit]

    def count(self, under: str | None = None) -> int:
        if under is not None:
            return sum(len(block) for block in self._scan(under, ["name"]))
        with self._errors():
            found = self._client.query(
                self.collection, filter="", output_fields=["count(*)"], consistency_level=_STRONG
            )
        return int(found[0]["count(*)"])

    def _query(self, condition: str, fields: list[str], **options: Any) -> list[dict[str, Any]]:
        with self._errors():
            rows: list[dict[str, Any]] = self._client.query(
                self.collection, filter=condition, output_fields=fields, consistency_level=_STRONG, **options
            )
        return rows

    def _scan(
        self, under: str | None, fields: list[str], also: str = "", block: int = _BLOCK
    ) -> Iterator[list[dict[str, Any]]]:
        """All entries, or those under a folder, in blocks of about so many, by ascending key."""
        condition = " and ".join(f"({part})" for part in (also, _below(under) if under is not None else "") if part)
        with self._errors():
            rows = self._client.query_iterator(
                self.collection,
                batch_size=min(block, _BLOCK),
                filter=condition,
                output_fields=fields,
                consistency_level=_STRONG,
            )
            try:
                while found := rows.next():
                    yield [row for row in found if under is None or _lies_below(row["name"], under)]
            finally:
                rows.close()

    # -- search --------------------------------------------------------------------------------------------------

    def nearest(self, vector: npt.NDArray[np.float32], k: int, effort: int) -> Candidates:
        with self._errors():
            found = self._client.search(
                self.collection,
                [np.asarray(vector, np.float32)],
                limit=min(k, 16_384),
                output_fields=["name", "vector"],
                search_params={"metric_type": "COSINE", "params": {"ef": max(effort, k)}},
                consistency_level=_STRONG,
            )[0]
        rows = [hit["entity"] for hit in found]
        return Candidates([row["name"] for row in rows], self._vectors(rows), len(rows) < k)

    def exact(self, vectors: npt.NDArray[np.float32], k: int, under: str | None = None) -> list[Candidates]:
        """All entries come over, once for all queries."""
        best = [Best(vector, k) for vector in vectors]
        for block in self._scan(under, ["name", "vector"]):
            names, found = [row["name"] for row in block], self._vectors(block)
            for one in best:
                one.add(names, found)
        return [Candidates(one.names, one.vectors.reshape(-1, self.dim), one.all) for one in best]

    def sample(self, count: int) -> Candidates:
        with self._errors():
            rows = self._client.query_iterator(
                self.collection, batch_size=min(count, _BLOCK), limit=count, filter="", output_fields=["name", "vector"]
            )
            try:
                found = rows.next()
            finally:
                rows.close()
        return Candidates([row["name"] for row in found], self._vectors(found), len(found) < count)

    def _vectors(self, rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float32]:
        return np.array([row["vector"] for row in rows], np.float32).reshape(len(rows), self.dim)

    def settle(self) -> None:
        """Milvus builds its index by itself."""
        with self._errors():
            self._client.flush(self.collection)

    def describe(self, changes: dict[str, Any]) -> None:
        merged = {**self.description, **changes}
        with self._errors():
            self._keep(merged)
        self.description = merged

    def bytes_on_disk(self) -> int | None:
        return None

    def close(self) -> None:
        self._client.close()


def _below(under: str) -> str:
    """What holds at least for all names under a folder: wildcards in a name may let others in, which are left out here."""
    bare, first, _ = folder_range(under)
    pattern = re.sub(r"[%_\\\x00-\x1f\x7f]", "_", first)
    return f'key == "{key_of(bare).hex()}" or name like {_quoted(pattern + "%")}'


def _lies_below(name: str, under: str) -> bool:
    bare, first, _ = folder_range(under)
    return name == bare or name.startswith(first)


def _quoted(text: str) -> str:
    """A text in a filter; letters of all kinds stand for themselves there."""
    return json.dumps(text, ensure_ascii=False)
