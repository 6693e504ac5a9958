"""Vectors on disk: append-only segments of 65,536 rows, memory-mapped for reading. The gallery's source of truth.

Beside each segment lies a file of keys, 32 bytes a row: 28 bytes of the picture's content hash and the CRC-32 of the
row's vector. So a damaged row is noticed, and vectors find their pictures again even when the catalog is lost.
Rows beyond the catalog's count are remains of an interrupted run; they are written over.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.files.digest import HASH_BYTES
from retrieval.files.in_place import write_at
from retrieval.files.whole import sync_folder
from retrieval.files.withheld import may_be_whole
from retrieval.gallery.store.unread import REPAIR, size_of, unread

SEGMENT_ROWS = 65_536
_AGAIN = "What was committed is safe; free space and run the same command again."
_FEW = 256  # rows of several segments that are taken one by one: sorting them takes longer
_KEY = np.dtype([("hash", f"V{HASH_BYTES}"), ("crc", "<u4")])


class VectorStore:
    """Rows 0 .. count-1 of ``dim`` values of ``dtype`` ("float32" or "float16"), in files ``GENERATION-SEGMENT.f32``.

    A generation is one continuous numbering of rows; compaction writes a new one.
    """

    def __init__(self, folder: Path, dim: int, dtype: str, generation: int) -> None:
        self.folder = folder
        self.dim = dim
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.generation = generation
        self.row_bytes = dim * self.dtype.itemsize
        self._open: dict[Path, np.ndarray] = {}  # memory maps, kept: opening one costs more than reading some rows
        self._parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of these, vectors and checksums of a segment
        self._paths: dict[int, tuple[Path, Path]] = {}  # kept too: every search asks for the sizes of all files

    def segment_path(self, segment: int) -> Path:
        return self._segment(segment)[0]

    def keys_path(self, segment: int) -> Path:
        return self._segment(segment)[1]

    def _segment(self, segment: int) -> tuple[Path, Path]:
        if segment not in self._paths:
            path = self.folder / f"{self.generation:04d}-{segment:06d}.f{self.dtype.itemsize * 8}"
            self._paths[segment] = path, path.with_suffix(".keys")
        return self._paths[segment]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as they will be stored."""
        return np.ascontiguousarray(vectors, dtype=self.dtype)

    def write(self, start: int, vectors: np.ndarray, hashes: list[str]) -> None:
        """Write rows ``start``... (float (N, dim) and N content hashes in hex) and force them to the disk.

        Plain writes, not through the memory map: a full disk is then an OSError and not a crash.
        """
        stored = self.encode(vectors)
        keys = np.empty(len(stored), _KEY)
        keys["hash"] = np.frombuffer(bytes.fromhex("".join(hashes)), keys["hash"].dtype).reshape(len(stored))
        keys["crc"] = [zlib.crc32(row) for row in stored]
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync_folder(self.folder.parent)
        for segment, first, last, offset in _spans(start, len(stored)):
            _write_at(self.segment_path(segment), offset * self.row_bytes, stored[first:last])
            _write_at(self.keys_path(segment), offset * _KEY.itemsize, keys[first:last])
        sync_folder(self.folder)

    def append(self, count: int, vectors: np.ndarray, hashes: list[str], hint: str = _AGAIN) -> None:
        """:meth:`write` behind the ``count`` rows that count so far. Raises GalleryError, with ``hint``, where the disk does not
        take them."""
        try:
            self.write(count, vectors, hashes)
        except OSError as error:
            raise GalleryError(f"could not write vectors in {self.folder}: {error.strerror or error}", hint) from error

    def check_sizes(self, count: int) -> None:
        """Raises GalleryDamaged, naming the file, when a segment is missing or shorter than ``count`` rows need, GalleryError
        where one may not be read."""
        for segment, first, last, _ in _spans(0, count):
            for path, size in (
                (self.segment_path(segment), self.row_bytes),
                (self.keys_path(segment), _KEY.itemsize),
            ):
                have = size_of(path)
                if have < (last - first) * size:
                    what = "missing" if have < 0 else f"too short ({have} of {(last - first) * size} bytes)"
                    raise GalleryDamaged(
                        f"{path} is {what}", "`retrieve index --repair` describes the lost pictures again."
                    )
                if not os.access(path, os.R_OK):
                    raise unread(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def blocks(self, count: int, rows: int = 8192) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, vectors float32 (n, dim)) over rows 0 .. count-1, at most ``rows`` at a time."""
        for segment, first, last, _ in _spans(0, count):
            mapped = self._map(segment, last - first)
            for begin in range(0, last - first, rows):
                yield (
                    first + begin,
                    np.asarray(mapped[begin : min(begin + rows, last - first)], dtype=np.float32),
                )

    def take(self, rows: np.ndarray, *, check: bool = False) -> np.ndarray:
        """Rows by number, float32 (len(rows), dim). With ``check``, raises GalleryDamaged when a row's CRC is wrong."""
        out = np.empty((len(rows), self.dim), np.float32)
        segments = rows // SEGMENT_ROWS
        if len(rows) <= _FEW and (segments != segments[:1]).any():
            for place, (segment, offset) in enumerate(
                zip(segments.tolist(), (rows % SEGMENT_ROWS).tolist(), strict=True)
            ):
                vectors, crcs = self._part(segment, offset + 1)
                if check and zlib.crc32(vectors[offset]) != crcs[offset]:
                    raise self._damaged(int(rows[place]))
                out[place] = vectors[offset]
            return out
        for segment in np.flatnonzero(np.bincount(segments)):
            where = np.flatnonzero(segments == segment)
            offsets = rows[where] % SEGMENT_ROWS
            needed = int(offsets.max()) + 1
            stored = self._map(int(segment), needed)[offsets]
            if check:
                crcs = self._keys(int(segment), needed)["crc"][offsets]
                for row, vector, crc in zip(rows[where], stored, crcs, strict=True):
                    if zlib.crc32(vector) != crc:
                        raise self._damaged(int(row))
            out[where] = stored
        return out

    def _damaged(self, row: int) -> GalleryDamaged:
        return GalleryDamaged(
            f"{self.segment_path(row // SEGMENT_ROWS)} is damaged at row {row % SEGMENT_ROWS}",
            "`retrieve index --repair` describes that picture again.",
        )

    def verify(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(valid bool (count,), hashes (count,) void28): which rows are intact. Never raises for damage; GalleryError where a
        file may be whole and cannot be read now: its rows are not lost."""
        valid = np.zeros(count, bool)
        hashes = np.zeros(count, f"V{HASH_BYTES}")
        for segment, first, last, _ in _spans(0, count):
            try:
                vectors, keys = self._map(segment), self._keys(segment)
            except GalleryDamaged:
                continue
            for i in range(min(last - first, len(vectors), len(keys))):
                hashes[first + i] = keys["hash"][i]
                # An all-zero key is a hole in the file, not a row.
                valid[first + i] = any(bytes(hashes[first + i])) and zlib.crc32(vectors[i].tobytes()) == keys["crc"][i]
        return valid, hashes

    def rows_on_disk(self) -> int:
        """How many rows the files of this generation could hold at most, committed or not."""
        rows = 0
        for path in listed(self.folder):
            number = path.stem.partition("-")[2]
            if path.name.startswith(f"{self.generation:04d}-") and path.suffix == ".keys" and number.isdigit():
                rows = max(rows, int(number) * SEGMENT_ROWS + path.stat().st_size // _KEY.itemsize)
        return rows

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*")) if self.folder.is_dir() else 0

    def remove(self) -> None:
        """Delete the files of this generation."""
        for path in self.folder.glob(f"{self.generation:04d}-*"):
            path.unlink(missing_ok=True)

    def remove_other_generations(self) -> None:
        """Delete what compaction left behind (readers that still have it open keep it)."""
        for path in self.folder.glob("*"):
            if path.suffix in (".f32", ".f16", ".keys") and not path.name.startswith(f"{self.generation:04d}-"):
                path.unlink(missing_ok=True)

    def extend_files(self, count: int) -> list[Path]:
        """Make files that are missing or too short long enough for ``count`` rows; the new rows are not valid ones."""
        extended = []
        for segment, first, last, _ in _spans(0, count):
            for path, size in (
                (self.segment_path(segment), self.row_bytes),
                (self.keys_path(segment), _KEY.itemsize),
            ):
                if size_of(path) < (last - first) * size:
                    path.parent.mkdir(exist_ok=True)
                    with open(path, "ab") as file:
                        file.truncate((last - first) * size)
                        os.fsync(file.fileno())
                    extended.append(path)
        if extended:
            sync_folder(self.folder)
        return extended

    def _map(self, segment: int, needed: int | None = None) -> np.ndarray:
        return self._mapped(self.segment_path(segment), self.dtype, self.dim, needed)

    def _part(self, segment: int, needed: int) -> tuple[np.ndarray, np.ndarray]:
        """Its vectors and their checksums."""
        known = self._parts.get(segment)
        if known is None or len(known[0]) < needed or len(known[1]) < needed:
            known = self._parts[segment] = self._map(segment, needed), self._keys(segment, needed)["crc"]
        return known

    def _keys(self, segment: int, needed: int | None = None) -> np.ndarray:
        return self._mapped(self.keys_path(segment), _KEY, 0, needed)

    def _mapped(self, path: Path, dtype: np.dtype, width: int, needed: int | None) -> np.ndarray:
        """The file as an array: as mapped before if that has ``needed`` rows, else as the file is now."""
        known = self._open.get(path)
        if known is not None and needed is not None and len(known) >= needed:
            return known
        try:
            row = dtype.itemsize * (width or 1)
            rows = path.stat().st_size // row
            if rows == 0:
                raise GalleryDamaged(f"{path} is empty", REPAIR)
            if needed is not None and rows < needed:
                raise GalleryDamaged(f"{path} holds {rows} rows, and the catalog speaks of {needed}", REPAIR)
            # A plain array over the map: indexing a memmap object costs more than reading the row.
            mapped = np.asarray(np.memmap(path, dtype, "r", shape=(rows, width) if width else (rows,)))
        except OSError as error:
            raise unread(path, error) from error
        self._open[path] = mapped
        return mapped


def listed(folder: Path) -> list[Path]:
    """What lies in a folder of vectors; nothing where there is none. Raises GalleryError where that cannot be told."""
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError as error:
        if may_be_whole(error):
            raise unread(folder, error) from error
        return []


def _spans(start: int, count: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows start .. start+count-1 cut at segment borders: (segment, first, last in the given rows, offset in the segment)."""
    done = 0
    while done < count:
        segment, offset = divmod(start + done, SEGMENT_ROWS)
        size = min(count - done, SEGMENT_ROWS - offset)
        yield segment, done, done + size, offset
        done += size


def _write_at(path: Path, offset: int, rows: np.ndarray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        write_at(descriptor, offset, rows.view(np.uint8).data.cast("B"))
    finally:
        os.close(descriptor)
