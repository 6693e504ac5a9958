"""Whether a published set is all there, and as it was downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.datasets.published.record import DownloadRecord, Report, recorded, silent
from retrieval.datasets.published.revisited import pictures_of
from retrieval.datasets.published.sets import PublishedSet
from retrieval.errors import DatasetError


@dataclass
class Verified:
    """The outcome of :func:`verify_set`: how many ``files`` were looked at, ``compared`` with a recorded digest, and
    the ``problems``, one line each."""

    files: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)


def verify_set(
    item: PublishedSet, directory: str | os.PathLike[str], *, quick: bool = False, report: Report = silent
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
    expected = dict(recorded(item, folder, record)) if record is not None else {}
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
