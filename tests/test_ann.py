"""Approximate search against brute force: what is found, what is scored, what changes, and what a crash or damage leaves."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from vector_gallery import VectorGallery, clustered, ids_in, same

from retrieval.errors import UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import index as ann
from retrieval.gallery.search import intact, looking, operating
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import note as ann_note
from retrieval.gallery.search import recall as ann_recall
from retrieval.gallery.search.looking import Effort
from retrieval.gallery.search.note import IndexNote
from retrieval.gallery.store.catalog import Catalog

COUNT = 3000
QUERIES = ann_recall.QUERIES
Templates = Callable[..., VectorGallery]


@pytest.fixture(autouse=True)
def _no_gallery_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """And most are measured with fewer queries, which is what making an index takes most of its time for."""
    monkeypatch.setattr(ann, "_SMALL", 0)
    monkeypatch.setattr(ann_recall, "QUERIES", 240)


@pytest.fixture
def measured_in_full(monkeypatch: pytest.MonkeyPatch, _no_gallery_is_small: None) -> None:
    """For what is about the recall itself: as many queries as a gallery takes."""
    monkeypatch.setattr(ann_recall, "QUERIES", QUERIES)


def looked_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every list visited and codes of 8 bits, nothing can be missed: what is left is bookkeeping."""
    monkeypatch.setattr(ann_search, "effort_for", lambda note, k, stage: Effort(k, 1 << 20))


def made(folder: Path, kind: str = "ivf", count: int = COUNT, **options: str) -> VectorGallery:
    subject = VectorGallery(folder, **options)
    subject.gallery.configure_search(kind)
    subject.add(clustered(count))
    return subject


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> VectorGallery:
    """An inverted file; only for tests that change nothing."""
    return made(tmp_path_factory.mktemp("prepared") / "g")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """By kind what ``made`` makes, once; tests get copies."""
    folder, known = tmp_path_factory.mktemp("templates"), dict[str, VectorGallery]()

    def copied(target: Path, kind: str = "ivf") -> VectorGallery:
        if kind not in known:
            known[kind] = made(folder / str(len(known)), kind)
            known[kind].gallery.close()
        return VectorGallery.copied(known[kind], target)

    return copied


@pytest.fixture
def subject(tmp_path: Path, templates: Templates) -> VectorGallery:
    return templates(tmp_path / "g")


def note_of(subject: VectorGallery) -> IndexNote:
    note = subject.gallery.info().search
    assert note is not None
    return note


def index_of(subject: VectorGallery, mapped: bool = True) -> Any:
    """The FAISS index of a gallery with one shard."""
    (shard,) = note_of(subject).shards
    return ann_file.read(subject.gallery.folder / "ann", shard, mapped=mapped)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq", "IVF32,SQ8", "PCA24,IVF32,SQ8", "SQ8"])
@pytest.mark.usefixtures("measured_in_full")
def test_scores_are_exact_and_recall_is_what_was_promised(tmp_path: Path, kind: str) -> None:
    subject = made(tmp_path / "g", kind)
    note = note_of(subject)
    assert note.kind == (kind if kind in ann_kind.KINDS else "factory")
    assert note.recall is not None
    assert note.recall >= 0.98
    hits = 0
    for query in clustered(100, seed=5):
        found, expected = subject.answer(query, 10), subject.brute(query, 10)
        vectors = np.stack([subject.truth[i] for i, _ in found]).astype(np.float64)
        cosines = (vectors @ query) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query.astype(np.float64))
        np.testing.assert_allclose([s for _, s in found], cosines, atol=1e-12)
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
        assert len({i for i, _ in found}) == 10
        hits += len({i for i, _ in found} & {i for i, _ in expected})
    assert hits >= 960
    assert subject.warnings == []


def test_any_k_up_to_everything_is_answered(prepared: VectorGallery) -> None:
    query = clustered(1, seed=7)[0]
    for k in (1, 700, COUNT, COUNT + 50):
        found = prepared.answer(query, k)
        assert len(found) == min(k, COUNT)
        assert found[0] == pytest.approx(prepared.brute(query, 1)[0])
    same(prepared.answer(query, COUNT), prepared.brute(query, COUNT))


