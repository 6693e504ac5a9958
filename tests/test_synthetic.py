"""The synthetic set: the same bytes every time, boxes that hold the object, and easy views that are easier than hard ones."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.placing import check_boxes, check_files
from retrieval.datasets.reading import load_groundtruth
from retrieval.datasets.synthetic import make as synthetic
from retrieval.datasets.synthetic.facades import Facade, draw_facade
from retrieval.datasets.synthetic.make import make_synthetic
from retrieval.datasets.synthetic.scenes import Camera, render
from retrieval.datasets.synthetic.styles import draw_style
from retrieval.datasets.synthetic.views import VIEWS, query_view
from retrieval.errors import DatasetError, UsageError

ROOT = Path(__file__).resolve().parent.parent
TINY = {"objects": 2, "views": (1, 1, 1), "distractors": 2, "train_objects": 1, "train_views": 2, "size": 96}


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    out = tmp_path_factory.mktemp("synthetic")
    return make_synthetic(out, objects=8, distractors=8, train_objects=4, train_views=4)


# ---------------------------------------------------------------- determinism


def test_the_same_parameters_give_the_same_bytes(tmp_path: Path, made: GroundTruth) -> None:
    make_synthetic(tmp_path / "a", **TINY)  # type: ignore[arg-type]
    code = f"from retrieval.datasets.synthetic.make import make_synthetic as m; m({str(tmp_path / 'b')!r}, **{TINY!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_front_looks_the_same_however_many_are_made(tmp_path: Path, made: GroundTruth) -> None:
    small = make_synthetic(tmp_path, objects=3, views=(2, 1, 1), distractors=3, train_objects=2, train_views=3)
    ours, whole = digests(tmp_path), digests(made.root)
    pictures = {name for name in ours if name.endswith(".jpg")}
    assert len(pictures) == 3 * 4 + 3 + 3 + 6
    assert {name: ours[name] for name in pictures} == {name: whole[name] for name in pictures}
    assert small.queries[1].bbox == made.queries[1].bbox


def test_another_seed_gives_other_fronts(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "a", **TINY)  # type: ignore[arg-type]
    make_synthetic(tmp_path / "b", **TINY, seed=1)  # type: ignore[arg-type]
    a, b = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert not any(a[name] == b[name] for name in a if name.endswith(".jpg"))


def test_no_two_pictures_are_alike(made: GroundTruth) -> None:
    pictures = [digest for name, digest in digests(made.root).items() if name.endswith(".jpg")]
    assert len(pictures) == len(set(pictures)) == 8 * 10 + 8 + 8 + 16


# ---------------------------------------------------------------- what is written


def test_ground_truth_and_files_agree(made: GroundTruth) -> None:
    assert load_groundtruth(made.root) == made
    check_files(made)
    check_boxes(made)
    assert {path.name for path in (made.root / "gallery").iterdir()} == {Path(p).name for p in made.gallery}
    for i, query in enumerate(made.queries):
        assert query.image == f"queries/facade_{i:02d}.jpg"
        for level, count in (("easy", 4), ("hard", 5), ("junk", 1)):
            assert getattr(query, level) == tuple(f"gallery/facade_{i:02d}_{level}_{k + 1}.jpg" for k in range(count))
    for path in (*made.gallery, *(query.image for query in made.queries)):
        with Image.open(made.root / path) as picture:
            assert (picture.format, picture.mode, max(picture.size)) == ("JPEG", "RGB", 320)


def test_boxes_leave_something_to_cut_off(made: GroundTruth) -> None:
    for query in made.queries:
        assert query.bbox is not None
        x1, y1, x2, y2 = query.bbox
        with Image.open(made.root / query.image) as picture:
            share = (x2 - x1) * (y2 - y1) / (picture.width * picture.height)
        assert 0.15 < share < 0.85


def test_train_and_gallery_share_no_front(made: GroundTruth) -> None:
    with open(made.root / "labels.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["path"] for row in rows} == {
        str(path.relative_to(made.root)) for path in (made.root / "train").rglob("*.jpg")
    }
    assert sorted({row["label"] for row in rows}) == [f"front_{i:02d}" for i in range(4)]
    assert all(Path(row["path"]).parent.name == row["label"] for row in rows)
    assert not {row["label"] for row in rows} & {Path(p).stem.rsplit("_", 2)[0] for p in made.gallery}
    assert load_groundtruth(made.root / "train").queries[0].image.startswith("front_00/")
    # The fronts themselves, as drawn: no train front is one of the gallery's (nor a filler a landmark).
    draw = synthetic._drawer(0)
    fronts = [
        ("test", "object", 8),
        ("test", "distractor", 8),
        ("test", "filler", 20),
        ("train", "object", 4),
        ("train", "filler", 20),
    ]
    drawn = [draw(split, kind, i).picture.tobytes() for split, kind, n in fronts for i in range(n)]
    assert len(set(drawn)) == len(drawn)


# ---------------------------------------------------------------- the camera


def test_the_camera_projects_as_rotation_matrices_do() -> None:
    front = Facade(Image.new("RGB", (300, 400)), Image.new("L", (300, 400), 255))
    view = replace(query_view(320, np.random.default_rng(0)), yaw=33.0, pitch=-11.0, roll=5.0, distance=2.2, extent=0.7)
    camera = Camera(view, front)
    y, p, r = (math.radians(a) for a in (33.0, -11.0, 5.0))
    turn_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    turn_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    turn_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])

    def seen(x: float, y: float) -> np.ndarray:
        point = turn_z @ turn_x @ turn_y @ np.array([x, y, 0]) + [0, 0, 2.2]
        return point[:2] / point[2]

    corners = np.array([seen(x, y) for x, y in ((-0.375, -0.5), (0.375, -0.5), (0.375, 0.5), (-0.375, 0.5))])
    extent = corners.max(0) - corners.min(0)
    scale = 0.7 / max(extent / view.frame)
    offset = np.array(view.centre) * view.frame - scale * (corners.max(0) + corners.min(0)) / 2
    rect = (-0.1, 0.2, 1.3, 0.45)
    expected = [scale * seen(x, y) + offset for x, y in ((-0.1, 0.2), (1.3, 0.2), (1.3, 0.45), (-0.1, 0.45))]
    np.testing.assert_allclose(np.array(camera.project(rect)), np.array(expected), atol=1e-9)


@pytest.mark.parametrize("yaw", [-45.0, 0.0, 30.0])
def test_a_front_lands_where_its_corners_project(yaw: float) -> None:
    picture = Image.new("RGB", (300, 400), (0, 0, 255))
    spots = {(255, 0, 0): (60, 80), (0, 255, 0): (240, 320)}
    for colour, (x, y) in spots.items():
        ImageDraw.Draw(picture).ellipse((x - 20, y - 20, x + 20, y + 20), fill=colour)
    front = Facade(picture, Image.new("L", picture.size, 255))
    camera = Camera(replace(query_view(320, np.random.default_rng(0)), yaw=yaw, extent=0.8), front)
    canvas = Image.new("RGB", (320, 240), (90, 90, 90))
    assert camera.paste(canvas, front, (-0.375, -0.5, 0.375, 0.5))
    pixels = np.asarray(canvas).astype(int)
    for colour, (x, y) in spots.items():
        rows, columns = np.nonzero(np.abs(pixels - colour).sum(-1) < 90)
        at = camera.project((x / 400 - 0.375, y / 400 - 0.5, 1.0, 1.0))
        assert at is not None
        assert math.dist((columns.mean() + 0.5, rows.mean() + 0.5), at[0]) < 1.5


def test_the_box_holds_the_front_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    style = draw_style(rng)
    front = draw_facade(style, rng)
    view = replace(query_view(320, rng), gain=1.0, cast=(1.0, 1.0, 1.0), shade=0.0, blur=0.0, noise=0.0)
    magenta = Facade(Image.new("RGB", front.picture.size, (255, 0, 255)), Image.new("L", front.picture.size, 255))
    grey = Facade(Image.new("RGB", (200, 200), (128, 128, 128)), Image.new("L", (200, 200), 255))
    picture, box = render(magenta, view, [grey], np.random.default_rng(0))
    rows, columns = np.nonzero(np.abs(np.asarray(picture).astype(int) - (255, 0, 255)).sum(-1) < 60)
    assert np.abs(np.array(box) - (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).max() <= 1.5


@pytest.mark.parametrize("level", sorted(VIEWS))
def test_every_view_shows_its_front(level: str) -> None:
    style_rng = np.random.default_rng(1)
    front = draw_facade(draw_style(style_rng), style_rng)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        picture, (x1, y1, x2, y2) = render(front, VIEWS[level](96, rng), [front], rng)
        assert max(picture.size) == 96
        assert 0 <= x1 < x2 <= picture.width
        assert 0 <= y1 < y2 <= picture.height


# ---------------------------------------------------------------- difficulty, by another measure


def inliers(front: Image.Image, photo: Image.Image) -> int:
    """SIFT matches between the front as drawn and a photo that one homography explains."""
    import cv2

    sift = cv2.SIFT_create()  # type: ignore[attr-defined]
    (points, ours), (others, theirs) = (sift.detectAndCompute(np.asarray(p.convert("L")), None) for p in (front, photo))
    if ours is None or theirs is None or len(theirs) < 2:
        return 0
    pairs = cv2.BFMatcher().knnMatch(ours, theirs, k=2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance]
    if len(good) < 6:
        return 0
    source = np.array([points[m.queryIdx].pt for m in good], np.float32)
    target = np.array([others[m.trainIdx].pt for m in good], np.float32)
    cv2.setRNGSeed(0)
    _, mask = cv2.findHomography(source, target, cv2.RANSAC, 4.0)
    return 0 if mask is None else int(mask.sum())


def test_easy_views_match_the_front_better_than_hard_and_junk_ones(made: GroundTruth) -> None:
    draw = synthetic._drawer(0)
    median: dict[str, float] = {}
    found: dict[str, list[int]] = {"easy": [], "hard": [], "junk": [], "sibling": []}
    for i, query in enumerate(made.queries[:4]):
        front = draw("test", "object", i).picture
        for level in ("easy", "hard", "junk"):
            for path in getattr(query, level):
                found[level].append(inliers(front, Image.open(made.root / path)))
        sibling = made.queries[i ^ 1]  # of the same group: same palette, same layout
        found["sibling"].append(inliers(front, Image.open(made.root / sibling.easy[0])))
    median = {level: float(np.median(counts)) for level, counts in found.items()}
    assert median["easy"] > 1.5 * median["hard"]
    assert median["hard"] > 1.5 * median["junk"]
    # Every easy view shows this front: more of it is found than a sibling's photo ever gives.
    assert min(found["easy"]) > max(found["sibling"])


def test_mean_colour_does_not_give_the_front_away(made: GroundTruth) -> None:
    draw = synthetic._drawer(0)
    means = np.array([np.asarray(draw("test", "object", i).picture).reshape(-1, 3).mean(0) for i in range(40)])
    distance = np.linalg.norm(means[:, None] - means[None], axis=-1) + 1e3 * np.eye(40)
    # A photo's light alone moves the mean by more than the nearest other front is away, for most fronts.
    light = 0.1 * means.mean()
    assert np.mean(distance.min(1) < light) > 0.5


# ---------------------------------------------------------------- the folder


def test_a_complete_set_is_left_as_it_is(tmp_path: Path) -> None:
    first = make_synthetic(tmp_path, **TINY)  # type: ignore[arg-type]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    calls: list[int] = []
    again = make_synthetic(tmp_path, **TINY, progress=lambda done, total: calls.append(done))  # type: ignore[arg-type]
    assert again == first
    assert not calls
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    for change in ({"seed": 1}, {"objects": 3}, {"size": 97}, {"views": (1, 1, 0)}, {"train_views": 3}):
        with pytest.raises(UsageError, match="other parameters"):
            make_synthetic(tmp_path, **{**TINY, **change})  # type: ignore[arg-type]


def test_another_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        make_synthetic(tmp_path, **TINY)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["precious.txt"]
    with pytest.raises(UsageError, match="not empty"):
        make_synthetic(tmp_path / "precious.txt", **TINY)  # type: ignore[arg-type]


def test_an_interrupted_run_looks_unfinished_and_is_taken_up(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 12
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / "a", **TINY, progress=stop)  # type: ignore[arg-type]
    assert not (tmp_path / "a" / "synthetic.json").exists()
    assert not (tmp_path / "a" / "groundtruth.json").exists()
    with pytest.raises(UsageError, match="other parameters"):
        make_synthetic(tmp_path / "a", **{**TINY, "seed": 5})  # type: ignore[arg-type]
    make_synthetic(tmp_path / "a", **TINY)  # type: ignore[arg-type]
    make_synthetic(tmp_path / "b", **TINY)  # type: ignore[arg-type]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_set_that_lost_pictures_is_reported(tmp_path: Path) -> None:
    truth = make_synthetic(tmp_path, **TINY)  # type: ignore[arg-type]
    (tmp_path / truth.gallery[0]).unlink()
    with pytest.raises(DatasetError, match=r"1 of 10 pictures is missing.*Remove"):
        make_synthetic(tmp_path, **TINY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"objects": 0},
        {"objects": 2.0},
        {"views": (0, 0, 1)},
        {"views": (1, 1)},
        {"views": (1, -1, 1)},
        {"distractors": -1},
        {"train_objects": -1},
        {"train_views": 0},
        {"size": 10},
        {"seed": -1},
    ],
)
def test_parameters_out_of_range_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        make_synthetic(tmp_path / "x", **{**TINY, **change})  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_the_script(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_synthetic.py"), str(tmp_path / "set"), "--objects", "1"]
    command += ["--views", "1", "1", "0", "--train-views", "2", "--size", "96", "--seed", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert "6 gallery pictures, 1 queries, 2 to train on" in run.stdout
    assert len(run.stdout.splitlines()) == 2
    assert json.loads((tmp_path / "set" / "synthetic.json").read_text())["seed"] == 4
    run = subprocess.run([*command, "--seed", "5"], capture_output=True, text=True, env=environment)
    assert run.returncode == 2
    assert "other parameters" in run.stderr
    assert "Traceback" not in run.stderr
