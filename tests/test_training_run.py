"""Runs as a whole: resumed after a kill, in two processes, with broken numbers and broken pictures, small and real."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MODEL, RETRIEVE, knowing_tiny
from torch import Tensor, nn

from retrieval.datasets.groundtruth import GroundTruth, Query
from retrieval.describe.model import load_model
from retrieval.errors import DatasetError, ModelError, RetrievalError, UsageError
from retrieval.models.checkpoint import load_tensors, read_spec, tensors_sha256
from retrieval.training import session as run
from retrieval.training import trainer, tuples, validation
from retrieval.training.config import TrainingConfig
from retrieval.training.data.mining import Mined
from retrieval.training.data.pictures import Pictures
from retrieval.training.losses import ContrastiveLoss
from retrieval.training.machine import Machine
from retrieval.training.network import whitening_layer
from retrieval.training.network.learner import Learner
from retrieval.training.network.live import LiveEngine, describe_pictures
from retrieval.training.record.checkpoints import Checkpoints
from retrieval.training.record.observers import Observers
from retrieval.training.record.run_folder import RunFolder
from retrieval.training.record.state import read_state

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of four pictures: coarse patterns, seen with noise, in two shapes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for c in range(8):
        pattern = rng.integers(0, 256, (3, 3, 3))
        (folder / f"class{c}").mkdir()
        for k in range(4):
            cells = np.clip(pattern + rng.integers(-60, 60, (3, 3, 3)), 0, 255).astype(np.uint8)
            size = (48, 36) if k % 2 else (48, 48)
            Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(folder / f"class{c}" / f"{k}.png")
    return folder


def config_of(photos: Path, **options: Any) -> TrainingConfig:
    chosen = {
        "model": MODEL, "negatives": 2, "queries": 8, "pool": 24, "tuples_per_step": 2, "epochs": 2, "size": 48,
        "lr": 1e-3, "validate": "0.25",
    }  # fmt: skip
    return TrainingConfig(data=str(photos), **{**chosen, **options})


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two epochs, with an average of the weights."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run.train(config_of(photos, ema=0.5), out, device="cpu", tensorboard=True)
    return out


def weights(path: Path) -> dict[str, Tensor]:
    return load_tensors(path)[1]


def figures(out: Path) -> list[dict[str, Any]]:
    """The metrics without what differs from one time to the next."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


# ---------------------------------------------------------------- a run and its folder


def test_a_run_leaves_all_that_is_promised(photos: Path, finished: Path) -> None:
    lines = figures(finished)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert all(0 < line["mAP"] <= 1 for line in lines)
    assert all(line["tuples"] == 8 and line["loss"] > 0 and line["negative_distance"] > 0 for line in lines[1:])
    assert lines[0]["p"] == 3.0
    assert abs(lines[2]["p"] - 3) > 1e-3
    assert lines[2]["lr"] == pytest.approx(1e-3 * np.exp(-0.01))
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["torch"] == torch.__version__.split("+")[0] or environment["torch"] == torch.__version__
    assert Image.open(finished / "curves.png").size[0] > 500
    assert list((finished / "tensorboard").iterdir())
    start = run.build_network(load_model(MODEL).spec).state_dict()
    assert any(not torch.equal(v, start[k]) for k, v in weights(finished / "last").items() if k.endswith("weight"))


def test_the_model_kept_is_the_average_of_weights_and_a_model_everywhere(photos: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", []
    outcome = run.train(config_of(photos, ema=0.5, epochs=1, validate="none"), out, device="cpu", say=said.append)
    assert "validation: none, so the last epoch is kept as the best" in said  # asked for: no word of how to have one
    assert (outcome.best, outcome.best_epoch) == (None, 1)
    tensors, _ = read_state(out / "last" / "state.safetensors")
    averaged = {k.removeprefix("average/"): v for k, v in tensors.items() if k.startswith("average/")}
    for found in (weights(out), weights(out / "last")):
        assert all(torch.equal(found[k], v) for k, v in averaged.items())
    assert any(not torch.equal(v, tensors[f"network/{k}"]) for k, v in averaged.items())
    model = load_model(out)
    assert model.spec.weights.sha256 == read_spec(out).weights.sha256 == tensors_sha256(weights(out))
    assert model.spec.image == load_model(MODEL).spec.image
    descriptor = model.describe(str(next(photos.rglob("*.png"))))
    assert descriptor.shape == (32,)
    assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-4)


