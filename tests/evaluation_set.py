"""A tiny set for the fake model, with boxes, easy, hard and junk, and figures by the plainest possible means."""

from __future__ import annotations

import contextlib
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, fake_gallery
from PIL import Image

from retrieval.cli.main import cli
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth

PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def make_set(folder: Path, objects: int = 6, seed: int = 0) -> GroundTruth:
    """Coarse patterns; easy views have little noise, hard and junk ones much. Queries lie in a box on a noisy ground."""
    for name, data in _drawn(objects, seed).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return load_groundtruth(folder / "groundtruth.json")


@cache
def _drawn(objects: int, seed: int) -> dict[str, bytes]:
    """The files by name. Many tests want the same ones."""
    rng = np.random.default_rng(seed)
    files: dict[str, bytes] = {}
    names: list[str] = []
    queries = []

    def save(name: str, picture: Image.Image) -> None:
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        files[name] = stream.getvalue()

    def drawn(cells: np.ndarray, size: tuple[int, int]) -> Image.Image:
        return Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)

    for i in range(objects):
        base = rng.integers(0, 256, (4, 4, 3)).astype(float)
        lists: dict[str, list[str]] = {"easy": [], "hard": [], "junk": []}
        for kind, count, noise in (("easy", 2, 40), ("hard", 3, 90), ("junk", 2, 60)):
            for k in range(count if (i, kind) != (1, "easy") else 0):  # object 1 has nothing easy
                name = f"gallery/{rng.integers(1 << 30):08x}-{i}-{kind}{k}.png"
                save(name, drawn(base + rng.normal(0, noise, base.shape), (40, 30) if k else (32, 32)))
                lists[kind].append(name)
                names.append(name)
        ground = drawn(rng.integers(0, 256, (4, 4, 3)), (56, 44))
        ground.paste(drawn(base + rng.normal(0, 25, base.shape), (40, 30)), (8, 6))
        save(f"queries/{i}.png", ground)
        queries.append({"image": f"queries/{i}.png", "bbox": [8, 6, 48, 36], **lists})
    for k in range(8):
        names.append(f"gallery/{rng.integers(1 << 30):08x}-other{k}.png")
        save(names[-1], drawn(rng.integers(0, 256, (4, 4, 3)), (30, 40)))
    files["groundtruth.json"] = json.dumps({"name": "tiny", "gallery": sorted(names), "queries": queries}).encode()
    return files


def describe(path: Path, box: tuple[float, ...] | None = None) -> np.ndarray:
    """The fake model's descriptor by a way of its own; pictures are smaller than its size."""
    picture = Image.open(path).convert("RGB")
    if box is not None:
        picture = picture.crop(tuple(round(v) for v in box))
    return FakeEngine().describe(np.asarray(picture)[None])[0]


def descriptors(truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    queries = np.stack([describe(truth.root / q.image, q.bbox) for q in truth.queries])
    return queries, np.stack([describe(truth.root / path) for path in truth.gallery])


def full_rankings(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    scores = queries.astype(float) @ gallery.astype(float).T
    return np.stack([np.lexsort((np.arange(len(gallery)), -np.round(row, 9))) for row in scores])


def figures(truth: GroundTruth, rankings: list[list[str]]) -> dict[str, dict[str, list[float]]]:
    """Protocol -> metric -> a value for each query (NaN without right answers), from full or shortened rankings of paths."""
    out: dict[str, dict[str, list[float]]] = {}
    for protocol, (positive, junk) in PROTOCOLS.items():
        values: dict[str, list[float]] = {"mAP": [], "mP@1": [], "mP@5": [], "mP@10": []}
        for query, ranking in zip(truth.queries, rankings, strict=True):
            right = {path for kind in positive for path in getattr(query, kind)}
            passed = {path for kind in junk for path in getattr(query, kind)}
            kept = [path for path in ranking if path not in passed]
            ranks = [r for r, path in enumerate(kept) if path in right]
            score = 0.0
            for j, r in enumerate(ranks):
                left = 1.0 if r == 0 else j / r
                score += (left + (j + 1) / (r + 1)) / 2
            values["mAP"].append(score / len(right) if right else float("nan"))
            for k in (1, 5, 10):
                cut = min(k, ranks[-1] + 1) if right and len(ranks) == len(right) else k
                values[f"mP@{k}"].append(sum(r < cut for r in ranks) / cut if right else float("nan"))
        out[protocol] = values
    return out


def means(values: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    return {protocol: {m: float(np.nanmean(v)) for m, v in found.items()} for protocol, found in values.items()}


def use_fake_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """All galleries made with the fake model are run by the engine returned, wherever they are opened."""
    engine = FakeEngine()
    monkeypatch.setattr("retrieval.engines.choose.create_engine", lambda *args, **options: engine)
    return engine


def cached_gallery(folder: Path) -> Path:
    """An empty gallery of the fake model, for ``--gallery``."""
    with fake_gallery(folder):
        return folder


def retrieve(*arguments: object) -> str:
    """What the command prints on stdout, run in this process; errors are raised."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main([str(a) for a in arguments], prog_name="retrieve", standalone_mode=False)
    return out.getvalue()
