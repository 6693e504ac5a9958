"""The benchmark of approximate search: vectors like descriptors, figures against brute force, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from vector_gallery import VectorGallery, clustered

from retrieval.benchmarks.ann import run as benchmark
from retrieval.benchmarks.ann.descriptors import drawn_things, things_of
from retrieval.benchmarks.ann.results import AnnReport
from retrieval.benchmarks.ann.run import benchmark_ann
from retrieval.errors import UsageError
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search.looking import Effort


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AnnReport:
    folder = tmp_path_factory.mktemp("work")
    made = benchmark_ann([2000], ["ivf"], dim=32, queries=30, labelled=40, folder=folder, seed=1)
    assert list(folder.iterdir()) == []
    return made


def test_drawn_vectors_have_neighbours_and_a_falling_spectrum() -> None:
    rng = np.random.default_rng(0)
    things = drawn_things(3000, 64, rng)
    chosen = things.choose(3000, rng)
    vectors = things.pictures_of(chosen, rng)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = (vectors * things.points[chosen]).sum(axis=1)
    assert 0.3 < cosines.min() < 0.7 < np.median(cosines) < cosines.max() < 0.999
    spectrum = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert spectrum[0] > 8 * spectrum[32]
    uniform = rng.standard_normal((3000, 64))
    assert np.linalg.eigvalsh(np.cov(uniform.T))[::-1][0] < 2 * np.linalg.eigvalsh(np.cov(uniform.T))[::-1][32]
    similar = vectors @ vectors.T - 2 * np.eye(3000)
    assert np.median(similar.max(axis=1)) > 0.7 > 0.2 > np.median(np.abs(similar))
    counts = np.bincount(chosen)
    assert counts.max() > 10 * np.median(counts[counts > 0])


def test_vectors_of_a_gallery_keep_to_its_directions() -> None:
    rng = np.random.default_rng(0)
    flat = np.zeros((200, 20), np.float32)
    flat[:, :5] = rng.standard_normal((200, 5))
    things = things_of(flat, "a gallery", rng)
    vectors = things.pictures_of(np.arange(100), rng)
    assert np.abs(vectors[:, 5:]).max() < 1e-6
    with pytest.raises(UsageError, match="63 different"):
        things_of(flat[:63], "a gallery", rng)


def test_exact_search_comes_first_and_misses_nothing(report: AnnReport) -> None:
    exact, lists = report.rows
    assert (exact.kind, lists.kind) == ("flat", "ivf")
    assert exact.recall_1 == exact.recall_10 == exact.recall_100 == 1
    assert (exact.change, exact.ratio, exact.cpu_ratio) == (0, 1, 1)
    assert 0.3 < exact.mAP <= 1
    assert lists.recall_10 >= 0.97
    assert lists.change == pytest.approx(lists.mAP - exact.mAP)
    assert lists.ratio == pytest.approx(exact.milliseconds / lists.milliseconds)
    assert 1 < exact.memory < 1.1
    assert 0.25 < lists.memory < 0.45
    assert lists.add_share == pytest.approx(lists.add / lists.build)
    assert report.setting["faiss_threads"] >= 1


def test_an_index_that_looks_at_little_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_search, "effort_for", lambda note, k, stage: Effort(k, 4**stage))
    exact, lists = benchmark_ann([2000], ["ivf"], dim=32, queries=30, labelled=40, seed=1).rows
    assert lists.recall_10 < 0.95
    assert lists.change < 0
    assert exact.recall_10 == 1


def test_changes_are_measured_where_fewer_than_a_hundredth_are_searched_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "retrieval.gallery.search.candidates.MOST_CHANGED_VALUES", 1 << 12
    )  # 128 vectors; half of them beside
    rows = benchmark_ann([17_000], ["ivf"], dim=32, queries=20, labelled=20, seed=1).rows
    assert all(row.add > 0 and row.remove > 0 and row.milliseconds_changed > 0 for row in rows)


def test_mean_average_precision_is_that_of_a_full_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a loop over all ranks; the benchmark stops at 100, beyond which right answers have no rank."""
    seen = {}
    original = benchmark._Subject.questions

    def keep(self: benchmark._Subject, queries: int, labelled: int) -> benchmark._Questions:
        asked = original(self, queries, labelled)
        seen["questions"] = asked
        seen["vectors"] = self.gallery.store().take(np.arange(self.size))
        return asked

    monkeypatch.setattr(benchmark._Subject, "questions", keep)
    row = benchmark_ann([1500], [], dim=32, queries=5, labelled=10, seed=2).rows[0]
    precisions = []
    for query, right in zip(seen["questions"].vectors, seen["questions"].right, strict=False):
        order = (np.argsort(-(seen["vectors"].astype(np.float64) @ query)) + 1)[:100].tolist()
        total, hits = 0.0, 0
        for rank, i in enumerate(order):
            if i in right:
                before = hits / rank if rank else 1.0
                hits += 1
                total += (before + hits / (rank + 1)) / 2
        precisions.append(total / len(right))
    assert row.mAP == pytest.approx(np.mean(precisions), abs=1e-6)


def test_the_command_varies_a_gallery_and_saves_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from retrieval.cli import main as cli

    subject = VectorGallery(tmp_path / "g")
    subject.add(clustered(300))
    subject.gallery.close()
    saved = tmp_path / "out.json"
    arguments = (
        f"benchmark ann --sizes 1200 --kinds ivf --gallery {tmp_path / 'g'} --queries 10 --format json --save {saved}"
    )
    monkeypatch.setattr("sys.argv", ["retrieve", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["size"], row["dim"], row["kind"]) for row in rows] == [(1200, 48, "flat"), (1200, 48, "ivf")]
    data = json.loads(saved.read_text())
    assert data["rows"] == rows
    assert data["setting"]["vectors"] == str(tmp_path / "g")
    monkeypatch.setattr("sys.argv", ["retrieve", "benchmark", "ann", "--sizes", "10"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
