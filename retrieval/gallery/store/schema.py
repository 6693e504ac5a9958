"""The catalog's tables, and what a catalog of an earlier program gets when it is next written to.

Entries carry checksums. A change to an entry, to a folder or to one of the catalog's own numbers takes the checksum away, by a
trigger, and whoever commits the change sets it anew (:class:`Catalog`). So what an earlier program wrote has none, and says
nothing; a value that was changed in any other way does not fit its checksum.
"""

from __future__ import annotations

import functools
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE roots (id INTEGER PRIMARY KEY, path UNIQUE NOT NULL, kind TEXT NOT NULL
    CHECK (kind IN ('folder', 'files', 'keys')));
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root INTEGER NOT NULL REFERENCES roots(id),
    path NOT NULL,
    size INTEGER NOT NULL DEFAULT -1,
    mtime_ns INTEGER NOT NULL DEFAULT -1,
    hash TEXT,
    width INTEGER,
    height INTEGER,
    status TEXT NOT NULL CHECK (status IN ('pending', 'ok', 'error')),
    error TEXT,
    row INTEGER,
    metadata TEXT,
    ctime_ns INTEGER NOT NULL DEFAULT -1,
    inode INTEGER NOT NULL DEFAULT -1,
    UNIQUE (root, path)
);
CREATE INDEX images_by_hash ON images (hash);
CREATE INDEX images_by_row ON images (row);
CREATE TABLE taken_out (root INTEGER NOT NULL, path NOT NULL, PRIMARY KEY (root, path));
CREATE TABLE spare (hash TEXT PRIMARY KEY, row INTEGER NOT NULL, width INTEGER, height INTEGER);
INSERT INTO meta VALUES ('version', '0'), ('vector_count', '0'), ('generation', '0');
"""
# Which pictures were added, removed or given another vector, in order: what a search index of an earlier state lacks.
# Compaction moves vectors through negative row numbers and changes none of them. A catalog made before there was a log
# gets one, and an identity, when it is next written to.
LOG = """
CREATE TABLE IF NOT EXISTS changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER UNIQUE NOT NULL);
CREATE TRIGGER IF NOT EXISTS vector_added AFTER INSERT ON images WHEN new.row IS NOT NULL
BEGIN INSERT OR REPLACE INTO changes (id) VALUES (new.id); END;
CREATE TRIGGER IF NOT EXISTS vector_removed AFTER DELETE ON images WHEN old.row IS NOT NULL
BEGIN INSERT OR REPLACE INTO changes (id) VALUES (old.id); END;
CREATE TRIGGER IF NOT EXISTS vector_changed AFTER UPDATE OF row ON images
WHEN new.row IS NOT old.row AND coalesce(new.row, 0) >= 0 AND coalesce(old.row, 0) >= 0
BEGIN INSERT OR REPLACE INTO changes (id) VALUES (new.id); END;
INSERT OR REPLACE INTO meta VALUES ('log_start', '0'), ('identity', lower(hex(randomblob(16))));
"""
# A catalog of before 0.2 gets these when it is next written to; its readers do without.
SECOND = """
CREATE TABLE roots_2 (id INTEGER PRIMARY KEY, path UNIQUE NOT NULL, kind TEXT NOT NULL
    CHECK (kind IN ('folder', 'files', 'keys')));
INSERT INTO roots_2 SELECT id, path, kind FROM roots;
DROP TABLE roots;
ALTER TABLE roots_2 RENAME TO roots;
ALTER TABLE images ADD COLUMN metadata TEXT;
ALTER TABLE images ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT -1;
ALTER TABLE images ADD COLUMN inode INTEGER NOT NULL DEFAULT -1;
CREATE TABLE taken_out (root INTEGER NOT NULL, path NOT NULL, PRIMARY KEY (root, path));
"""
# Since 0.2 as well. ``searchable``: how many pictures have a vector, ``entries``: how many
# there are; ``check``: the checksum of all other numbers and folders.
_ENTRY = "id, root, path, size, mtime_ns, hash, width, height, status, error, row, metadata, ctime_ns, inode"
_SEALS = f"""
ALTER TABLE images ADD COLUMN crc INTEGER;
CREATE INDEX images_unsealed ON images (id) WHERE crc IS NULL;
CREATE INDEX images_lost ON images (id) WHERE status = 'ok' AND row IS NULL;
CREATE TRIGGER entry_changed AFTER UPDATE OF {_ENTRY} ON images WHEN old.crc IS NOT NULL
BEGIN UPDATE images SET crc = NULL WHERE id = new.id; END;
INSERT OR REPLACE INTO meta SELECT 'searchable', count(*) FROM images WHERE row IS NOT NULL;
CREATE TRIGGER counted_in AFTER INSERT ON images WHEN new.row IS NOT NULL
BEGIN UPDATE meta SET value = value + 1 WHERE key = 'searchable'; END;
CREATE TRIGGER counted_out AFTER DELETE ON images WHEN old.row IS NOT NULL
BEGIN UPDATE meta SET value = value - 1 WHERE key = 'searchable'; END;
CREATE TRIGGER counted_again AFTER UPDATE OF row ON images WHEN (new.row IS NULL) != (old.row IS NULL)
BEGIN UPDATE meta SET value = value + (old.row IS NULL) - (new.row IS NULL) WHERE key = 'searchable'; END;
INSERT OR REPLACE INTO meta SELECT 'entries', count(*) FROM images;
CREATE TRIGGER entry_in AFTER INSERT ON images BEGIN UPDATE meta SET value = value + 1 WHERE key = 'entries'; END;
CREATE TRIGGER entry_out AFTER DELETE ON images BEGIN UPDATE meta SET value = value - 1 WHERE key = 'entries'; END;
INSERT OR REPLACE INTO meta VALUES ('check', '');
""" + "".join(
    f"""
