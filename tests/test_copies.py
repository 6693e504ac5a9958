"""The recipe "copies": losses against loops, copies by seed, pairs, exact resume, memory in chunks, blends."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MODEL

from retrieval.cli.main import main
from retrieval.errors import DatasetError, ModelError, UsageError
from retrieval.models.blend import blend
from retrieval.models.checkpoint import load_tensors
from retrieval.models.loading import build_network
from retrieval.models.network import Describer, l2_normalise
from retrieval.models.zoo import resolve
from retrieval.training.copies.alter import CopyPreset, altered, bucket
from retrieval.training.copies.config import CopiesConfig
from retrieval.training.copies.losses import info_nce, koleo, partners_found, similarity_gap
from retrieval.training.copies.memory import backward_in_chunks
from retrieval.training.copies.momentum import MomentumEncoder
from retrieval.training.copies.run import resume_copies, train_copies
from retrieval.training.copies.things import Things, draw_pairs, read_things
from retrieval.training.copies.trainer import CopiesTrainer, make_head, rate_at
from retrieval.training.network.batchnorm import freeze_statistics
from retrieval.training.network.frozen_folding import find_pairs


def rows(count: int, seed: int, dim: int = 6) -> torch.Tensor:
    made = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made / made.norm(dim=1, keepdim=True)


def photo(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("queued", [0, 5])
def test_info_nce_is_the_double_loop(queued: int) -> None:
    a, b, queue = rows(4, 1), rows(4, 2), rows(5, 3)[:queued]
    both, t, total = [*a.tolist(), *b.tolist()], 0.07, 0.0
    for i, asked in enumerate(both):
        partner = (i + 4) % 8
        scores = [math.exp(sum(x * y for x, y in zip(asked, other, strict=True)) / t) for other in both]
        wrong = sum(math.exp(sum(x * y for x, y in zip(asked, other, strict=True)) / t) for other in queue.tolist())
        total -= math.log(scores[partner] / (sum(scores) - scores[i] + wrong))
    found = float(info_nce(a, b, t, queue if queued else None))
    assert found == pytest.approx(total / 8, rel=1e-4)


def test_koleo_is_the_double_loop() -> None:
    x = rows(7, 4)
    total = 0.0
    for i in range(7):
        total -= math.log(min(math.dist(x[i].tolist(), x[j].tolist()) for j in range(7) if j != i))
    assert float(koleo(x)) == pytest.approx(total / 7, rel=1e-4)


def test_koleo_pushes_the_nearest_away_and_survives_equal_rows() -> None:
    x = rows(3, 5).float().requires_grad_(True)
    koleo(x).backward()
    moved = (x - 0.01 * x.grad).detach()  # downhill
    assert float(koleo(moved)) < float(koleo(x.detach()))
    same = torch.ones(2, 4).requires_grad_(True)
    koleo(same).backward()
    assert torch.isfinite(same.grad).all()


def test_similarity_gap_is_the_double_loop_in_any_dimensions() -> None:
    x, y = rows(6, 8, 5), rows(6, 9, 3)
    total = 0.0
    for i in range(6):
        for j in range(6):
            if i != j:
                total += (float(x[i] @ x[j]) - float(y[i] @ y[j])) ** 2
    assert float(similarity_gap(x, y)) == pytest.approx(total / 30, rel=1e-5)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    assert float(similarity_gap(x, x @ turn)) == pytest.approx(0, abs=1e-10)  # what a turn keeps is all that counts
    with pytest.raises(UsageError, match="same pictures"):
        similarity_gap(x, y[:5])


def test_partners_found_and_what_is_refused() -> None:
    a = torch.eye(4)
    assert partners_found(a, a) == 1.0
    # Rows 0 and 1 have swapped partners, 2 and 3 have theirs.
    assert partners_found(a, a[[1, 0, 2, 3]]) == 0.5
    with pytest.raises(UsageError, match="equal tables"):
        info_nce(a, a[:3])
    with pytest.raises(UsageError, match="temperature"):
        info_nce(a, a, 0.0)
    with pytest.raises(UsageError, match="at least two"):
        koleo(a[:1])


# ---------------------------------------------------------------- copies


def test_copies_follow_from_the_seed_and_have_few_shapes() -> None:
    picture, other = photo(0), photo(1, 50, 50)
    shapes = set()
    for seed in range(60):
        over = other if seed % 3 == 0 else None
        made = altered(picture, 96, seed, other=over)
        assert made.dtype == np.uint8
        assert made.flags["C_CONTIGUOUS"]
        assert max(made.shape[:2]) == 96
        assert min(made.shape[:2]) % 32 == 0
        assert np.array_equal(made, altered(picture, 96, seed, other=over))
        shapes.add(made.tobytes())
    assert len(shapes) == 60
    assert np.array_equal(picture, photo(0))  # left as it was


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2, 3), (400, 3)])
def test_pictures_of_any_shape_have_copies(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 128, np.uint8)
    everything = CopyPreset(**{f.name: 1.0 for f in dataclasses.fields(CopyPreset) if f.name not in _RANGES})
    for seed in range(8):
        made = altered(picture, 64, seed, other=picture, preset=everything)
        assert max(made.shape[:2]) == 64


_RANGES = {"area", "aspect", "degrees", "tilt"}
NOTHING = CopyPreset(
    **{f.name: 0.0 for f in dataclasses.fields(CopyPreset) if f.name not in _RANGES},
    area=1,
    aspect=1,
    degrees=0,
    tilt=0,
)


def test_without_changes_a_copy_is_the_picture() -> None:
    picture = photo(2, 96, 96)
    assert np.abs(altered(picture, 96, 3, preset=NOTHING).astype(int) - picture).max() <= 1


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ("mirror", lambda copy, own: np.abs(copy[:, ::-1].astype(int) - own).max() <= 1),
        ("grey", lambda copy, own: (copy[..., 0] == copy[..., 1]).all() and (copy[..., 1] == copy[..., 2]).all()),
        (
            "blur",
            lambda copy, own: (
                np.abs(np.diff(copy.astype(int), axis=1)).sum() < np.abs(np.diff(own.astype(int), axis=1)).sum()
            ),
        ),
        ("quarter", lambda copy, own: any(np.abs(np.rot90(own, k).astype(int) - copy).max() <= 1 for k in (1, 2, 3))),
        ("border", lambda copy, own: (copy[0] == copy[0, 0]).all() and (copy[:, -1] == copy[0, 0]).all()),
    ],
)
def test_each_change_alone(change: str, holds) -> None:  # type: ignore[no-untyped-def]
    own = photo(3, 96, 96)
    for seed in range(6):
        copy = altered(own, 96, seed, preset=dataclasses.replace(NOTHING, **{change: 1.0}))
        assert holds(copy, own)


def test_night_is_dark_on_average() -> None:
    own = photo(4, 96, 96)
    nights = [altered(own, 96, seed, preset=dataclasses.replace(NOTHING, dark=1.0)).mean() for seed in range(40)]
    assert np.median(nights) < 0.7 * own.mean()


def test_one_probability_leaves_other_changes_alone() -> None:
    own, base = photo(5, 96, 96), dataclasses.replace(CopyPreset(), mirror=0.0, grey=0.0, jpeg=0.0, text=0.0)
    for seed in range(4):
        plain = altered(own, 96, seed, preset=base)
        grey = altered(own, 96, seed, preset=dataclasses.replace(base, jpeg=1e-12))
        assert np.array_equal(plain, grey)
        turned = altered(own, 96, seed, preset=dataclasses.replace(NOTHING, mirror=1.0, quarter=1.0))
        assert np.array_equal(turned, altered(own, 96, seed, preset=dataclasses.replace(NOTHING, quarter=1.0))[:, ::-1])


def test_buckets() -> None:
    assert bucket(100, 100, 160) == (160, 160)
    assert bucket(320, 240, 160) == (160, 128)
    assert bucket(10, 300, 160) == (32, 160)


# ---------------------------------------------------------------- things and pairs


@pytest.fixture
def album(tmp_path):  # type: ignore[no-untyped-def]
    folder = tmp_path / "album"
    (folder / "views-vase").mkdir(parents=True)
    (folder / "deep").mkdir()
    for i in range(9):
        Image.fromarray(photo(i)).save(folder / f"{i}.png")
    for i in range(5):
        Image.fromarray(photo(20 + i)).save(folder / "views-vase" / f"vase__{i:03}.png")
        Image.fromarray(photo(40 + i)).save(folder / "views-vase" / f"jar__{i:03}.png")
    Image.fromarray(photo(60)).save(folder / "deep" / "lone__000.png")
    (folder / "deep" / "again.png").write_bytes((folder / "0.png").read_bytes())
    Image.fromarray(photo(70)).save(tmp_path / "more.png")
    (tmp_path / "list.txt").write_text("more.png, 4\n")
    return folder


def test_things_are_found_once(album) -> None:  # type: ignore[no-untyped-def]
    things = read_things([album, album.parent / "list.txt"])
    names = [path.name for path in things.paths]
    # 0.png and deep/again.png are the same file; which of the two is kept follows from their order.
    assert {names[i] for i in things.single} - {"again.png", "0.png"} == {
        *(f"{i}.png" for i in range(1, 9)),
        "lone__000.png",
        "more.png",
    }
    assert len(things.single) == 11
    assert sorted([names[i] for i in group] for group in things.groups) == [
        [f"jar__{i:03}.png" for i in range(5)],
        [f"vase__{i:03}.png" for i in range(5)],
    ]
    with pytest.raises(DatasetError, match="not there"):
        read_things([album / "nowhere"])


def test_pairs_of_a_step() -> None:
    things = Things((), np.arange(100, 130), (tuple(range(10)), tuple(range(10, 14)), (20, 21)))
    seen: list[int] = []
    for step in range(5):
        pairs = draw_pairs(things, pairs=8, view_share=0.25, seed=3, step=step)
        assert pairs == draw_pairs(things, pairs=8, view_share=0.25, seed=3, step=step)
        views = [pair for pair in pairs if pair[0] != pair[1]]
        assert len(pairs) == 8
        assert len(views) == 2
        groups = [next(n for n, group in enumerate(things.groups) if a in group) for a, _ in views]
        assert len(set(groups)) == 2
        for (a, b), n in zip(views, groups, strict=True):
            assert b in things.groups[n]
            assert abs(a - b) <= 3
        seen += [a for a, b in pairs if a == b]
    assert sorted(seen) == list(range(100, 130))  # an epoch: each once


# ---------------------------------------------------------------- runs


def settings(album, **changed) -> CopiesConfig:  # type: ignore[no-untyped-def]
    given = {"steps": 4, "pairs": 4, "size": 32, "head": 8, "warmup": 2, "save_every": 2, "view_share": 0.5, **changed}
    return CopiesConfig(str(album), MODEL, **given)


def weights(folder) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
    return load_tensors(folder / "best.safetensors")[1]


@pytest.mark.parametrize(
    "further", [{}, {"momentum": 0.9, "queue": 12, "amp": True}, {"teacher": "tiny2-gem@random:3"}]
)
def test_an_interrupted_run_ends_with_the_very_same_weights(album, tmp_path, monkeypatch, further) -> None:  # type: ignore[no-untyped-def]
    config = settings(album, **further)
    monkeypatch.setattr("retrieval.training.network.half.has_bf16", lambda: True)  # it computes the same without
    train_copies(config, tmp_path / "whole", workers=1)
    real = CopiesTrainer._train

    def falls(self, made):  # type: ignore[no-untyped-def]
        if self.step == 3:
            raise KeyboardInterrupt
        return real(self, made)

    monkeypatch.setattr(CopiesTrainer, "_train", falls)
    with pytest.raises(KeyboardInterrupt):
        train_copies(config, tmp_path / "cut", workers=2)
    monkeypatch.setattr(CopiesTrainer, "_train", real)
    resume_copies(tmp_path / "cut", workers=1)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    before = build_network(resolve(MODEL)).state_dict()
    assert not torch.equal(before["backbone.body.0.weight"], whole["backbone.body.0.weight"])
    running = [name for name in whole if "running_var" in name]
    assert running
    assert not any(torch.equal(before[name], whole[name]) for name in running)  # random weights had none: measured
    assert not any("head" in name for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 4]


def test_a_folder_is_free_until_the_first_checkpoint(album, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.training.copies.trainer.write_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_copies(settings(album), tmp_path / "run", workers=1)
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
    with pytest.raises(ModelError, match="Begin it again"):
        resume_copies(tmp_path / "run", workers=1)
    train_copies(settings(album, steps=1), tmp_path / "run", workers=1)
    with pytest.raises(UsageError, match="holds a run already"):
        train_copies(settings(album, steps=1), tmp_path / "run", workers=1)


def test_statistics_that_came_with_weights_stay(album, tmp_path) -> None:  # type: ignore[no-untyped-def]
    train_copies(settings(album, steps=2), tmp_path / "first", workers=1)
    further = settings(album, steps=2, lr=1e-2)
    train_copies(dataclasses.replace(further, model=str(tmp_path / "first")), tmp_path / "second", workers=1)
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(first[name], second[name]) for name in first if "running" in name)
    assert not torch.equal(first["backbone.body.0.weight"], second["backbone.body.0.weight"])


def test_the_loss_falls_on_what_is_seen_again(album, tmp_path) -> None:  # type: ignore[no-untyped-def]
    train_copies(settings(album, steps=12, lr=1e-3, koleo=0.0), tmp_path / "run", workers=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["info_nce"] < lines[0]["info_nce"]


def test_curves_are_drawn_seldom_and_at_the_end(album, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    drawn: list[list[int]] = []
    monkeypatch.setattr(
        "retrieval.training.copies.trainer.plot_steps",
        lambda lines, path, title: drawn.append([line["step"] for line in lines]),
    )
    train_copies(settings(album, steps=12), tmp_path / "run", workers=1)  # six checkpoints in a moment
    assert drawn == [[1], [1, 10, 12]]
    monkeypatch.setattr("retrieval.training.record.drawing._SECONDS", 0.0)
    drawn.clear()
    train_copies(settings(album, steps=12), tmp_path / "again", workers=1)
    assert drawn == [[1]] * 4 + [[1, 10], [1, 10, 12]]


def test_a_teacher_is_followed_and_must_stay_the_same(album, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = tmp_path / "run"
    config = settings(album, steps=16, lr=3e-3, koleo=0.0, teacher="tiny2-gem@random:3", teacher_weight=1000.0)
    train_copies(config, run, workers=1)
    gaps = [json.loads(line)["teacher_gap"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert gaps[-1] < gaps[0] / 2
    form = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(form | {"teacher": "tiny2-gem@random:4"}))
    with pytest.raises(ModelError, match="not the teacher"):
        resume_copies(run, workers=1)


def test_pictures_that_cannot_be_read_are_named_and_left_out(album, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (album / "3.png").write_bytes(b"no picture")
    said: list[str] = []
    train_copies(settings(album, steps=3, pairs=8, view_share=0.25), tmp_path / "run", workers=1, say=said.append)
    assert any("3.png" in line for line in said)


def test_hours_are_counted_out_into_steps(album, tmp_path) -> None:  # type: ignore[no-untyped-def]
    said: list[str] = []
    train_copies(settings(album, steps=None, hours=1e-9, pairs=2), tmp_path / "run", workers=1, say=said.append)
    assert any("--steps 14" in line for line in said)


def test_chunks_give_the_gradients_of_the_whole() -> None:
    network = build_network(resolve(MODEL))
    freeze_statistics(network)
    describer = Describer(network, resolve(MODEL).image)
    with torch.no_grad():
        folds = find_pairs(network.backbone, torch.rand(1, 3, 64, 64))
    arrays = [photo(i, 32, 32 if i % 3 else 64) for i in range(6)]
    found = []
    for chunk in (0, 2, 4):
        network.zero_grad()
        loss = backward_in_chunks(describer, arrays, lambda d: info_nce(*d.split(3)), chunk, folds)
        found.append((loss, torch.cat([p.grad.flatten() for p in network.parameters()])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4)
        assert torch.allclose(gradient, found[0][1], rtol=1e-3, atol=1e-4 * float(found[0][1].abs().max()))
    network.zero_grad()
    backward_in_chunks(describer, arrays, lambda d: info_nce(*d.split(3)), 4, folds, amp=True)
    half = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert 0.95 < float(torch.cosine_similarity(half, found[0][1], dim=0)) < 1 - 1e-7


def test_the_slow_encoder_follows_and_its_queue_keeps_the_newest() -> None:
    network = build_network(resolve(MODEL))
    describer, head = Describer(network, resolve(MODEL).image), make_head(32, 8, 0)
    config = CopiesConfig("x", MODEL, steps=1, momentum=0.75, queue=5)
    slow = MomentumEncoder(describer, head, config)
    with torch.no_grad():
        head.weight += 1
    start = slow.slow[1].weight.clone()
    slow.follow([photo(0, 32, 32), photo(1, 32, 32)])
    assert torch.allclose(slow.slow[1].weight, start + 0.25)
    arrays = [photo(i, 32, 32) for i in range(2, 6)]
    slow.follow(arrays)
    assert slow.queue is not None
    assert slow.queue.shape == (5, 8)
    with torch.no_grad():
        expected = l2_normalise(slow.slow[1](slow.slow[0](torch.from_numpy(np.stack(arrays)))))
    assert torch.allclose(slow.queue[1:], expected, atol=1e-5)


def test_the_head_starts_orthogonal() -> None:
    weight = make_head(16, 4, 0).weight
    assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-5)
    assert isinstance(make_head(16, 0, 0), torch.nn.Identity)


def test_the_rate_rises_and_falls() -> None:
    config = CopiesConfig("x", MODEL, steps=100, lr=1.0, warmup=10)
    assert rate_at(config, 0, 100) == pytest.approx(0.1)
    assert rate_at(config, 50, 100) == pytest.approx(0.5)
    assert rate_at(config, 99, 100) < 0.001


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": None}, "--steps or after --hours"),
        ({"hours": 1.0}, "--steps or after --hours"),
        ({"queue": 8}, "momentum"),
        ({"momentum": 1.0}, "below 1"),
        ({"pairs": 1}, "pairs"),
        ({"view_share": 1.5}, "between 0 and 1"),
        ({"temperature": 0}, "above 0"),
        ({"teacher_weight": 0}, "above 0"),
        ({"recipe": "stew"}, "no recipe"),
    ],
)
def test_what_a_configuration_refuses(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CopiesConfig(**{"data": "x", "model": MODEL, "steps": 3, **changed})  # type: ignore[arg-type]


def test_the_command(album, tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def run(*words: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["retrieve", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = "".join(capsys.readouterr())
        assert bool(left.value.code) == fails, printed
        return printed

    out, again = tmp_path / "run", tmp_path / "again"
    options = ["--recipe", "copies", "--model", MODEL, "--pairs", 2, "--size", 32, "--workers", 1]
    run("train", album, *options, "--steps", 2, "--out", out, "--preview", tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width == 8 * 32
    assert CopiesConfig.load(out / "config.json").steps == 2
    run("train", "--config", out / "config.json", "--out", again, "--workers", 1)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(out).items())
    run("train", "--resume", out, "--workers", 1)
    other = tmp_path / "other"
    assert "belongs to --recipe copies" in run("train", album, "--koleo", 1, "--out", other, fails=True)
    assert "does not belong" in run("train", album, *options, "--steps", 1, "--repick", "--out", other, fails=True)
    assert not other.exists()
    run("models", "blend", out, again, "--alpha", 0.5, "--half", "--out", other)
    assert (other / "model.safetensors").stat().st_size < (out / "best.safetensors").stat().st_size


# ---------------------------------------------------------------- blends


def test_a_blend_lies_between_its_models(tmp_path) -> None:  # type: ignore[no-untyped-def]
    blend(MODEL, "tiny-gem@random:1", tmp_path / "mixed", alpha=0.25)
    a, b = (build_network(resolve(f"tiny-gem@random:{seed}")).state_dict() for seed in (0, 1))
    mixed = load_tensors(tmp_path / "mixed")[1]
    for name, value in mixed.items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * a[name] + 0.25 * b[name], atol=1e-6), name
    with pytest.raises(UsageError, match="holds a model already"):
        blend(MODEL, MODEL, tmp_path / "mixed")


def test_half_precision_files_give_float32_networks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = blend(MODEL, MODEL, tmp_path / "half", half=True)
    tensors = load_tensors(tmp_path / "half")[1]
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float16}
    network = build_network(spec, tmp_path / "half")
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    out = network(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert float(out.detach().norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("other", "said"),
    [("tiny2-gem@random:0", "tiny2"), ("tiny-avg@random:0", "pooling"), ("tiny-gem:p=4@random:0", "pooling")],
)
def test_unlike_models_are_not_blended(tmp_path, other: str, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=said):
        blend(MODEL, other, tmp_path / "out")
    with pytest.raises(UsageError, match="between 0 and 1"):
        blend(MODEL, MODEL, tmp_path / "out", alpha=1.5)
    assert not (tmp_path / "out").exists()
