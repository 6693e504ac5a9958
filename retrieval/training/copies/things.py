"""What the recipe learns from: pictures, each a thing of its own, and groups of views of one thing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.datasets.labelled import read_list
from retrieval.errors import DatasetError
from retrieval.messages import count_of
from retrieval.pictures.unnamed import is_picture_file

_VIEW = re.compile(r"(.+)__(\d+)\.[A-Za-z]+$")
_REACH = 3  # how far apart in a group's order two views of one pair may be: neighbours of a walk show one place


@dataclass(frozen=True)
class Things:
    """``paths``: N pictures in a fixed order. ``single``: int64 (S,), those that stand alone. ``groups``: tuples of pictures
    that show one thing, each in the order of its views."""

    paths: tuple[Path, ...]
    single: np.ndarray
    groups: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """A hash over the pictures' names in order (their folders do not count) and their groups."""
        said = hashlib.sha256()
        for path in self.paths:
            said.update(f"{path.parent.name}/{path.name}\n".encode("utf-8", "surrogatepass"))
        said.update(repr(self.groups).encode())
        return said.hexdigest()


def read_things(sources: Sequence[str | os.PathLike[str]]) -> Things:
    """From folders, with all below them, and lists of ``path,label`` lines, whose labels are not looked at.

    In a folder called ``views-...``, pictures named ``GROUP__NUMBER.jpg`` are views of one thing. Files of the same bytes
    count once. Raises DatasetError for what is not there, and where fewer than two pictures are found.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = (
                Path(root) / name for root, _, names in os.walk(source) for name in names if is_picture_file(root, name)
            )
            paths += sorted(found, key=lambda path: path.relative_to(source).parts)
        elif source.is_file():
            paths += [source.parent / name for name, _ in read_list(source)]
        else:
            raise DatasetError(f"{source} is not there", "Name a folder of pictures, or a list of them.")
    kept: list[Path] = []
    known: set[bytes] = set()
    for path in paths:
        try:
            content = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
        if content not in known:
            known.add(content)
            kept.append(path)
    if len(kept) < 2:
        raise DatasetError(f"{count_of(len(kept), 'different picture')}: too few to learn from")
    named: dict[tuple[str, str], list[tuple[int, int]]] = {}
    single = []
    for i, path in enumerate(kept):
        match = _VIEW.match(path.name) if path.parent.name.startswith("views-") else None
        if match:
            named.setdefault((str(path.parent), match[1]), []).append((int(match[2]), i))
        else:
            single.append(i)
    groups = [tuple(i for _, i in sorted(members)) for members in named.values()]
    single += [members[0] for members in groups if len(members) == 1]
    return Things(tuple(kept), np.array(sorted(single), np.int64), tuple(g for g in groups if len(g) > 1))


def draw_pairs(things: Things, *, pairs: int, view_share: float, seed: int, step: int) -> list[tuple[int, int]]:
    """The pairs of one step, a function of ``seed`` and ``step`` alone: positions in ``paths``, no thing in two pairs.

    ``view_share`` of them, as far as there are groups, are neighbouring views of different groups. The rest are pictures
    paired with themselves: every epoch goes through all that stand alone in a new order.
    """
    rng = np.random.default_rng([seed, step, 0])
    viewed = min(round(view_share * pairs), len(things.groups))
    alone = min(pairs - viewed, len(things.single))
    made: list[tuple[int, int]] = []
    for number in rng.permutation(len(things.groups))[:viewed]:
        group = things.groups[number]
        asked = int(rng.integers(len(group)))
        near = [i for i in range(max(0, asked - _REACH), min(len(group), asked + _REACH + 1)) if i != asked]
        made.append((group[asked], group[near[int(rng.integers(len(near)))]]))
    steps_an_epoch = max(1, len(things.single) // max(1, alone))
    epoch, place = divmod(step, steps_an_epoch)
    order = np.random.default_rng([seed, epoch, 1]).permutation(things.single)
    made += [(int(i), int(i)) for i in order[place * alone : (place + 1) * alone]]
    return made
