"""The Token Pooling experiment in small: what is counted, what is kept, what is written."""

import csv
import dataclasses
import importlib.util
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from retrieval.pooling import reduce_tokens

NAME = "token_pooling_experiment"
spec = importlib.util.spec_from_file_location(NAME, ROOT / "scripts" / f"{NAME}.py")
experiment = importlib.util.module_from_spec(spec)
sys.modules[NAME] = experiment
spec.loader.exec_module(experiment)

PLAN = experiment.Plan(seeds=2, rates=(0.5, 0.25), halvings=((0,), (0, 1)), tuned=((1,),), error_counts=(16, 32))
SMALL = {"epochs": 1, "tune_epochs": 1, "dim": 16, "depth": 3, "heads": 2}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small():
    pictures, recipe = experiment.digits()
    parts = pictures.train[:64], pictures.train_labels[:64], pictures.test[:50], pictures.test_labels[:50]
    return experiment.Pictures(*parts), dataclasses.replace(recipe, **SMALL)


@pytest.fixture(scope="module")
def measured(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, *experiment.experiment(*small, PLAN, out)


def test_digits_are_cut_once_and_standardised_by_the_training_part():
    from sklearn.datasets import load_digits

    pictures, recipe = experiment.digits()
    assert len(pictures.train) == 1097
    assert len(pictures.test) == 700
    assert torch.equal(torch.cat((pictures.train_labels, pictures.test_labels)), torch.tensor(load_digits().target))
    assert pictures.train.mean().abs() < 1e-5
    assert abs(pictures.train.std() - 1) < 1e-5
    assert abs(pictures.test.mean()) > 1e-4  # by the training part alone
    assert recipe.tokens == 65


def test_variation_moves_and_mirrors_pictures_of_a_batch_each_in_its_way():
    images = torch.zeros(40, 1, 32, 32)
    images[:, :, 12:20, 2:10] = 1  # left of the middle
    left = experiment._varied(images, False, torch.Generator().manual_seed(0))[..., :16].sum((1, 2, 3))
    mirrored = experiment._varied(images, True, torch.Generator().manual_seed(0))[..., :16].sum((1, 2, 3))
    assert (left > 30).all()
    assert len(left.unique()) > 30
    assert 10 < (mirrored < 10).sum() < 30


def test_every_method_has_the_same_network_and_its_own_cost(small, measured):
    _, recipe = small
    _, outcomes, full, _ = measured
    dim, n = recipe.dim, 64

    def network(*counts):
        return sum(12 * dim**2 * c + 2 * c * c * dim for c in counts) + 64 * 16 * dim + dim * 10

    assert full.network == network(65, 65, 65)
    found = {(o.mode, o.schedule, o.method): o for o in outcomes}
    assert len(found) == len(outcomes) == 2 * (2 * 6 + 2 * 7) + 7
    for (_, schedule, _), o in found.items():
        if schedule == "16 after block 1":
            assert o.counts == [17, 17, 17]
            assert o.network == network(65, 17, 17)
    own = {m: found["post-hoc", "16 after block 1", m].own for m in experiment.METHODS}
    significance = 65 * 65 * dim
    assert own["random"] == 0
    assert own["grid"] == n * dim
    assert own["topk"] == significance
    assert own["kmeans"] == significance + 5 * (n * 16 * dim + n * dim)
    assert own["weighted-kmedoids"] == significance + n * n * dim + 5 * n * n + n * dim
    assert found["post-hoc", "16 after block 1, 4 after block 2", "grid"].counts == [17, 5, 5]
    assert found["post-hoc", "0.5", "topk"].counts == [33, 17, 17]


def test_hits_are_those_of_the_pooled_model(small, measured):
    pictures, recipe = small
    out, outcomes, full, _ = measured
    vit = experiment.new_vit(recipe, 1)
    experiment.kept(out / "seed1.safetensors", {**dataclasses.asdict(recipe), "seed": 1}, vit, pytest.fail)
    with torch.no_grad():
        assert np.array_equal(full.hits[1], (vit(pictures.test).argmax(1) == pictures.test_labels).numpy())
    for o in outcomes:
        assert len(o.hits) == 2
        assert all(h.shape == (50,) for h in o.hits)
    random = next(o for o in outcomes if (o.mode, o.method) == ("post-hoc", "random"))
    assert set(np.round(random.mean_hits * 2 * experiment.DRAWS, 6)) <= set(
        range(11)
    )  # the mean of all draws and seeds


def test_fine_tuning_changes_a_copy(small, measured):
    out, *_ = measured
    _, recipe = small
    from safetensors.torch import load_file

    base, tuned = load_file(out / "seed0.safetensors"), load_file(out / "seed0-topk-all-17-all.safetensors")
    assert base.keys() == tuned.keys()
    assert not torch.equal(base["head.weight"], tuned["head.weight"])
    again = experiment.new_vit(recipe, 0)
    assert not torch.equal(base["head.weight"], again.head.weight)  # trained at all


def test_trained_models_are_used_again_only_for_the_same_recipe(small, measured):
    pictures, recipe = small
    out, outcomes, full, errors = measured
    times = {file: file.stat().st_mtime_ns for file in out.glob("*.safetensors")}
    assert len(times) == 2 * (1 + 7)
    again, full_again, errors_again = experiment.experiment(pictures, recipe, PLAN, out)
    assert {file: file.stat().st_mtime_ns for file in out.glob("*.safetensors")} == times
    assert np.array_equal(full.hits, full_again.hits)
    assert all(np.array_equal(a.hits, b.hits) for a, b in zip(outcomes, again, strict=True))
    assert errors == errors_again
    trained = []
    changed = {**dataclasses.asdict(recipe), "seed": 0, "rate": 0.5}
    file = out / "seed0.safetensors"
    copy = out / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    experiment.kept(copy, changed, experiment.new_vit(recipe, 0), lambda: trained.append(True))
    assert trained == [True]
    copy.unlink()


@torch.no_grad()
def test_reconstruction_error_by_hand(small):
    """The block's tokens taken by running the model by hand; the error by loops."""
    pictures, recipe = small
    vit, images = experiment.new_vit(recipe, 0).eval(), pictures.test[:3]
    x = vit._pos_embed(vit.patch_embed(images))
    for block in vit.blocks[:2]:
        x = block(x)
    body = x[:, 1:].double()
    for method in ("grid", "random"):
        shares = []
        generator = torch.Generator().manual_seed(0)
        reduced = reduce_tokens(x, 17, method, prefix=1, generator=generator).tokens[:, 1:].double()
        for tokens, kept in zip(body, reduced, strict=True):
            mean, error, spread = tokens.mean(0), 0.0, 0.0
            for i, token in enumerate(tokens):
                row, column = divmod(i, 8)
                if method == "grid":
                    corner = 16 * (row // 2) + 2 * (column // 2)
                    stands = tokens[[corner, corner + 1, corner + 8, corner + 9]].mean(0)
                    error += float((token - stands).square().sum())
                else:
                    error += min(float((token - k).square().sum()) for k in kept)
                spread += float((token - mean).square().sum())
            shares.append(error / spread)
        measured = experiment.reconstruction_error(vit, images, 1, 16, method)
        assert measured == pytest.approx(np.mean(shares), rel=1e-4)
    assert not vit.blocks[1]._forward_hooks
    assert experiment.reconstruction_error(vit, images, 1, 64, "topk") == 0


def test_at_cost_lies_between_the_nearest_schedules():
    def point(network, own, hits):
        return experiment.Outcome("post-hoc", "rate", "", "topk", [], network, own, [np.array(hits, dtype=float)])

    curve = [point(60, 0, [1, 0, 0]), point(15, 5, [0, 0, 0])]
    full = np.array([1.0, 1.0, 0.0])
    assert experiment.at_cost(curve, full, 100, 10).tolist() == [0, 0, 0]
    assert experiment.at_cost(curve, full, 100, 30).tolist() == [0.25, 0, 0]
    assert experiment.at_cost(curve, full, 100, 60).tolist() == [1, 0, 0]
    assert experiment.at_cost(curve, full, 100, 90).tolist() == [1, 0.75, 0]
    assert experiment.at_cost(curve, full, 100, 130).tolist() == [1, 1, 0]
    best = experiment.frontier([*curve, point(70, 0, [0, 0, 0])])
    assert [o.network for o in best] == [15, 60]


def test_tables_files_and_plots(measured, tmp_path, capsys):
    _, outcomes, full, errors = measured
    experiment.report(outcomes, full, errors)
    printed = capsys.readouterr().out
    assert f"Unreduced: {experiment.accuracy(full)} %" in printed
    for title in ("post-hoc, schedule by rate", "post-hoc, schedule by halving", "fine-tuned, schedule by halving"):
        assert title in printed
    assert "weighted K-medoids minus the others" in printed
    assert "64" not in [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    experiment.write_results(outcomes, full, errors, tmp_path)
    with (tmp_path / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1 + len(outcomes)
    for row, o in zip(rows, [full, *outcomes], strict=True):
        assert float(row["accuracy"]) == pytest.approx(np.mean([h.mean() for h in o.hits]), abs=1e-5)
        assert float(row["seed_min"]) <= float(row["accuracy"]) <= float(row["seed_max"])
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
    with (tmp_path / "errors.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {(int(r["block"]), int(r["patches"])) for r in rows} == {(b, k) for b in (0, 1) for k in (16, 32)}
    assert len(rows) == 2 * (7 + 6)
    for plot, data in ((experiment.plot_tradeoff, (outcomes, full)), (experiment.plot_errors, (errors,))):
        plot(*data, "title", tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_difference_has_the_sign_of_the_first_and_marks_what_is_clear():
    better, worse = np.ones(40), np.repeat([0.0, 1.0], 20)
    assert experiment.difference(better, worse).startswith("+50.0 [")
    assert experiment.difference(better, worse).endswith("*")
    assert experiment.difference(worse, better).startswith("-50.0 [")
    mixed = np.tile([0.0, 1.0], 20)
    assert not experiment.difference(mixed, 1 - mixed).endswith("*")


def test_the_count_of_deit_small_saves_42_percent(capsys):
    experiment.report_deit()
    small = [
        [c.strip() for c in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if "deit-s" in line
    ]
    assert {row[5] for row in small} == {"42.2"}
    # 12 blocks of 197 tokens and 384 channels, 196 patches of 16 x 16 x 3, 1000 classes: 4.6 G, as published.
    whole = 12 * (12 * 384**2 * 197 + 2 * 197**2 * 384) + 196 * 768 * 384 + 384 * 1000
    assert {row[2] for row in small} == {f"{whole / 1e9:.3f}"}
    for row in small:
        assert 1 - (float(row[3]) + float(row[4])) / float(row[2]) == pytest.approx(float(row[6]) / 100, abs=1e-3)


@pytest.mark.realdata
def test_grocery_lists_are_read(shared_data, tmp_path):
    source, folder = shared_data / "grocery", tmp_path / "set"
    folder.mkdir()
    for part in ("train", "val", "test"):
        (folder / part).symlink_to(source / part)
        lines = (source / f"{part}.txt").read_text().splitlines()
        (folder / f"{part}.txt").write_text("\n".join(lines[:: len(lines) // 6]) + "\n")
    pictures, recipe = experiment.grocery(folder, tmp_path / "cache" / "pictures.npz")
    assert pictures.train.shape[1:] == pictures.test.shape[1:] == (3, 64, 64)
    assert recipe.tokens == 65
    expected = [int(line.split(",")[2]) for line in (folder / "test.txt").read_text().splitlines()]
    assert pictures.test_labels.tolist() == expected
    assert torch.equal(experiment.grocery(folder, tmp_path / "cache" / "pictures.npz")[0].train, pictures.train)
