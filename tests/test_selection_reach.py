"""Patterns look at the folder that they name, against a look at every picture; numbers that are kept, against counts."""

from __future__ import annotations

import fnmatch
import glob
import os
import random
from pathlib import Path

import pytest
from fakes import fake_gallery, write_pictures

from retrieval.gallery.selection import select
from retrieval.gallery.store.catalog import Catalog, Seen

PARTS = ["a", "a.", "a-", "ab", "ä", "[x]", "b c", os.fsdecode(b"caf\xe9")]


def test_patterns_find_what_a_look_at_every_name_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    gallery = fake_gallery(tmp_path / "g")
    names = sorted({"/".join(rng.choices(PARTS, k=rng.randint(1, 4))) for _ in range(250)})
    folders = {"album": "album", "album/a": "album/a", "elsewhere": str(tmp_path.parent / "elsewhere"), "": ""}
    with gallery.writing() as catalog, catalog.writing():
        kinds = ["folder", "folder", "folder", "keys"]
        for path, kind in zip(folders.values(), kinds, strict=True):
            root = catalog.add_root(path, kind).id
            extra = [os.path.join(str(tmp_path), "album", "key.png"), "/top.png"] if kind == "keys" else []
            catalog.add_seen(Seen(root, name) for name in [*names, *extra])
    (tmp_path / "album" / "a").mkdir(parents=True)
    for here in (tmp_path, tmp_path / "album", tmp_path / "album" / "a"):
        monkeypatch.chdir(here)
        patterns = ["*", "a/*", "a*", "a/ab/*", "album/*", "album/a/*b*", "[[]x]/*", "a/?", "../*", "/*.png", "ä/**"]
        patterns += [f"{tmp_path}/*", f"{tmp_path}/album/a/*", f"{tmp_path.parent}/else*", "/*/album/a/*", "nowhere/*"]
        for pattern in patterns:
            plain = os.path.normpath(pattern)
            absolute = plain if os.path.isabs(plain) else os.path.join(glob.escape(os.getcwd()), plain)
            name = gallery.namer()
            expected = [
                r.id
                for r in gallery.catalog.records()
                if fnmatch.fnmatchcase(r.path, plain) or fnmatch.fnmatchcase(name(r), absolute)
            ]
            found = select(gallery, pattern)
            if found.kind != "folder":
                assert [record.id for record in found.records] == expected, (here, pattern)


def test_kept_numbers_are_what_counting_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "album" / "sub", 12)
    (tmp_path / "album" / "broken.png").write_bytes(b"no picture")
    gallery = fake_gallery(tmp_path / "g")

    def agree() -> None:
        catalog = gallery.catalog
        records = list(catalog.records())
        rows = [record.row for record in records if record.row is not None]
        assert catalog.searchable_count() == catalog.count_searchable() == len(rows) == len(gallery)
        assert catalog.live_count() == len(set(rows))
        assert catalog.troubled() == [record for record in records if record.error is not None]

    gallery.index(["album"])
    agree()
    gallery.remove("album/sub/0003.png")
    gallery.remove_matching("album/sub/000[12].png")
    agree()
    gallery.add("key", image=tmp_path / "album" / "sub" / "0003.png")
    agree()
    (tmp_path / "album" / "sub" / "0004.png").rename(tmp_path / "album" / "moved.png")
    (tmp_path / "album" / "sub" / "0005.png").unlink()
    gallery.index()
    agree()
    gallery.remove("key")
    assert [root.kind for root in gallery.catalog.roots()] == ["folder"]
    gallery.remove_root("album")
    agree()
    assert (len(gallery), gallery.catalog.roots()) == (0, [])


def test_a_catalog_of_before_gets_the_index_of_its_troubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["broken.png"])
        with gallery.writing() as catalog:
            catalog._connection.execute("DROP INDEX images_troubled")
        assert len(gallery.catalog.troubled()) == 1
    catalog = Catalog(tmp_path / "g" / "catalog.sqlite", writable=True)
    plan = catalog._connection.execute("EXPLAIN QUERY PLAN SELECT id FROM images WHERE error IS NOT NULL ORDER BY id")
    assert "images_troubled" in str(plan.fetchall())
    assert len(catalog.troubled()) == 1
    catalog.close()