CREATE TRIGGER {table}_{what.lower()} AFTER {what} ON {table} {unless}
BEGIN UPDATE meta SET value = '' WHERE key = 'check' AND value != ''; END;
"""
    for table, column in (("meta", "key"), ("roots", ""))
    for what, row in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old"))
    for unless in [f"WHEN {row}.{column} != 'check'" if column else ""]
)
# Every run tells which pictures cannot be read: few of many.
_TROUBLED = "CREATE INDEX IF NOT EXISTS images_troubled ON images (id) WHERE error IS NOT NULL;"
CREATE = f"BEGIN IMMEDIATE; {SCHEMA} {LOG} {_SEALS} {_TROUBLED} COMMIT;"


ENTRY_COLUMNS = _ENTRY
_BY_ENTRY = ("vector_added", "counted_in", "entry_in")  # triggers


@contextmanager
def many_added(connection: sqlite3.Connection) -> Iterator[None]:
    """Entries of new, ascending ids that are added inside are counted and logged at once at the end: the triggers that do so for
    each take as long as all the rest. Within one transaction, which has them back whatever becomes of it."""
    marks = ", ".join("?" * len(_BY_ENTRY))
    query = f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name IN ({marks})"
    triggers = connection.execute(query, _BY_ENTRY).fetchall()
    (before,) = connection.execute("SELECT coalesce(max(id), 0) FROM images").fetchone()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    yield
    entries, searchable = connection.execute(
        "SELECT count(*), count(row) FROM images WHERE id > ?", (before,)
    ).fetchone()
    for key, more in (("entries", entries), ("searchable", searchable)):
        connection.execute("UPDATE meta SET value = value + ? WHERE key = ?", (more, key))
    connection.execute(
        "INSERT INTO changes (id) SELECT id FROM images WHERE id > ? AND row IS NOT NULL ORDER BY id", (before,)
    )
    for _, sql in triggers:
        connection.execute(sql)


def entry_crc(*entry: Any) -> int:
    """The checksum of an entry: of its values, in the order of the columns, and their types."""
    return crc_of(entry)


def crc_of(entry: tuple[Any, ...]) -> int:
    """The same of a tuple."""
    return zlib.crc32(repr(entry).encode("utf-8", "surrogatepass"))


def head(connection: sqlite3.Connection) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    """A catalog's numbers by name, and its folders (id, path, kind)."""
    numbers = connection.execute("SELECT key, value FROM meta ORDER BY key").fetchall()
    return dict(numbers), connection.execute("SELECT id, path, kind FROM roots ORDER BY id").fetchall()


def head_crc(numbers: dict[str, str], folders: list[tuple[Any, ...]]) -> tuple[str | None, str]:
    """The checksum of numbers and folders: as stored ("" where a change took it away, None in an earlier program's catalog), and
    as it is."""
    return numbers.get("check"), str(entry_crc(*(pair for pair in numbers.items() if pair[0] != "check"), *folders))


def migrate(connection: sqlite3.Connection) -> None:
    """Give a catalog what it lacks, see above; its writer's."""
    found = {row[1] for row in connection.execute("PRAGMA table_info(images)")}
    if connection.execute("SELECT 1 FROM meta WHERE key = 'identity'").fetchone() is None:
        connection.executescript(f"BEGIN IMMEDIATE; {LOG} COMMIT;")
    if "metadata" not in found:
        connection.executescript(f"BEGIN IMMEDIATE; {SECOND} COMMIT;")
    if "crc" not in found:
        connection.executescript(f"BEGIN IMMEDIATE; {_SEALS} COMMIT;")
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'images_troubled'").fetchone() is None:
        connection.executescript(_TROUBLED)
    _renew_rules(connection)


def _renew_rules(connection: sqlite3.Connection) -> None:
    """Triggers and indexes that are not what this program makes are made anew: a damaged one would log or find less, and no check
    of SQLite's looks at what it says."""
    wanted = _rules()
    found = {(kind, name, sql) for kind, name, sql in connection.execute(_RULES)}
    if found == wanted:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for kind, name, _ in found - wanted:
            connection.execute(f'DROP {kind} "{name.decode("utf-8")}"')
        for _, _, sql in wanted - found:
            connection.execute(sql.decode("utf-8"))
        connection.execute("COMMIT")
    except (UnicodeDecodeError, sqlite3.Error) as error:
        connection.execute("ROLLBACK")
        raise sqlite3.DatabaseError(f"its schema is not what was written ({error})") from error


_RULES = (
    "SELECT upper(type), CAST(name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master "
    "WHERE type IN ('trigger', 'index') AND sql IS NOT NULL"
)


@functools.cache
def _rules() -> set[tuple[str, bytes, bytes]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(CREATE)
        return set(connection.execute(_RULES))


def seal(connection: sqlite3.Connection) -> None:
    """Set the checksums that this transaction's changes took away."""
    connection.execute(f"UPDATE images SET crc = entry_crc({_ENTRY}) WHERE crc IS NULL")
    stored, now = head_crc(*head(connection))
    if stored != now:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'check'", (now,))