def test_copies_tie_by_ascending_id_however_many(tmp_path: Path) -> None:
    subject = made(tmp_path / "g")
    copied = subject.truth[5]
    subject.add(np.repeat(copied[None], 400, axis=0))
    assert note_of(subject).count == COUNT + 400
    found = subject.answer(copied, 300)
    assert [i for i, _ in found] == [5, *range(COUNT + 1, COUNT + 300)]
    assert len({s for _, s in found}) == 1


def test_less_is_looked_at_than_there_is(prepared: VectorGallery) -> None:
    """The index really is approximate: with one list and ten candidates it misses many."""
    note = note_of(prepared)
    assert note.effort is not None
    assert note.effort < 64
    index = index_of(prepared)
    queries = clustered(50, seed=3)
    few = looking.search(index, queries, 10, Effort(10, 1))
    all_ = looking.search(index, queries, 10, Effort(10, 1 << 20))
    expected = [{i for i, _ in prepared.brute(q, 10)} for q in queries]
    assert np.mean([len(set(a) & b) for a, b in zip(few.tolist(), expected, strict=True)]) < 8
    assert np.mean([len(set(a) & b) for a, b in zip(all_.tolist(), expected, strict=True)]) > 9.5


def test_measured_recall_is_that_of_a_loop(prepared: VectorGallery) -> None:
    catalog = prepared.gallery.catalog
    ids, rows = catalog.searchable()
    trial = ann_recall.Trial(prepared.gallery.store(), ids, rows, count=30)
    index = index_of(prepared)
    recalls = trial.recalls(index, Effort(10, 3), 20)
    for n, (query, own) in enumerate(zip(trial.queries, trial.own, strict=True)):
        best = [i for i, _ in prepared.brute(query, 11) if i != own][:10]
        found = [i for i in looking.search(index, query[None], 21, Effort(10, 3))[0].tolist() if i not in (own, -1)]
        for shortlist in (1, 10, 20):
            assert recalls[n, shortlist - 1] == pytest.approx(len(set(found[:shortlist]) & set(best)) / 10)
        assert 0.2 < prepared.truth[int(own)] @ query < 0.99


