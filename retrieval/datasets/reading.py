"""A ground truth read from what lies there.

Four sources: JSON (the project's own format), the official ``.pkl`` of Revisited Oxford and Paris, folders of
labelled pictures, and ``path,label`` lists.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.datasets import labelled, official
from retrieval.datasets.groundtruth import GroundTruth, Query, built
from retrieval.errors import DatasetError, UsageError
from retrieval.files.paths import as_on_disk
from retrieval.messages import Say, say_nothing

_PICKLE_LIMIT = 256 << 20  # bytes; the official files have 0.3 million


def load_groundtruth(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = "auto",
    say: Say = say_nothing,
) -> GroundTruth:
    """Read a ground truth: ``.json``, ``.pkl`` (Revisited Oxford or Paris), ``.csv`` or ``.txt``
    (``path,label`` lines), or a folder.

    A folder is taken for what lies in it: ``groundtruth.json``, one ``gnd_*.pkl`` or other ``.json`` of that form, which
    ``say`` is told, or else sub-folders of one class each (:func:`retrieval.datasets.labelled.read_folders`). With
    labels, every labelled picture asks for the others of its class, and is itself junk (leave-one-out); the memory taken
    grows with the sum of the squared class sizes.

    ``root`` is what the paths are relative to (default: the file's folder). ``images`` says where the
    pictures lie: ``"auto"`` follows the format (``jpg/`` under the root for a ``.pkl``, the root itself for
    all others), None means the root itself, anything else is the folder and becomes the root. Raises
    DatasetError for a set that is missing, unreadable or inconsistent, UsageError for an unknown kind of file
    and for ``root`` together with a folder of images.
    """
    path = Path(path)
    if root is not None and images not in ("auto", None):
        raise UsageError("give either the root or the folder of pictures, not both")
    if path.is_dir():
        path, folder = _inside(path), path
        if path != folder:
            say(f"{folder} holds a ground truth: {path} is used, not its sub-folders as classes")
    base = path if path.is_dir() else path.parent
    if images not in ("auto", None):
        root, images = images, None
    base = base if root is None else Path(root)
    if path.is_dir():
        found = _leave_one_out(path.resolve().name, str(path), base, labelled.read_folders(path))
        return replace(found, of_folder=True)
    kind = path.suffix.lower()
    if kind not in (".json", ".pkl", ".csv", ".txt"):
        raise UsageError(
            f"{path}: not a known kind of ground truth", "Give a .json, .pkl, .csv or .txt file, or a folder"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: no such file or folder")
    if kind in (".csv", ".txt"):
        listed = [(as_on_disk(base, picture), label) for picture, label in labelled.read_list(path)]
        return _leave_one_out(path.stem, str(path), base, listed)
    try:
        if kind == ".pkl" and path.stat().st_size > _PICKLE_LIMIT:
            raise DatasetError(f"{path}: larger than any benchmark's ground truth ({_PICKLE_LIMIT >> 20} MiB): refused")
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    if kind == ".pkl":
        try:
            form = official.read_official(data, path.stem.removeprefix("gnd_"), "jpg/" if images == "auto" else "")
        except DatasetError as error:
            raise DatasetError(f"{path}: {error.message}", error.hint) from None
        return GroundTruth.from_json(form, base, source=str(path))
    try:
        form = _parsed(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON ({error})") from error
    return GroundTruth.from_json(_as_on_disk(form, base), base, source=str(path))


def _parsed(data: bytes) -> Any:
    """JSON, with names as the disk has them, which may be no UTF-8. Raises ValueError, RecursionError."""
    return json.loads(data.decode("utf-8-sig", errors="surrogateescape"))


def _as_on_disk(form: Any, base: Path) -> Any:
    """The same with paths as they are written on the disk, where they differ in Unicode's forms alone."""
    if isinstance(form, dict):
        return {key: value if key == "name" else _as_on_disk(value, base) for key, value in form.items()}
    if isinstance(form, list):
        return [_as_on_disk(value, base) for value in form]
    return as_on_disk(base, form) if isinstance(form, str) and "\0" not in form else form


def _inside(folder: Path) -> Path:
    """The one ground truth in a folder, else the folder."""
    if (folder / "groundtruth.json").is_file():
        return folder / "groundtruth.json"
    pickles = [file for file in sorted(folder.glob("gnd_*.pkl")) if file.is_file()]
    truths = [*pickles, *(file for file in sorted(folder.glob("*.json")) if file.is_file() and _is_truth(file))]
    if len(truths) > 1:
        raise UsageError(f"{folder}: holds {len(truths)} ground truths", f"Give one of them, such as {truths[0]}")
    return truths[0] if truths else folder


def _is_truth(file: Path) -> bool:
    """Whether a JSON file has the form of a ground truth; what else lies in a folder of pictures is passed over."""
    try:
        text = file.read_bytes()
        form = _parsed(text) if b'"queries"' in text and b'"gallery"' in text else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(form, dict) and isinstance(form.get("gallery"), list) and isinstance(form.get("queries"), list)


def _leave_one_out(name: str, source: str, root: Path, pictures: labelled.Labelled) -> GroundTruth:
    members: dict[str, list[str]] = {}
    for path, label in pictures:
        if label is not None:
            members.setdefault(label, []).append(path)
    queries = []
    for path, label in pictures:
        if label is not None:
            others = tuple(other for other in members[label] if other != path)
            queries.append(Query(path, None, others, (), (path,)))
    return built(source, name=name, root=root, gallery=tuple(path for path, _ in pictures), queries=tuple(queries))