def test_the_best_model_is_that_of_the_best_epoch(finished: Path) -> None:
    lines = figures(finished)
    best = max(lines, key=lambda line: line["mAP"])["epoch"]
    assert read_state(finished / "last" / "state.safetensors")[1]["place"]["best_epoch"] == best
    assert (weights(finished).keys()) == weights(finished / "last").keys()


def test_a_configuration_repeats_its_run_bit_by_bit(finished: Path, tmp_path: Path) -> None:
    config = TrainingConfig.load(finished / "config.json")
    run.train(config, tmp_path / "again", device="cpu", workers=1)
    assert figures(tmp_path / "again") == figures(finished)
    for name in ("best.safetensors", "last/model.safetensors"):
        found, wanted = weights(tmp_path / "again" / name), weights(finished / name)
        assert all(torch.equal(found[k], v) for k, v in wanted.items())


def test_the_head_learns_alone(photos: Path, tmp_path: Path) -> None:
    run.train(config_of(photos, epochs=1, freeze_backbone=True), tmp_path / "run", device="cpu")
    start, end = run.build_network(load_model(MODEL).spec).state_dict(), weights(tmp_path / "run" / "last")
    learned = {name for name, _ in run.build_network(load_model(MODEL).spec).named_parameters()}
    assert {name for name in learned if not torch.equal(end[name], start[name])} == {"pooling.p"}
    with pytest.raises(UsageError, match="nothing is left to learn"):
        run.train(config_of(photos, epochs=1, freeze_backbone=True, fixed_p=True), tmp_path / "none", device="cpu")


def test_another_seed_is_another_run(photos: Path, finished: Path, tmp_path: Path) -> None:
    run.train(config_of(photos, ema=0.5, seed=1, epochs=1), tmp_path / "other", device="cpu")
    assert figures(tmp_path / "other")[1]["loss"] != figures(finished)[1]["loss"]


# ---------------------------------------------------------------- kill and resume


def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_the_uninterrupted_one(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    (tmp_path / "config.json").write_text(config_of(photos, ema=0.5, save_every=1).to_json())
    command = [*RETRIEVE, "train", "--config", str(tmp_path / "config.json"), "--out", str(out)]
    environment = {**knowing_tiny(), "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < until:
        place = _place(out)
        if place and place["epoch"] == 1 and 1 <= place["step"] <= 2:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    place = _place(out)
    assert place is not None
    assert (place["epoch"], 1 <= place["step"] <= 3) == (1, True)
    assert len(figures(out)) == 2  # the second epoch has not been measured
    (out / "metrics.jsonl").write_text((out / "metrics.jsonl").read_text() + '{"epoch": 2, "mAP": 0.1}\n{"epo')
    said: list[str] = []
    run.resume(out, device="cpu", say=said.append)
    assert said[0].startswith("resuming at epoch 2, step ")
    assert figures(out) == figures(finished)
    for name in ("best.safetensors", "last/model.safetensors"):
        found, wanted = weights(out / name), weights(finished / name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[k], v) for k, v in wanted.items()), name
    ours, theirs = (read_state(p / "last" / "state.safetensors")[0] for p in (out, finished))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())


def _place(out: Path) -> dict[str, Any] | None:
    try:
        return read_state(out / "last" / "state.safetensors")[1]["place"]
    except ModelError:
        return None


def test_a_finished_run_stays_as_it_is(finished: Path) -> None:
    before = {p: p.read_bytes() for p in finished.rglob("*.safetensors")}
    outcome = run.resume(finished, device="cpu")
    assert outcome.best_epoch == read_state(finished / "last" / "state.safetensors")[1]["place"]["best_epoch"]
    assert [line["epoch"] for line in outcome.metrics] == [0, 1, 2]
    assert {p: p.read_bytes() for p in finished.rglob("*.safetensors")} == before


