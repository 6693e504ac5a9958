"""A retrieval set of altered copies: for each photo of some folders one copy asks, and the photo is the right answer.

    python scripts/make_copies_set.py photos/ more/ --count 200 --out copies_set

Copies are the training's own kind of change (retrieval/training/copies/alter.py), half of them at night, with seeds of
their own. With photos that a model was not trained on, this says how well it knows altered photos again.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.files.whole import write_json
from retrieval.pictures.imaging import is_picture_name, load_picture
from retrieval.training.copies.alter import CopyPreset, altered


def make(folders: list[Path], out: Path, count: int, size: int, seed: int) -> int:
    """Write ``groundtruth.json``, ``photos/`` and ``copies/`` into ``out``; returns how many photos were taken."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if is_picture_name(path.name))
    rng = np.random.default_rng(seed)
    chosen = [paths[i] for i in rng.permutation(len(paths))[:count]]
    for name in ("photos", "copies"):
        (out / name).mkdir(parents=True, exist_ok=True)
    queries = []
    for i, path in enumerate(chosen):
        photo = load_picture(path, size=512).array
        Image.fromarray(photo).save(out / "photos" / f"{i:05}.jpg", quality=90)
        preset = dataclasses.replace(CopyPreset(), dark=float(i % 2))
        other = load_picture(chosen[i - 1], size=size).array if i % 5 == 0 else None
        copy = altered(photo, size, int(rng.integers(2**62)), other=other, preset=preset)
        Image.fromarray(copy).save(out / "copies" / f"{i:05}.jpg", quality=90)
        # What a part of another photo was laid over shows that photo too.
        junk = [] if other is None else [f"photos/{(i - 1) % len(chosen):05}.jpg"]
        queries.append({"image": f"copies/{i:05}.jpg", "easy": [f"photos/{i:05}.jpg"], "hard": [], "junk": junk})
    gallery = [f"photos/{i:05}.jpg" for i in range(len(chosen))]
    write_json(out / "groundtruth.json", {"name": out.name, "gallery": gallery, "queries": queries})
    return len(chosen)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=320, help="longest side of the copies, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    print(make(given.folders, given.out, given.count, given.size, given.seed), "photos")
