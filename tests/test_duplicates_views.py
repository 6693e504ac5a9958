"""Neighbouring photos of one thing before a plain ground are no copies: what a list of superfluous files must not hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from retrieval import Gallery, load_model

# Pairs a few degrees or a step apart that correlate well in the middle.
NEIGHBOURS = {
    "views-figurine/viking": [(8, 9), (19, 20), (24, 25), (26, 27), (32, 33)],
    "views-skull/skull": [(19, 20), (31, 32), (39, 40), (41, 44)],
}


@pytest.mark.slow
def test_neighbouring_views_are_no_copies_and_their_copies_are(shared_data: Path, tmp_path: Path) -> None:
    """Slow: the model of the package describes 26 photos."""
    for name, pairs in NEIGHBOURS.items():
        for number in sorted({n for pair in pairs for n in pair}):
            source = shared_data / "unlabelled" / f"{name}__{number:03d}.jpg"
            if not source.is_file():
                pytest.skip(f"{source} is not there")
            shutil.copy(source, tmp_path)
    altered = {}
    for number in (8, 19, 26):
        with Image.open(tmp_path / f"viking__{number:03d}.jpg") as photo:
            half = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)
            half.save(tmp_path / f"half{number}.jpg", quality=85)
            crop = photo.crop((10, 20, photo.width - 20, photo.height - 10))
            crop.save(tmp_path / f"crop{number}.jpg", quality=50)
        altered[f"viking__{number:03d}.jpg"] = {f"half{number}.jpg", f"crop{number}.jpg"}
    gallery = Gallery.create(tmp_path / ".retrieval", load_model("auto"))
    gallery.index([tmp_path])
    groups = [{Path(member.path).name for member in group.members} for group in gallery.duplicates().groups]
    assert sorted(groups, key=sorted) == sorted(({photo, *copies} for photo, copies in altered.items()), key=sorted)