def test_where_no_reach_is_needed_the_search_for_the_least_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal vectors the nearest lists hold an answer to everything: each reach that is tried will do."""
    tried: list[float | None] = []
    recalls = ann_recall.Trial.recalls

    def counted(self: ann_recall.Trial, index: Any, how: Effort, wanted: int) -> np.ndarray:
        tried.append(how.reach)
        return recalls(self, index, how, wanted)

    monkeypatch.setattr(ann_recall.Trial, "recalls", counted)
    subject = VectorGallery(tmp_path / "g")
    subject.gallery.configure_search("ivf")
    subject.add(np.repeat(clustered(1), 1500, axis=0))
    assert note_of(subject).recall == 1.0
    assert any(reach is not None for reach in tried)
    assert len(tried) < 40


def test_of_many_equal_pictures_any_is_right(tmp_path: Path) -> None:
    """A placeholder that stands in a gallery hundreds of times: more than the true best that are kept with their ties."""
    subject = VectorGallery(tmp_path / "g")
    subject.gallery.configure_search("hnsw")
    plain = clustered(COUNT)
    subject.add(np.concatenate([plain, np.repeat(plain[:2], 300, axis=0)]))
    ids, rows = subject.gallery.catalog.searchable()
    vectors = np.stack([subject.truth[int(i)] for i in ids])
    trial = ann_recall.Trial(subject.gallery.store(), ids, rows, count=300)
    recalls = trial.recalls(index_of(subject), Effort(10, 1 << 20), 40)
    crowded = 0
    for n, (query, own) in enumerate(zip(trial.queries, trial.own, strict=True)):
        scores = dict(zip(ids.tolist(), (vectors @ query).tolist(), strict=True))
        del scores[int(own)]
        least = sorted(scores.values())[-10] - 1e-6
        crowded += sum(score >= least for score in scores.values()) > 64
        found = looking.search(index_of(subject), query[None], 41, Effort(10, 1 << 20))[0]
        right = [scores[i] >= least for i in found.tolist() if i in scores]
        for shortlist in (1, 10, 40):
            assert recalls[n, shortlist - 1] == pytest.approx(min(10, sum(right[:shortlist])) / 10)
    assert crowded > 20
    note = note_of(subject)
    assert note.recall is not None
    assert note.recall >= note.target


@pytest.mark.parametrize("target", [0.9, 0.98])
@pytest.mark.usefixtures("measured_in_full")
def test_the_effort_is_the_least_that_reaches_the_target(tmp_path: Path, target: float) -> None:
    """Every smaller effort, tried one by one, leaves the target in doubt; a sixteenth of slack."""
    subject = VectorGallery(tmp_path / "g")
    subject.gallery.configure_search("IVF128,SQ8", target)
    subject.add(clustered(COUNT, dim=48, clusters=60))
    note = note_of(subject)
    assert note.effort is not None
    ids, rows = subject.gallery.catalog.searchable()
    trial = ann_recall.Trial(subject.gallery.store(), ids, rows)
    index = index_of(subject)

    def surely(effort: int) -> float:
        recalls = trial.recalls(index, Effort(10, effort), 999)[:, -1]
        sure = recalls.mean() - 1.645 * recalls.std() / len(recalls) ** 0.5
        ways = [recalls[way::3].mean() for way in range(3)]
        return float(min(sure, *ways)) if (recalls == 0).mean() <= 1 / 400 else 0.0

    assert surely(note.effort) >= target
    less = range(1, note.effort - note.effort // 16)
    assert len(less) >= 3
    assert all(surely(effort) < target for effort in less)


@pytest.mark.usefixtures("measured_in_full")
def test_lists_hold_the_leading_directions_where_vectors_have_some(tmp_path: Path) -> None:
    """96 dimensions, of which 30 matter, around a mean far from zero: less is stored, and the same is found."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((96, 96)))[0]
    scales = np.where(np.arange(96) < 30, 1.0, 0.05)
    centres = rng.standard_normal((60, 96)) * scales

    def drawn(count: int) -> np.ndarray:
        points = centres[rng.integers(0, 60, count)] + rng.standard_normal((count, 96)) * scales
        points = points @ turn + 5 * turn[0] + 5 * turn[90]
        return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)

    subject = VectorGallery(tmp_path / "g", dim=96)
    subject.gallery.configure_search("ivf")
    vectors = drawn(COUNT)
    subject.add(vectors)
    note = note_of(subject)
    kept = int(note.factory.split(",")[0].removeprefix("PCA"))
    centred = vectors.astype(np.float64) - vectors.mean(0)
    index = index_of(subject)
    turned = faiss.downcast_VectorTransform(faiss.downcast_index(index).chain.at(0))
    basis = faiss.vector_to_array(turned.A).reshape(kept, 96).astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(kept), atol=1e-5)
    assert 0.97 <= np.square(centred @ basis.T).sum() / np.square(centred).sum() < 0.999
    assert kept in (32, 48)
    hits = 0
    for query in drawn(100):
        expected = {i for i, _ in subject.brute(query, 10)}
        hits += len(expected & {i for i, _ in subject.answer(query, 10)})
    assert hits >= 960
    subject.remove(list(range(1, 200)))
    assert not {i for i, _ in subject.answer(vectors[5], 50)} & set(range(1, 200))
    assert subject.warnings == []


def test_lists_hold_everything_where_all_directions_matter(prepared: VectorGallery) -> None:
    vectors = np.stack(list(prepared.truth.values()))
    assert ann_kind.trained(ann_kind.Plan("ivf", "IVF16,SQ8", 1), 48, vectors)[1] == "IVF16,SQ8"
    rng = np.random.default_rng(0)
    even = rng.standard_normal((4000, 80)).astype(np.float32)
    assert ann_kind.trained(ann_kind.Plan("ivf", "IVF16,SQ8", 1), 80, even)[1] == "IVF16,SQ8"


def test_a_target_out_of_reach_gives_the_best_there_is(tmp_path: Path) -> None:
    subject = VectorGallery(tmp_path / "g")
    subject.gallery.configure_search("IVF8,PQ2x4np", 1.0)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((COUNT, 48)).astype(np.float32)
    subject.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    note = note_of(subject)
    assert note.recall is not None
    assert 0.5 < note.recall < 1
    assert note.effort == 8


def test_auto_is_exact_until_there_is_much_and_does_not_waver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_kind, "EXACT_VALUES", 48 * 2500)
    subject = made(tmp_path / "g", "auto", 2400)
    assert note_of(subject).kind == "flat"
    subject.add(clustered(200, seed=1))
    assert note_of(subject).kind == "ivf"
    subject.remove(list(range(1, 400)))
    assert note_of(subject).kind == "ivf"
    subject.remove(list(range(400, 1500)))
    assert note_of(subject).kind == "flat"


