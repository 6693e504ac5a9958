"""Bring a published set onto the disk: download its files, unpack them, and record what came (``record.py``)."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.datasets.published.archives import unpack
from retrieval.datasets.published.download import Fetched, download
from retrieval.datasets.published.record import RECORD, DownloadRecord, Report, silent, write_contents
from retrieval.datasets.published.revisited import pictures_of
from retrieval.datasets.published.sets import SETS, PublishedSet, RemoteFile
from retrieval.errors import DatasetError, DownloadError

_ARCHIVES = ".archives"


def download_set(
    item: PublishedSet,
    directory: str | os.PathLike[str],
    *,
    say: Callable[[str], None] = silent,
    report: Report = silent,
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
        write_contents(folder, file, found)
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
