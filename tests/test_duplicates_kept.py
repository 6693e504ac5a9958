"""Verdicts that are kept: another search compares what is new; what other code judged, or what is damaged, is compared again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gallery
from PIL import Image
from textures import texture

from retrieval import Gallery
from retrieval.gallery.duplicates import kept, verification
from retrieval.gallery.duplicates.answers import Duplicates
from retrieval.gallery.duplicates.candidates import Pair
from retrieval.gallery.duplicates.kept import VERDICTS, KeptVerdicts
from retrieval.gallery.duplicates.verification import Verifier


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """Of four pictures, each with a small copy and one in grey."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("album")
    for seed in range(4):
        picture = Image.fromarray(texture(seed, (320, 240), 60))
        picture.save(f"album/{seed}.png")
        picture.resize((160, 120), Image.Resampling.LANCZOS).save(f"album/{seed}-small.jpg")
        picture.convert("L").save(f"album/{seed}-grey.png")
    made = fake_gallery(tmp_path / "g")
    made.index(["album"])
    return made


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Which pairs of pictures were compared."""
    seen: list[set[str]] = []
    compare = Verifier._whole

    def told(self: Verifier, pair: Pair) -> Any:
        seen.append({os.path.basename(self.looks.contents[i][0].path) for i in pair})
        return compare(self, pair)

    monkeypatch.setattr(Verifier, "_whole", told)
    return seen


def names(found: Duplicates) -> list[list[str]]:
    return [sorted(os.path.basename(member.path) for member in group.members) for group in found.groups]


WANTED = [[f"{seed}-grey.png", f"{seed}-small.jpg", f"{seed}.png"] for seed in range(4)]


def test_another_search_compares_only_what_is_new(gallery: Gallery, compared: list[set[str]], tmp_path: Path) -> None:
    first = gallery.duplicates(level="scenes")
    assert names(first) == WANTED
    assert len(compared) > 12
    compared.clear()
    again = gallery.duplicates(level="scenes")
    assert (again.groups, again.pictures) == (first.groups, first.pictures)
    assert compared == []

    Image.open("album/2.png").crop((20, 20, 300, 220)).save("album/2-part.png")
    gallery.index(["album"])
    assert names(gallery.duplicates())[2] == ["2-grey.png", "2-part.png", "2-small.jpg", "2.png"]
    assert compared
    assert all("2-part.png" in pair for pair in compared)

    # A name is nothing, the content all: what lies elsewhere by now is the same pair. Of a file beside the gallery, too.
    compared.clear()
    shutil.move("album", "moved")
    gallery.index(["moved"])
    assert names(gallery.duplicates())[3] == WANTED[3]
    assert compared == []
    for _ in range(2):
        compared.clear()
        assert names(gallery.duplicates(files=["moved/3.png"]))[0] == WANTED[3]
    assert compared == []


def test_what_is_damaged_or_judged_otherwise_is_compared_anew(
    gallery: Gallery, compared: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.duplicates()
    pairs, file = len(compared), gallery.folder / "local" / "judged"
    good = file.read_bytes()
    for place in (0, 5, 22, 30, 40, len(good) - 1):
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        for data in (bytes(damaged), good[:place], good + b"more"):
            file.write_bytes(data)
            compared.clear()
            assert names(gallery.duplicates()) == WANTED
            assert len(compared) == pairs
            assert file.read_bytes() == good
    with monkeypatch.context() as patch:
        patch.setattr(kept, "_rules", lambda exif: b"other rules than ".ljust(16)[:16])
        compared.clear()
        assert names(gallery.duplicates()) == WANTED
        assert len(compared) == pairs
    file.unlink()
    os.mkfifo(file)  # not waited for, and replaced
    assert names(gallery.duplicates()) == WANTED
    assert file.read_bytes() == good
    file.unlink()
    file.mkdir()  # no room for it: the search goes on
    assert names(gallery.duplicates()) == WANTED


@pytest.mark.parametrize("small", [False, True])
def test_what_could_not_be_read_is_no_verdict(gallery: Gallery, compared: list[set[str]], small: bool) -> None:
    """Of a file that is away neither pixels nor points are there; of one whose thumbnail was kept (``small``), no points."""
    if small:
        gallery.duplicates()
        (gallery.folder / "local" / "judged").unlink()
        shutil.rmtree(gallery.folder / "local" / "points1000-640")
    os.rename("album/1.png", "away.png")
    gallery.duplicates()
    shutil.rmtree(gallery.folder / "local" / "points1000-640")
    os.rename("away.png", "album/1.png")
    compared.clear()
    assert names(gallery.duplicates()) == WANTED
    assert compared
    assert all("1.png" in pair for pair in compared)


def test_what_was_seen_of_a_file_that_was_replaced_is_no_verdict(gallery: Gallery) -> None:
    """It is one on another content than the one that is asked for, and would stand against it for ever."""
    os.rename("album/1.png", "1.png")
    shutil.copy("album/0.png", "album/1.png")
    gallery.duplicates()
    os.replace("1.png", "album/1.png")
    gallery.index(["album"])
    assert names(gallery.duplicates()) == WANTED


def test_each_file_of_the_code_is_among_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "retrieval"
    shutil.copytree(
        Path(kept.__file__).parents[2], package, ignore=shutil.ignore_patterns("__pycache__", "*.npz", "*.bin")
    )
    monkeypatch.setattr(kept, "__file__", str(package / "gallery" / "duplicates" / "kept.py"))
    assert kept._sources() == kept._SOURCES
    for name in (
        "gallery/duplicates/agreement.py",
        "gallery/local_features.py",
        "ranking/geometry.py",
        "pictures/decoding.py",
    ):
        before = kept._sources()
        with open(package / name, "a") as file:
            file.write("\n")
        assert kept._sources() != before, name


def test_an_interrupted_search_keeps_what_it_has(
    gallery: Gallery, compared: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_AT_ONCE", 4)
    with monkeypatch.context() as patch:
        judge = Verifier._by_points

        def interrupted(self: Verifier, *arguments: Any) -> None:
            if len(compared) > 8:
                raise KeyboardInterrupt
            judge(self, *arguments)

        patch.setattr(Verifier, "_by_points", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gallery.duplicates()
    done = compared[:8]
    compared.clear()
    assert names(gallery.duplicates()) == WANTED
    assert compared
    assert not any(pair in done for pair in compared)


def test_kept_verdicts_are_those_of_a_plain_dictionary(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    digests = [f"{i:056x}" for i in range(300)]
    plain: dict[Pair, Any] = {}
    for _ in range(4):
        one = KeptVerdicts(tmp_path, digests.__getitem__, exif=True)
        beside = KeptVerdicts(tmp_path, digests.__getitem__, exif=True)  # another search that runs meanwhile
        for store in (one, beside):
            some = {(int(a), int(b)): VERDICTS[int(v)] for a, b, v in rng.integers(0, (300, 300, 3), (500, 3)) if a < b}
            some = {pair: plain.get(pair, verdict) for pair, verdict in some.items()}
            plain.update(some)
            store.add(some)
        one.write()
        beside.write()
    store = KeptVerdicts(tmp_path, digests.__getitem__, exif=True)
    pairs = [(a, b) for a in range(300) for b in range(a + 1, 300)]
    assert store.known(pairs) == plain
    assert store.known([(b, a) for a, b in pairs]) == {}  # the other way round it may end otherwise
    assert KeptVerdicts(tmp_path, digests.__getitem__, exif=False).known(pairs) == {}


@pytest.mark.parametrize(("many", "used", "left"), [(10, 50, 70), (520, 50, 520), (10, 120, 520)])
def test_what_far_larger_galleries_left_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int, used: int, left: int
) -> None:
    monkeypatch.setattr(kept, "_MANY", many)
    monkeypatch.setattr(kept, "_TIMES", 4)
    digests = [f"{i:056x}" for i in range(600)]
    before = KeptVerdicts(tmp_path, digests.__getitem__, exif=True)
    plain: dict[Pair, Any] = {(i, i + 1): VERDICTS[i % 3] for i in range(500)}
    before.add(plain)
    before.write()
    now = KeptVerdicts(tmp_path, digests.__getitem__, exif=True)
    asked = [(i, i + 1) for i in range(0, 2 * used, 2)] + [(i, i + 2) for i in range(20)]
    assert len(now.known(asked)) == used
    new: dict[Pair, Any] = {(i, i + 2): "scene" for i in range(20)}
    now.add(new)
    written: list[Path] = []
    keep = kept.keep_derived
    monkeypatch.setattr(kept, "keep_derived", lambda path, *rest: (written.append(path), keep(path, *rest)))
    now.forget_others(asked)
    now.write()  # of what is new nothing is left
    assert len(written) == 1
    found = KeptVerdicts(tmp_path, digests.__getitem__, exif=True).known([*plain, *new])
    assert len(found) == left
    assert found == {pair: verdict for pair, verdict in {**plain, **new}.items() if pair in found}
    assert found.keys() >= set(asked)


def test_verdicts_of_pictures_that_are_gone_go_with_a_search_of_all(
    gallery: Gallery, compared: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_MANY", 0)
    monkeypatch.setattr(kept, "_TIMES", 1)
    gallery.duplicates()
    path = gallery.folder / "local" / "judged"
    whole = path.stat().st_size
    gallery.duplicates(files=["album/0.png"])  # asks for a few
    assert path.stat().st_size >= whole
    for name in ("1", "1-small", "1-grey", "2", "2-small", "2-grey"):
        gallery.remove(next(key for key in gallery if os.path.basename(key).partition(".")[0] == name))
    compared.clear()
    assert names(gallery.duplicates()) == [WANTED[0], WANTED[3]]
    assert 0 < path.stat().st_size < whole
    compared.clear()
    assert names(gallery.duplicates()) == [WANTED[0], WANTED[3]]
    assert compared == []
