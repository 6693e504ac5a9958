"""Inverted lists looked at as far as they can hold an answer: against a loop over the lists, and what was promised."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from vector_gallery import VectorGallery, clustered

from retrieval.cli.main import main
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import index as ann
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import lists, looking
from retrieval.gallery.search import note as ann_note
from retrieval.gallery.search import recall as ann_recall
from retrieval.gallery.search.looking import Effort, effort_for
from retrieval.gallery.search.note import ShardNote

DIM, COUNT, LISTS, K = 24, 6000, 64, 10


@pytest.fixture(autouse=True)
def _no_gallery_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "_SMALL", 0)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(COUNT, DIM, clusters=60)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return np.concatenate([clustered(30, DIM, seed=1, clusters=60), clustered(10, DIM, seed=2, clusters=300)])


def filled(factory: str, vectors: np.ndarray) -> Any:
    """Ids begin at 100."""
    index, _ = ann_kind.trained(ann_kind.Plan("factory", factory, 1), vectors.shape[1], vectors)
    index.add_with_ids(vectors, np.arange(100, 100 + len(vectors)))
    return index


def by_loop(
    index: Any, vectors: np.ndarray, query: np.ndarray, wanted: int, most: int, reach: float, hidden: set[int]
) -> tuple[list[int], int]:
    """Ids, best first, and how many lists were looked at; of an index that holds the vectors as they are."""
    centres = index.quantizer.reconstruct_n(0, index.nlist).astype(np.float64)
    order = np.argsort(-(centres @ query), kind="stable")[:most]

    def held(number: int) -> list[int]:
        size = index.invlists.list_size(int(number))
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(int(number)), size).tolist() if size else []
        return [i for i in ids if i not in hidden]

    def score(i: int) -> float:
        return float(vectors[i - 100].astype(np.float64) @ query)

    first = sorted((i for number in order[: lists.FIRST] for i in held(number)), key=score, reverse=True)
    angle = math.acos(score(first[K - 1])) if len(first) >= K else math.pi
    near = [n for n in order[lists.FIRST :] if math.acos(min(1.0, centres[n] @ query)) <= angle + reach]
    found = sorted([*first, *(i for number in near for i in held(number))], key=score, reverse=True)
    return found[:wanted], lists.FIRST + len(near)


@pytest.mark.parametrize("reach", [0.0, 0.55, 0.8])
def test_the_lists_within_reach_are_those_of_a_loop(vectors: np.ndarray, queries: np.ndarray, reach: float) -> None:
    index = filled(f"IVF{LISTS},Flat", vectors)
    hidden = set(range(100, 100 + COUNT, 3))
    bits = np.zeros(100 + COUNT, bool)
    bits[list(hidden)] = True
    library: Any = faiss
    inside = library.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
    shown = library.IDSelectorNot(inside)
    looked = []
    for query in queries:
        for without, selector in ((set[int](), None), (hidden, shown)):
            expected, count = by_loop(index, vectors, query.astype(np.float64), 20, 40, reach, without)
            found = lists.within_reach(index, query[None], 20, K, 40, reach, selector)[0]
            assert [i for i in found.tolist() if i >= 0] == expected
            looked.append(count)
    together = lists.within_reach(index, queries, 20, K, 40, reach)
    alone = [lists.within_reach(index, query[None], 20, K, 40, reach)[0] for query in queries]
    assert [set(found) for found in together.tolist()] == [set(found.tolist()) for found in alone]
    if reach == 0.55:
        assert len(set(looked)) > 5, "some queries look further than others"
        assert lists.FIRST < np.median(looked) < 40


@pytest.mark.parametrize("factory", ["IVF64,SQ8", "PCAR16,IVF64,SQ8", "IVF64,PQ8x4np", "IVF64,Flat"])
def test_with_all_in_reach_it_is_the_plain_search(vectors: np.ndarray, queries: np.ndarray, factory: str) -> None:
    """Residual codes and turned vectors too; ``search`` allows twice the effort."""
    index = filled(factory, vectors)
    assert lists.can_be_told(index)
    plain = looking.search(index, queries, 30, Effort(K, 20))
    found = looking.search(index, queries, 30, Effort(K, 10, math.pi))
    assert [set(row) for row in found.tolist()] == [set(row) for row in plain.tolist()]
    near = looking.search(index, queries, 30, Effort(K, 10, 0.0))
    assert [set(row) for row in near.tolist()] != [set(row) for row in plain.tolist()]


def test_too_few_in_the_first_lists_look_at_all(vectors: np.ndarray) -> None:
    index = filled("IVF64,Flat", vectors[:200])
    found = lists.within_reach(index, vectors[:3], 150, 140, 64, 0.0)
    assert (found >= 0).all()


@pytest.mark.filterwarnings("error")
def test_where_there_are_too_few_in_all_lists_nothing_is_said(vectors: np.ndarray) -> None:
    """Of vectors that a turn has shortened: their least score is divided by less than 1."""
    index = filled("PCAR16,IVF64,SQ8", vectors[:2000])
    found = lists.within_reach(index, vectors[:3], 2100, 2050, 64, 0.0)
    assert ((found >= 0).sum(axis=1) == 2000).all()


def test_fast_scan_is_searched_in_one_step(vectors: np.ndarray) -> None:
    assert not lists.can_be_told(filled("IVF64,PQ12x4fs", vectors))


def test_behind_a_table_of_ids_too(tmp_path: Path, vectors: np.ndarray) -> None:
    subject = VectorGallery(tmp_path / "g", DIM)
    subject.gallery.configure_search("IDMap,IVF128,SQ8", 0.95)
    subject.add(vectors)
    assert shard_of(subject).reach is None
    query = clustered(1, DIM, seed=7, clusters=60)[0]
    assert [i for i, _ in subject.answer(query, 3)] == [i for i, _ in subject.brute(query, 3)]


def compared(trial: ann_recall.Trial, index: Any, effort: Effort, wanted: int) -> np.ndarray:
    """How many vectors each query is compared with: what takes the time where there are many."""
    counts = []
    for query in trial.queries[:90]:
        faiss.cvar.indexIVF_stats.reset()
        looking.search(index, query[None], wanted, effort)
        counts.append(faiss.cvar.indexIVF_stats.ndis)
    return np.array(counts, float)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> VectorGallery:
    """Vectors that are compared, not milliseconds, decide between ways to look."""
    subject = VectorGallery(tmp_path_factory.mktemp("told") / "g", DIM)
    subject.gallery.configure_search("IVF128,SQ8", 0.95)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann_recall.Trial, "milliseconds", compared)
        subject.add(vectors)
    return subject


def shard_of(subject: VectorGallery) -> ShardNote:
    note = subject.gallery.info().search
    assert note is not None
    (shard,) = note.shards
    return shard


def test_the_reach_is_the_least_that_keeps_the_promise(told: VectorGallery) -> None:
    """Others leave the target in doubt, a sixteenth of slack; and fewer vectors are compared than with the effort alone."""
    shard = shard_of(told)
    assert shard.reach is not None
    assert shard.effort is not None
    assert shard.effort > lists.FIRST
    ids, rows = told.gallery.catalog.searchable()
    trial = ann_recall.Trial(told.gallery.store(), ids, rows)
    index = ann_file.read(told.gallery.folder / "ann", shard)

    def surely(reach: float) -> float:
        recalls = trial.recalls(index, Effort(K, shard.effort or 0, reach), 999)[:, -1]
        sure = recalls.mean() - 1.645 * recalls.std() / len(recalls) ** 0.5
        return float(min(sure, *(recalls[way::3].mean() for way in range(3))))

    target = 1 - 0.05 * 2 / 3  # a third of what may be missed is kept in reserve
    assert surely(shard.reach) >= target
    less = [shard.reach * (1 - step / 16) for step in (1.01, 2, 4, 8)]
    assert all(surely(reach) < target for reach in less)
    alone, reaching = (
        np.median(compared(trial, index, effort, 26)) for effort in (Effort(K, shard.effort), effort_for(shard, K))
    )
    assert reaching < 0.95 * alone


def test_what_is_found_is_what_was_promised(told: VectorGallery) -> None:
    hits = 0
    for query in clustered(200, DIM, seed=5, clusters=60):
        hits += len({i for i, _ in told.answer(query, K)} & {i for i, _ in told.brute(query, K)})
    assert hits >= 0.94 * 200 * K
    assert told.warnings == []
    stages = [effort_for(shard_of(told), K, stage) for stage in (0, 1)]
    assert stages[0].reach == shard_of(told).reach
    assert stages[1] == Effort(K, 4 * stages[0].most, None), "ties at the border are looked for in all lists"


def test_fewer_answers_are_found_as_surely(told: VectorGallery) -> None:
    """The reach was measured from the tenth: from the first, it would not lead to the lists in which a better first lies."""
    for query in clustered(200, DIM, seed=8, clusters=60):
        assert told.answer(query, 1) == told.answer(query, K)[:1]
        assert told.answer(query, 3) == told.answer(query, K)[:3]


def test_info_tells_the_reach(
    told: VectorGallery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["retrieve", "info", "--index", str(told.gallery.folder), "--format", "json"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        main()
    search = json.loads(capsys.readouterr().out)["search"]
    shard = shard_of(told)
    assert (search["effort"], search["reach"]) == (shard.effort, shard.reach)
    assert [(file["effort"], file["reach"]) for file in search["files"]] == [(shard.effort, shard.reach)]


def test_an_index_from_before_is_searched_as_before(tmp_path: Path, told: VectorGallery) -> None:
    """Its note knows no reach."""
    subject = VectorGallery.copied(told, tmp_path / "g")
    folder = subject.gallery.folder / "ann"
    path = next(folder.glob("*.json"))
    data = json.loads(path.read_text())
    (shard,) = data["shards"]
    del shard["reach"], data["format"], data["check"]
    path.write_text(json.dumps({"format": ann_note.FORMAT, **data, "check": ann_note._check(data)}))
    assert shard_of(subject) == replace(shard_of(told), reach=None)
    query = clustered(1, DIM, seed=6, clusters=60)[0]
    assert [i for i, _ in subject.answer(query, 3)] == [i for i, _ in subject.brute(query, 3)]
    assert subject.warnings == []