def test_a_finished_run_made_longer_is_one_that_was_begun_that_long(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "longer"
    run.train(config_of(photos, ema=0.5, epochs=1), out, device="cpu")
    with pytest.raises(UsageError, match="holds no run"):
        run.resume(tmp_path / "nowhere", epochs=2)
    outcome = run.resume(out, epochs=2, device="cpu")
    assert [line["epoch"] for line in outcome.metrics] == [0, 1, 2]
    assert figures(out) == figures(finished)
    assert (out / "config.json").read_bytes() == (finished / "config.json").read_bytes()
    for name in ("best.safetensors", "last/model.safetensors"):
        found, wanted = weights(out / name), weights(finished / name)
        assert all(torch.equal(found[k], v) for k, v in wanted.items()), name
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="in epoch 2 already"):
        run.resume(out, epochs=1, device="cpu")
    with pytest.raises(UsageError, match="epochs must be"):
        run.resume(out, epochs=0, device="cpu")
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_changed_data_are_refused(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    run.train(config_of(data, epochs=1, queries=2), tmp_path / "run", device="cpu")
    Image.new("RGB", (40, 40)).save(data / "class0" / "new.png")
    Image.new("RGB", (40, 40), "red").save(data / "class1" / "new.png")
    with pytest.raises(DatasetError, match="is not what this run was begun with"):
        run.resume(tmp_path / "run", device="cpu")


def test_a_run_is_not_written_over(photos: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        run.train(config_of(photos), finished, device="cpu")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        run.train(config_of(photos), tmp_path, device="cpu")
    with pytest.raises(UsageError, match="holds no run"):
        run.resume(tmp_path, device="cpu")


def cut_off(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """A run that ends before its first checkpoint: where its models are to be saved, or its state."""

    def interrupted(self: Checkpoints, *_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, at, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.train(config_of(photos), out, device="cpu")
    (out / ".0123456789abcdef.tmp").write_text("half a file of a process that was killed")
    (out / "last" / ".fedcba9876543210.tmp").write_text("another")


@pytest.mark.parametrize("at", ["save_models", "save_state"])
def test_a_folder_is_free_until_the_first_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    out = tmp_path / "run"
    cut_off(photos, out, monkeypatch, at)
    (out / "left_out.json").write_text('{"pictures": ["of the first try"]}')
    (out / "left_out_bench.jpg").write_bytes(b"a sheet of the first try")
    with pytest.raises(ModelError, match=f"Begin it again: .*--config {out}/config.json --out {out}"):
        run.resume(out, device="cpu")
    run.train(config_of(photos, epochs=1, seed=5), out, device="cpu")
    assert TrainingConfig.load(out / "config.json").seed == 5
    assert [line["epoch"] for line in figures(out)] == [0, 1]
    assert {path.name for path in out.iterdir()} == {
        "best.safetensors", "config.json", "curves.png", "environment.json", "last", "metrics.jsonl",
    }  # fmt: skip
    assert len(list((out / "last").iterdir())) == 2
    with pytest.raises(UsageError, match="holds a run already"):
        run.train(config_of(photos), out, device="cpu")


@pytest.mark.parametrize("name", ["note.txt", "last/mine.npy", "left_out_notes.txt", "curves.png", ".hidden", "sub/x"])
def test_what_is_not_of_an_unbegun_run_keeps_its_folder_from_being_free(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cut_off(photos, tmp_path / "run", monkeypatch, "save_state")
    mine = tmp_path / "run" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=f"not an empty folder: it holds {name.removesuffix('/x')}"):
        run.train(config_of(photos), tmp_path / "run", device="cpu")
    with pytest.raises(ModelError, match=r"nothing to resume.*another --out"):
        run.resume(tmp_path / "run", device="cpu")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "gone", [["last/state.safetensors"], ["last/state.safetensors", "metrics.jsonl", "curves.png"]]
)
def test_a_finished_run_without_its_state_is_not_written_over(
    photos: Path, finished: Path, tmp_path: Path, gone: list[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    for name in gone:
        (tmp_path / "run" / name).unlink()
    with pytest.raises(UsageError, match="not an empty folder"):
        run.train(config_of(photos), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == (finished / "best.safetensors").read_bytes()


@pytest.mark.parametrize("names", [["config.json"], ["environment.json"], ["config.json", "environment.json"]])
def test_files_that_only_have_the_names_of_a_run_s_are_kept(photos: Path, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match="not an empty folder"):
        run.train(config_of(photos), tmp_path, device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_folder_in_which_a_run_is_being_prepared_is_not_free(photos: Path, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", config_of(photos), {})
    with pytest.raises(UsageError, match="another process is preparing a run"):
        RunFolder(tmp_path / "run").require_free()
    folder.close()
    RunFolder(tmp_path / "run").require_free()


# ---------------------------------------------------------------- two processes


@pytest.mark.slow
def test_two_processes_train_one_model(photos: Path, tmp_path: Path) -> None:
    """The same tuples, gradients summed: both ranks end with equal weights, and near those of one process alone.
    Slow: three processes, each of which imports torch."""
    losses = ["contrastive", "ap"]
    config = config_of(photos, optimiser="sgd", lr=1e-4, epochs=1, tuples_per_step=3)
    (tmp_path / "config.json").write_text(config.to_json())
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {**knowing_tiny(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = [str(HERE / "train_ranks.py"), str(tmp_path / "config.json"), str(tmp_path / "two"), *losses]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for loss in losses:
        first, second = (json.loads((tmp_path / f"two-{loss}-rank{rank}.json").read_text()) for rank in (0, 1))
        assert first == second
        run.train(replace(config, loss=loss), tmp_path / f"one-{loss}", device="cpu")
        facts, alone = read_state(tmp_path / f"one-{loss}" / "last" / "state.safetensors")
        assert facts
        assert alone["place"]["best"] == pytest.approx(first["best"], abs=0.02)
        start = run.build_network(load_model(MODEL).spec).state_dict()
        two, one = weights(tmp_path / f"two-{loss}" / "last"), weights(tmp_path / f"one-{loss}" / "last")
        moved = apart = 0.0
        for name, value in one.items():
            if "running" not in name and value.is_floating_point():
                moved = max(moved, float((value - start[name]).abs().max()))
                apart = max(apart, float((value - two[name]).abs().max()))
        assert moved > 1e-5
        assert apart < 0.02 * moved


# ---------------------------------------------------------------- what goes wrong


class Breaking(ContrastiveLoss):
    """A loss that breaks at a given call: its value, or only its gradient."""

    calls = 0

    def __init__(self, at: int, what: str) -> None:
        super().__init__(0.7)
        self.at, self.what = at, what

    def forward(self, descriptors: Tensor, tuples: int = 1) -> Tensor:
        self.calls += 1
        value = super().forward(descriptors, tuples)
        if self.calls != self.at:
            return value
        return value * float("nan") if self.what == "value" else value + (descriptors * 0).sum().sqrt()


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    mined: list[Mined] = []
    real = tuples.mine
    monkeypatch.setattr(tuples, "mine", lambda *a, **k: mined.append(real(*a, **k)) or mined[-1])
    config = config_of(photos, epochs=1, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "create_loss", lambda name, **p: Breaking(6, what))
        with pytest.raises(RetrievalError, match="is not a number at epoch 1, step 3") as caught:
            run.train(config, tmp_path / "run", device="cpu")
    data = run.split(run.read_training_set(photos), config, lambda line: None)[0]
    bad = mined[0].tuples[5]
    named = [str(data.paths[i]) for i in (bad.query, bad.positive, *bad.negatives)]
    assert all(name in caught.value.message for name in named)
    if what == "value":
        assert caught.value.message.count(".png") == len(named)
    tensors, facts = read_state(tmp_path / "run" / "last" / "state.safetensors")
    assert facts["place"]["step"] == 2
    assert all(bool(torch.isfinite(v).all()) for k, v in tensors.items() if v.is_floating_point())
    assert weights(tmp_path / "run")
    run.resume(tmp_path / "run", device="cpu")  # the cause gone, it goes on
    assert [line["epoch"] for line in figures(tmp_path / "run")] == [0, 1]


def test_a_picture_that_breaks_while_training_costs_its_tuples_only(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "class7" / "3.png").write_bytes(b"broken from the start")
    broken: list[int] = []

    def break_one(mined: Mined, preset: str) -> None:
        position = mined.tuples[3].positive
        bad = {position, first}
        broken.append(sum(bool(bad & {t.query, t.positive, *t.negatives}) for t in mined.tuples))
        made.data.paths[position].write_bytes(b"broken later")

    config = config_of(data, epochs=1, validate="none")
    folder = RunFolder.create(tmp_path / "run", config, {})
    model = load_model(MODEL)
    said: list[str] = []
    made = trainer.Trainer(
        Learner(run.build_network(model.spec), model.spec, config),
        run.read_training_set(data),
        config,
        folder,
        Machine(workers=1, say=said.append),
        observers=Observers(look=break_one),
    )
    first = [path.parts[-2:] for path in made.data.paths].index(("class7", "3.png"))
    made.begin()
    outcome = made.run()
    assert 0 < broken[0] <= 4
    assert outcome.metrics[-1]["lost_tuples"] == broken[0]
    assert outcome.metrics[-1]["tuples"] >= 3
    assert outcome.best is None
    assert sum("left out" in line for line in said) == 2
    assert weights(tmp_path / "run").keys() == weights(tmp_path / "run" / "last").keys()


def test_an_epoch_of_broken_pictures_is_an_error(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    said: list[str] = []

    def break_all(line: str) -> None:
        said.append(line)
        if line.startswith("before training"):
            for path in data.rglob("*.png"):
                path.write_bytes(b"broken")

    with pytest.raises(DatasetError, match="none of the pictures drawn can be described"):
        run.train(config_of(data), tmp_path / "run", device="cpu", say=break_all)


def test_a_full_disk_keeps_the_checkpoint_before(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    real, count = safetensors.torch.save_file, [0]

    def filling(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        count[0] += 1
        if count[0] > 5:
            Path(path).write_bytes(b"hal")
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", filling)
        with pytest.raises(ModelError, match="No space left on device"):
            run.train(config_of(photos, epochs=1, save_every=1), tmp_path / "run", device="cpu")
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert _place(tmp_path / "run") is not None
    run.resume(tmp_path / "run", device="cpu")
    assert len(figures(tmp_path / "run")) == 2


# ---------------------------------------------------------------- options


def test_early_stopping_keeps_the_best_epoch(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(validation.HeldOut, "mean_average_precision", lambda *a, **k: next(scores))
    config = config_of(photos, epochs=9, patience=2, queries=2)
    outcome = run.train(config, tmp_path / "run", device="cpu")
    assert [line["mAP"] for line in outcome.metrics] == [0.2, 0.5, 0.4, 0.5]
    assert (outcome.best, outcome.best_epoch) == (0.5, 1)
    best, last = weights(tmp_path / "run"), weights(tmp_path / "run" / "last")
    assert any(not torch.equal(v, last[k]) for k, v in best.items())
    assert run.resume(tmp_path / "run", device="cpu").best_epoch == 1
    assert len(figures(tmp_path / "run")) == 4


def test_a_whitening_layer_starts_as_the_learned_whitening(photos: Path) -> None:
    """Before training, the model is what learn_lw makes of its descriptors: checked with a backbone of few channels."""
    from retrieval.models.whitening import learn_lw
    from retrieval.training.data.mining import draw_epoch
    from retrieval.training.data.sources import read_training_set

    class Narrow(nn.Module):
        """Keeps eight channels of the map, so that a few pictures' pairs span them."""

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))[:, :8].abs() + 1e-3

    def narrow(spec: Any) -> Any:
        network = run.build_network(replace(spec, dim=32))
        network.pooling = Narrow()
        return network

    model = load_model(MODEL)
    model.spec = replace(model.spec, dim=8)
    config = config_of(photos, whiten_layer=5, validate="none", queries=4)
    data = read_training_set(photos)
    machine = Machine(workers=1)
    network = narrow(model.spec)
    spec = whitening_layer.add_whitening_layer(network, model.spec, data, config, machine)
    assert (spec.dim, spec.whitening) == (5, {"kind": "fc", "dim": 5, "normalised": True})
    rule, cpu = replace(model.spec.image, size=48), machine.processes.device
    load = Pictures(data.paths, rule).load
    vectors, _ = describe_pictures(range(len(data)), load, LiveEngine(narrow(model.spec), rule, cpu, 8), workers=1)
    pairs = draw_epoch(data, queries=20_000, pool=1, seed=0, epoch=0).pairs
    expected = learn_lw(vectors, pairs[:, 0], pairs[:, 1]).apply(vectors, 5)
    whitened, _ = describe_pictures(range(len(data)), load, LiveEngine(network, rule, cpu, 5), workers=1)
    assert np.allclose(whitened @ whitened.T, expected @ expected.T, atol=2e-3)


def test_too_few_pairs_for_a_whitening_layer(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"too few to learn a whitening of 32 dimensions.*--whiten-layer"):
        run.train(config_of(photos, whiten_layer=16), tmp_path / "run", device="cpu")


def test_unlabelled_pictures_are_trained_on_two_views(photos: Path, tmp_path: Path) -> None:
    import shutil

    flat = tmp_path / "flat"
    flat.mkdir()
    for path in photos.rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}_{path.name}")
    said: list[str] = []
    outcome = run.train(
        config_of(flat, epochs=1, validate=None), tmp_path / "run", device="cpu", say=said.append,
        preview=tmp_path / "sheet.png",
    )  # fmt: skip
    assert outcome.metrics[-1]["loss"] > 0.01, "a picture and itself unchanged would lose nothing"
    assert outcome.metrics[-1]["mAP"] is None
    assert Image.open(tmp_path / "sheet.png").size[0] > 300
    assert any("none, so the last epoch" in line for line in said)
    assert load_model(tmp_path / "run").spec.backbone == "tiny"


def test_validation_on_a_ground_truth_and_pictures_to_avoid(photos: Path, tmp_path: Path) -> None:
    """A ground truth whose query is a training picture: that picture must go."""
    names = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    truth = GroundTruth("bench", photos, tuple(names[1:8]), (Query(names[0], None, tuple(names[1:4]), (), ()),))
    truth.save(photos / "bench.json")
    path = str(photos / "bench.json")
    config = config_of(photos, epochs=1, validate=path, avoid=(path,), avoid_above=0.99999, lr=1e-5)
    outcome = run.train(config, tmp_path / "run", device="cpu")
    form = json.loads((tmp_path / "run" / "left_out.json").read_text())
    assert str(photos / names[0]) in form["pictures"]
    assert len(form["pictures"]) < 16
    assert (tmp_path / "run" / "left_out_bench.jpg").is_file()
    assert 0 < outcome.metrics[0]["mAP"] <= 1
    assert run.resume(tmp_path / "run", device="cpu").best == outcome.best  # the same pictures are left out again


def test_a_network_from_random_weights_learns(tmp_path: Path) -> None:
    """Three convolutions on made-up house fronts: mAP on fronts that they have never seen rises by half and more."""
    from retrieval.datasets.synthetic.make import make_synthetic

    make_synthetic(
        tmp_path / "set", objects=1, views=(1, 0, 0), distractors=0, train_objects=40, train_views=6, size=96
    )
    config = TrainingConfig(
        data=str(tmp_path / "set" / "train"), model=MODEL, loss="ap", size=96, epochs=1, queries=100, pool=40,
        negatives=4, tuples_per_step=2, lr=3e-3, validate="0.4", save_every=1000, schedule="cosine",
    )  # fmt: skip
    outcome = run.train(config, tmp_path / "run", device="cpu")
    first = outcome.metrics[0]["mAP"]
    assert outcome.best is not None
    assert outcome.best > 1.5 * first, (first, outcome.best)
