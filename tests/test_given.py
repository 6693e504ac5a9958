"""What a program hands over by mistake is a UsageError in plain words, and changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import DIM, fake_gallery, fake_model, write_pictures
from PIL import Image

from retrieval import Gallery
from retrieval.errors import ImageError, UsageError
from retrieval.gallery.given import names_of


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "album", 3)
    write_pictures(tmp_path / "other", 2, seed=5)
    made = fake_gallery(tmp_path / "g")
    made.index("album")
    made.add("k1", image="other/0000.png")
    return made


P = "album/0000.png"
ONES = np.ones((1, DIM))
EMPTY, NO_NAME, NO_NAMES = "the name is empty", "must be a name or a path, not", "must be a name, a path or a list of"


def cut_short() -> Image.Image:
    """A picture whose file ends before its pixels do."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:500]))


MISTAKES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "index nothing": (EMPTY, lambda g: g.index("")),
    "index nothing beside": (EMPTY, lambda g: g.index(["album", ""])),
    "index a number": (NO_NAMES, lambda g: g.index(5)),
    "index bytes": (NO_NAMES, lambda g: g.index(b"album")),
    "index None": (NO_NAME, lambda g: g.index([None])),
    "rerank": ("rerank must be the name of a re-ranker, not 5", lambda g: g.query(P, rerank=5)),
    "under a number": (NO_NAME, lambda g: g.query(P, under=5)),
    "under a list": (NO_NAME, lambda g: g.query(P, under=["album"])),
    "under nothing": (EMPTY, lambda g: g.query(P, under="")),
    "under, re-ranked": (NO_NAME, lambda g: g.query(P, rerank="qe", under=5)),
    "under, by descriptor": (NO_NAME, lambda g: g.search(ONES, under=5)),
    "search text": ("descriptors are numbers", lambda g: g.search("x")),
    "search rows of several lengths": ("descriptors are numbers", lambda g: g.search([[1, 2], [1]])),
    "min_score": ("min_score must be a number from -1 to 1", lambda g: g.search(ONES, min_score="high")),
    "add a number": ("keys must be a list", lambda g: g.add(5, image=P)),
    "add None": ("keys must be a list", lambda g: g.add(None, image=P)),
    "add one image for a list": ("images of several keys must be a list", lambda g: g.add(["a"], image=5)),
    "add metadata": ("metadata of several keys must be", lambda g: g.add(["a"], image=[P], metadata=5)),
    "remove None": (NO_NAMES, lambda g: g.remove(None)),
    "remove a number": (NO_NAMES, lambda g: g.remove(5)),
    "remove numbers": (NO_NAME, lambda g: g.remove([P, 5])),
    "remove matching": (NO_NAME, lambda g: g.remove_matching(5)),
    "remove a root": (NO_NAME, lambda g: g.remove_root(5)),
    "vectors of a number": (NO_NAMES, lambda g: g.vectors(5)),
    "vectors of numbers": (NO_NAME, lambda g: g.vectors([5])),
    "vectors of a key that is not there": ("k2 is not in the gallery", lambda g: g.vectors("k2")),
    "files of duplicates": (NO_NAMES, lambda g: g.duplicates(files=5)),
    "export": (NO_NAME, lambda g: g.export(5)),
    "import": (NO_NAME, lambda g: g.import_(None)),
    "create without a model": ("made with a model, not with None", lambda g: Gallery.create("new", None)),  # type: ignore[arg-type]
    "create with a name": ("load_model", lambda g: Gallery.create("new", "resnet50-gem")),  # type: ignore[arg-type]
    "create, reduced": ("with a model", lambda g: Gallery.create("new", None, precision="int8")),  # type: ignore[arg-type]
    "create nowhere": (NO_NAME, lambda g: Gallery.create(None, fake_model())),  # type: ignore[arg-type]
    "create in nothing": (EMPTY, lambda g: Gallery.create("", fake_model())),
    "temporary": ("with a model", lambda g: Gallery.temporary(5)),  # type: ignore[arg-type]
    "names in an array": (NO_NAME, lambda g: g.remove(np.zeros((9, 9, 3)))),
    "names in an array of none": (NO_NAMES, lambda g: g.vectors(np.array("k1"))),
    "keys in an array of none": ("keys must be a list", lambda g: g.add(np.array("k1"), image=P)),
    "remove what is no Unicode": ("not valid Unicode", lambda g: g.remove("\ud800.png")),
    "vectors of what is no Unicode": ("not valid Unicode", lambda g: g.vectors("\ud800.png")),
    "under what is no Unicode": ("not valid Unicode", lambda g: g.query(P, under="\ud800")),
    "a box of arrays": ("four numbers", lambda g: g.query(P, bbox=np.zeros((2, 4)))),
    "a box beyond all numbers": ("four numbers", lambda g: g.query(P, bbox=(10**400, 0, 1, 1))),
    "min_score beyond all numbers": ("from -1 to 1", lambda g: g.query(P, min_score=10**400)),
    "answers to one name": ("pictures must be a list", lambda g: list(g.answers(P))),
    "search complex": ("descriptors are numbers", lambda g: g.search(ONES * 1j)),
    "add complex": ("descriptors are numbers", lambda g: g.add("a", vector=ONES[0] * 1j)),
    "add a picture as a vector": ("descriptors are", lambda g: g.add("a", vector=cut_short())),
    "search for a picture": ("descriptors are", lambda g: g.search(cut_short())),
    "open": (NO_NAME, lambda g: Gallery.open(5)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_words_and_changes_nothing(mistake: str, gallery: Gallery, tmp_path: Path) -> None:
    before, (words, make) = list(gallery), MISTAKES[mistake]
    with pytest.raises(UsageError, match=words) as raised:
        make(gallery)
    assert "\n" not in str(raised.value)
    assert list(gallery) == before
    assert not (tmp_path / "new").exists()


def test_one_name_is_one_and_paths_are_names(gallery: Gallery, tmp_path: Path) -> None:
    one = gallery.vectors("k1")
    assert one.shape == (1, DIM)
    both = gallery.vectors([Path(P), "k1"])
    assert np.array_equal(both[1:], one)
    assert np.array_equal(both[:1], gallery.vectors(P))
    assert gallery.vectors([]).shape == (0, DIM)
    assert gallery.add(np.array(["a", "b"]), vector=both) == gallery.add(("a", "b"), vector=both)  # type: ignore[arg-type]
    assert gallery.remove(Path(P)) == [P]
    report = gallery.index(path for path in ("other", Path("album")))  # type: ignore[arg-type]
    assert report.added + report.copied == 2


def test_a_name_that_cannot_be_one_is_not_in_it(gallery: Gallery) -> None:
    assert "\ud800.png" not in gallery
    assert "" not in gallery
    assert P in gallery


def test_answers_take_what_is_gone_through_once(gallery: Gallery) -> None:
    (result,) = gallery.answers(iter([P]))  # type: ignore[arg-type]
    assert result.matches[0].path == P
    assert list(gallery.answers(iter([]))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("closed", [False, True])
def test_a_picture_in_memory_that_cannot_be_read_is_one(gallery: Gallery, closed: bool) -> None:
    picture = Image.new("RGB", (9, 9)) if closed else cut_short()
    if closed:
        picture.close()
    for ask in (gallery.query, gallery.model.describe, lambda image: gallery.add("a", image=image)):
        with pytest.raises(ImageError):
            ask(picture)
    with pytest.raises(ImageError, match=r"^b: .*Nothing was added"):
        gallery.add(["a", "b"], image=[P, picture])
    assert "a" not in gallery


def test_pictures_with_the_same_values_that_look_different_are_no_copies(gallery: Gallery) -> None:
    """Another palette, colour space or orientation makes another picture of the same bytes."""
    plain = Image.open("album/0001.png").convert("RGB")
    few = plain.quantize(16)
    inverse = few.copy()
    inverse.putpalette([255 - value for value in few.getpalette() or []])
    turned = plain.copy()
    turned.getexif()[0x112] = 6
    clear = plain.copy()
    clear.info["transparency"] = plain.getpixel((0, 0))
    hsv = Image.frombytes("HSV", plain.size, plain.tobytes())
    pictures = {"plain": plain, "array": np.asarray(plain), "few": few, "inverse": inverse, "turned": turned}
    pictures |= {"clear": clear, "hsv": hsv, "few again": few.copy()}
    gallery.add(list(pictures), image=list(pictures.values()))
    groups = [sorted(member.path for member in group.members) for group in gallery.duplicates(level="exact").groups]
    assert sorted(groups) == [["array", "plain"], ["few", "few again"]]


def test_a_picture_in_memory_is_turned_as_the_gallery_says(tmp_path: Path) -> None:
    """As that of a query is."""
    picture = Image.effect_noise((90, 40), 90).convert("RGB")
    picture.getexif()[0x112] = 6
    for exif in (True, False):
        model = fake_model()
        model.spec = replace(model.spec, image=replace(model.spec.image, exif=exif))
        with Gallery.create(tmp_path / str(exif), model) as gallery:
            gallery.add("turned", image=picture)
            assert np.allclose(gallery.vectors("turned")[0], model.describe(picture), atol=1e-6)


def test_what_a_generator_raises_is_its_own() -> None:
    with pytest.raises(TypeError, match="len"):
        names_of("folders", (len(x) for x in [None]))  # type: ignore[arg-type]
