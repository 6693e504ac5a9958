"""Where training pictures come from: class folders, lists, pairs, the published SfM lists, or unlabelled folders.

All become a :class:`retrieval.training.data.training_set.TrainingSet`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.datasets import labelled
from retrieval.datasets.lists import PairList, looks_like_pairs, read_pairs, read_sfm
from retrieval.datasets.published.sets import SETS
from retrieval.errors import DatasetError, UsageError
from retrieval.files.digest import content_hash
from retrieval.messages import count_of
from retrieval.training.data.training_set import TrainingSet

KINDS = ("auto", "folders", "list", "pairs", "sfm", "unlabelled")


def read_training_set(
    data: str | os.PathLike[str],
    *,
    kind: str = "auto",
    images: str | os.PathLike[str] | None = None,
    part: str = "train",
    skip_missing: bool = False,
) -> TrainingSet:
    """The pictures to train on from ``data``, by ``kind``:

    - ``folders``: a folder with a sub-folder for each class; pictures beside the sub-folders have no class.
    - ``list``: a file of ``path,label`` lines, further columns passed over.
    - ``pairs``: a file of ``path,path`` or ``path,path,cluster`` lines; without clusters, pictures that pairs connect are one.
    - ``sfm``: the pickle of retrieval-SfM-30k or -120k (or its folder or its name); ``part`` is ``"train"`` or ``"val"``.
    - ``unlabelled``: a folder of pictures, each its own cluster; copies of one file count once.

    ``auto`` tells by what lies there: a ``labels.csv`` in a folder, else sub-folders, else pictures; the file's suffix and
    second column. ``images`` is the folder that a list's paths are relative to (default: the list's own; for ``sfm``,
    ``ims/`` beside it). A picture listed twice counts once. ``skip_missing`` leaves out pictures that are not there, with a
    note, as is done with links to nothing in folders, which nobody listed. Raises DatasetError, with numbers and names, for a
    list that cannot be read or contradicts itself, missing pictures, and data without two pictures that match and one that
    does not; UsageError for an unknown kind.
    """
    if kind not in KINDS:
        raise UsageError(f"no kind of training data is called {kind!r}", f"There are: {', '.join(KINDS)}.")
    path = _found(Path(data))
    chosen, path = _recognised(path, kind)
    if part != "train" and (chosen != "sfm" or part != "val"):
        raise UsageError(f"{path} has no part {part!r}", "Only the SfM lists have a second part, 'val'.")
    if images is not None and chosen in ("folders", "unlabelled"):
        raise UsageError(f"{path} holds its pictures itself", "A folder of pictures is for lists only.")
    if chosen in ("pairs", "sfm"):
        listed = read_pairs(path) if chosen == "pairs" else read_sfm(path, part)
        root = Path(images) if images else path.parent / "ims" if chosen == "sfm" else path.parent
        made = _of_pairs(path.stem, root, listed)
    elif chosen == "unlabelled":
        made = _of_folder(path)
    else:
        pictures = labelled.read_folders(path) if chosen == "folders" else labelled.read_list(path)
        root = path if chosen == "folders" else Path(images) if images else path.parent
        made = _of_labels(path.resolve().stem if chosen == "list" else path.resolve().name, root, pictures)
    made = _present(made, skip_missing or chosen == "folders")
    _check_trainable(made)
    return made


# ---------------------------------------------------------------- what it is


def _found(path: Path) -> Path:
    """The path, or that of a downloaded set of this name."""
    if path.exists():
        return path
    if str(path) in SETS and (Path("data") / path).exists():
        return Path("data") / path
    if str(path) in SETS:
        raise DatasetError(f"{path} is not here", f"Run: retrieve datasets download {path}.")
    raise DatasetError(f"{path}: no such file or folder")


def _recognised(path: Path, kind: str) -> tuple[str, Path]:
    """What ``path`` is, and the file or folder to read."""
    if path.is_dir():
        lists = sorted(p for p in path.glob("retrieval-SfM-*.pkl") if not p.stem.endswith("-whiten"))
        lists = lists or sorted(path.glob("retrieval-SfM-*.pkl"))
        if kind == "sfm" or (kind == "auto" and lists):
            if len(lists) != 1:
                raise DatasetError(f"{path}: {len(lists)} lists retrieval-SfM-*.pkl in it", "Name the list itself.")
            return "sfm", lists[0]
        if kind in ("list", "auto") and (path / "labels.csv").is_file():
            return "list", path / "labels.csv"
        if kind == "auto":
            kind = "folders" if _has_classes(path) else "unlabelled"
        if kind not in ("folders", "unlabelled"):
            raise UsageError(f"{path} is a folder, not a file of {kind}", "Name the file.")
        return kind, path
    if kind in ("folders", "unlabelled"):
        raise UsageError(f"{path} is not a folder", "Name the folder of the pictures.")
    if kind != "auto":
        return kind, path
    suffix = path.suffix.lower()
    if suffix not in (".pkl", ".csv", ".txt"):
        raise UsageError(f"{path}: not a known kind of training data", "Give a folder, or a .csv, .txt or .pkl file.")
    return "sfm" if suffix == ".pkl" else "pairs" if looks_like_pairs(path) else "list", path


def _has_classes(folder: Path) -> bool:
    try:
        found = labelled.read_folders(folder)
    except DatasetError:
        return False
    return any(label is not None for _, label in found)


# ---------------------------------------------------------------- the four sources


def _of_labels(name: str, root: Path, pictures: labelled.Labelled) -> TrainingSet:
    label_of: dict[str, str | None] = {}
    for path, label in pictures:
        plain = os.path.normpath(os.path.join(root, path))
        if label_of.setdefault(plain, label) != label:
            raise DatasetError(f"{name}: {path!r} is in two classes, {label_of[plain]!r} and {label!r}")
    notes = _repeated(len(pictures) - len(label_of), "picture listed twice", "pictures listed twice")
    none = np.zeros((0, 2), np.int64)
    names = tuple(dict.fromkeys(label for label in label_of.values() if label is not None))
    return TrainingSet(name, _paths(label_of), _numbered(label_of.values()), none, notes=notes, cluster_names=names)


def _of_pairs(name: str, root: Path, listed: PairList) -> TrainingSet:
    rows: dict[str, int] = {}
    place = [rows.setdefault(os.path.normpath(os.path.join(root, path)), len(rows)) for path in listed.paths]
    pairs = list(dict.fromkeys((place[a], place[b]) for a, b in listed.pairs))
    if itself := [a for a, b in pairs if a == b]:
        raise DatasetError(f"{name}: {list(rows)[itself[0]]!r} is paired with itself")
    table = np.array(pairs, np.int64).reshape(-1, 2)
    notes = _repeated(len(listed.paths) - len(rows), "picture listed twice", "pictures listed twice")
    notes += _repeated(len(listed.pairs) - len(pairs), "pair listed twice", "pairs listed twice")
    if listed.clusters is None:
        return TrainingSet(name, _paths(rows), _connected(len(rows), table), table, notes=notes)
    cluster_of: dict[int, Hashable] = {}
    for row, path, cluster in zip(place, listed.paths, listed.clusters, strict=True):
        if cluster_of.setdefault(row, cluster) != cluster:
            raise DatasetError(f"{name}: {path!r} is in two clusters, {cluster_of[row]} and {cluster}")
    clusters = _numbered(cluster_of[row] for row in range(len(rows)))
    if (apart := clusters[table[:, 0]] != clusters[table[:, 1]]).any():
        a, b = (list(rows)[row] for row in table[np.flatnonzero(apart)[0]])
        raise DatasetError(f"{name}: {int(apart.sum())} pairs join two clusters, the first {a!r} and {b!r}")
    names = tuple(dict.fromkeys(str(cluster_of[row]) for row in range(len(rows))))
    return TrainingSet(name, _paths(rows), clusters, table, notes=notes, cluster_names=names)


def _of_folder(folder: Path) -> TrainingSet:
    from retrieval.pictures.scan import walk

    scan = walk(str(folder))
    if scan.unreadable:
        place, why = next(iter(scan.unreadable.items()))
        raise DatasetError(f"{folder / place}: cannot be listed ({why})")
    found = [file for file in scan.files if file.problem is None]
    if not found:
        raise DatasetError(f"{folder}: no pictures in this folder or below it")
    bad = [f"{folder / file.path} ({file.problem})" for file in scan.files if file.problem is not None]
    alike = Counter(file.size for file in found)  # only files of one size can be copies
    first: dict[Hashable, Path] = {}
    copies = 0
    for file in found:
        path = folder / file.path
        try:
            key: Hashable = content_hash(path) if alike[file.size] > 1 else ("alone", file.size)
        except OSError as error:
            bad.append(f"{path} ({error.strerror})")
        else:
            copies += first.setdefault(key, path) is not path
    notes = _repeated(copies, "picture is a copy of another", "pictures are copies of others")
    if bad:
        notes += (f"{count_of(len(bad), 'picture')} left out, which cannot be used: {_some(bad)}",)
    notes += ("no labels: each picture is taken to differ from all others, and photos of one thing will be told apart",)
    paths = tuple(first.values())
    none = np.zeros((0, 2), np.int64)
    return TrainingSet(folder.resolve().name, paths, np.arange(len(paths), dtype=np.int64), none, True, notes)


def _paths(plain: Iterable[str]) -> tuple[Path, ...]:
    return tuple(Path(path) for path in plain)


def _numbered(labels: Iterable[Hashable | None]) -> np.ndarray:
    """Clusters counted from 0 in the order in which they occur; -1 for None. int64."""
    number: dict[Hashable, int] = {}
    return np.array([-1 if label is None else number.setdefault(label, len(number)) for label in labels], np.int64)


def _connected(count: int, pairs: np.ndarray) -> np.ndarray:
    """For each of ``count`` pictures the number of its group that pairs connect, by first occurrence; -1 for one in no pair."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, group = connected_components(graph, directed=False)
    paired = np.zeros(count, bool)
    paired[pairs] = True
    return _numbered(int(g) if p else None for g, p in zip(group, paired, strict=True))