def test_few_vectors_are_searched_exactly_whatever_was_asked(tmp_path: Path) -> None:
    subject = made(tmp_path / "g", "ivfpq", 200)
    assert note_of(subject).factory == "Flat"
    query = clustered(1, seed=4)[0]
    same(subject.answer(query, 20), subject.brute(query, 20))


def test_lists_grow_with_the_root_of_the_count() -> None:
    assert [ann_kind.number_of_lists(n) for n in (1, 1024, 100_000, 1_000_000)] == [1, 32, 1024, 4096]
    for n in range(1, 3000, 17):
        assert ann_kind.number_of_lists(n) * 32 <= max(n, 32)


# -- changes -----------------------------------------------------------------------------------------------------------


def test_changes_beside_the_file_are_all_seen(subject: VectorGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_everywhere(monkeypatch)
    version = note_of(subject).version
    new = clustered(10, seed=11)
    ids = subject.add(new)
    subject.remove([7, 8, ids[3]])
    subject.change(20, new[0])
    subject.change(ids[4], clustered(1, seed=12)[0])
    info = subject.gallery.info()
    assert info.search is not None
    assert info.search.version == version  # nothing was written
    assert info.changes == 13
    queries = [*new, subject.truth[20], *clustered(20, seed=13), *clustered(COUNT)[[6, 7, 19]]]
    for query in queries:
        same(subject.answer(query, 15), subject.brute(query, 15))
    assert subject.warnings == []


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "ivfpq", "RR48,IVF32,SQ8"])
def test_add_remove_and_add_again_equals_a_fresh_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    looked_everywhere(monkeypatch)
    monkeypatch.setattr(ann_search, "shortlist", lambda note, k: 900)
    subject = made(tmp_path / "g", kind)
    old = clustered(COUNT)
    added = subject.add(clustered(200, seed=1))
    subject.remove([*range(100, 250), *added[:50]])
    subject.add(old[99:249])
    subject.change(300, old[0])
    info = subject.gallery.info()
    for query in [*clustered(30, seed=2), old[120], old[0], old[299]]:
        same(subject.answer(query, 20), subject.brute(query, 20))
    # The file and the changes beside it are together what the catalog holds.
    assert info.index_file is not None
    with Catalog(subject.gallery.catalog_path).reading():
        changed, rows = subject.gallery.catalog.changes_since(0)
    held = (set(ids_in(Path(info.index_file))) - set(changed.tolist())) if "RR" not in kind else None
    live = set(changed[rows >= 0].tolist())
    assert held is None or held | live == set(subject.truth)
    assert subject.warnings == []


