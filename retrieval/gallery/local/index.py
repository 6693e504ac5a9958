"""The local index: for each picture content the codes of its local features, in sealed blocks and a tail that grows.

Codes belong to contents, not to rows or names: copies share theirs, a renamed picture keeps them, and vectors may be compacted
without them. So they need no commit of their own: a record that is whole counts, and what is missing is made at the next run.

A run appends to the tail; once that holds enough it becomes a block, and blocks of like size are merged, so that there are few
of them. Files are whole at every moment: a block is there before the tail that it holds goes.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.files.digest import HASH_BYTES
from retrieval.files.whole import sync_folder
from retrieval.gallery.address import LOCAL_FOLDER
from retrieval.gallery.local import tail
from retrieval.gallery.local.block import Block, block_of, is_block, number_of, open_block, remove_block, write_block
from retrieval.gallery.local.pictures import local_codes
from retrieval.messages import Say, say_nothing
from retrieval.ranking.asmk import LocalCodes, standard_codebook
from retrieval.ranking.inverted import MOST_PICTURES

_SEAL_WITHIN, _SEAL_AFTER = 4096, 256  # contents in the tail that become a block: during a run, at its end
_TRIES = 5
_CODEBOOK = re.compile(r"rootsift\d+-[0-9a-f]{12}")  # folders of other codebooks, beside ours
_OF_BEFORE = re.compile(r"sift\d+-\d+")  # points for verification as an older version kept them


class LocalIndex:
    """The local index in a gallery's folder. One writer, which holds the gallery's lock; readers never wait. ``told``: names of
    damaged parts, of which ``say`` was told."""

    def __init__(self, gallery: Path, say: Say = say_nothing) -> None:
        self.codebook = standard_codebook()
        self.folder = gallery / LOCAL_FOLDER / self.codebook.name
        self.say = say
        self._turn = threading.RLock()
        self._state: object = None
        self._blocks: list[Block] = []
        self._unread: dict[str, str] = {}  # parts that the system does not give, and what it says
        self.told: set[str] = set()

    # -- pictures ------------------------------------------------------------------------------------------------

    def describe(self, image: npt.NDArray[np.uint8], *, query: bool = False) -> LocalCodes:
        """The codes of an RGB picture, uint8 (H, W, 3); of a query, with three words a point."""
        return local_codes(image, self.codebook, query=query)

    # -- reading -------------------------------------------------------------------------------------------------

    def blocks(self) -> list[Block]:
        """What there is now, the tail as the last block. Of damaged parts ``say`` tells once; they are left out."""
        with self._turn:
            for _ in range(_TRIES):
                state = self._now()
                if state == self._state and not self._unread and all(block.unchanged() for block in self._blocks):
                    break
                try:
                    self._blocks = self._open(state)
                except FileNotFoundError:  # a writer has merged it meanwhile
                    continue
                self._state = state
                break
            return self._blocks

    def contents(self) -> set[str]:
        """Content hashes of all that has codes now, in hexadecimal. A run takes them once: this looks at the files."""
        return {h.tobytes().hex() for block in self.blocks() for h in block.hashes}

    def holds(self, digests: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these contents have codes now, bool (N,)."""
        wanted = np.frombuffer(bytes.fromhex("".join(digests)), f"V{HASH_BYTES}")
        found = np.zeros(len(digests), bool)
        for block in self.blocks():
            found |= block.find_all(wanted) >= 0
        return found

    def __len__(self) -> int:
        """How many contents have codes."""
        return len(self.contents())

    def bytes_on_disk(self) -> int:
        return sum(size for _, size, *_ in self._now())

    def _now(self) -> list[tuple[str, int, int, int]]:
        """Name, size and both times of every file, in order."""
        for _ in range(_TRIES):
            try:
                return self._listed()
            except FileNotFoundError:  # there is no folder, or a writer has merged a file between two looks
                if not self.folder.exists():
                    break
            except OSError as error:
                raise GalleryError(f"{self.folder} cannot be read ({error.strerror or error})") from error
        return []

    def _listed(self) -> list[tuple[str, int, int, int]]:
        with os.scandir(self.folder) as entries:
            ours = [e for e in entries if is_block(e.name) or e.name == tail.NAME]
            found = [(e.name, e.stat()) for e in ours if e.is_file(follow_symlinks=False)]
        return sorted((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found)

    def _open(self, state: list[tuple[str, int, int, int]]) -> list[Block]:
        words = len(self.codebook)
        known = {block.path: block for block in self._blocks if block.path is not None and block.unchanged()}
        found, growing = [], {}
        self._unread = {}
        for name, *_ in state:
            path = self.folder / name
            try:
                if name == tail.NAME:
                    growing = tail.read(path, words)
                else:
                    found.append(known.get(path) or open_block(path, words))
            except FileNotFoundError:
                raise
            except GalleryDamaged as damage:
                self._left_out(name, str(damage))
            except OSError as error:
                self._unread[name] = f"{path} cannot be read ({error.strerror or error})"
                self._left_out(name, f"{self._unread[name]}.")
        fresh = {d: c for d, c in growing.items() if all(block.find(d) is None for block in found)}
        return [*found, block_of(fresh, words)] if fresh else found

    def _left_out(self, name: str, why: str) -> None:
        if name not in self.told:
            self.told.add(name)
            self.say(f"{why} Without it, its pictures are ranked by their descriptors alone.")

    # -- writing -------------------------------------------------------------------------------------------------

    def append(self, pictures: Mapping[str, LocalCodes]) -> None:
        """Keep the codes of these contents, by hash in hexadecimal: on the disk when this returns. Raises GalleryError."""
        if not pictures:
            return
        with self._writing():
            new = [folder for folder in (self.folder, self.folder.parent) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            first = not (self.folder / tail.NAME).exists()
            held = tail.append(self.folder / tail.NAME, {bytes.fromhex(d): codes for d, codes in pictures.items()})
            for folder in ([self.folder] if first else []) + [folder.parent for folder in new]:
                sync_folder(folder)
        if held >= _SEAL_WITHIN:  # else the tail need not be read for it
            self._seal(_SEAL_WITHIN)

    def settle(self) -> None:
        """At the end of a run: the tail becomes a block where it is not short, and blocks of like size become one."""
        self._seal(_SEAL_AFTER)
        while len(blocks := sorted(self._sealed(), key=len)) > 1:
            pair = next((p for p in pairwise(blocks) if _belong(*p)), None)
            if pair is None:
                return
            self._replace(pair, {d: c for block in pair for d, c in _pictures(block).items()})

    def prepare(self) -> int:
        """Before a run: damaged blocks and those of other codebooks go; their pictures are looked at again. Returns how many
        blocks were damaged. Raises GalleryError where one cannot be read: it may be whole, and hold what cannot be made anew."""
        healthy = {block.path for block in self._sealed()}
        if self._unread:
            hint = "Mend that; or do without the local index (--no-local), which deletes it."
            raise GalleryError(next(iter(self._unread.values())), hint)
        with self._writing():
            damaged = [n for n, *_ in self._now() if is_block(n) and self.folder / n not in healthy]
            for name in damaged:
                remove_block(self.folder / name)
            for other in self._beside():
                shutil.rmtree(other)
                if _CODEBOOK.fullmatch(other.name):
                    self.say("The local index is made anew: it was made with another codebook.")
        return len(damaged)

    def _beside(self) -> list[Path]:
        """Folders of other codebooks, and of what no version makes any more."""
        beside = self.folder.parent
        ours = [p for p in (beside.iterdir() if beside.is_dir() else ()) if p != self.folder and not p.is_symlink()]
        return [p for p in ours if (_CODEBOOK.fullmatch(p.name) or _OF_BEFORE.fullmatch(p.name)) and p.is_dir()]

    def keep_only(self, digests: Iterable[str]) -> None:
        """Drop the codes of all other contents."""
        wanted = {bytes.fromhex(d) for d in digests}
        for block in self.blocks():
            pictures = _pictures(block)
            kept = {d: c for d, c in pictures.items() if d in wanted}
            if len(kept) < len(pictures):
                self._replace([block], kept)

    def remove(self) -> None:
        """All of it goes, that of other codebooks too. Raises GalleryError."""
        with self._writing():
            for folder in self._beside():
                shutil.rmtree(folder)
            if self.folder.is_dir() and not self.folder.is_symlink():
                shutil.rmtree(self.folder)
            else:
                self.folder.unlink(missing_ok=True)

    def _sealed(self) -> list[Block]:
        return [block for block in self.blocks() if block.path is not None]

    def _seal(self, least: int) -> None:
        growing = [block for block in self.blocks() if block.path is None]
        if growing and len(growing[0]) >= least:
            self._replace(growing, _pictures(growing[0]))

    def _replace(self, old: Iterable[Block], pictures: Mapping[bytes, LocalCodes]) -> None:
        """Write these pictures as blocks; then the ``old`` ones go."""
        number = 1 + max((number_of(name) for name, *_ in self._now()), default=0)
        digests = sorted(pictures)
        with self._writing():
            for begin in range(0, len(digests), MOST_PICTURES):
                part = {d: pictures[d] for d in digests[begin : begin + MOST_PICTURES]}
                write_block(self.folder, number, block_of(part, len(self.codebook)))
                number += 1
            sync_folder(self.folder)
            for block in old:
                if block.path is None:
                    (self.folder / tail.NAME).unlink(missing_ok=True)
                else:
                    remove_block(block.path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says of the disk's errors what they mean."""
        try:
            yield
        except OSError as error:
            raise GalleryError(
                f"could not write the local index in {self.folder}: {error.strerror or error}",
                "What was committed is safe; mend that (or free space) and run the same command again.",
            ) from error


def _belong(smaller: Block, larger: Block) -> bool:
    return len(larger) <= 2 * len(smaller) and len(smaller) + len(larger) <= MOST_PICTURES


def _pictures(block: Block) -> dict[bytes, LocalCodes]:
    return dict(zip((h.tobytes() for h in block.hashes), block.inverted.pictures(), strict=True))
