"""A folder and the catalog side by side, both in the order of paths: what is the same on both sides is counted and let go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Set

from retrieval.gallery.store.pictures import FileRow
from retrieval.pictures.scan import Found


class Join:
    """``same``: how many files are as they were; ``held``: how many the catalog holds. ``doubted``: paths that are told of though
    nothing changed, None for all."""

    def __init__(self, doubted: Set[str] | None = frozenset()) -> None:
        self.doubted = doubted
        self.same = self.held = 0

    def differences(
        self, known: Iterable[FileRow], found: Iterable[Found], passed_over: Set[str], section: str
    ) -> Iterator[tuple[str | None, Found | None]]:
        """(path in the catalog, file) in the order of paths; None for what is on one side alone. Both sides ascend by the bytes
        of their paths, and lie in the folder ``section``. Entries behind the links ``passed_over`` are no one's business here."""
        rows, files = iter(known), iter(found)
        row, file = next(rows, None), next(files, None)
        doubted = self.doubted
        while row is not None:
            equal: bool = row == file
            if equal and doubted is not None and not (doubted and row[0] in doubted):
                self.same += 1
                row, file = next(rows, None), next(files, None)
                continue
            order = -1 if file is None else _order(row[0], file.path)
            if order > 0:
                yield None, file
                file = next(files, None)
            elif order == 0:
                self.held += 1
                yield row[0], file
                row, file = next(rows, None), next(files, None)
            else:
                # All folders before the file were listed by now: the links in them are known.
                if not lies_behind(row[0], passed_over, section):
                    self.held += 1
                    yield row[0], None
                row = next(rows, None)
        while file is not None:
            yield None, file
            file = next(files, None)


def _order(first: str, second: str) -> int:
    if first == second:
        return 0
    return -1 if os.fsencode(first) < os.fsencode(second) else 1


def lies_behind(path: str, links: Set[str], section: str) -> bool:
    """Whether a path leads through one of these links, but ``section``, in which it lies."""
    if not links:
        return False
    folder = os.path.dirname(path)
    while len(folder) > len(section):
        if folder in links:
            return True
        folder = os.path.dirname(folder)
    return False