def test_more_than_a_hundredth_goes_into_the_file_without_training(
    subject: VectorGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = note_of(subject)

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(operating.Tuning, "operation", refuse)
    monkeypatch.setattr(ann_kind, "create", refuse)
    subject.add(clustered(20, seed=1))
    assert note_of(subject) == before
    subject.add(clustered(20, seed=2))
    after = note_of(subject)
    assert (after.count, after.version, after.recall) == (COUNT + 40, 3, before.recall)
    assert ids_in(subject.gallery.folder / "ann" / "3.faiss") == sorted(subject.truth)
    subject.remove(list(range(1, 61)))
    assert ids_in(subject.gallery.folder / "ann" / "4.faiss") == sorted(subject.truth)
    assert sorted(p.name for p in (subject.gallery.folder / "ann").iterdir()) == ["4.faiss", "4.json", "4.seen"]
    assert subject.gallery.info().changes == 0


def test_a_gallery_that_doubled_is_trained_again(subject: VectorGallery) -> None:
    before = note_of(subject)
    subject.add(clustered(COUNT + 1, seed=1))
    after = note_of(subject)
    assert (before.trained, after.trained) == (COUNT, 2 * COUNT + 1)
    assert after.factory != before.factory


def test_a_graph_keeps_removals_beside_it_until_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_everywhere(monkeypatch)
    subject = made(tmp_path / "g", "hnsw")
    subject.remove(list(range(1, 101)))
    assert note_of(subject).version == 1
    query = clustered(COUNT)[50]
    same(subject.answer(query, 10), subject.brute(query, 10))
    subject.remove(list(range(101, 201)))
    assert (note_of(subject).version, note_of(subject).count) == (3, COUNT - 200)


def separate(count: int, seed: int) -> np.ndarray:
    """Vectors in 60 groups that lie far from each other: what a graph falls apart over."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((60, 48))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 48))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    made = centres[rng.integers(0, 60, count)] + 0.4 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.usefixtures("measured_in_full")
def test_fresh_queries_find_what_was_promised(kind: str, tmp_path: Path) -> None:
    subject = VectorGallery(tmp_path / "g")
    subject.gallery.configure_search(kind)
    stored = separate(4000, 0)
    subject.add(stored)
    note = note_of(subject)
    queries = separate(400, 1)
    exact = np.argsort(-(queries @ stored.T), axis=1)[:, :10]
    ids = sorted(subject.truth)
    found = [{ids.index(m.id) for m in row} for row in subject.gallery.search(queries, 10)]
    recalls = np.array([len(got & set(best.tolist())) / 10 for got, best in zip(found, exact, strict=True)])
    assert note.reached
    assert recalls.mean() >= note.target
    assert (recalls == 0).sum() == 0


@pytest.mark.slow
def test_a_graph_that_falls_apart_gives_way_to_inverted_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: a graph is built and searched at every effort before it is given up."""
    monkeypatch.setattr(ann_recall.Trial, "missed", lambda *_: 0.01)
    subject = made(tmp_path / "g", "hnsw", 1200)
    note = note_of(subject)
    assert (note.requested, note.kind, note.instead, note.reached) == ("hnsw", "ivf", "hnsw", True)
    assert "inverted lists take its place" in subject.warnings[0]
    assert not subject.refresh(), "and stays"


def test_members_without_a_path_are_missed(tmp_path: Path, templates: Templates) -> None:
    subject = templates(tmp_path / "g", "hnsw")
    catalog = subject.gallery.catalog
    ids, rows = catalog.searchable()
    trial = ann_recall.Trial(subject.gallery.store(), ids, rows, count=10)
    index = index_of(subject, mapped=False)
    assert trial.missed(index, Effort(10, 64), 42) == 0
    graph = ann_kind.core(index).hnsw
    links = faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())
    links[np.isin(links, np.arange(300))] = -1  # nothing leads to the first 300
    assert trial.missed(index, Effort(10, 64), 42) > 0.09  # and what only they led to


def test_another_target_is_measured_on_the_same_file(subject: VectorGallery) -> None:
    before = note_of(subject)
    path = ann_file.shard_path(subject.gallery.folder / "ann", before.shards[0])
    written = path.stat().st_mtime_ns
    subject.add(clustered(10, seed=1))
    subject.gallery.configure_search(recall=0.7)
    assert subject.refresh()
    after = note_of(subject)
    assert path.stat().st_mtime_ns == written
    assert after.target == 0.7
    assert after.recall is not None
    assert before.recall is not None
    assert 0.7 <= after.recall < before.recall
    assert not subject.refresh()


def test_compaction_of_rows_leaves_the_index_as_it_is(subject: VectorGallery) -> None:
    before = note_of(subject)
    query = clustered(1, seed=3)[0]
    expected = subject.answer(query, 10)
    with subject.gallery.writing() as catalog:
        live = np.random.default_rng(0).permutation(catalog.live_rows())
        old = subject.gallery.store(catalog)
        new = type(old)(old.folder, old.dim, "float32", 1)
        new.write(0, old.take(live), [f"{i + 1:056x}" for i in range(len(live))])
        with catalog.writing():
            catalog.renumber_rows(live)
            catalog.set_meta("generation", 1)
            catalog.bump_version()
        assert not subject.gallery.refresh_index(catalog)
    assert note_of(subject) == before
    assert subject.answer(query, 10) == expected


