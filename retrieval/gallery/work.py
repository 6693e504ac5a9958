"""What a synchronisation has to look at, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field

from retrieval.gallery.store.catalog import Record


@dataclass
class SyncReport:
    """What one run did, in pictures. ``troubles``: (path, reason) of those that could not be read in this run or before;
    ``foreign``: how many files were passed over that a photographer would call pictures, by suffix; ``left_out``: how many
    files and folders by rule; ``stayed_out``: how many pictures because they were once taken out of the gallery; ``local``: how
    many got codes in the local index."""

    added: int = 0
    changed: int = 0
    renamed: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    ignored: int = 0
    left_out: int = 0
    stayed_out: int = 0
    local: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    troubles: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Work:
    """One picture to look at: new (no hash yet) or changed. Filled in by the worker that reads it."""

    record: Record
    file: str
    size: int = -1
    mtime_ns: int = -1
    ctime_ns: int = -1
    inode: int = -1
    digest: str = ""
    width: int | None = None
    height: int | None = None
    waits: bool = False  # for another file of the same content that is being described

    def note(self, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> None:
        """The file as it was when it was read."""
        self.size, self.mtime_ns, self.ctime_ns, self.inode = size, mtime_ns, ctime_ns, inode
