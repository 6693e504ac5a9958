"""A folder and the catalog side by side, against dictionaries; entries added at once, against one by one; what need not be
checked again."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from fakes import fake_gallery, write_pictures

from retrieval import Gallery, GalleryDamaged
from retrieval.gallery.joining import Join, lies_behind
from retrieval.gallery.store.catalog import Catalog, Seen
from retrieval.pictures.scan import Found, Walk, walk

PARTS = ["a", "a.", "a0", "a-", "A", "ä", "a%", "e\u0301", "\U0001f600", os.fsdecode(b"caf\xe9"), "a b", "x.jpg"]


def digest(number: int) -> str:
    return f"{number:056x}"


def tree(folder: Path, rng: random.Random, count: int) -> None:
    """Files and folders of names that sort close to a slash, some folders called like pictures."""
    for _ in range(count):
        place = folder.joinpath(*rng.choices(PARTS, k=rng.randint(0, 3)))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{rng.choice(PARTS)}{rng.choice(['', '-', '.b'])}.png").write_bytes(b"x" * rng.randint(1, 9))


@pytest.mark.parametrize("seed", range(6))
def test_what_differs_is_what_dictionaries_say(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    tree(tmp_path / "tree", rng, 120)
    tree(tmp_path / "elsewhere", rng, 40)
    (tmp_path / "tree" / "a" / "link").parent.mkdir(exist_ok=True)
    (tmp_path / "tree" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a-link.png").symlink_to(tmp_path / "far")
    tree(tmp_path / "far", rng, 20)
    (tmp_path / "tree" / "a-up").symlink_to(tmp_path)
    (tmp_path / "tree" / "a0").mkdir(exist_ok=True)
    (tmp_path / "tree" / "a0" / "again").symlink_to(tmp_path / "tree" / "a")
    files = {found.path: found for found in walk(str(tmp_path / "tree")).files}
    assert any(path.startswith("a/link/a-link.png/") for path in files)
    assert not any(path.startswith(("a0/again/", "a-up/")) for path in files)

    gone = {f"{rng.choice(list(files))[:-4]}{rng.choice(['', '/x', '0', '-'])}.gone.png" for _ in range(40)}
    gone |= {"a/link/a-link.png/none.png", "a0/again/x.png", "a-up/tree/x.png"}
    new = set(rng.sample(sorted(files), 30))
    known = [path for path in files if path not in new] + sorted(gone)
    rng.shuffle(known)
    changed = {path for path in known if path in files and (rng.random() < 0.2 or files[path].problem)}
    doubted = set(rng.sample(sorted(files.keys() - new), 10))
    gallery = fake_gallery(tmp_path / "g")
    with gallery.writing() as catalog, catalog.writing():
        root = catalog.add_root("/photos", "folder").id
        other = catalog.add_root("/others", "folder").id
        for place in (other, root):
            rows = ((p, files.get(p, Found(p, 5, 5))) for p in known)
            catalog.add_seen(
                Seen(place, p, f.size + (p in changed), f.mtime_ns, digest(i), 4, 4, None, i)
                for i, (p, f) in enumerate(rows)
            )
        for path in known:
            entry = catalog.find(root, path)
            assert entry is not None
            found = files.get(path, Found(path, 5, 5))
            catalog.set_identity(entry.id, ctime_ns=found.ctime_ns, inode=found.inode)

    join = Join(doubted)
    whole = Walk(str(tmp_path / "tree"))
    differ = []
    for section, listed in whole.sections():
        differ += join.differences(gallery.catalog.files_below(root, section), listed, whole.linked, section)
    assert {path for path, file in differ if file is None} == gone
    assert {file.path for path, file in differ if path is None and file} == new
    assert {path for path, file in differ if path is not None and file} == changed | doubted
    assert len(differ) == len({*gone, *new, *changed, *doubted})
    assert join.same == len(files) - len(new | changed | doubted)
    assert join.same + join.held == len(known)


@pytest.mark.parametrize("prefix", ["a", "ä", os.fsdecode(b"caf\xe9"), "x.jpg"])
def test_a_part_of_the_folder_is_compared_with_its_entries_alone(tmp_path: Path, prefix: str) -> None:
    rng = random.Random(5)
    tree(tmp_path / "tree", rng, 150)
    (tmp_path / "tree" / prefix).mkdir(exist_ok=True)
    files = walk(str(tmp_path / "tree")).files
    gallery = fake_gallery(tmp_path / "g")
    with gallery.writing() as catalog, catalog.writing():
        root = catalog.add_root("/photos", "folder").id
        catalog.add_pending(root, [*(f.path for f in files if f.path != prefix), prefix])
    part = Walk(str(tmp_path / "tree"), prefix=prefix)
    join = Join()
    differ = []
    for section, listed in part.sections():
        known = gallery.catalog.files_below(root, section, itself=True)
        differ += join.differences(known, listed, part.linked, section)
    below = {f.path for f in files if f.path.startswith(f"{prefix}/")}
    assert {path for path, file in differ if file} == below
    assert {path for path, file in differ if file is None} == {prefix}


def test_links_below_links() -> None:
    assert lies_behind("a/link/b/c.png", {"a/link"}, "")
    assert not lies_behind("a/link/b/c.png", {"a/link"}, "a/link")
    assert lies_behind("a/link/b/c.png", {"a/link", "a/link/b"}, "a/link")
    assert not lies_behind("a/linked/c.png", {"a/link"}, "")


def test_random_changes_leave_what_the_folder_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that come, go, move and change, folders and links too: the gallery holds what a look at the folder shows, and who
    stayed keeps its id."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(11)
    stock = write_pictures(tmp_path / "stock", 60)
    gallery = fake_gallery(tmp_path / "g")
    album, behind = tmp_path / "album", tmp_path / "behind"
    for folder in (album, album / "a", album / "a-b", album / "a" / "deep", behind / "x"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stock[0], folder / "kept.png")  # a folder that is emptied may be a disk that is away
    (album / "a" / "link").symlink_to(behind)

    def ids() -> dict[str, int]:
        return {name: record.id for name, record in gallery.records()}

    before: dict[str, int] = {}
    for round_ in range(8):
        folders = [album, album / "a", album / "a-b", album / "a" / "deep", behind, behind / "x"]
        touched = set()
        for _ in range(6):
            target = rng.choice(folders) / f"{rng.choice('abc')}{rng.choice(['', '-', '0'])}.png"
            shutil.copyfile(rng.choice(stock), target)
            touched.add(target)
        for target in rng.sample(sorted(album.rglob("*.png")), 4):
            if target not in touched and target.name != "kept.png":
                target.unlink()
                touched.add(target)
        report = gallery.index(["album"] if round_ else ["album", "album/a"])
        now = ids()
        expected = {f.path for f in walk(str(album)).files}
        assert {os.path.relpath(name, album) for name in now} == expected
        names = {os.path.realpath(path) for path in touched}
        stayed = [name for name in before if os.path.realpath(name) not in names and name in now]
        assert all(now[name] == before[name] for name in stayed)
        assert gallery.index().unchanged == len(now)
        assert report.removed + report.renamed >= len(before.keys() - now.keys())
        before = now


def test_a_folder_and_one_in_it_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "album" / "sub", 4)
    shutil.copyfile(tmp_path / "album" / "sub" / "0000.png", tmp_path / "album" / "odd.picture")
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album", "album/sub", "album/sub/0001.png", "album/odd.picture"])
    again = gallery.index(["album/sub", "album", "album/sub/0001.png", "album/odd.picture"])
    assert (again.unchanged, again.removed, len(gallery)) == (5, 0, 5)


def test_entries_added_at_once_are_those_added_one_by_one(tmp_path: Path) -> None:
    names = ["b.png", "a.png", os.fsdecode(b"caf\xe9.png"), "ä.png", "broken.png", "later.png"]
    catalogs = []
    for at_once in (True, False):
        gallery = fake_gallery(tmp_path / f"g{at_once}")
        with gallery.writing() as catalog:
            with catalog.writing():
                root = catalog.add_root("/photos", "folder").id
                catalog.add_pending(root, ["first.png"])
                catalog.delete([1])
            with catalog.writing():
                catalog.set_meta("vector_count", 4)
                if at_once:
                    seen = [Seen(root, name, 9, 8, digest(i), 4, 3, None, i) for i, name in enumerate(names[:4])]
                    assert catalog.add_seen([*seen, Seen(root, names[4], 7, 6, error="no"), Seen(root, names[5])]) == 4
                    assert catalog.add_seen([]) == 0
                else:
                    catalog.add_pending(root, names)
                    catalog.set_first_ok((9, 8, digest(i), 4, 3, i, i + 2) for i in range(4))
                    catalog.set_error(6, size=7, mtime_ns=6, error="no", keep_vector=False)
            catalog.check()
            assert (catalog.number("entries"), catalog.number("searchable")) == (6, 4)
            table = catalog._connection.execute("SELECT * FROM images ORDER BY id").fetchall()
            schema = catalog._connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
            log = catalog.log_state()
            assert log is not None
            catalogs.append((table, schema, log.end, [a.tolist() for a in catalog.changes_since(0)]))
    assert catalogs[0] == catalogs[1]


def add_twice(catalog: Catalog) -> None:
    with catalog.writing():
        root = catalog.add_root("/photos", "folder").id
        catalog.add_seen([Seen(root, "a.png"), Seen(root, "a.png")])


def test_a_failure_while_entries_are_added_leaves_the_catalog_as_it_was(tmp_path: Path) -> None:
    gallery = fake_gallery(tmp_path / "g")
    with gallery.writing() as catalog:
        before = list(catalog._connection.iterdump())
        with pytest.raises(GalleryDamaged, match="UNIQUE"):
            add_twice(catalog)
        assert list(catalog._connection.iterdump()) == before


def test_a_catalog_that_passed_is_looked_through_again_only_when_a_byte_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in write_pictures(tmp_path / "album", 5):
        os.utime(path, (10**9, 10**9))  # else they are read again: they may have changed within the clock's grain
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
    looked: list[Path] = []
    whole = Catalog.check
    monkeypatch.setattr(Catalog, "check", lambda self, **how: looked.append(self.path) or whole(self, **how))
    counts = []
    for _ in range(3):
        with Gallery.open(tmp_path / "g") as gallery:
            assert gallery.index().unchanged == 5
        counts.append(len(looked))
    assert counts == [1, 1, 1]

    path = tmp_path / "g" / "catalog.sqlite"
    content = bytearray(path.read_bytes())
    at = content.index(b"0003.png")
    content[at : at + 4] = b"0009"
    path.write_bytes(content)
    with Gallery.open(tmp_path / "g") as gallery, pytest.raises(GalleryDamaged, match="entry of picture"):
        gallery.index()
    content[at : at + 4] = b"0003"
    path.write_bytes(content)
    (tmp_path / "g" / "catalog.checked").write_bytes(b"\xff\x00")
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.index().unchanged == 5
    assert len(looked) == 3