def test_a_reader_sees_each_commit_of_a_writer(subject: VectorGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_everywhere(monkeypatch)
    with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as reader:
        new = clustered(100, seed=21)
        for step, vector in enumerate(new):  # some commits are followed by a new file, most are not
            assert [m.id for m in reader.search(vector[None], 1)[0]] == [subject.brute(vector, 1)[0][0]]
            (i,) = subject.add(vector[None], refresh=step % 3 == 0)
            assert [m.id for m in reader.search(vector[None], 1)[0]] == [i]
            if step % 5 == 0:
                subject.remove([i])
                assert i not in [m.id for m in reader.search(vector[None], 5)[0]]
        assert note_of(subject).version > 1
    assert subject.warnings == []


def test_a_reader_of_an_older_state_is_not_shown_a_newer_file(subject: VectorGallery) -> None:
    catalog = Catalog(subject.gallery.catalog_path)
    with catalog.reading():
        assert catalog.searchable_count() == COUNT  # its view of the catalog begins here
        subject.add(clustered(100, seed=1))
        assert note_of(subject).count == COUNT + 100
        assert ann_note.find(subject.gallery.folder / "ann", catalog.log_state()) is None
    assert ann_note.find(subject.gallery.folder / "ann", catalog.log_state()) is not None
    catalog.close()


# -- crashes and damage ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def stop_at(patch: pytest.MonkeyPatch, place: str) -> None:
    """Stop the writer before this step, as a kill would."""
    real = os.replace

    def stop(*_: object, **__: object) -> None:
        raise Killed

    def replace(source: Path, destination: Path) -> None:
        if str(destination).endswith(".faiss"):
            raise Killed
        real(source, destination)

    target, name, broken = {
        "file": (os, "fsync", stop),
        "note": (ann_note, "write_note", stop),
        "rename of the file": (os, "replace", replace),
        "tidy": (ann_note, "tidy", stop),
        "log": (Catalog, "forget_changes", stop),
    }[place]
    patch.setattr(target, name, broken)


@pytest.mark.parametrize("place", ["file", "note", "rename of the file", "tidy", "log"])
def test_a_kill_at_any_step_leaves_right_answers(subject: VectorGallery, place: str) -> None:
    new = clustered(100, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        subject.add(new, refresh=False)
        stop_at(patch, place)
        with pytest.raises(Killed):
            subject.refresh()
    with pytest.MonkeyPatch.context() as patch:
        looked_everywhere(patch)
        with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as opened:
            for query in [*new[:5], *clustered(5, seed=2)]:
                found = [(m.id, m.score) for m in opened.search(query[None], 10)[0]]
                same(found, subject.brute(query, 10))
        subject.remove([3, 4])
        same(subject.answer(new[0], 10), subject.brute(new[0], 10))
    subject.refresh()
    subject.remove(list(range(10, 80)))
    note = note_of(subject)
    assert note.count == len(subject.truth)
    names = sorted(p.name for p in (subject.gallery.folder / "ann").iterdir())
    assert names == [f"{note.version}.{kind}" for kind in ("faiss", "json", "seen")]
    assert subject.warnings == []


def truncate(folder: Path) -> None:
    path = folder / "1.faiss"
    path.write_bytes(path.read_bytes()[:1000])


def garble(folder: Path) -> None:
    path = folder / "1.faiss"
    path.write_bytes(b"x" * path.stat().st_size)


def exchange(folder: Path) -> None:
    """An index of the same size with other ids."""
    index = faiss.read_index(str(folder / "1.faiss"))
    for n in range(index.nlist):
        faiss.rev_swig_ptr(index.invlists.get_ids(n), index.invlists.list_size(n))[:] += 100_000
    faiss.write_index(index, str(folder / "1.faiss"))


@pytest.mark.parametrize("damage", [truncate, garble, exchange], ids=lambda f: f.__name__)
def test_a_damaged_file_is_named_and_worked_around(subject: VectorGallery, damage) -> None:  # type: ignore[no-untyped-def]
    damage(subject.gallery.folder / "ann")
    with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as opened:
        for query in clustered(4, seed=2):
            found = [(m.id, m.score) for m in opened.search(query[None], 10)[0]]
            same(found, subject.brute(query, 10))
    assert len(subject.warnings) == 1, "said once"
    assert "1.faiss is damaged" in subject.warnings[0]
    assert subject.warnings[0].count("\n") == 0


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_no_damage_answers_wrongly(kind: str, tmp_path: Path, templates: Templates) -> None:
    """Random bytes of the file and of its note: the answers are those of brute force, or the damage is named."""
    subject = templates(tmp_path / "g", kind)
    query = clustered(1, seed=2)[0]
    folder, exact = subject.gallery.folder / "ann", subject.brute(query, 10)
    whole = {path: path.read_bytes() for path in (folder / "1.faiss", folder / "1.json")}
    rng = np.random.default_rng(0)
    for trial in range(24):
        path = list(whole)[trial % 2]
        data = bytearray(whole[path])
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        warnings: list[str] = []
        with Gallery.open(subject.gallery.folder, warn=warnings.append) as opened:
            same([(m.id, m.score) for m in opened.search(query[None], 10)[0]], exact)
            assert opened.info().search is None
        assert bool(warnings) == path.name.endswith(".faiss")
        assert all("1.faiss is damaged" in warning for warning in warnings)
        path.write_bytes(whole[path])
    subject.warnings.clear()
    (folder / "1.faiss").write_bytes(whole[folder / "1.faiss"][:-1] + b"?")
    assert subject.refresh(), "the next writer makes it anew"
    assert "1.faiss is damaged" in subject.warnings[0]
    assert subject.gallery.info().search is not None


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = made(tmp_path / "g")  # not a copy: its files would be new ones
    hashed: list[Path] = []
    real = intact.file_sha256
    monkeypatch.setattr(intact, "file_sha256", lambda path: hashed.append(path) or real(path))
    query = clustered(1, seed=2)
    path = subject.gallery.folder / "ann" / "1.faiss"

    def ask() -> int:
        hashed.clear()
        with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as opened:
            opened.search(query, 10)
            opened.search(query, 10)
        return len(hashed)

    assert ask() == 0, "the writer knows what it wrote"
    os.utime(path)
    assert (ask(), ask()) == (1, 0)
    shutil.copy2(path, path.with_suffix(".copy"))
    os.replace(path.with_suffix(".copy"), path)
    assert (ask(), ask()) == (1, 0)
    path.with_suffix(".seen").write_text("[1")
    assert (ask(), ask()) == (1, 0)
    assert subject.warnings == []


TRUNCATING = """
import os, sys
import numpy as np
from retrieval import Gallery
from retrieval.gallery.search import candidates
said = []
with Gallery.open(sys.argv[1], warn=said.append) as gallery:
    query = np.load(sys.argv[2])
    before = [[m.id for m in row] for row in gallery.search(query, 10)]
    os.truncate(sys.argv[3], 1000)
    after = [[m.id for m in row] for row in gallery.search(query, 10)]
    exact = [[m.id for m in row] for row in Gallery.open(sys.argv[1]).search(query, 10)]
assert after == exact
assert len(said) == 1 and "is damaged" in said[0], said
"""


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_file_cut_short_under_a_reader_ends_nothing(kind: str, tmp_path: Path, templates: Templates) -> None:
    """Touching mapped memory that the file no longer fills would kill the process: so it must be one of its own."""
    subject = templates(tmp_path / "g", kind)
    np.save(tmp_path / "q.npy", clustered(20, seed=2))
    path = subject.gallery.folder / "ann" / "1.faiss"
    words = [sys.executable, "-c", TRUNCATING, subject.gallery.folder, tmp_path / "q.npy", path]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_file_or_note_is_made_again(subject: VectorGallery) -> None:
    folder = subject.gallery.folder / "ann"
    query = clustered(1, seed=2)[0]
    for pattern, said in (("", 0), ("*.json", 0), ("*.faiss", 2)):
        shutil.rmtree(folder) if not pattern else next(folder.glob(pattern)).unlink()
        with Gallery.open(subject.gallery.folder, warn=subject.warnings.append) as opened:
            same([(m.id, m.score) for m in opened.search(query[None], 10)[0]], subject.brute(query, 10))
            assert opened.info().search is None
        assert len(subject.warnings) == said, "a file that a note names is missed"
        assert all(".faiss is missing" in warning for warning in subject.warnings)
        subject.warnings.clear()
        assert subject.refresh()
        assert note_of(subject).count == COUNT
        assert len(subject.warnings) == said / 2
        subject.warnings.clear()


def test_an_index_of_another_catalog_is_not_taken(subject: VectorGallery, tmp_path: Path) -> None:
    other = VectorGallery(tmp_path / "other")
    other.gallery.configure_search("ivf")
    other.add(clustered(COUNT, seed=50))
    shutil.rmtree(subject.gallery.folder / "ann")
    shutil.copytree(other.gallery.folder / "ann", subject.gallery.folder / "ann")
    query = clustered(1, seed=2)[0]
    same(subject.answer(query, 10), subject.brute(query, 10))
    assert subject.gallery.info().search is None


def test_a_file_from_before_the_log_begins_is_not_taken(subject: VectorGallery, tmp_path: Path) -> None:
    folder = subject.gallery.folder / "ann"
    shutil.copytree(folder, tmp_path / "old")
    new = clustered(100, seed=1)
    subject.add(new)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "old", folder)
    assert subject.gallery.info().search is None
    same(subject.answer(new[0], 10), subject.brute(new[0], 10))


def test_a_catalog_without_a_log_gets_one(subject: VectorGallery) -> None:
    subject.gallery.close()
    with sqlite3.connect(subject.gallery.catalog_path) as db:
        for name in ("vector_added", "vector_removed", "vector_changed"):
            db.execute(f"DROP TRIGGER {name}")
        db.execute("DROP TABLE changes")
        db.execute("DELETE FROM meta WHERE key IN ('identity', 'log_start')")
    db.close()
    query = clustered(1, seed=2)[0]
    same(subject.answer(query, 10), subject.brute(query, 10))  # a reader can do without
    subject.gallery.close()
    subject.add(clustered(5, seed=3))
    assert note_of(subject).count == COUNT + 5
    subject.remove([1])
    assert subject.gallery.info().changes == 1


# -- settings ----------------------------------------------------------------------------------------------------------


def test_the_kind_stays_with_the_gallery_until_another_is_named(subject: VectorGallery) -> None:
    folder = subject.gallery.folder
    with Gallery.open(folder) as opened:
        assert (opened.search_kind, opened.search_recall) == ("ivf", 0.98)
        opened.configure_search()
        opened.configure_search("flat", 0.9)
    again = VectorGallery.__new__(VectorGallery)
    again.gallery = Gallery.open(folder)
    assert (again.gallery.search_kind, again.gallery.search_recall) == ("flat", 0.9)
    assert again.refresh()
    note = note_of(again)
    assert (note.kind, note.recall) == ("flat", 1.0)
    index = faiss.read_index(str(again.gallery.info().index_file))
    assert index.ntotal == COUNT
    again.gallery.close()


@pytest.mark.parametrize("kind", ["nonsense", "IVF", "HNSW32,PQ7", "LSH", "PQ12"])
def test_what_cannot_be_made_is_refused(subject: VectorGallery, kind: str) -> None:
    with pytest.raises(UsageError):
        subject.gallery.configure_search(kind)
    with pytest.raises(UsageError, match="recall"):
        subject.gallery.configure_search("ivf", 1.5)
    assert subject.gallery.search_kind == "ivf"


def test_a_kind_that_needs_more_pictures_says_so_and_search_goes_on(tmp_path: Path) -> None:
    subject = VectorGallery(tmp_path / "g")
    subject.gallery.configure_search("IVF4096,SQ8")
    with pytest.raises(UsageError, match="IVF4096"):
        subject.add(clustered(1500))
    query = clustered(1, seed=2)[0]
    same(subject.answer(query, 10), subject.brute(query, 10))


def test_the_command_line_sets_and_shows_it(
    subject: VectorGallery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.cli import main as cli

    def main(arguments: list[str]) -> int:
        monkeypatch.setattr("sys.argv", ["retrieve", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    subject.gallery.close()
    folder = str(subject.gallery.folder)
    subject.remove([1])
    assert main(["info", "--index", folder, "--format", "json"]) == 0
    search = json.loads(capsys.readouterr().out)["search"]
    note = note_of(subject)
    assert search["kind"] == search["asked"] == "ivf"
    assert (search["recall"], search["milliseconds"]) == (note.recall, note.milliseconds)
    assert (search["vectors"], search["changes"], search["target"]) == (COUNT, 1, 0.98)
    assert main(["info", "--index", folder]) == 0
    out = capsys.readouterr().out
    assert f"recall@10 {note.recall:.3f}" in out
    assert "1 change beside it" in out
    # The folder that was indexed is not there, which is a warning: nothing is lost, and the index is made anew.
    assert main(["index", "--index", folder, "--ann", "flat", "--recall", "0.9"]) == 0
    capsys.readouterr()
    with Gallery.open(folder) as opened:
        info = opened.info()
        assert (info.ann, info.recall, info.images) == ("flat", 0.9, COUNT - 1)
        assert info.search is not None
        assert info.search.kind == "flat"
    assert main(["index", "--index", folder, "--ann", "rubbish"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are UTF-8")
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_a_folder_whose_name_is_no_utf8(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    vectors = clustered(3000, 16)
    made = VectorGallery(folder, 16)
    made.gallery.configure_search(kind, 0.9)
    made.add(vectors)
    with Gallery.open(folder) as opened:
        opened.warn = pytest.fail
        assert opened.info().index_file is not None
        assert [found[0].id for found in opened.search(vectors[:20], 1)] == list(range(1, 21))
