"""Published sets as they lie on disk: their ground truth and the pictures that must be there.

The layout is the one :mod:`retrieval.datasets.published.sets` describes; pictures are named relative to the set's folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.published.sets import PublishedSet, published_set
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError, UsageError
from retrieval.files import plain_pickle
from retrieval.files.lines import lines_of

_LIST_LIMIT = 1 << 30  # bytes of a list of pictures; the largest published one has some tens of millions


def published_groundtruth(name: str, directory: str | os.PathLike[str] = "data") -> GroundTruth:
    """The ground truth of a downloaded benchmark (``roxford5k``, ``rparis6k``, ``oxford5k``, ``paris6k``) in
    ``directory/name``. Raises DatasetError where it is missing or is not the published one, UsageError for a set that
    has no ground truth."""
    item = published_set(name)
    if not item.listing.startswith("gnd_"):
        raise UsageError(f"{name} has no ground truth", "Only the benchmarks have one.")
    return groundtruth_of(item, Path(directory) / name)


def groundtruth_of(item: PublishedSet, folder: Path) -> GroundTruth:
    """As :func:`published_groundtruth`, for a set in a given folder."""
    file = _listing(item, folder)
    truth = load_groundtruth(file)
    for what, found, wanted in (
        ("pictures in the gallery", len(truth.gallery), item.gallery),
        ("queries", len(truth.queries), item.queries),
    ):
        if wanted is not None and found != wanted:
            raise DatasetError(
                f"{file} has {found} {what} where {item.name} has {wanted}: it is not the published ground truth",
                f"Delete it and run: retrieve datasets download {item.name}.",
            )
    return truth


def pictures_of(item: PublishedSet, folder: Path) -> list[str]:
    """The paths of all pictures that the set's lists name, relative to ``folder``, each once, in the lists' order."""
    if item.listing.startswith("gnd_"):
        truth = groundtruth_of(item, folder)
        return list(dict.fromkeys((*truth.gallery, *(query.image for query in truth.queries))))
    if item.listing.endswith(".txt"):
        return [f"{item.folder}/{path}" for path in _lines(_listing(item, folder))]
    named: dict[str, None] = {}
    for file in item.lists:
        for cid in _training_names(_readable(item, folder / file.name)):
            named[f"{item.folder}/{training_path(cid)}"] = None
    return list(named)


def training_path(cid: str) -> str:
    """Where the training picture ``cid`` (32 hex digits) lies below ``ims/``: in folders named after its last digits,
    ``...8f4646`` in ``46/46/8f``."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def distractors(directory: str | os.PathLike[str] = "data") -> list[str]:
    """Absolute paths of the pictures of ``revisitop1m``, in the order of its list. Raises DatasetError."""
    item = published_set("revisitop1m")
    folder = (Path(directory) / item.name).resolve()
    return [str(folder / path) for path in pictures_of(item, folder)]


def _listing(item: PublishedSet, folder: Path) -> Path:
    return _readable(item, folder / item.listing)


def _readable(item: PublishedSet, file: Path) -> Path:
    if not file.is_file():
        raise DatasetError(f"{file} is missing", f"Run: retrieve datasets download {item.name}.")
    if file.stat().st_size > _LIST_LIMIT:
        raise DatasetError(f"{file} is larger than any list of pictures: refused")
    return file


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in lines_of(file.read_text("utf-8", errors="surrogateescape"))]
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    paths = [line for line in lines if line]
    for path in paths:
        if os.path.isabs(path) or ".." in path.split("/") or "\0" in path:
            raise DatasetError(f"{file}: {path[:80]!r} leads out of the set's folder")
    if not paths:
        raise DatasetError(f"{file} names no pictures")
    return paths


def _training_names(file: Path) -> list[str]:
    """The names of the pictures in a training list: a dict with ``cids``, or one for ``train`` and one for ``val``."""
    try:
        form = plain_pickle.loads(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    except DatasetError as error:
        raise DatasetError(f"{file}: {error.message}", error.hint) from None
    parts: list[Any] = [form]
    if isinstance(form, dict) and "cids" not in form:
        parts = [part for key, part in form.items() if key in ("train", "val")]
    names: list[str] = []
    for part in parts or [None]:
        listed = plain_pickle.as_list(part.get("cids")) if isinstance(part, dict) else None
        if not listed or not all(isinstance(cid, str) and cid.isalnum() and len(cid) >= 6 for cid in listed):
            raise DatasetError(f"{file}: expected lists of picture names under 'cids'")
        names += listed
    return names
