"""Verdicts on pairs of contents, kept in a gallery's folder: another search compares only what is new.

``local/judged`` is derived and may be deleted. What other code judged, or another version of the libraries that it rests on, is
forgotten; so is a file that is damaged.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrieval.files.whole import keep_derived
from retrieval.gallery.address import LOCAL_FOLDER
from retrieval.gallery.duplicates.candidates import Pair
from retrieval.version import __version__

Verdict = Literal["copy", "scene", "none"]
VERDICTS: tuple[Verdict, ...] = ("none", "scene", "copy")

_HEADER = struct.Struct("<4s16sQI")  # magic, rules, number of records, their CRC-32
_MAGIC = b"RJP1"
_RECORD = np.dtype([("key", "<u8"), ("check", "<u8"), ("verdict", "u1")])
_MANY, _TIMES = 1 << 16, 4  # so many, and so many times what a search used, are kept with what it did not use
_EVERY, _SHARE = 60.0, 20  # seconds between files, for a search that is interrupted, and times what the last one took


def _sources() -> bytes:
    """Of what makes pixels and points of a picture, and judges them."""
    package = Path(__file__).parents[2]
    folders = [package / "gallery" / "duplicates", package / "ranking", package / "pictures"]
    digest = blake2b(digest_size=16)
    for path in [package / "gallery" / "local_features.py", *(p for f in folders for p in sorted(f.rglob("*.py")))]:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.digest()


_SOURCES = _sources()  # now: a server that runs on while files are replaced judges as it did


class KeptVerdicts:
    """Of contents that ``digest_of`` names; ``folder``: the gallery's; ``exif``: whether pictures are turned as EXIF says."""

    def __init__(self, folder: Path, digest_of: Callable[[int], str], exif: bool) -> None:
        self._folder, self._path, self._digest = folder, folder / LOCAL_FOLDER / "judged", digest_of
        self._rules = _rules(exif)
        self._held = self._read()
        self._new: dict[tuple[int, int], Verdict] = {}
        self._written, self._pause = time.monotonic(), _EVERY

    def known(self, pairs: Iterable[Pair]) -> dict[Pair, Verdict]:
        """Those of these pairs that were judged before."""
        asked = list(pairs)
        if not len(self._held) or not asked:
            return {}
        names = np.array([self._name(pair) for pair in asked], np.uint64)
        places = np.minimum(np.searchsorted(self._held["key"], names[:, 0]), len(self._held) - 1)
        found = self._held[places]
        right = (found["key"] == names[:, 0]) & (found["check"] == names[:, 1])
        return {asked[i]: VERDICTS[found["verdict"][i]] for i in np.flatnonzero(right)}

    def add(self, verdicts: Mapping[Pair, Verdict]) -> None:
        """From time to time they are written."""
        self._new.update((self._name(pair), verdict) for pair, verdict in verdicts.items())
        if time.monotonic() - self._written > self._pause:
            self.write()

    def forget_others(self, used: Collection[Pair]) -> None:
        """After a search of the whole gallery: where far more is kept than the pairs that it ``used``, mostly of pictures that
        are gone, the others are given up."""
        changed = self._join()
        if len(self._held) > max(_MANY, _TIMES * len(used)):
            keys = np.array([self._name(pair)[0] for pair in used], np.uint64)
            self._held, changed = self._held[np.isin(self._held["key"], keys)], True
        if changed:
            self._save()

    def write(self) -> None:
        """Where there is room, and a right to."""
        started = time.monotonic()
        if self._join():
            self._save()
        self._written = time.monotonic()
        self._pause = max(_EVERY, _SHARE * (self._written - started))

    def _join(self) -> bool:
        """Put what is new, and what another search wrote meanwhile, among what is held. False where nothing is new."""
        if not self._new:
            return False
        fresh = [(*name, VERDICTS.index(verdict)) for name, verdict in self._new.items()]
        every = np.concatenate([np.array(fresh, _RECORD), self._held, self._read()])
        self._held = every[np.unique(every["key"], return_index=True)[1]]
        self._new = {}
        return True

    def _save(self) -> None:
        data = self._held.tobytes()
        header = _HEADER.pack(_MAGIC, self._rules, len(self._held), zlib.crc32(data))
        keep_derived(self._path, header + data, self._folder)

    def _name(self, pair: Pair) -> tuple[int, int]:
        first, second = map(self._digest, pair)  # in this order they were judged: the other way round may end otherwise
        key, check = struct.unpack("<QQ", blake2b(f"{first} {second}".encode(), digest_size=16).digest())
        return key, check

    def _read(self) -> npt.NDArray[np.void]:
        nothing: npt.NDArray[np.void] = np.zeros(0, _RECORD)
        try:
            if not self._path.is_file():  # a pipe would be waited for
                return nothing
            data = self._path.read_bytes()
            magic, rules, count, crc = _HEADER.unpack_from(data)
        except (OSError, struct.error):
            return nothing
        records = memoryview(data)[_HEADER.size :]
        if (magic, rules) != (_MAGIC, self._rules) or zlib.crc32(records) != crc:
            return nothing
        if len(records) != count * _RECORD.itemsize:
            return nothing
        held = np.frombuffer(records, _RECORD)
        return held if (held["verdict"] < len(VERDICTS)).all() else nothing


def _rules(exif: bool) -> bytes:
    """What tells this way to judge from others: the code itself, and the libraries that it rests on."""
    import cv2
    import PIL

    versions = f"{__version__} {np.__version__} {cv2.__version__} {PIL.__version__} {exif}"
    return blake2b(versions.encode() + _SOURCES, digest_size=16).digest()
