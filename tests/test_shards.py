"""A search index of several files: answers against brute force, what is written again and what stays, kills, damage."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from vector_gallery import VectorGallery, clustered, ids_in, same

from retrieval.errors import GalleryError
from retrieval.gallery.compaction import compact
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.repair import repair
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import cutting
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import index as ann
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import note as ann_note
from retrieval.gallery.search import source as ann_source
from retrieval.gallery.search.cutting import Stretch, planned
from retrieval.gallery.search.looking import Effort
from retrieval.gallery.search.note import IndexNote, ShardNote
from retrieval.gallery.store.catalog import Catalog

ROWS = 400  # of a shard
COUNT = 1150  # three shards of 384 or 383


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "_SMALL", 0)
    monkeypatch.setattr(cutting, "SHARD_ROWS", ROWS)
    monkeypatch.setattr(ann_kind, "FEWEST", 64)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every list visited nothing can be missed: what is left is bookkeeping."""
    monkeypatch.setattr(ann_search, "effort_for", lambda note, k, stage: Effort(k, 1 << 20))


def made(folder: Path, kind: str = "IVF8,SQ8", count: int = COUNT, recall: float = 0.9) -> VectorGallery:
    subject = VectorGallery(folder)
    subject.gallery.configure_search(kind, recall)
    subject.add(clustered(count))
    return subject


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> VectorGallery:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann, "_SMALL", 0)
        patch.setattr(cutting, "SHARD_ROWS", ROWS)
        patch.setattr(ann_kind, "FEWEST", 64)
        prepared = made(tmp_path_factory.mktemp("template") / "g")
    prepared.gallery.close()
    return prepared


@pytest.fixture
def subject(template: VectorGallery, tmp_path: Path) -> VectorGallery:
    return VectorGallery.copied(template, tmp_path / "g")


def note_of(subject: VectorGallery) -> IndexNote:
    note = subject.gallery.info().search
    assert note is not None
    return note


def files(subject: VectorGallery) -> dict[str, tuple[int, int]]:
    """Name -> (inode, bytes) of every shard's file."""
    found = {path.name: path.stat() for path in (subject.gallery.folder / "ann").glob("*.faiss")}
    return {name: (stat.st_ino, stat.st_size) for name, stat in found.items()}


def right(subject: VectorGallery, seed: int = 5, queries: int = 6) -> None:
    for query in clustered(queries, seed=seed):
        same(subject.answer(query, 10), subject.brute(query, 10))
    assert subject.warnings == []


def consistent(subject: VectorGallery) -> IndexNote:
    """Files and log are together what the catalog holds: each picture once, in the shard of its range or beside it."""
    note = note_of(subject)
    held: set[int] = set()
    for shard in note.shards:
        own = set(ids_in(subject.gallery.folder / "ann" / f"{shard.name}.faiss"))
        assert len(own) == shard.count
        assert all(shard.first <= i for i in own)
        assert shard.last is not None
        assert all(i <= shard.last for i in own)
        assert not own & held
        held |= own
    changed, rows = (np.concatenate(part) for part in zip(*beside(subject, note), strict=True))
    assert (held - set(changed.tolist())) | set(changed[rows >= 0].tolist()) == set(subject.truth)
    assert len(files(subject)) == len(note.shards)
    return note


