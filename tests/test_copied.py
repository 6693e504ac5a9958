"""What looks closer at a served gallery gives the figures of a gallery in a folder that indexed the same pictures."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from textures import texture, turned, write_textures
from tiny import MODEL

from retrieval.backends.base import Entry
from retrieval.backends.copied import CopiedGallery, path_of
from retrieval.backends.names import storable
from retrieval.backends.served import ServedGallery
from retrieval.cli.main import cli
from retrieval.errors import GalleryError, UsageError
from retrieval.files.paths import show_path
from retrieval.gallery.gallery import Gallery

TINY = ("--model", MODEL, "--size", "64", "--engine", "torch", "-q")


def run(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Textures, exact and altered copies, pictures from elsewhere, a ground truth, and a gallery in a folder."""
    folder = tmp_path_factory.mktemp("album")
    paths = write_textures(folder / "photos", 14)
    for i in (1, 4):
        (folder / "photos" / f"exact{i}.png").write_bytes(paths[i].read_bytes())
        Image.open(paths[i]).resize((168, 126)).save(folder / "photos" / f"small{i}.jpg", quality=80)
    for i in range(5):
        Image.fromarray(turned(texture(i, (240, 180), 60))).save(folder / f"asked{i}.png")
    queries = [
        {"image": f"asked{i}.png", "bbox": [10, 10, 200, 160] if i % 2 else None, "easy": [f"photos/{i:04d}.png"]}
        for i in range(5)
    ]
    queries[1]["hard"], queries[1]["junk"] = ["photos/small1.jpg"], ["photos/exact1.png"]
    names = [f"photos/{path.name}" for path in sorted((folder / "photos").iterdir())]
    del names[10:14]  # they are distractors
    for query in queries:
        query.setdefault("hard", [])
        query.setdefault("junk", [])
    truth = {"name": "album", "gallery": names, "queries": queries}
    (folder / "truth.json").write_text(json.dumps(truth))
    run("index", folder / "photos", "--index", folder / "local", "--no-local", *TINY)
    return folder


@pytest.fixture(scope="module", params=["postgres", "milvus"])
def served(request, album, servers):
    """The address of a served gallery of the same pictures."""
    address = servers(request.param).address("copied")
    run("index", album / "photos", "--index", address, *TINY)
    return address


def untimed(told):
    """A report without dates and seconds."""
    if isinstance(told, list):
        return [untimed(value) for value in told]
    if isinstance(told, dict):
        timed = ("seconds", "_ms", "date", "environment")
        return {key: untimed(value) for key, value in told.items() if not any(word in key for word in timed)}
    return told


def report(album, gallery, *options):
    asked = (
        "evaluate",
        album / "truth.json",
        "--gallery",
        gallery,
        *options,
        "--bootstrap",
        0,
        "--format",
        "json",
        "-q",
    )
    return untimed(json.loads(run(*asked)))


@functools.cache
def local_report(album, *options):
    """What is expected of each served gallery."""
    return report(album, album / "local", *options)


@pytest.mark.parametrize(
    "options", [(), ("--distractors",), ("--rerank", "qe"), ("--rerank", "verify"), ("--rank", "local")]
)
def test_evaluation_is_the_same(served, album, options):
    expected = local_report(album, *options)
    assert report(album, served, *options) == expected
    assert 0.3 < (expected["systems"][-1] if "systems" in expected else expected)["protocols"]["medium"]["mAP"] <= 1


def groups(*arguments):
    found = [json.loads(line) for line in run("duplicates", *arguments, "--format", "json", "-q").splitlines()]
    for group in found:
        for member in group["members"]:
            del member["id"]
    return found


@functools.cache
def local_groups(index, level):
    """What is expected of each served gallery."""
    return groups("--index", index, "--level", level)


def test_duplicates_are_the_same(served, album, tmp_path):
    for level, least in (("exact", 2), ("copies", 2), ("scenes", 2)):
        expected = local_groups(album / "local", level)
        assert len(expected) >= least
        assert groups("--index", served, "--level", level) == expected
    copy = tmp_path / "copy.jpg"
    Image.open(album / "photos" / "0007.png").save(copy, quality=70)
    expected = groups(copy, "--index", album / "local")
    assert [member["path"] for member in expected[0]["members"]] == [str(album / "photos" / "0007.png"), str(copy)]
    assert groups(copy, "--index", served) == expected
    (tmp_path / "others").mkdir()
    os.rename(copy, tmp_path / "others" / "copy.jpg")
    run("index", tmp_path / "others", "--index", tmp_path / "o", "--no-local", *TINY)
    found = groups("--index", served, "--other", tmp_path / "o")
    assert [os.path.basename(member["path"]) for member in found[0]["members"]] == ["0007.png", "copy.jpg"]


