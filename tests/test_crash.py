"""Kills, a full disk, two writers, readers beside a writer, and folders full of hostile files."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, fake_gallery, write_pictures
from PIL import Image

from retrieval.errors import GalleryError, GalleryLocked
from retrieval.gallery.gallery import Gallery

HERE = Path(__file__).parent


def start(folder: Path, gallery: Path, seconds: float = 0.004) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "index_fake.py"), str(folder), str(gallery), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def content(gallery: Gallery) -> dict[str, bytes]:
    records = gallery.records()
    stored = gallery.vectors_of([r for _, r in records])
    return {os.path.basename(path): row.tobytes() for (path, _), row in zip(records, stored, strict=True)}


class Reader(threading.Thread):
    """Queries all the while; what goes wrong is kept in ``failures``."""

    def __init__(self, gallery: Path, query: Path) -> None:
        super().__init__(daemon=True)
        self.gallery, self.query = gallery, query
        self.stop = threading.Event()
        self.turn = threading.Lock()  # held by whoever takes the gallery away on purpose
        self.answers = 0
        self.failures: list[BaseException] = []

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join(30)

    def run(self) -> None:
        vector = FakeEngine().describe(np.asarray(Image.open(self.query).convert("RGB"))[None])
        while not self.stop.is_set():
            time.sleep(0.002)
            try:
                with (
                    self.turn,
                    Gallery.open(self.gallery, warn=lambda m: self.failures.append(AssertionError(m))) as opened,
                ):
                    for _ in range(3):
                        scores = [m.score for m in opened.search(vector, 5)[0]]
                        assert scores == sorted(scores, reverse=True)
                        self.answers += 1
            except BaseException as error:
                if "there is no gallery" not in str(error):  # not made yet
                    self.failures.append(error)


@pytest.mark.slow
def test_kills_lose_nothing_and_describe_nothing_twice(tmp_path: Path) -> None:
    """Slow: a process for each of twelve kills, at moments drawn from the time after its imports."""
    pictures = write_pictures(tmp_path / "images", 150, sizes=((40, 30), (30, 40), (64, 64)))
    with fake_gallery(tmp_path / "undisturbed") as reference:
        reference.index([tmp_path / "images"])
        expected = content(reference)
        rankings = [[(Path(m.path).name, m.id) for m in reference.query(p, k=20).matches] for p in pictures[::10]]

    target = tmp_path / "g"
    with Reader(target, pictures[0]) as reader:
        rng = random.Random(7)
        kills, committed_before = 0, 0
        while kills < 12:
            process = start(tmp_path / "images", target, 0.02)
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(rng.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
            if process.wait() == 0:  # it was faster: start over with an empty gallery
                with reader.turn:
                    shutil.rmtree(target)
                committed_before = 0
                continue
            kills += 1
            if (target / "gallery.json").exists():
                with Gallery.open(target) as opened:
                    stored = content(opened)
                assert len(stored) >= committed_before, "a committed picture was lost"
                assert all(expected[name] == vector for name, vector in stored.items())
                committed_before = len(stored)
        process = start(tmp_path / "images", target, 0.0)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert int(out.split()[-1]) == 150 - committed_before, "a committed picture was described again"
    assert reader.failures == []
    assert reader.answers > 0
    with fake_gallery(target) as resumed:
        assert content(resumed) == expected
        again = [[(Path(m.path).name, m.id) for m in resumed.query(p, k=20).matches] for p in pictures[::10]]
        assert again == rankings
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp") and (p / "gallery.json").exists()]


def test_the_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 60)
    first = start(tmp_path / "images", tmp_path / "g", 0.1)
    while not (tmp_path / "g" / "lock").exists():
        time.sleep(0.02)
        assert first.poll() is None
    time.sleep(0.3)
    second = start(tmp_path / "images", tmp_path / "g")
    _, err = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"process {first.pid} on {socket.gethostname()}" in err
    assert err.count("\n") == 1
    with fake_gallery(tmp_path / "g") as gallery, pytest.raises(GalleryLocked):
        gallery.remove_matching("*")
    first.kill()
    first.wait()
    with fake_gallery(tmp_path / "g") as gallery:  # the lock ended with its process
        gallery.index([tmp_path / "images"])
        assert len(gallery.records()) == 60


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        write_pictures(tmp_path / "images", 900, sizes=((8, 8),))
        process = start(tmp_path / "images", disk / "g", 0.0)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert "No space left" in err or "full" in err
        assert err.count("\n") == 1, err
        if (disk / "g" / "gallery.json").exists():
            with fake_gallery(disk / "g") as opened:
                stored = content(opened)
        else:
            stored = {}
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        with fake_gallery(tmp_path / "reference") as reference, fake_gallery(disk / "g") as resumed:
            reference.index([tmp_path / "images"])
            report = resumed.index([tmp_path / "images"])
            assert report.embedded == 900 - len(stored)
            assert content(resumed) == content(reference)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_gallery_on_a_full_disk_answers(tmp_path: Path) -> None:
    """No byte can be written, so SQLite's helper files cannot be made."""
    paths = write_pictures(tmp_path / "images", 12)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "images"])
        expected = [m.id for m in gallery.query(paths[3], k=5, rank="cosine").matches]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with fake_gallery(tmp_path / "g") as gallery:
            found = [m.id for m in gallery.query(paths[3], k=5, rank="cosine").matches]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found == expected


