"""A fifth of the paintings: all that decides the answers to some of the photos, in an album of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

# What the descriptors of whole photos, or of boxes in them, put before the right painting.
TAKEN_FOR = (91, 101, 114, 120, 147, 179, 185, 189, 253, 273)


def some_paintings(shared_data: Path, folder: Path, photos: Collection[int]) -> Path:
    """Copies these photos of paintings on walls, their paintings, what those are taken for, and every eighth of the others, into
    ``folder``. Returns the file of their ground truth, there."""
    source = shared_data / "paintings"
    truth = json.loads((source / "qsd2_w2.json").read_text())
    truth["queries"] = [query for number, query in enumerate(truth["queries"]) if number in photos]
    kept = {path for query in truth["queries"] for path in query["easy"]} | set(truth["gallery"][::8])
    kept |= {f"gallery/bbdd_{number:05d}.jpg" for number in TAKEN_FOR}
    truth["gallery"] = [path for path in truth["gallery"] if path in kept]
    for path in (*truth["gallery"], *(query["image"] for query in truth["queries"])):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / path)
    (folder / "qsd2_w2.json").write_text(json.dumps(truth))
    return folder / "qsd2_w2.json"
