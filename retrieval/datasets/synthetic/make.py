"""A retrieval set made by code: streets of made-up house fronts, with easy, hard and junk views of each
front.

For tests, for the demo, and for a first training run, where no photographs are at hand. It is deterministic:
the same parameters give the same bytes with the same Pillow and numpy, and every picture has a random stream
of its own, so front 3 looks the same whether 4 fronts are made or 400. How fronts differ is told in
``synthetic_facades``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from retrieval.datasets.groundtruth import Box, GroundTruth, Query
from retrieval.datasets.placing import check_files
from retrieval.datasets.reading import load_groundtruth
from retrieval.datasets.synthetic.facades import Facade, draw_facade
from retrieval.datasets.synthetic.scenes import encode, render
from retrieval.datasets.synthetic.styles import Style, draw_style
from retrieval.datasets.synthetic.views import VIEWS
from retrieval.errors import DatasetError, UsageError
from retrieval.files.whole import write_json

PARAMETERS = "synthetic.json"  # written last: a folder that has it is complete
_UNFINISHED = "synthetic.json.part"
_DRAWING = 1  # raise it whenever the pictures of the same parameters change
_SIBLINGS = 4  # fronts of one group
_FILLERS = 20  # fronts that stand beside the others
_SPLITS = {"test": 0, "train": 1}


@dataclass(frozen=True)
class _Photo:
    """A picture to make: where it goes, of which front, in which view."""

    path: str
    split: str
    front: tuple[str, int]  # kind of front ("object", "distractor", "filler") and its number
    view: str
    stream: tuple[int, int, int]  # number of the front, kind of picture, number of the picture


def make_synthetic(
    out: str | os.PathLike[str],
    *,
    objects: int = 40,
    views: tuple[int, int, int] = (4, 5, 1),
    distractors: int | None = None,
    train_objects: int | None = None,
    train_views: int = 8,
    size: int = 320,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> GroundTruth:
    """Write a set into the folder ``out`` and return its ground truth.

    ``gallery/`` holds, of each of the ``objects`` fronts, as many easy, hard and junk views as ``views``
    says, and ``distractors`` other streets (default: four an object). ``queries/`` holds one street scene a
    front, with a box around the front. ``train/<front>/`` holds ``train_views`` views each of
    ``train_objects`` other fronts (default: as many as objects), listed as ``path,label`` in ``labels.csv``.
    ``groundtruth.json`` is the ground truth, ``synthetic.json`` the parameters. ``size`` is the longest side
    in pixels. ``progress`` is called with the pictures made and their total.

    A folder that holds the set of the same parameters is left as it is, and an interrupted run is taken up
    again; any other folder with something in it is refused (UsageError), as are parameters out of range.
    Raises DatasetError where the folder cannot be written or a complete set has lost pictures.
    """
    out = Path(out)
    distractors = 4 * objects if distractors is None else distractors
    train_objects = objects if train_objects is None else train_objects
    parameters = {
        "drawing": _DRAWING,
        "objects": objects,
        "views": list(views),
        "distractors": distractors,
        "train_objects": train_objects,
        "train_views": train_views,
        "size": size,
        "seed": seed,
    }
    _check(parameters)
    if _complete(out, parameters):
        return _reread(out)
    photos = [*_test_photos(objects, views, distractors), *_train_photos(train_objects, train_views)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / _UNFINISHED, parameters)
        boxes: dict[str, Box] = {}
        for folder in sorted({(out / photo.path).parent for photo in photos}):
            folder.mkdir(parents=True, exist_ok=True)
        draw = _drawer(seed)
        for done, photo in enumerate(photos):
            data, box = _take(photo, draw, size, seed)
            (out / photo.path).write_bytes(data)
            boxes[photo.path] = box
            if progress is not None:
                progress(done + 1, len(photos))
        labels = [f"{photo.path},{Path(photo.path).parent.name}" for photo in photos if photo.split == "train"]
        (out / "labels.csv").write_text("\n".join(["path,label", *labels, ""]))
        truth = _ground_truth(out, photos, boxes, f"synthetic-{objects}-seed{seed}")
        truth.save(out / "groundtruth.json")
        os.replace(out / _UNFINISHED, out / PARAMETERS)
    except OSError as error:
        raise DatasetError(f"{out}: the set cannot be written ({error.strerror})") from error
    return truth


def _check(parameters: dict[str, object]) -> None:
    least = {"objects": 1, "distractors": 0, "train_objects": 0, "train_views": 1, "size": 64, "seed": 0}
    for name, low in least.items():
        value = parameters[name]
        if type(value) is not int or value < low:
            raise UsageError(f"{name} must be a whole number, at least {low}, not {value!r}")
    views = parameters["views"]
    if not isinstance(views, list) or len(views) != 3 or any(type(n) is not int or n < 0 for n in views):
        raise UsageError(f"views must be three numbers (easy, hard, junk), not {views!r}")
    if views[0] + views[1] == 0:
        raise UsageError("views asks for no easy and no hard view: nothing would be right")


def _complete(out: Path, parameters: dict[str, object]) -> bool:
    """Whether the set is there; raises UsageError where something else is."""
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return False
        for name in (PARAMETERS, _UNFINISHED):
            if (out / name).is_file():
                if json.loads((out / name).read_bytes()) == parameters:
                    return name == PARAMETERS
                raise UsageError(f"{out} holds a synthetic set of other parameters", "Give another folder or remove it")
    except OSError as error:
        raise DatasetError(f"{out}: cannot be read ({error.strerror})") from error
    except UsageError:
        raise
    except ValueError:
        pass
    raise UsageError(f"{out} is not empty and holds no synthetic set", "Give another folder")


def _reread(out: Path) -> GroundTruth:
    try:
        truth = load_groundtruth(out / "groundtruth.json")
        check_files(truth)
        return truth
    except DatasetError as error:
        raise DatasetError(error.message, f"Remove {out} to have the set made anew") from error


def _test_photos(objects: int, views: tuple[int, int, int], distractors: int) -> Iterator[_Photo]:
    for i in range(objects):
        for kind, (level, count) in enumerate(zip(("easy", "hard", "junk"), views, strict=True)):
            for k in range(count):
                name = f"gallery/facade_{i:02d}_{level}_{k + 1}.jpg"
                yield _Photo(name, "test", ("object", i), level, (i, kind, k))
    for i in range(distractors):
        # One in three shows a brother of the objects, the others a street of fillers.
        front, view = (("distractor", i), ("easy", "hard")[i % 2]) if i % 3 == 0 else (("filler", i), "street")
        yield _Photo(f"gallery/street_{i:03d}.jpg", "test", front, view, (i, 3, 0))
    for i in range(objects):
        yield _Photo(f"queries/facade_{i:02d}.jpg", "test", ("object", i), "query", (i, 4, 0))


def _train_photos(objects: int, views: int) -> Iterator[_Photo]:
    for i in range(objects):
        for k in range(views):
            level = ("easy", "hard")[k % 2]
            name = f"train/front_{i:02d}/front_{i:02d}_{level}_{k // 2 + 1}.jpg"
            yield _Photo(name, "train", ("object", i), level, (i, 5, k))


def _drawer(seed: int) -> Callable[[str, str, int], Facade]:
    """Fronts by split, kind and number, each drawn once. The streams of train and test never meet."""
    kinds = {"style": 0, "object": 1, "distractor": 2, "filler": 3, "filler style": 4}

    def stream(split: str, kind: str, number: int) -> np.random.Generator:
        return np.random.default_rng([seed, 100 + _SPLITS[split], kinds[kind], number, 0])

    @cache
    def style(split: str, kind: str, number: int) -> Style:
        return draw_style(stream(split, kind, number), plain=kind == "filler style")

    @cache
    def facade(split: str, kind: str, number: int) -> Facade:
        if kind == "filler":
            number %= _FILLERS
            return draw_facade(style(split, "filler style", number // 2), stream(split, kind, number))
        group = number // (_SIBLINGS if kind == "object" else 4 * _SIBLINGS)
        return draw_facade(style(split, "style", group), stream(split, kind, number))

    return facade


def _take(photo: _Photo, draw: Callable[[str, str, int], Facade], size: int, seed: int) -> tuple[bytes, Box]:
    rng = np.random.default_rng([seed, _SPLITS[photo.split], *photo.stream])
    fillers = [draw(photo.split, "filler", i) for i in range(_FILLERS)]
    view = VIEWS[photo.view](size, rng)
    picture, box = render(draw(photo.split, *photo.front), view, fillers, rng)
    x1, y1, x2, y2 = box
    return encode(picture, view.quality), (float(x1), float(y1), float(x2), float(y2))


def _ground_truth(out: Path, photos: list[_Photo], boxes: dict[str, Box], name: str) -> GroundTruth:
    listed: dict[tuple[int, str], list[str]] = {}
    gallery = [photo for photo in photos if photo.path.startswith("gallery/")]
    for photo in gallery:
        if photo.front[0] == "object":
            listed.setdefault((photo.front[1], photo.view), []).append(photo.path)
    queries = []
    for photo in photos:
        if photo.view == "query":
            easy, hard, junk = (tuple(listed.get((photo.front[1], k), ())) for k in ("easy", "hard", "junk"))
            queries.append(Query(photo.path, boxes[photo.path], easy, hard, junk))
    return GroundTruth(name, out, tuple(photo.path for photo in gallery), tuple(queries))
