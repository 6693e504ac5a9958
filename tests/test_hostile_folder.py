"""Hostile files among good ones: all the good are indexed, all the hostile are named; foreign files are counted by kind."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_gallery, fake_model, write_pictures
from PIL import Image

from retrieval.errors import ImageError, UsageError
from retrieval.pictures.foreign import passed_over
from retrieval.pictures.scan import walk


def make_hostile(folder: Path) -> dict[str, str]:
    """Fourteen files and what is said of each."""
    good = folder / "good.jpg"
    Image.new("RGB", (64, 48), "red").save(good, progressive=True)
    data = good.read_bytes()
    last = data.rindex(b"\xff\xda")

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = (16382).to_bytes(3, "little") + (10900).to_bytes(3, "little")
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + b"VP8 " + struct.pack("<I", 10) + bytes(10)
    codes = b"\xff\x4f\xff\x51" + struct.pack(">HH8IHBBB", 41, 0, 13000, 13000, 0, 0, 13000, 13000, 0, 0, 1, 7, 1, 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 6, 0, 0, 0))
    contents = {
        "scans.jpg": (data[:-2] + data[last:-2] * 5000 + b"\xff\xd9", "scans"),
        "cut.jpg": (data[: len(data) // 2], "truncated"),
        "page.jpg": (b"<!DOCTYPE html><html>", "an HTML page"),
        "empty.jpg": (b"", "empty file"),
        "text.jpg": (b"no picture", "text, not a picture"),
        "canvas.webp": (b"RIFF" + struct.pack("<I", len(webp)) + webp, "MB of memory"),
        "tile.j2k": (codes, "MB of memory"),
        "pixels.png": (b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "megapixels"),
        "pieces.png": (b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") * 250_000, "pieces"),
    }
    said = {}
    for name, (content, reason) in contents.items():
        (folder / name).write_bytes(content)
        said[name] = reason
    with open(folder / "sparse.jpg", "wb") as file:
        file.write(data[:4])
        file.truncate(60_000_000_000)
    said["sparse.jpg"] = "60.0 GB"
    os.mkfifo(folder / "fifo.jpg")
    said["fifo.jpg"] = "FIFO"
    for name, target, reason in (
        ("zero.jpg", "/dev/zero", "device"),
        ("kernel.jpg", "/proc/kmsg", ""),
        ("nothing.jpg", "nowhere", "link to nothing"),
    ):
        (folder / name).symlink_to(target)
        said[name] = reason
    good.unlink()
    return said


def test_hostile_files_among_good_ones_cost_nothing_but_themselves(tmp_path: Path) -> None:
    album = tmp_path / "album"
    write_pictures(album / "good", 60)
    said = make_hostile(album)
    with fake_gallery(tmp_path / "gallery") as gallery:
        report = gallery.index([album], workers=2)
        assert report.added == 60
        found = {os.path.basename(path): reason for path, reason in report.troubles}
        assert set(found) == set(said)
        for name, reason in said.items():
            assert reason in found[name], (name, found[name])
        again = gallery.index(workers=2)
        assert (again.unchanged, again.embedded) == (60, 0)
        assert len(again.troubles) == len(said)


def test_a_picture_that_a_limit_refused_is_tried_again_with_a_higher_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "album", 1, sizes=((300, 200),))
    os.utime(tmp_path / "album" / "0000.png", (1e9, 1e9))
    with fake_gallery(tmp_path / "gallery") as gallery:
        monkeypatch.setenv("RETRIEVE_PICTURE_MEMORY", "0.1")
        ((_, reason),) = gallery.index([tmp_path / "album"]).troubles
        assert "more than the limit" in reason
        monkeypatch.delenv("RETRIEVE_PICTURE_MEMORY")
        report = gallery.index()
        assert (report.added, report.troubles) == (1, [])


def test_foreign_files_are_counted_by_kind(tmp_path: Path) -> None:
    album = tmp_path / "album"
    (good,) = write_pictures(album, 1)
    for name in ("a.dng", "b.CR2", "sub/c.NEF", "d.jxl", "e.mov", "f.txt", ".hidden.dng", "._g.dng", "h.dat"):
        (album / name).parent.mkdir(exist_ok=True)
        shutil.copy(good, album / name)
    scan = walk(str(album))
    assert scan.foreign == {".dng": 1, ".cr2": 1, ".nef": 1, ".jxl": 1, ".mov": 1}
    assert scan.ignored == 7  # no names that begin with a dot
    lines = passed_over(scan.foreign)
    assert lines[0].startswith("passed over: 3 camera raw files (.cr2 1, .dng 1, .nef 1); export them")
    assert lines[1].startswith("passed over: 1 JPEG XL picture (.jxl); djxl")
    assert lines[2].startswith("passed over: 1 film (.mov); ffmpeg")
    with fake_gallery(tmp_path / "gallery") as gallery:
        report = gallery.index([album])
    assert (report.added, report.foreign) == (1, dict(scan.foreign))
    assert passed_over({}) == []


# ------------------------------------------------------------------------------------------------ describing many


def test_a_list_names_the_picture_that_failed(tmp_path: Path) -> None:
    paths: list[object] = [*write_pictures(tmp_path, 5)]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff")
    model = fake_model()
    with pytest.raises(ImageError, match=r"bad\.jpg: truncated"):
        model.describe([*paths, bad, *paths])
    with pytest.raises(ImageError, match=r"absent\.png: No such file"):
        model.describe(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="picture 5 of the list: empty file"):
        model.describe([*paths, b""])


def test_pictures_that_fail_can_be_skipped(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 4)
    model = fake_model()
    whole = model.describe(paths)
    vectors, positions, skipped = model.describe(
        [paths[0], b"", paths[1], tmp_path / "absent", *paths[2:]], errors="skip"
    )
    assert positions.tolist() == [0, 2, 4, 5]
    assert (vectors == whole).all()
    assert skipped == {1: "empty file", 3: "No such file or directory"}
    nothing = model.describe([b""], errors="skip")
    assert nothing.vectors.shape == (0, model.spec.dim)
    assert model.describe([], errors="skip").skipped == {}
    for wrong in ({"errors": "ignore"}, {"errors": None}):
        with pytest.raises(UsageError, match="errors"):
            model.describe(paths, **wrong)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="list"):
        model.describe(paths[0], errors="skip")


@pytest.mark.parametrize("k", ["5", 2.0, None, True, 0, -1, [3]])
def test_k_is_a_whole_number(k: object, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 3)
    with fake_gallery(tmp_path / "gallery") as gallery:
        gallery.index([tmp_path / "album"])
        vectors = gallery.model.describe([tmp_path / "album" / "0000.png"])
        with pytest.raises(UsageError, match="k must be a whole number of at least 1"):
            gallery.search(vectors, k)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="k must be a whole number of at least 1"):
            gallery.query(tmp_path / "absent", k)  # type: ignore[arg-type]
        assert len(gallery.search(vectors, np.int64(2))[0]) == 2  # type: ignore[arg-type]
