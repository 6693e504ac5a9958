"""A gallery in PostgreSQL with pgvector: a table of entries, an HNSW index over their vectors.

``postgresql://USER@HOST:PORT/DATABASE/NAME``: the table is ``retrieval_NAME``. Who is let in is libpq's matter: PGPASSWORD,
~/.pgpass and its other ways. The index is of ``vector`` up to 2,000 dimensions, of ``halfvec`` up to 4,000; beyond, every vector
is looked at. Vectors themselves are float32 always. A connection that is lost is opened again: all that is written is the same
written twice.
"""

from __future__ import annotations

import json
import logging
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.backends.address import require_named, without_secrets
from retrieval.backends.base import Candidates, Entry, Seen, folder_range, in_parts, key_of
from retrieval.backends.lasting import ConnectionLost, lasting
from retrieval.errors import GalleryError, GalleryMissing, UsageError
from retrieval.gallery.address import shown

_LEAST_INDEXED = 10_000  # below, looking at every vector is as fast
_MOST_EFFORT = 1000  # pgvector's own limit
_NAMES = 10_000
_PREFIX = 600  # characters of a name in its index: an entry holds at most 2,704 bytes


class PostgresBackend:
    """See :class:`retrieval.backends.base.Backend`. Raises GalleryError where there is none and ``description`` is None."""

    longest_name: int | None = None

    def __init__(self, address: str, description: dict[str, Any] | None = None) -> None:
        self.address = address
        parts = urllib.parse.urlsplit(address)
        database, _, name = parts.path.strip("/").rpartition("/")
        require_named(address, name, database, "postgresql://USER@HOST:PORT/DATABASE/NAME")
        self.table = f"retrieval_{name}"
        self._url = parts._replace(path=f"/{database}").geturl()
        self._connection: Any = None  # see restore
        self._connect()
        try:
            self.description = self._opened(name, description)
            self.dim = int(self.description["dim"])
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        try:
            import psycopg
            from pgvector.psycopg import register_vector
        except ImportError:
            raise UsageError(
                "galleries in PostgreSQL take psycopg and pgvector", "Run: pip install 'retrieval[pgvector]'."
            ) from None
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # what goes wrong is raised
        self._error: type[Exception] = psycopg.Error
        with self._errors():
            connection = psycopg.connect(self._url, autocommit=True)
            known = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
            if known is None:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
            self._connection = connection

    def restore(self) -> None:
        """See :func:`retrieval.backends.lasting.lasting`; what was closed on purpose stays closed."""
        if self._connection.broken and self._url:
            self._connect()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            lost = self._connection is not None and self._connection.broken
            kind = ConnectionLost if lost else GalleryError
            secret = urllib.parse.urlsplit(self.address).password or ""
            text = without_secrets(error, (urllib.parse.unquote(secret), secret))
            raise kind(f"{shown(self.address)}: {text}") from None

    def _opened(self, name: str, description: dict[str, Any] | None) -> dict[str, Any]:
        with self._errors(), self._connection.transaction():
            run = self._connection.execute
            there = run("SELECT to_regclass('retrieval_galleries'), to_regclass(%s)", (self.table,)).fetchone()
            if description is None and (there is None or None in there):
                raise GalleryMissing(
                    f"there is no gallery {name} at {shown(self.address)}", "Make one with: retrieve index FOLDER."
                )
            if description is not None:
                run("SELECT pg_advisory_xact_lock(7282736)")  # of those that make one at the same moment, one does
                run("CREATE TABLE IF NOT EXISTS retrieval_galleries (name text PRIMARY KEY, description text NOT NULL)")
                run(
                    "INSERT INTO retrieval_galleries VALUES (%s, %s) ON CONFLICT DO NOTHING",
                    (self.table, json.dumps(description)),
                )
            found = run("SELECT description FROM retrieval_galleries WHERE name = %s", (self.table,)).fetchone()
            if found is None:
                raise GalleryError(f"{shown(self.address)}: the table {self.table} is no gallery's")
            result: dict[str, Any] = json.loads(found[0])
            if description is not None:
                run(
                    f'CREATE TABLE IF NOT EXISTS {self.table} (key uuid PRIMARY KEY, name text COLLATE "C" NOT NULL, '
                    "hash text NOT NULL, size bigint NOT NULL, mtime_ns bigint NOT NULL, width int, height int, "
                    f"vector vector({int(result['dim'])}) NOT NULL)"
                )
                run(f"DROP INDEX IF EXISTS {self.table}_name")  # of whole names, which refused long ones
                run(f"CREATE INDEX IF NOT EXISTS {self.table}_begin ON {self.table} (substr(name, 1, {_PREFIX}))")
                run(f"CREATE INDEX IF NOT EXISTS {self.table}_hash ON {self.table} (hash)")
            return result

    # -- entries -------------------------------------------------------------------------------------------------

    @lasting
    def upsert(self, entries: Sequence[Entry]) -> None:
        query = (
            f"INSERT INTO {self.table} VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO UPDATE SET "
            "name = excluded.name, hash = excluded.hash, size = excluded.size, mtime_ns = excluded.mtime_ns, "
            "width = excluded.width, height = excluded.height, vector = excluded.vector"
        )
        rows = [
            (_key(e.name), e.name, e.hash, e.size, e.mtime_ns, e.width, e.height, np.asarray(e.vector, np.float32))
            for e in entries
        ]
        with self._errors(), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(query, rows)

    @lasting
    def delete(self, names: Sequence[str]) -> None:
        with self._errors(), self._connection.transaction():
            for part in in_parts(names):
                self._connection.execute(f"DELETE FROM {self.table} WHERE key = ANY(%s)", ([_key(n) for n in part],))

    @lasting
    def seen(self, names: Sequence[str]) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        with self._errors():
            for part in in_parts(names):
                query = f"SELECT name, hash, size, mtime_ns, width, height FROM {self.table} WHERE key = ANY(%s)"
                rows = self._connection.execute(query, ([_key(n) for n in part],))
                found.update((name, Seen(*rest)) for name, *rest in rows)
        return found

    @lasting
    def entries(self, names: Sequence[str]) -> list[Entry]:
        found: list[Entry] = []
        with self._errors():
            for part in in_parts(names):
                query = (
                    f"SELECT name, hash, size, mtime_ns, width, height, vector FROM {self.table} WHERE key = ANY(%s)"
                )
                rows = self._connection.execute(query, ([_key(n) for n in part],), binary=True)
                for name, digest, size, mtime_ns, width, height, vector in rows:
                    numbers = np.asarray(_numbers(vector), np.float32)
                    found.append(Entry(name, digest, size, mtime_ns, width, height, numbers))
        return found

    @lasting
    def has(self, hashes: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with self._errors():
            for part in in_parts(hashes):
                query = f"SELECT DISTINCT hash FROM {self.table} WHERE hash = ANY(%s)"
                found.update(digest for (digest,) in self._connection.execute(query, (list(part),)))
        return found

    def names(self, under: str | None = None) -> Iterator[str]:
        after: tuple[str, ...] = ()
        while block := self._names(under, after):
            yield from block
            after = (block[-1],)

    @lasting
    def _names(self, under: str | None, after: tuple[str, ...]) -> list[str]:
        """The next names, in order."""
        where, values = _below(under)
        if after:
            where += f"{' AND' if where else ' WHERE'} (substr(name, 1, {_PREFIX}), name) > (%s, %s)"
            values += [after[0][:_PREFIX], after[0]]
        query = f"SELECT name FROM {self.table}{where} ORDER BY substr(name, 1, {_PREFIX}), name LIMIT {_NAMES}"
        with self._errors():
            return [name for (name,) in self._connection.execute(query, values)]

    @lasting
    def page(self, after: bytes, limit: int, under: str | None = None) -> list[str]:
        where, values = _below(under)
        query = f"SELECT name FROM {self.table}{where}{' AND' if where else ' WHERE'} key > %s ORDER BY key LIMIT %s"
        with self._errors():
            rows = self._connection.execute(query, [*values, uuid.UUID(bytes=after), limit])
            return [name for (name,) in rows]

    @lasting
    def count(self, under: str | None = None) -> int:
        where, values = _below(under)
        with self._errors():
            found = self._connection.execute(f"SELECT count(*) FROM {self.table}{where}", values).fetchone()
        return int(found[0]) if found else 0

    # -- search --------------------------------------------------------------------------------------------------

    def nearest(self, vector: npt.NDArray[np.float32], k: int, effort: int) -> Candidates:
        if not self._cast():
            return self.exact(vector[None], k)[0]
        # Strictly in order, and on until there are k: else an index gives no more than ef_search.
        settings = {"hnsw.ef_search": min(max(effort, 1), _MOST_EFFORT), "hnsw.iterative_scan": "strict_order"}
        return self._search(vector, k, settings, f"vector::{self._cast()}")

    def exact(self, vectors: npt.NDArray[np.float32], k: int, under: str | None = None) -> list[Candidates]:
        return [self._search(vector, k, {"enable_indexscan": "off"}, "vector", under) for vector in vectors]

    @lasting
    def _search(
        self, vector: npt.NDArray[np.float32], k: int, settings: dict[str, Any], column: str, under: str | None = None
    ) -> Candidates:
        where, values = _below(under)
        cast = column.partition("::")[2] or "vector"
        query = f"SELECT name, vector FROM {self.table}{where} ORDER BY {column} <=> %s::{cast} LIMIT %s"
        with self._errors(), self._connection.transaction():
            for name, value in settings.items():
                self._connection.execute("SELECT set_config(%s, %s, true)", (name, str(value)))
            rows = self._connection.execute(query, [*values, np.asarray(vector, np.float32), k], binary=True).fetchall()
        return self._candidates(rows, k)

    def _candidates(self, rows: list[Any], wanted: int) -> Candidates:
        vectors = np.array([_numbers(v) for _, v in rows], np.float32).reshape(len(rows), self.dim)
        return Candidates([name for name, _ in rows], vectors, len(rows) < wanted)

    @lasting
    def sample(self, count: int) -> Candidates:
        with self._errors():
            query = f"SELECT name, vector FROM {self.table} ORDER BY key LIMIT %s"
            rows = self._connection.execute(query, (count,), binary=True).fetchall()
        return self._candidates(rows, count)

    def _cast(self) -> str:
        """What the index is of; "" where it can be of nothing."""
        return f"vector({self.dim})" if self.dim <= 2000 else f"halfvec({self.dim})" if self.dim <= 4000 else ""

    @lasting
    def settle(self) -> None:
        if not self._cast() or self.count() < _LEAST_INDEXED:
            return
        kind = self._cast().partition("(")[0]
        with self._errors():
            self._connection.execute(
                f"CREATE INDEX IF NOT EXISTS {self.table}_hnsw ON {self.table} "
                f"USING hnsw ((vector::{self._cast()}) {kind}_cosine_ops)"
            )
            self._connection.execute(f"ANALYZE {self.table}")

    @lasting
    def describe(self, changes: dict[str, Any]) -> None:
        merged = {**self.description, **changes}
        with self._errors():
            self._connection.execute(
                "UPDATE retrieval_galleries SET description = %s WHERE name = %s", (json.dumps(merged), self.table)
            )
        self.description = merged

    @lasting
    def bytes_on_disk(self) -> int | None:
        with self._errors():
            found = self._connection.execute("SELECT pg_total_relation_size(%s::regclass)", (self.table,)).fetchone()
        return int(found[0]) if found else None

    def close(self) -> None:
        self._url = ""
        self._connection.close()


def _key(name: str) -> uuid.UUID:
    return uuid.UUID(bytes=key_of(name))


def _below(under: str | None) -> tuple[str, list[Any]]:
    if under is None:
        return "", []
    bare, first, last = folder_range(under)
    begin = f"substr(name, 1, {_PREFIX})"  # has the index; what it lets in besides, the names themselves keep out
    where = f" WHERE (({begin} = %s AND name = %s) OR ({begin} BETWEEN %s AND %s AND name >= %s AND name < %s))"
    return where, [bare[:_PREFIX], bare, first[:_PREFIX], last[:_PREFIX], first, last]


def _numbers(value: Any) -> Any:
    return value.to_numpy() if hasattr(value, "to_numpy") else value
