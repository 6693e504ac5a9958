"""Damaged ground truths: whatever is left of them is consistent, or refused by a DatasetError."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path

import numpy as np

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError, UsageError
from torture_phases.base import Outcome, Phase, damaged


@functools.cache
def originals() -> dict[str, bytes]:
    names = [f"all_souls_{i:06d}" for i in range(12)]
    query = {"bbx": [1.0, 2.0, 30.5, 40.0], "easy": [1, 2], "hard": [3], "junk": [4]}
    official = {"imlist": names, "qimlist": names[:3], "gnd": [query] * 3}
    arrays = {**official, "gnd": [{k: np.array(v) for k, v in query.items()}] * 3}
    own = {
        "name": "set",
        "gallery": [f"gallery/é {name}.jpg" for name in names],
        "queries": [
            {
                "image": "q.jpg",
                "bbox": [1, 2, 30, 40],
                "easy": ["gallery/é all_souls_000001.jpg"],
                "hard": [],
                "junk": [],
            }
        ],
    }
    lines = "".join(f"{name}.jpg,{'abc'[i % 3]}\n" for i, name in enumerate(names))
    files = {"truth.json": json.dumps(own).encode(), "labels.csv": lines.encode()}
    for protocol in (0, 2, 4):
        files[f"gnd_{protocol}.pkl"] = pickle.dumps(official, protocol)
        files[f"gnd_arrays_{protocol}.pkl"] = pickle.dumps(arrays, protocol)
    return files


def trial(rng: np.random.Generator, folder: Path) -> Outcome:
    files = originals()
    name, other = (str(rng.choice(list(files))) for _ in range(2))
    data, damages = damaged(files[name], rng, files[other])
    path = folder / name
    path.write_bytes(data)
    try:
        truth = load_groundtruth(path)
    except (DatasetError, UsageError) as error:
        text = str(error)
        if "\n" in text or len(text) > 1000:
            return Outcome("failed", name, f"{damages}: an error that says {text!r:.200}")
        return Outcome("refused", name)
    finally:
        path.unlink()
    again = GroundTruth.from_json(json.loads(json.dumps(truth.to_json())), truth.root)
    if again.queries != truth.queries or again.gallery != truth.gallery:
        return Outcome("failed", name, f"{damages}: it is another one when it is written and read again")
    return Outcome("read", name)


PHASE = Phase("truths", "ground truths: JSON, official pickles, label lists", 300, trial)