def _repeated(count: int, one: str, several: str) -> tuple[str, ...]:
    return (f"{count_of(count, one, several)}: counted once",) if count else ()


# ---------------------------------------------------------------- whether it will do


def _present(data: TrainingSet, skip_missing: bool) -> TrainingSet:
    here = np.array([os.path.isfile(path) for path in data.paths], bool)
    gone = [path for path, is_here in zip(data.paths, here, strict=True) if not is_here]
    if not gone:
        return data
    lacking = f"{len(gone):,} of {count_of(len(data), 'picture')} {'is' if len(gone) == 1 else 'are'} missing"
    summary = f"{lacking}: {_some([str(path) for path in gone])}"
    if not skip_missing:
        raise DatasetError(f"{data.name}: {summary}", "Say where the pictures lie, or leave the missing ones out.")
    if not here.any():
        raise DatasetError(f"{data.name}: {summary}", "Say where the pictures lie.")
    return replace(data.subset(here), notes=(*data.notes, f"{summary}; they are left out"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _check_trainable(data: TrainingSet) -> None:
    numbers, counts = np.unique(data.clusters[data.clusters >= 0], return_counts=True)
    loose = int((data.clusters < 0).sum())
    matching = len(data.pairs) or (len(data) if data.two_views else int((counts > 1).sum()))
    if not matching:
        raise DatasetError(f"{data.name}: no two pictures match", "Training needs two pictures of a class at least.")
    if len(numbers) + loose < 2:
        raise DatasetError(
            f"{data.name}: all {len(data):,} pictures are one class, so there is nothing to tell apart",
            "Give two classes at least, or take the pictures as unlabelled." if not data.two_views else "Give more.",
        )