def test_a_failing_disk_during_a_commit_leaves_the_gallery_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above where nothing can be mounted: every way of writing fails in turn."""
    write_pictures(tmp_path / "images", 20)
    write_pictures(tmp_path / "more", 20, seed=9)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "images"])
        before = content(gallery)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        for name in ("pwrite", "fsync", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, full)
                with pytest.raises(GalleryError, match="No space left"):
                    gallery.index([tmp_path / "more"])
            with fake_gallery(tmp_path / "g") as opened:
                stored = content(opened)
                assert before.items() <= stored.items() or set(stored) == set(before)
        report = gallery.index([tmp_path / "more"])
        assert len(gallery.records()) == 40
        assert report.troubles == []


def test_hostile_files(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    good = write_pictures(folder, 3)
    names = ["with space.png", "new\nline.png", "émoji 🎈.png", os.fsdecode(b"latin-\xe9.png"), "-rf.png", "UPPER.PNG"]
    for i, name in enumerate(names):
        Image.new("RGB", (30, 20), (i * 40, 50, 200 - i * 30)).save(str(folder / "x.png"))
        os.rename(folder / "x.png", os.path.join(folder, name))
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "truncated.png").write_bytes(good[0].read_bytes()[:40])
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = zlib.compress(bytes(1000))
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    (folder / "bomb.png").write_bytes(bomb)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), (9, 99, 9)).save(folder / "exif.jpg", exif=exif.tobytes()[:-9] + b"\xff\xff\xff")
    (folder / "a.jpg").mkdir()
    Image.new("RGB", (30, 20), (1, 2, 250)).save(folder / "a.jpg" / "inside.png")
    os.mkfifo(folder / "fifo.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "up").symlink_to("..")
    (folder / ".hidden.png").write_bytes(good[0].read_bytes())
    (folder / "notes.txt").write_text("no picture, and does not claim to be one")

    with fake_gallery(tmp_path / "g") as gallery:
        report = gallery.index([folder])
        found = {os.path.basename(path) for path, _ in gallery.records()}
        assert found == {p.name for p in good} | set(names) | {"exif.jpg", "inside.png"}
        reasons = {os.path.basename(path): reason for path, reason in gallery.info().troubled}
        bad = ["empty", "text", "truncated", "bomb", "fifo", "dangling", "circle", "a"]
        assert {name.split(".")[0] for name in reasons} == set(bad)
        for name, word in {
            "empty.jpg": "empty",
            "bomb.png": "pixels",
            "fifo.jpg": "FIFO",
            "dangling.jpg": "link",
            "circle.jpg": "link",
            "a.jpg": "folder",
        }.items():
            assert word in reasons[name]
        assert all(reason and "\n" not in reason for reason in reasons.values())
        assert report.ignored == 1
        for name in names:
            match = gallery.query(os.path.join(folder, name), k=1).matches[0]
            assert os.path.samefile(match.path, os.path.join(folder, name))
            assert json.loads(json.dumps(match.path)) == match.path
        again = gallery.index()
        assert again.embedded == 0
        assert len(again.troubles) == len(bad)
