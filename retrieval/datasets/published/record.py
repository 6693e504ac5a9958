"""What is recorded of a published set as it is downloaded, so that it stays provably whole.

``download.json`` in the set's folder records every file that was fetched (address, size, sha256, date); what each
archive held is listed with sizes and digests in ``.contents/ARCHIVE.txt``. The authors publish no hashes, so the first
download is trusted, and everything after it is compared with these records.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.datasets.published.archives import Unpacked, new_digest
from retrieval.datasets.published.sets import PublishedSet, RemoteFile
from retrieval.errors import DatasetError
from retrieval.files.lines import lines_of
from retrieval.files.whole import write_json, write_whole

RECORD = "download.json"


FORMAT = "retrieval-download-1"


CONTENTS = ".contents"


Report = Callable[[str, int, int | None], None]  # what is being done, done, total (bytes)


def silent(*_: Any) -> None:
    return None


@dataclass
class DownloadRecord:
    """What ``download.json`` holds: a dict a file; ``complete`` once all pictures are in place; ``shares``: the set
    beside this one whose pictures it uses."""

    name: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    shares: str | None = None

    @classmethod
    def read(cls, folder: Path) -> DownloadRecord | None:
        """The record in a set's folder, None where there is none. Raises DatasetError for one that is damaged."""
        path = folder / RECORD
        try:
            form = json.loads(path.read_bytes())
            if form["format"] != FORMAT or not all(isinstance(entry, dict) for entry in form["files"].values()):
                raise ValueError("another format")
            return cls(str(form["name"]), dict(form["files"]), bool(form["complete"]), form["shares"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DatasetError(f"{path} is damaged ({error})", "Delete it and download the set again.") from error

    def write(self, folder: Path) -> None:
        form = {
            "format": FORMAT,
            "name": self.name,
            "complete": self.complete,
            "shares": self.shares,
            "files": self.files,
        }
        write_json(folder / RECORD, form)


def recorded(
    item: PublishedSet, folder: Path, record: DownloadRecord
) -> Iterator[tuple[str, tuple[int, str, Callable[[], Any]]]]:
    """Every recorded file of a set: its path, and its size, digest and kind of digest."""
    for file in item.lists:
        if entry := record.files.get(file.name):
            yield file.name, (entry["bytes"], entry["sha256"], hashlib.sha256)
    lender = folder.parent / record.shares if record.shares is not None else folder
    for file in item.archives:
        path = lender / CONTENTS / f"{file.name}.txt"
        if path.exists():
            for line in lines_of(path.read_text("utf-8", errors="surrogateescape")):
                digest, size, name = line.split(" ", 2)
                yield f"{item.folder}/{name}", (int(size), digest, new_digest)


def write_contents(folder: Path, file: RemoteFile, found: list[Unpacked]) -> None:
    (folder / CONTENTS).mkdir(exist_ok=True)
    lines = (f"{one.digest} {one.size} {one.path}\n" for one in found)
    write_whole(folder / CONTENTS / f"{file.name}.txt", "".join(lines))
