"""``retrieve train``: from words to a configuration, errors of one line, and a model that other commands take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import write_pictures
from tiny import MODEL

from retrieval.cli.main import main
from retrieval.training import session as run
from retrieval.training.config import TrainingConfig
from retrieval.training.trainer import Outcome

SMALL = ["--size", "32", "--queries", "3", "--pool", "20", "--negatives", "2", "--epochs", "1", "--lr", "1e-4"]


@pytest.fixture
def retrieve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call the command as a shell would: (status, what it printed, what it said)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["retrieve", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainingConfig, str, dict[str, Any]]]:
    """What the command asks for, without training."""
    calls: list[tuple[TrainingConfig, str, dict[str, Any]]] = []

    def noted(config: TrainingConfig, out: str, **habits: Any) -> Outcome:
        calls.append((config, out, habits))
        return Outcome([], None, 1)

    monkeypatch.setattr(run, "train", noted)
    return calls


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for c in range(5):
        write_pictures(tmp_path / "photos" / f"c{c}", 3, seed=c, sizes=((40, 30),))
    return tmp_path / "photos"


def test_train_resume_and_use(classes: Path, tmp_path: Path, retrieve: Any) -> None:
    out = tmp_path / "run"
    status, printed, said = retrieve(
        "train", classes, "--model", MODEL, "--out", out, *SMALL, "--validate", "0.4",
        "--preview", tmp_path / "sheet.jpg", "--tensorboard", "--augment", "none",
    )  # fmt: skip
    assert (status, printed) == (0, "")
    assert "6 are held out" in said
    assert any(line.startswith("best: mAP ") for line in said.splitlines()[-2:])
    assert (tmp_path / "sheet.jpg").stat().st_size > 1000
    assert list((out / "tensorboard").iterdir())
    config = json.loads((out / "config.json").read_text())
    assert config["data"] == str(classes)
    assert config["augment"] == "none"
    assert {oct(path.stat().st_mode) for path in (out / "best.safetensors", out / "last" / "model.safetensors")} == {
        oct((out / "config.json").stat().st_mode)  # not for their writer alone
    }
    assert retrieve("train", "--resume", out, "-q") == (0, "", "")
    assert "this run is complete" in retrieve("train", "--resume", out)[2]
    assert "epoch 2/2" in retrieve("train", "--resume", out, "--epochs", "2")[2]
    assert json.loads((out / "config.json").read_text()) == {**config, "epochs": 2}
    assert "in epoch 2 already" in retrieve("train", "--resume", out, "--epochs", "1")[2]
    assert retrieve("index", classes, "--model", out / "last", "--index", tmp_path / "last", "--size", "32")[0] == 0
    status, _, said = retrieve("index", classes, "--model", out, "--index", tmp_path / "gallery", "--size", "32")
    assert status == 0, said
    status, found, _ = retrieve(
        "query", classes / "c1" / "0001.png", "--index", tmp_path / "gallery", "--format", "json"
    )
    assert status == 0
    answer = json.loads(found)
    assert answer["results"][0]["path"].endswith("c1/0001.png")


def test_a_run_without_labels_ends_with_its_schedule(tmp_path: Path, retrieve: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"recipe": "copies", "data": "d", "model": "m", "steps": 3}')
    status, _, said = retrieve("train", "--resume", tmp_path / "run", "--epochs", "3")
    assert status == 2
    assert "--epochs cannot be changed" in said
    assert f"--model {tmp_path / 'run'} --recipe copies" in said


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]", '{"data": "d"}', '{"data": "d", "model": "m", "odd": 1}'])
@pytest.mark.parametrize("named", ["--resume", "--config"])
def test_what_is_no_configuration_is_told(tmp_path: Path, retrieve: Any, named: str, text: str) -> None:
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "config.json"
    file.write_text(text)
    asked = ["--resume", file.parent] if named == "--resume" else ["--config", file, "--out", tmp_path / "out"]
    status, _, said = retrieve("train", *asked)
    assert status == 2
    assert str(file) in said
    assert "Traceback" not in said


def test_defaults_of_the_command_are_those_of_the_library(asked: Any, retrieve: Any) -> None:
    assert retrieve("train", "d", "--out", "o")[0] == 0
    assert asked[0][0] == TrainingConfig("d", "auto")
    assert asked[0][1] == "o"


def test_every_option_reaches_the_configuration(asked: Any, retrieve: Any, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model": "resnet50-gem", "kind": "pairs", "images": "i", "loss": "triplet", "margin": 0.3, "negatives": 4,
        "queries": 7, "pool": 9, "repick": True, "tuples_per_step": 3, "epochs": 2, "lr": 0.5, "optimiser": "sgd",
        "weight_decay": 0.25, "schedule": "cosine", "warmup": 1.5, "p_lr": 3.0, "fixed_p": True,
        "freeze_backbone": True, "ema": 0.5, "size": 99,
        "augment": "views", "validate": "0.3", "patience": 2, "whiten_layer": 8, "avoid": ("a", "b"), "avoid_above": 0.7,
        "amp": True, "seed": 5, "save_every": 11,
    }  # fmt: skip
    words: list[str] = []
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        else:
            for single in value if isinstance(value, tuple) else (value,):
                words += [option, str(single)]
    assert retrieve("train", "d", "--out", "o", *words, "--workers", "3")[0] == 0
    assert asked[0][0] == TrainingConfig("d", **values)
    assert set(values) | {"data"} == set(TrainingConfig.__dataclass_fields__)
    assert asked[0][2]["workers"] == 3
    (tmp_path / "c.json").write_text(asked[0][0].to_json())
    assert retrieve("train", "--config", tmp_path / "c.json", "--out", "p", "--seed", "6")[0] == 0
    assert asked[1][0] == TrainingConfig("d", **{**values, "seed": 6})


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["train", "d"], 2, "no folder for the run"),
        (["train", "--out", "o"], 2, "no training data"),
        (["train", "nowhere", "--out", "o"], 1, "no such file or folder"),
        (["train", "{photos}", "--resume", "o"], 2, "DATA cannot be changed"),
        (["train", "--resume", "o", "--lr", "3"], 2, "--lr cannot be changed"),
        (["train", "--resume", "o"], 2, "holds no run"),
        (["train", "{photos}", "--out", "o", "--epochs", "0"], 2, "epochs must be"),
        (["train", "{photos}", "--out", "o", "--loss", "pairwise"], 2, "no loss is called 'pairwise'"),
        (["train", "{photos}", "--out", "o", "--model", "resnet9-gem"], 2, "resnet9"),
        (["train", "{photos}", "--out", "o", "--model", MODEL, "--negatives", "9"], 2, "too few for 9 negatives"),
        (["train", "{photos}", "--out", "o", "--model", MODEL, "--validate", "2"], 2, "between 0 and 1"),
        (
            ["train", "{photos}", "--out", "o", "--model", MODEL, "--negatives", "2", "--validate", "no.json"],
            1,
            "no.json",
        ),
        (["train", "{photos}", "--out", "o", "--preview", "no/where.jpg"], 2, "the folder of no/where.jpg"),
        (["train", "{photos}", "--out", "o", "--preview", "sheet.webp"], 2, "a sheet is written as .jpg or .png"),
        (["train", "{photos}/c0", "--kind", "folders", "--out", "o", "--model", MODEL], 1, ""),
        (["train", "--config", "c.json", "--out", "o"], 2, "c.json cannot be read"),
    ],
)
def test_errors_are_one_line(
    classes: Path, tmp_path: Path, retrieve: Any, monkeypatch: pytest.MonkeyPatch,
    words: list[str], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, printed, said = retrieve(*(word.format(photos=classes) for word in words))
    assert (code, printed) == (status, ""), said
    assert len(said.strip().splitlines()) <= 3
    last = said.strip().splitlines()[-1]
    assert last.startswith("retrieve: ")
    assert message in last
    assert "unexpected" not in last
    assert not (tmp_path / "o").exists(), "what cannot be done leaves nothing behind"


def test_who_interrupts_is_told_how_it_goes_on(
    classes: Path, tmp_path: Path, retrieve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retrieval.training.trainer.Trainer.run", interrupted)
    out = tmp_path / "o"
    status, _, said = retrieve("train", classes, "--model", MODEL, "--out", out, *SMALL)
    assert status == 130
    assert said.splitlines()[-1] == f"retrieve: interrupted; it goes on with: retrieve train --resume {out}"
    assert "trained at 32 pixels; the model will describe at 1024" in said


@pytest.mark.parametrize(
    ("scores", "best_epoch", "ending"),
    [
        (
            [0.5, 0.25, 0.75, 0.625],
            2,
            "best: mAP 75.00 at epoch 2, 50.00 before training: {out}\n"
            "to use it: retrieve index FOLDER --index NEW --model {out}",
        ),
        (
            [0.75, 0.25, 0.5],
            0,
            "best: mAP 75.00 before training, and no epoch was better: {out} is the model as it was; "
            "the last epoch's (mAP 50.00) is {out}/last",
        ),
    ],
)
def test_the_end_says_whether_training_was_worth_it(
    tmp_path: Path, retrieve: Any, monkeypatch: pytest.MonkeyPatch, scores: list[float], best_epoch: int, ending: str
) -> None:
    lines = [{"epoch": epoch, "mAP": score} for epoch, score in enumerate(scores)]
    monkeypatch.setattr(run, "train", lambda *_, **__: Outcome(lines, max(scores), best_epoch))
    status, _, said = retrieve("train", "d", "--out", tmp_path / "o")
    assert status == 0
    assert said == ending.format(out=tmp_path / "o") + "\n"


@pytest.mark.parametrize("recipe", ["tuples", "copies"])
def test_half_precision_needs_what_gains_by_it(
    classes: Path, tmp_path: Path, retrieve: Any, monkeypatch: Any, recipe: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("retrieval.training.network.half.has_bf16", lambda: False)
    steps = ["--steps", "1"] if recipe == "copies" else []
    code, _, said = retrieve("train", classes, "--recipe", recipe, *steps, "--out", tmp_path / "o", "--amp")
    assert code == 2
    assert "needs a CUDA device, or a processor" in said
    assert not (tmp_path / "o").exists()


def test_one_class_is_not_enough(tmp_path: Path, retrieve: Any) -> None:
    write_pictures(tmp_path / "photos" / "only", 4)

    code, _, said = retrieve("train", tmp_path / "photos", "--out", tmp_path / "o", "--model", MODEL)
    assert code in (1, 2)
    assert "retrieve: " in said.splitlines()[-1]


def test_missing_pictures_are_named(tmp_path: Path, retrieve: Any) -> None:
    write_pictures(tmp_path / "p", 3)
    (tmp_path / "list.csv").write_text("p/0000.png,a\np/0001.png,a\np/0002.png,b\np/gone.png,b\n")
    code, _, said = retrieve("train", tmp_path / "list.csv", "--out", tmp_path / "o", "--model", MODEL)
    assert code == 1
    assert "gone.png" in said


def test_a_whitened_model_is_not_trained(classes: Path, tmp_path: Path, retrieve: Any) -> None:
    from retrieval.describe.model import load_model
    from retrieval.describe.whitened_model import whitened_model
    from retrieval.models.whitening import Whitening

    whitening = Whitening(np.zeros(32), np.eye(4, 32), "pca")
    whitened_model(load_model(MODEL), whitening, {"name": "x", "pictures": 0, "hashes": []}, tmp_path / "white")
    code, _, said = retrieve("train", classes, "--out", tmp_path / "o", "--model", tmp_path / "white")
    assert code == 2
    assert "is whitened" in said
