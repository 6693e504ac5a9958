"""A gallery's vectors as one array, memory-mapped, in any order of its pictures; and arrays derived from them, on disk.

Counting and re-ranking take such a view wherever they take a gallery array, so a million vectors are never loaded at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.files.whole import whole_file
from retrieval.gallery.store.unread import REPAIR, unread
from retrieval.gallery.store.vectors import SEGMENT_ROWS, VectorStore

DERIVED_FOLDER = "derived"
Arrays = dict[str, np.ndarray]


class VectorView:
    """Rows of a :class:`VectorStore` in a chosen order, read-only: like an array (N, D) of the stored type.

    ``view[a:b]`` and ``view[ids]`` (integers of any shape) read what they name and no more; ``np.asarray(view)`` reads all.
    """

    ndim = 2

    def __init__(self, store: VectorStore, rows: np.ndarray) -> None:
        self.store = store
        self.rows = np.ascontiguousarray(rows, np.int64)
        self.dtype = store.dtype
        self.shape = (len(self.rows), store.dim)
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = self.rows[key]
        flat = np.ravel(rows)
        segments, offsets = np.divmod(flat, SEGMENT_ROWS)
        if isinstance(key, slice) and len(flat) and segments[0] == segments[-1] and np.all(np.diff(flat) == 1):
            return self._segment(int(segments[0]))[offsets[0] : offsets[-1] + 1]  # as it lies on the disk: no copy
        out = np.empty((len(flat), self.shape[1]), self.dtype)
        for segment in np.unique(segments):
            here = segments == segment
            out[here] = self._segment(int(segment))[offsets[here]]
        return out.reshape(*rows.shape, self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = np.asarray(self[:], dtype)
        return found.copy() if copy else found  # what lies on the disk is read-only

    @property
    def digest(self) -> str:
        """Identifies the vectors and their order: rows of a generation never change."""
        text = f"{self.store.generation}:{self.dtype.str}:{self.shape}"
        return hashlib.blake2b(self.rows.tobytes(), key=text.encode()[:64], digest_size=16).hexdigest()

    def _segment(self, number: int) -> np.ndarray:
        if number not in self._maps:
            path = self.store.segment_path(number)
            try:
                rows = path.stat().st_size // self.store.row_bytes
                self._maps[number] = np.memmap(path, self.dtype, "r", shape=(rows, self.shape[1]))
            except OSError as error:
                raise unread(path, error) from error
            except ValueError as error:
                raise GalleryDamaged(f"{path} cannot be read ({error})", REPAIR) from error
        return self._maps[number]


class DerivedArrays:
    """Keeps what a computation on a view gave, in ``derived/NAME-KEY.npz`` of the gallery. May be deleted at any time.

    One file a name: arrays of another state of the gallery, or of other parameters, replace those that were there.
    """

    def __init__(self, folder: Path, view: VectorView) -> None:
        self.folder = folder / DERIVED_FOLDER
        self.view = view

    def __call__(self, name: str, parameters: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """What ``compute()`` gives for these parameters: from the disk, or computed now and kept."""
        text = f"{self.view.digest}:{sorted(parameters.items())}"
        path = self.folder / f"{name}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.npz"
        found = read_arrays(path)
        if found is not None:
            return found
        arrays = compute()
        try:
            self.folder.mkdir(exist_ok=True)
            write_arrays(path, arrays)
            for other in self.folder.glob(f"{name}-{'?' * 24}.npz"):
                if other != path:
                    other.unlink(missing_ok=True)
        except (OSError, GalleryError):
            pass  # a read-only or full disk: computed again the next time
        return arrays


def read_arrays(path: Path) -> Arrays | None:
    """Plain arrays of an ``.npz`` file, None where it is missing, damaged or holds anything but plain arrays."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # whatever is wrong with such a file, it can be made again
        return None


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write an ``.npz`` file, whole or not at all. Raises GalleryError."""
    try:
        with whole_file(path) as file, open(file, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise GalleryError(f"could not write {path}: {error.strerror or error}") from error
