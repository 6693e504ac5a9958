"""Bring a published set onto the disk and keep it provably whole: download, unpack, record, verify.

``download.json`` in the set's folder records every file that was fetched (address, size, sha256, date); what each
archive held is listed with sizes and digests in ``.contents/ARCHIVE.txt``. The authors publish no hashes, so the first
download is trusted, and everything after it is compared with these records.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.datasets.published.archives import Unpacked, new_digest, unpack
from retrieval.datasets.published.download import Fetched, download
from retrieval.datasets.published.revisited import pictures_of
from retrieval.datasets.published.sets import SETS, PublishedSet, RemoteFile
from retrieval.errors import DatasetError, DownloadError
from retrieval.files.whole import write_json, write_whole

RECORD = "download.json"
FORMAT = "retrieval-download-1"
_CONTENTS = ".contents"
_ARCHIVES = ".archives"

Report = Callable[[str, int, int | None], None]  # what is being done, done, total (bytes)


def _silent(*_: Any) -> None:
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


@dataclass
class Verified:
    """The outcome of :func:`verify_set`: how many ``files`` were looked at, ``compared`` with a recorded digest, and
    the ``problems``, one line each."""

    files: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)


def download_set(
    item: PublishedSet,
    directory: str | os.PathLike[str],
    *,
    say: Callable[[str], None] = _silent,
    report: Report = _silent,
    keep_archives: bool = False,
    **options: Any,
) -> Path:
    """Bring a set into ``directory/NAME`` and return that folder; what is there already is not fetched again.

    Interrupted, it continues: files where they broke off, archives from the first that is not unpacked. Archives are
    deleted once unpacked unless ``keep_archives``. A set with the same pictures beside it lends them (a link).
    ``options`` go to :func:`retrieval.datasets.published.download.download`. Raises DownloadError, or DatasetError when the
    folder holds something else or the set turns out incomplete.
    """
    folder = Path(directory) / item.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            return _download_set(item, folder, say, report, keep_archives, options)
    except OSError as error:
        raise DownloadError(f"cannot write in {folder}: {error.strerror or error}") from error


def _download_set(
    item: PublishedSet,
    folder: Path,
    say: Callable[[str], None],
    report: Report,
    keep_archives: bool,
    options: dict[str, Any],
) -> Path:
    record = DownloadRecord.read(folder) or DownloadRecord(item.name)
    for file in item.lists:
        entry, path = record.files.get(file.name), folder / file.name
        if entry is None and path.exists():
            say(f"{path} is there already")
        elif entry is None or not _has_size(path, entry["bytes"]):
            say(f"fetching {file.name}")
            _fetch(file, path, record, report, options)
            record.write(folder)
    wanted = pictures_of(item, folder)  # before the archives: what is wrong with the lists is told before long hours
    pictures = folder / item.folder
    if not pictures.exists():
        if record.shares is not None or (not record.complete and not _partial(item, folder).exists()):
            record.shares = _lender(item, folder)
            if record.shares is not None:
                pictures.unlink(missing_ok=True)  # a link whose target has gone
                os.symlink(os.path.join("..", record.shares, item.folder), pictures, target_is_directory=True)
                say(f"the pictures are those of {record.shares}")
        if not pictures.exists():
            pictures.unlink(missing_ok=True)
            if record.complete:  # they were here and have been removed
                for entry in record.files.values():
                    entry["unpacked"] = None
                record.complete = False
            _fetch_pictures(item, folder, record, say, report, keep_archives, options)
    missing = [path for path in wanted if not (folder / path).is_file()]
    if missing:
        raise DatasetError(
            f"{folder} lacks {len(missing)} of the {len(wanted)} pictures of {item.name}, such as {missing[0]}",
            f"Move {pictures} away and run this again.",
        )
    record.complete = True
    record.write(folder)
    return folder


def _fetch_pictures(
    item: PublishedSet,
    folder: Path,
    record: DownloadRecord,
    say: Callable[[str], None],
    report: Report,
    keep_archives: bool,
    options: dict[str, Any],
) -> None:
    partial = _partial(item, folder)
    partial.mkdir(exist_ok=True)
    for number, file in enumerate(item.archives, 1):
        entry = record.files.get(file.name)
        if entry is not None and entry.get("unpacked") is not None:
            continue
        where = f" ({number} of {len(item.archives)})" if len(item.archives) > 1 else ""
        archive = folder / _ARCHIVES / file.name
        if entry is None or not _has_size(archive, entry["bytes"]):
            say(f"fetching {file.name}{where}")
            _fetch(file, archive, record, report, options)
            record.write(folder)
        say(f"unpacking {file.name}{where}")
        new = folder / ".unpacked"
        shutil.rmtree(new, ignore_errors=True)
        try:
            found = unpack(
                archive, new, place=item.place(), progress=lambda done, total: report("unpacking", done, total)
            )
        except DownloadError:
            archive.unlink(missing_ok=True)
            del record.files[file.name]  # else it would be found good, and refused, for ever
            record.write(folder)
            raise
        for path in found:
            target = partial / path.path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / path.path, target)
        shutil.rmtree(new, ignore_errors=True)
        _write_contents(folder, file, found)
        record.files[file.name]["unpacked"] = len(found)
        record.write(folder)
        if not keep_archives:
            archive.unlink(missing_ok=True)
    os.rename(partial, folder / item.folder)
    if not keep_archives:
        shutil.rmtree(folder / _ARCHIVES, ignore_errors=True)


def _fetch(file: RemoteFile, target: Path, record: DownloadRecord, report: Report, options: dict[str, Any]) -> None:
    before = record.files.get(file.name)
    fetched: Fetched = download(
        file.address(),
        target,
        size=file.bytes,
        sha256=file.sha256,
        progress=lambda done, total: report(file.name, done, total),
        **options,
    )
    if before is not None and before["sha256"] != fetched.sha256:
        target.unlink(missing_ok=True)
        raise DownloadError(
            f"{fetched.url} is not what it was on {before['fetched']}: its sha256 is {fetched.sha256[:16]}..., "
            f"then {before['sha256'][:16]}...",
            f"If the authors have changed it, delete {record.name}/{RECORD} and run this again.",
        )
    record.files[file.name] = {
        "url": fetched.url,
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        "etag": fetched.etag,
        "fetched": time.strftime("%Y-%m-%d"),
        "unpacked": None,
    }


def verify_set(
    item: PublishedSet, directory: str | os.PathLike[str], *, quick: bool = False, report: Report = _silent
) -> Verified:
    """Whether a set in ``directory/NAME`` is all there and unchanged since it was downloaded.

    Every picture that the lists name must exist; sizes and, unless ``quick``, contents are compared with the records of
    the download. A set without records (put there by hand) is only checked for what must exist. Raises DatasetError
    where the set or its ground truth is missing.
    """
    folder = Path(directory) / item.name
    if not folder.is_dir():
        raise DatasetError(f"{item.name} is not in {directory}", f"Run: retrieve datasets download {item.name}.")
    outcome = Verified()
    record = DownloadRecord.read(folder)
    expected = dict(_recorded(item, folder, record)) if record is not None else {}
    done, total = 0, sum(size for size, _, _ in expected.values())
    for path, (size, digest, make) in expected.items():
        outcome.files += 1
        problem = _differs(folder / path, size, None if quick else digest, make)
        if problem:
            outcome.problems.append(f"{path} {problem}")
        outcome.compared += not quick
        done += size
        report("verifying", done, total)
    bad = {line.split(" ", 1)[0] for line in outcome.problems}
    for path in pictures_of(item, folder) if item.listing not in bad else []:
        if path not in expected:
            outcome.files += 1
            if not (folder / path).is_file():
                outcome.problems.append(f"{path} is missing")
    if record is not None and not record.complete:
        outcome.problems.append("the download has not been completed")
    return outcome


def _recorded(
    item: PublishedSet, folder: Path, record: DownloadRecord
) -> Iterator[tuple[str, tuple[int, str, Callable[[], Any]]]]:
    """Every recorded file of a set: its path, and its size, digest and kind of digest."""
    for file in item.lists:
        if entry := record.files.get(file.name):
            yield file.name, (entry["bytes"], entry["sha256"], hashlib.sha256)
    lender = folder.parent / record.shares if record.shares is not None else folder
    for file in item.archives:
        path = lender / _CONTENTS / f"{file.name}.txt"
        if path.exists():
            for line in path.read_text("utf-8", errors="surrogateescape").splitlines():
                digest, size, name = line.split(" ", 2)
                yield f"{item.folder}/{name}", (int(size), digest, new_digest)


def _differs(path: Path, size: int, digest: str | None, make: Callable[[], Any]) -> str:
    """What is wrong with a file, "" for nothing."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"has {found} bytes where {size} were downloaded"
        if digest is None:
            return ""
        hashed = make()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if hashed.hexdigest() == digest else "has changed since it was downloaded"


def _lender(item: PublishedSet, folder: Path) -> str | None:
    """A complete set beside ``folder`` whose pictures come from the same archives."""
    for other in SETS.values():
        if other.name != item.name and (other.archives, other.folder) == (item.archives, item.folder):
            record = DownloadRecord.read(folder.parent / other.name)
            if record is not None and record.complete and record.shares is None:
                return other.name
    return None


def _partial(item: PublishedSet, folder: Path) -> Path:
    return folder / f"{item.folder}.part"


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write_contents(folder: Path, file: RemoteFile, found: list[Unpacked]) -> None:
    (folder / _CONTENTS).mkdir(exist_ok=True)
    lines = (f"{one.digest} {one.size} {one.path}\n" for one in found)
    write_whole(folder / _CONTENTS / f"{file.name}.txt", "".join(lines))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The set's folder, ours alone. The lock ends with its process."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(
                f"another process is at work in {folder}", "Wait for it, then run this again."
            ) from error
        yield
    finally:
        os.close(handle)
