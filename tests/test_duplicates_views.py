"""Neighbouring photos of one thing before a plain ground are no copies: what a list of superfluous files must not hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from retrieval import Gallery, load_model
from retrieval.gallery.duplicates.agreement import best_agreement
from retrieval.gallery.duplicates.alignment import whole_on_whole
from retrieval.gallery.duplicates.thumbnails import SIDE, thumbnail
from retrieval.pictures.imaging import load_picture

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


# Photos of 150 px of different things, or of one that was moved, before a ground whose shading they share.
BEFORE_ONE_GROUND = [("00295", "01122"), ("00295", "01278"), ("00332", "00946"), ("00332", "01676"), ("00931", "01121")]
BEFORE_ONE_GROUND += [("01189", "00583"), ("01356", "01602"), ("01646", "00869"), ("01660", "00750")]
ONE_AFTER_THE_OTHER = [("00192", "01231"), ("00884", "00103"), ("01194", "01182"), ("00522", "01711")]


def test_things_before_one_plain_ground_are_no_copies(shared_data: Path) -> None:
    def alike(one: str, other: str) -> bool:
        folder = shared_data / "unlabelled" / "waste"
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there")
        a, b = (thumbnail(load_picture(folder / f"{name}.jpg", size=SIDE).array) for name in (one, other))
        return any(best_agreement(a, b, mapping).copies("whole") for mapping in whole_on_whole(a, b))

    assert [pair for pair in BEFORE_ONE_GROUND if alike(*pair)] == []
    assert [pair for pair in ONE_AFTER_THE_OTHER if not alike(*pair)] == []