def beside(subject: VectorGallery, note: IndexNote) -> list[tuple[np.ndarray, np.ndarray]]:
    return [subject.gallery.catalog.changes_since(*span) for span in note.spans()]


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "IVF8,SQ8"])
def test_answers_are_those_of_brute_force(
    kind: str, tmp_path: Path, everywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two threads, one of which has two shards to search."""
    monkeypatch.setattr(ann_search, "_SLOW", -1.0)
    monkeypatch.setattr(ann_search.os, "cpu_count", lambda: 2)
    subject = made(tmp_path / "g", kind)
    note = consistent(subject)
    assert [shard.count for shard in note.shards] == [384, 383, 383]
    assert note.kind == (kind if kind in ann_kind.KINDS else "factory")
    right(subject)
    query = clustered(1, seed=7)[0]
    for k in (1, 300, COUNT, COUNT + 9):
        found = subject.answer(query, k)
        same(found[:5], subject.brute(query, min(k, 5)))
        assert len({i for i, _ in found}) == min(k, COUNT)


def test_copies_in_several_shards_tie_by_ascending_id(subject: VectorGallery) -> None:
    copied = subject.truth[5]
    subject.change(700, copied)
    more = subject.add(np.repeat(copied[None], 40, axis=0))
    assert len(note_of(subject).shards) == 4
    found = subject.answer(copied, 42)
    assert [i for i, _ in found] == [5, 700, *more]
    assert len({score for _, score in found}) == 1


def test_the_recall_of_all_shards_is_that_of_a_loop(subject: VectorGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same queries, asked through the gallery: how many of the true ten are among the ten answers."""
    monkeypatch.setattr(ann_search, "effort_for", lambda note, k, stage: Effort(k, 2 * 4**stage))
    monkeypatch.setattr(ann_search, "shortlist", lambda note, k: 12)
    seen = {}
    real = ann.ann_recall.together

    def keep(parts: list[ann_search.Part], trial: ann.ann_recall.Trial) -> tuple[float, float]:
        seen["trial"] = trial
        return real(parts, trial)

    monkeypatch.setattr(ann.ann_recall, "together", keep)
    subject.gallery.configure_search(recall=0.89)
    assert subject.refresh()
    trial, note = seen["trial"], note_of(subject)
    hits = []
    with Gallery.open(subject.gallery.folder) as opened:
        catalog = opened.catalog
        ids, rows = catalog.searchable()
        assert trial.ids.tolist() == ids.tolist()
        source = ann_source.open_source(opened.folder / "ann", catalog, opened.store(), len(rows), print)
        assert source is not None
        for query, own in zip(trial.queries, trial.own, strict=True):
            true = [i for i, _ in subject.brute(query, 11) if i != own][:10]
            found = source.candidates(query, 10, 0)
            hits.append(len(set(found.ids.tolist()) & set(true)) / 10)
    assert note.queries == len(trial.queries) == 900
    assert note.recall == pytest.approx(min(np.mean(hits[way::3]) for way in range(3)), abs=1e-4)
    assert note.recall < 0.97
    assert note.milliseconds is not None


def test_where_all_together_find_less_each_looks_further(
    subject: VectorGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [shard.effort for shard in note_of(subject).shards]
    told = iter([0.5, 0.55, 0.91])
    monkeypatch.setattr(ann.ann_recall, "together", lambda parts, trial: (next(told), 1.0))
    with subject.gallery.writing() as catalog:  # as if it had been measured long ago
        note = ann_note.find(subject.gallery.folder / "ann", catalog.log_state())
        assert note is not None
        ann_note.write_note(subject.gallery.folder / "ann", replace(note, measured=3))
    subject.add(clustered(40, seed=1))
    note = note_of(subject)
    assert note.recall == 0.91
    assert all(effort is not None for effort in before)
    assert [shard.effort for shard in note.shards[:3]] == [e + 2 for e in before if e is not None]
    assert not subject.refresh(), "and stays"


# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_hundredth_more_writes_a_small_file(subject: VectorGallery, everywhere: None) -> None:
    before, size = files(subject), sum(size for _, size in files(subject).values())
    added = subject.add(clustered(COUNT // 100 + 1, seed=1))
    after = files(subject)
    assert {name: after[name] for name in before} == before, "the files there were stay"
    (new,) = after.keys() - before.keys()
    assert ids_in(subject.gallery.folder / "ann" / new) == sorted(added)
    assert after[new][1] < size / 10
    note = consistent(subject)
    assert note.shards[-1].kind == "flat"
    assert subject.gallery.info().changes == 0
    right(subject)


def test_fewer_are_searched_beside_the_files(subject: VectorGallery, everywhere: None) -> None:
    before = note_of(subject)
    added = subject.add(clustered(6, seed=1))
    subject.remove([3, 500, added[1]])
    subject.change(40, clustered(1, seed=2)[0])
    assert note_of(subject) == before
    assert subject.gallery.info().changes == 9
    consistent(subject)
    right(subject)
    same(subject.answer(subject.truth[40], 3), subject.brute(subject.truth[40], 3))


def test_rows_are_written_again_a_few_times_only(tmp_path: Path, everywhere: None) -> None:
    """A gallery that grows from 3 to 9 shards' rows by a hundredth at a time: each row is written as often as what it lies in
    doubles, and once more."""
    subject = made(tmp_path / "g", "flat")
    known, written, most = files(subject), 0, 0
    while len(subject.truth) < 3 * COUNT:
        subject.add(clustered(len(subject.truth) // 100 + 1, seed=len(subject.truth)))
        now = files(subject)
        written += sum(size for name, (inode, size) in now.items() if known.get(name, (0,))[0] != inode)
        most = max(most, len(now))
        known = now
    size = sum(size for _, size in known.values())
    assert written < 4 * size
    assert most <= 2 * len(subject.truth) // ROWS + 6
    assert max(shard.count for shard in consistent(subject).shards) <= ROWS
    right(subject)


def test_a_shard_of_which_much_went_is_made_anew_alone(subject: VectorGallery, everywhere: None) -> None:
    before = files(subject)
    subject.remove(list(range(400, 419)))  # of 383: not more than a twentieth
    assert files(subject) == before
    assert subject.gallery.info().changes == 19
    right(subject)
    subject.remove([419, 420])
    after = files(subject)
    assert len(after.keys() & before.keys()) == 2
    note = consistent(subject)
    assert [shard.count for shard in note.shards] == [384, 362, 383]
    assert subject.gallery.info().changes == 0
    right(subject)


def test_shards_that_shrank_become_one(subject: VectorGallery, everywhere: None) -> None:
    gone = np.random.default_rng(0).permutation(np.arange(1, COUNT + 1))
    for begin in range(0, 1050, 150):
        subject.remove(gone[begin : begin + 150].tolist())
        consistent(subject)
        right(subject, queries=2)
    assert len(note_of(subject).shards) == 1
    subject.remove(sorted(subject.truth)[:])
    assert subject.answer(clustered(1)[0], 5) == []
    subject.add(clustered(30, seed=3))
    right(subject, queries=2)


def test_a_shard_that_is_empty_leaves_nothing_to_its_neighbours(subject: VectorGallery, everywhere: None) -> None:
    before = files(subject)
    subject.remove(list(range(1, 385)))
    note = consistent(subject)
    assert [(shard.first, shard.count) for shard in note.shards] == [(0, 383), (768, 383)]
    assert files(subject).items() <= before.items()
    assert subject.gallery.info().changes == 0
    subject.remove(list(range(1000, COUNT + 1)))
    subject.remove(list(range(768, 1000)))
    assert len(consistent(subject).shards) == 1
    subject.add(clustered(20, seed=3))
    consistent(subject)
    right(subject)


def test_info_tells_of_all_files(
    subject: VectorGallery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.cli import main as cli

    note = note_of(subject)
    subject.gallery.close()
    out = []
    for more in ([], ["--format", "json"]):
        monkeypatch.setattr("sys.argv", ["retrieve", "info", "--index", str(subject.gallery.folder), *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        out.append(capsys.readouterr().out)
    assert "in 3 files" in out[0]
    assert f"recall@10 {note.recall:.3f} (target 0.9, 900 queries)" in out[0]
    told = json.loads(out[1])
    assert Path(told["ann"]).name == "1.json"
    search = told["search"]
    assert (search["vectors"], search["recall"], search["effort"]) == (COUNT, note.recall, None)
    assert [file["vectors"] for file in search["files"]] == [384, 383, 383]
    assert search["bytes"] == sum(size for _, size in files(subject).values())


def test_many_edited_pictures_bring_their_shards_in_line(subject: VectorGallery, everywhere: None) -> None:
    """Live changes beside the files are few, wherever they are."""
    for number, vector in enumerate(clustered(40, seed=8)):
        subject.change(1 + 17 * number, vector)
    assert subject.gallery.info().changes <= COUNT // 100
    consistent(subject)
    right(subject)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_any_history_ends_in_right_answers(kind: str, tmp_path: Path, everywhere: None) -> None:
    subject = made(tmp_path / "g", kind, 500)
    rng = np.random.default_rng(4)
    for step in range(24 if kind == "flat" else 8):
        what = int(rng.integers(0, 4))
        there = sorted(subject.truth)
        if what == 0:
            subject.remove(rng.choice(there, int(rng.integers(1, 60)), replace=False).tolist())
        elif what == 1:
            subject.change(int(rng.choice(there)), clustered(1, seed=100 + step)[0])
        else:
            count = int(rng.choice([1, 7, 30, 150, 500 if step < 12 else 20]))
            subject.add(clustered(count, seed=200 + step), refresh=bool(rng.integers(0, 4)))
        consistent(subject)
        right(subject, seed=step, queries=3)
    subject.refresh()
    assert sum(map(len, (rows for _, rows in beside(subject, note_of(subject))))) < 100


def test_a_kind_that_needs_more_than_a_small_shard_has_is_exact_there(tmp_path: Path, everywhere: None) -> None:
    subject = made(tmp_path / "g", "IVF64,SQ8")
    subject.add(clustered(65, seed=1)[:40].repeat(2, axis=0)[:65])
    subject.add(clustered(70, seed=2))
    note = consistent(subject)
    assert not subject.refresh(), "and stays"
    assert note.shards[0].kind == "factory"
    right(subject)


def test_another_kind_is_made_in_even_shards(subject: VectorGallery, everywhere: None) -> None:
    subject.add(clustered(100, seed=1))
    subject.gallery.configure_search("flat")
    assert subject.refresh()
    note = consistent(subject)
    assert [(shard.kind, shard.count) for shard in note.shards] == [("flat", n) for n in (313, 313, 312, 312)]
    assert note.recall == 1
    right(subject)


def test_another_target_is_measured_on_the_same_files(subject: VectorGallery) -> None:
    before = files(subject)
    subject.gallery.configure_search(recall=0.6)
    assert subject.refresh()
    assert files(subject) == before
    assert {shard.target for shard in note_of(subject).shards} == {0.6}
    assert not subject.refresh()


def test_compaction_of_vectors_leaves_the_files(subject: VectorGallery, everywhere: None) -> None:
    subject.remove(list(range(2, 16)))
    before = files(subject)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.gallery.compaction._COMPACT_ROWS", 1)
        with subject.gallery.writing() as catalog:
            with catalog.writing():
                catalog.set_meta("compaction_due", 1)
            first, _ = subject._write(catalog, np.zeros((COUNT, 48), np.float32))  # rows of nothing
            with catalog.writing():
                catalog.set_meta("vector_count", first + COUNT)
            compact(subject.gallery, catalog)
            assert catalog.number("generation") == 1
            assert not subject.gallery.refresh_index(catalog)
    assert files(subject) == before
    right(subject)


# -- plans -------------------------------------------------------------------------------------------------------------


def shard_of(first: int, last: int, count: int) -> ShardNote:
    return ShardNote(f"{first}", first, last, 1, "flat", "Flat", 8, count, count, 0.98)


def stretches(*sizes: int, tail: int, stale: dict[int, int] | None = None) -> list[Stretch]:
    found, at = [], 0
    for number, size in enumerate(sizes):
        shard = shard_of(at, at + size - 1, size)
        found.append(Stretch(at, at + size - 1, 1, shard, size, 0, (stale or {}).get(number, 0)))
        at += size
    return [*found, Stretch(at, None, rows=tail, live=tail)]


@pytest.mark.parametrize(
    ("sizes", "tail", "stale", "expected"),
    [
        ([400, 400], 4, {}, [(400, False), (400, False), (4, False)]),  # as many stay beside
        ([400, 400], 9, {}, [(400, False), (400, False), (9, True)]),
        ([400, 10], 9, {}, [(400, False), (19, True)]),  # of like size
        ([400, 40, 20, 10], 9, {}, [(400, False), (79, True)]),  # one after the other
        ([400, 40, 10], 9, {}, [(400, False), (40, False), (19, True)]),
        ([200, 150], 120, {}, [(200, False), (270, True)]),  # with the third it would be more than a shard
        ([400, 400, 5], 2, {0: 30}, [(400, True), (400, False), (5, False), (2, False)]),
        ([400, 390, 5], 2, {1: 30}, [(400, False), (397, True)]),  # what is small beside it is written with it
        ([400, 400, 400], 0, {0: 30, 1: 30}, [(800, True), (400, False), (0, False)]),
    ],
)
def test_what_is_made_anew(
    sizes: list[int], tail: int, stale: dict[int, int], expected: list[tuple[int, bool]]
) -> None:
    plan = planned(stretches(*sizes, tail=tail, stale=stale), 8, [20] * (len(sizes) + 1))
    assert [(stretch.rows, stretch.remake) for stretch in plan] == expected
    assert plan[0].first == 0
    assert plan[-1].last is None


# -- crashes, damage, readers ------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def stop_at(patch: pytest.MonkeyPatch, place: str, after: int) -> None:
    """Stop the writer before the step, once it has been done so often."""
    done = 0

    def counted(real: Callable[..., object], wanted: Callable[..., bool]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            nonlocal done
            done += wanted(*arguments)
            if done > after:
                raise Killed
            return real(*arguments, **options)

        return step

    if place == "rename":
        patch.setattr(os, "replace", counted(os.replace, lambda source, target: str(target).endswith(".faiss")))
    elif place == "note":
        patch.setattr(ann_note, "write_note", counted(ann_note.write_note, lambda *_: True))
    elif place == "tidy":
        patch.setattr(ann_note, "tidy", counted(ann_note.tidy, lambda *_: True))
    elif place == "unlink":
        patch.setattr(Path, "unlink", counted(Path.unlink, lambda path, *_: path.suffix in (".faiss", ".json")))
    else:
        patch.setattr(Catalog, "forget_changes", counted(Catalog.forget_changes, lambda *_: True))


PLACES = [("rename", 0), ("rename", 1), ("note", 0), ("tidy", 0), ("unlink", 0), ("unlink", 1), ("log", 0)]


@pytest.mark.parametrize(("place", "after"), PLACES)
def test_a_kill_at_any_step_leaves_right_answers(
    subject: VectorGallery, everywhere: None, place: str, after: int
) -> None:
    subject.add(clustered(50, seed=1), refresh=False)
    subject.add(clustered(450, seed=2), refresh=False)  # two shards more
    with subject.gallery.writing() as catalog, catalog.writing():
        catalog.delete(range(1, 60))  # and one that is made anew
    for i in range(1, 60):
        del subject.truth[i]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, place, after)
        with pytest.raises(Killed):
            subject.refresh()
    with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as opened:
        for query in clustered(4, seed=3):
            same([(m.id, m.score) for m in opened.search(query[None], 10)[0]], subject.brute(query, 10))
    subject.remove([100, 101])
    right(subject)
    subject.refresh()
    subject.add(clustered(40, seed=4))
    note = consistent(subject)
    right(subject)
    names = {path.name for path in (subject.gallery.folder / "ann").iterdir()}
    expected = {f"{shard.name}.{kind}" for shard in note.shards for kind in ("faiss", "seen")}
    assert names == expected | {f"{note.version}.json"}


@pytest.mark.parametrize("damage", ["byte", "cut", "gone"])
def test_a_damaged_shard_is_named_and_made_again_alone(subject: VectorGallery, everywhere: None, damage: str) -> None:
    second = note_of(subject).shards[1]
    path = subject.gallery.folder / "ann" / f"{second.name}.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "byte" else data[:-9])
    said: list[str] = []
    with Gallery.open(subject.gallery.folder, warn=said.append) as opened:
        for query in clustered(3, seed=3):
            same([(m.id, m.score) for m in opened.search(query[None], 10)[0]], subject.brute(query, 10))
        assert opened.info().search is None
    assert len(said) == 2, "once by the search, once by info"
    assert all(path.name in line and ("damaged" in line or "missing" in line) for line in said)
    before = files(subject)
    assert subject.refresh()
    assert path.name in subject.warnings.pop()
    after = files(subject)
    kept = [name for name in after if before.get(name) == after[name]]
    assert len(kept) == 2, "the others stay"
    assert consistent(subject).count == COUNT
    right(subject)


def test_a_file_whose_last_bytes_find_no_room_is_not_written(tmp_path: Path) -> None:
    """Whatever is lacking, one byte or all: it is said, and nothing is left."""
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(8))
    index.add_with_ids(clustered(100, 8), np.arange(100))
    size = ann_file.write(tmp_path, index, shard_of(0, 99, 100)).bytes
    before = sorted(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (size - 1, size // 2, 0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(GalleryError, match="could not write the search index"):
                ann_file.write(tmp_path, index, shard_of(1, 99, 100))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_was_written_short_is_mended_as_it_is_said(
    subject: VectorGallery, everywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash is right, so an index run finds nothing to do."""
    monkeypatch.setattr(ann_source, "_AT_ONCE", 0)
    first, *others = (note := note_of(subject)).shards
    path = subject.gallery.folder / "ann" / f"{first.name}.faiss"
    path.write_bytes(data := path.read_bytes()[:-200])
    short = replace(first, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    ann_note.write_note(path.parent, replace(note, shards=(short, *others)))
    said: list[str] = []
    with Gallery.open(subject.gallery.folder, warn=said.append) as opened:
        query = clustered(1, seed=3)[0]
        same([(m.id, m.score) for m in opened.search(query[None], 10)[0]], subject.brute(query, 10))
    assert "`retrieve index --repair` writes it anew" in said[0]
    subject.gallery.close()
    repair(subject.gallery.folder)
    assert subject.refresh()
    consistent(subject)
    right(subject)


def test_a_damaged_note_costs_the_files_and_no_answer(subject: VectorGallery, everywhere: None) -> None:
    note = note_of(subject)
    path = subject.gallery.folder / "ann" / f"{note.version}.json"
    data = json.loads(path.read_text())
    data["shards"][1]["effort"] = 1
    path.write_text(json.dumps(data))
    assert subject.gallery.info().search is None
    right(subject)
    assert subject.refresh()
    consistent(subject)
    right(subject)


def test_a_reader_goes_on_with_what_it_has_mapped(subject: VectorGallery, everywhere: None) -> None:
    query = clustered(1, seed=9)[0]
    with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as reader:
        catalog = reader.catalog
        with catalog.reading():
            source = ann_source.open_source(
                reader.folder / "ann", catalog, reader.store(), COUNT, subject.warnings.append
            )
            assert isinstance(source, ann_search.Indexed)
            before = source.candidates(query, 10, 0).ids.tolist()
            subject.remove([i for i in range(1, 300) if i not in before])
            subject.gallery.configure_search("flat")
            subject.refresh()
            assert source.candidates(query, 10, 0).ids.tolist() == before
            assert ann_note.find(reader.folder / "ann", catalog.log_state()) is None, (
                "the new files are not its state's"
            )
        found = [(m.id, m.score) for m in reader.search(query[None], 10)[0]]
        same(found, subject.brute(query, 10))
    assert subject.warnings == []


# -- galleries of one file ---------------------------------------------------------------------------------------------


def as_before(subject: VectorGallery) -> None:
    """The note as it was written when there was one file for all."""
    note = note_of(subject)
    (shard,) = note.shards
    facts = {name: value for name, value in asdict(shard).items() if name not in ("name", "first", "last")}
    facts |= {"identity": note.identity, "version": note.version, "seq": note.seq, "requested": note.requested}
    path = subject.gallery.folder / "ann" / f"{note.version}.json"
    check = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    path.write_text(json.dumps({"format": 2, **facts, "check": check}))


@pytest.mark.parametrize(("count", "shards"), [(300, 1), (COUNT, 3)])
def test_one_file_of_before_is_opened_and_carried_over(
    tmp_path: Path, everywhere: None, monkeypatch: pytest.MonkeyPatch, count: int, shards: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cutting, "SHARD_ROWS", 1 << 20)
        subject = made(tmp_path / "g", count=count)
    as_before(subject)
    before = files(subject)
    right(subject)
    assert not subject.refresh()
    subject.remove([2])
    subject.add(clustered(1, seed=6))
    assert files(subject) == before, "as it is, until there is much to take in"
    right(subject)
    subject.add(clustered(20, seed=7))
    note = consistent(subject)
    assert len(note.shards) == shards
    right(subject)


def test_a_gallery_of_a_shards_rows_keeps_one_file(tmp_path: Path, everywhere: None) -> None:
    subject = made(tmp_path / "g", count=200)
    for seed in range(5):
        subject.add(clustered(30, seed=seed + 1))
        assert len(consistent(subject).shards) == 1
    first = files(subject)
    subject.add(clustered(60, seed=9))  # more than a shard's
    assert len(consistent(subject).shards) == 2
    assert first.items() <= files(subject).items()
    assert note_of(subject).queries == len(subject.truth)
    right(subject)