@pytest.mark.parametrize(
    "options",
    [
        ("--rerank", "qe"),
        ("--rerank", "verify"),
        ("--rank", "cosine", "--fold"),
        ("--rank", "cosine", "--exclude-self"),
    ],
)
def test_closer_answers_are_the_same(served, album, options):
    asked = ("query", album / "photos" / "0001.png", "-k", 6, *options, "--format", "csv", "-q")
    answers = [list(csv.DictReader(io.StringIO(run(*asked, "--index", index)))) for index in (album / "local", served)]
    for row in (row for rows in answers for row in rows):
        for only_local in ("id", "local", "fused", "inliers", "probability", "verdict"):
            row.pop(only_local, None)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 6


def test_why_it_matched(served, album, tmp_path):
    page = tmp_path / "why.html"
    run("query", album / "asked1.png", "-k", 2, "--index", served, "--explain", page, "-q")
    assert page.read_text().count("<img") >= 4
    with pytest.raises(UsageError, match="no local codes"):
        run("query", album / "asked1.png", "--index", served, "--fold", "--rank", "fused")


def test_a_copy_holds_what_is_served(served, album):
    """Names of every kind, vectors bit for bit, in the order of the names; nothing is left of it."""
    rng = np.random.default_rng(1)
    names = ["s3://bucket/a/b.jpg", "/x/\udcff.png", "/x/../y.png", "relative.png", "/x/caf\u00e9.png"]
    with ServedGallery.open(served, engine="torch") as gallery:
        dim = gallery.spec.dim
        vectors = rng.normal(size=(len(names), dim)).astype(np.float32)
        gallery.backend.upsert(
            [
                Entry(storable(n), f"{i:056x}", 5, 6, None, 7, v)
                for i, (n, v) in enumerate(zip(names, vectors, strict=True))
            ]
        )
        try:
            with CopiedGallery.of(gallery) as copy:
                folder = Path(copy.folder)
                assert len(copy) == len(gallery)
                stored = [show_path(name) for name in names]
                assert sorted(copy) == sorted([*Gallery.open(album / "local"), *stored])
                found = copy.vectors(["s3://bucket/a/b.jpg", "/x/caf\u00e9.png"])
                assert np.array_equal(found, vectors[[0, 4]])
            assert not folder.exists()
            with CopiedGallery.of(gallery, ["s3://bucket/a/b.jpg", "/not/there.png"]) as copy:
                assert list(copy) == ["s3://bucket/a/b.jpg"]
        finally:
            gallery.backend.delete([storable(name) for name in names])
    assert path_of("file:///x/%FF.png") == "/x/\udcff.png"
    assert path_of("file:///a.tar#b.jpg") is None


def test_leaving_out_the_picture_that_asks_takes_no_copy(served, album, monkeypatch):
    """Of a picture with so many copies that more answers must be asked for than at first."""
    monkeypatch.setattr(CopiedGallery, "of", lambda *_, **__: pytest.fail("a copy was made"))
    monkeypatch.setattr("retrieval.backends.nearest._OWN_COPIES", 1)
    asked = album / "photos" / "0001.png"
    with ServedGallery.open(served, engine="torch") as gallery:
        (plain,), (left,) = (list(gallery.answers([asked], 16, exclude_self=own)) for own in (False, True))
        named = {os.path.abspath(match.path) for match in plain.matches}
        assert named >= {str(asked), str(album / "photos" / "exact1.png")}
        assert [m.rank for m in left.matches] == list(range(1, 17))
        kept = [m.path for m in plain.matches if os.path.basename(m.path) not in ("0001.png", "exact1.png")]
        assert [m.path for m in left.matches][: len(kept)] == kept
        (of_bytes,) = gallery.answers([asked.read_bytes()], 16, exclude_self=True)
        assert of_bytes.matches == left.matches
        with pytest.raises(UsageError, match="pixels have no file"):
            list(gallery.answers([Image.open(asked)], exclude_self=True))


def test_what_is_fetched_is_said_and_must_find_room(served, album, monkeypatch):
    with ServedGallery.open(served, engine="torch") as gallery:
        count, dim = len(gallery), gallery.spec.dim
    told = CliRunner().invoke(cli, ["query", str(album / "asked1.png"), "--index", served, "--fold"]).stderr
    assert f"fetching names and vectors of {count} pictures" in told
    assert "Without --rerank and --fold the server answers alone." in told
    full = type("Usage", (), {"free": count * 4 * dim})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: pytest.fail("something was made"))
    with pytest.raises(GalleryError, match="has room for"):
        run("duplicates", "--index", served)
