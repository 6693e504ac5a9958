"""What moves the weights: gradients, groups and rates, frozen and measured statistics, folding, averages, validation."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import write_pictures
from tiny import MODEL
from torch import Tensor, nn

from retrieval.errors import DatasetError, ModelError, UsageError
from retrieval.evaluation.metrics import average_precision
from retrieval.models.inner_whitening import whiten_cells
from retrieval.models.loading import build_network
from retrieval.models.network import Describer, RetrievalNetwork, l2_normalise
from retrieval.models.spec import ImageRule, ModelSpec
from retrieval.models.zoo import resolve
from retrieval.training.config import TrainingConfig, default_margin
from retrieval.training.data.pictures import Pictures, Unreadable, ahead, to_bucket
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.losses import ContrastiveLoss, SmoothAPLoss
from retrieval.training.machine import Machine
from retrieval.training.network import half
from retrieval.training.network.averaging import WeightAverage
from retrieval.training.network.batchnorm import estimate_statistics, freeze_statistics, normalisations
from retrieval.training.network.frozen_folding import find_pairs
from retrieval.training.network.gradients import describe, listwise_backward, tuple_backward
from retrieval.training.network.half import half_precision
from retrieval.training.network.learner import Learner
from retrieval.training.network.live import LiveEngine, describe_pictures
from retrieval.training.network.optimiser import create_optimiser, set_learning_rate
from retrieval.training.record.state import optimiser_tensors, read_state, restore_optimiser, write_state
from retrieval.training.schedule import learning_rate
from retrieval.training.trainer import Trainer
from retrieval.training.validation import HeldOut

CPU = torch.device("cpu")
RULE = ImageRule(size=64)


def network_of(name: str = MODEL) -> tuple[RetrievalNetwork, ModelSpec]:
    spec = resolve(name)
    return build_network(spec), spec


@pytest.fixture(scope="module")
def warm() -> Describer:
    """A small network with measured, frozen statistics, in double precision, so that equalities are sharp."""
    network, _ = network_of()
    describer = Describer(network, RULE)
    estimate_statistics(describer, pictures(12, seed=5), CPU)
    freeze_statistics(network)
    return describer.double()


def pictures(count: int, seed: int = 0, shapes: tuple[tuple[int, int], ...] = ((32, 48), (48, 32))) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(count)]
    out = []
    for i, cells in enumerate(coarse):
        height, width = shapes[i % len(shapes)]
        out.append(cells.repeat(-(-height // 4), 0).repeat(-(-width // 4), 1)[:height, :width].copy())
    return out


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-6, float(value.abs().max()))
        assert float((found[name] - value).abs().max()) <= tolerance * scale, name


# ---------------------------------------------------------------- gradients


def one_by_one(describer: Describer, arrays: list[np.ndarray]) -> Tensor:
    return torch.cat([describer(torch.from_numpy(a)[None]) for a in arrays])


def test_pictures_of_one_shape_together_give_what_each_gives_alone(warm: Describer) -> None:
    arrays = pictures(7)
    expected = one_by_one(warm, arrays)
    together = describe(warm, arrays, CPU)
    assert torch.allclose(together, expected, atol=1e-5)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)  # order would show
    loss = ContrastiveLoss(1.2)
    loss(expected[None]).backward()
    wanted = gradients(warm)
    value = tuple_backward(warm, loss, arrays, CPU)
    assert value == pytest.approx(float(loss(expected.detach()[None])), rel=1e-5)
    assert value > 0.1
    assert_same_gradients(gradients(warm), wanted, 1e-5)


def test_gradients_of_tuples_add_up(warm: Describer) -> None:
    loss = ContrastiveLoss(1.2)
    first, second = pictures(4, 1), pictures(4, 2)
    (loss(one_by_one(warm, first)[None]) + loss(one_by_one(warm, second)[None])).backward()
    wanted = gradients(warm)
    tuple_backward(warm, loss, first, CPU)
    tuple_backward(warm, loss, second, CPU)
    assert_same_gradients(gradients(warm), wanted, 1e-5)


@pytest.mark.parametrize("group", [1, 3, 8])
def test_a_listwise_loss_in_stages_gives_the_gradients_of_the_direct_backward(warm: Describer, group: int) -> None:
    arrays = pictures(8, 3)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, -1])
    loss = SmoothAPLoss(0.5)
    direct = loss(one_by_one(warm, arrays), labels)
    direct.backward()
    wanted = gradients(warm)
    value = listwise_backward(warm, loss, arrays, labels, CPU, group=group)
    assert value == pytest.approx(float(direct.detach()), abs=1e-6)
    assert_same_gradients(gradients(warm), wanted, 1e-5)


def test_a_listwise_step_keeps_one_group_at_a_time(warm: Describer) -> None:
    """What is kept for backward passes grows with the group, not with the batch."""

    def kept(count: int) -> int:
        now = most = 0

        class Held:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal now, most
                self.tensor, self.size = tensor, tensor.numel()
                now += self.size
                most = max(most, now)

            def __del__(self) -> None:
                nonlocal now
                now -= self.size

        labels = torch.arange(count) // 2
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            listwise_backward(warm, SmoothAPLoss(), pictures(count, shapes=((48, 48),)), labels, CPU, group=2)
        warm.zero_grad(set_to_none=True)
        return most

    assert kept(12) < 1.2 * kept(4)


@pytest.mark.parametrize("name", ["resnet18-gem@random:0", "efficientnet_lite0-gem@random:0", "resnet50-gem@random:0"])
def test_folding_changes_neither_descriptors_nor_gradients(name: str) -> None:
    network, _ = network_of(name)
    describer = Describer(network, RULE).double()
    rng = torch.Generator().manual_seed(1)
    for layer in normalisations(network):  # nothing that folding could get wrong may be 0 or 1
        for value, low in ((layer.running_mean, -0.2), (layer.running_var, 0.8), (layer.weight, 0.8), (layer.bias, 0)):
            value.data.copy_(low + 0.4 * torch.rand(value.shape, generator=rng))
    freeze_statistics(network)
    arrays = pictures(4)
    names = [n for n, _ in network.named_parameters()]
    before = {n: v.clone() for n, v in network.state_dict().items()}
    loss = ContrastiveLoss(1.2)
    plain = tuple_backward(describer, loss, arrays, CPU)
    wanted = gradients(network)
    pairs = find_pairs(network.backbone, torch.rand(1, 3, 64, 64, dtype=torch.float64))
    assert len(pairs) == len(normalisations(network))
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    real = torch.nn.functional.batch_norm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "batch_norm", lambda *a, **k: (count(), real(*a, **k))[1])
        value = tuple_backward(describer, loss, arrays, CPU, pairs=pairs)
    assert calls == [0]
    assert value == pytest.approx(plain, rel=1e-6)
    assert_same_gradients(gradients(network), wanted, 1e-5)
    assert [n for n, _ in network.named_parameters()] == names
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
    assert all(isinstance(p, nn.Parameter) for p in network.parameters())


def test_nothing_is_folded_where_the_output_of_a_convolution_is_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean += 1

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    network = Twice().eval()
    x = torch.rand(1, 3, 8, 8)
    expected = network(x)
    assert find_pairs(network, x) == []
    assert torch.equal(network(x), expected)


def test_pooling_is_in_float32_under_half_precision() -> None:
    network, _ = network_of()
    describer = Describer(network, RULE)
    seen = {}
    network.backbone.register_forward_hook(lambda m, i, o: seen.update(features=o.dtype))
    network.pooling.register_forward_hook(lambda m, i, o: seen.update(pooled=o.dtype))
    with half_precision(CPU, True):
        out = describer(torch.from_numpy(pictures(1)[0])[None])
    assert seen == {"features": torch.bfloat16, "pooled": torch.float32}
    assert out.dtype == torch.float32
    out.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("layer", ["fc", "cells"])
def test_whitening_layers_are_in_float32_under_half_precision(layer: str) -> None:
    """As the same layers give it, in float32, of the features that came in bfloat16."""
    network, _ = network_of()
    network.fc = nn.Linear(32, 8) if layer == "fc" else None
    network.cells = whiten_cells(32) if layer == "cells" else None
    seen = {}
    network.backbone.register_forward_hook(lambda m, i, o: seen.update(features=o.detach()))
    with half_precision(CPU, True):
        out = network(torch.from_numpy(pictures(1)[0])[None].permute(0, 3, 1, 2).float() / 255)
    features = seen["features"].float()
    pooled = l2_normalise(network.pooling(features if network.cells is None else network.cells(features)))
    assert seen["features"].dtype == torch.bfloat16
    assert out.dtype == torch.float32
    assert torch.equal(out, pooled if network.fc is None else l2_normalise(network.fc(pooled)))


def test_depthwise_convolutions_stay_in_float32_under_half_precision() -> None:
    layers = [nn.Conv2d(8, 8, 3, padding=1, groups=groups) for groups in (8, 2, 1)]
    x = torch.randn(1, 8, 6, 6)
    with half_precision(CPU, True):
        assert [layer(x).dtype for layer in layers] == [torch.float32, torch.bfloat16, torch.bfloat16]
        assert torch.equal(layers[0](x), nn.functional.conv2d(x, layers[0].weight, layers[0].bias, 1, 1, 1, 8))
    assert layers[1](x).dtype == torch.float32


def test_half_precision_is_near_in_steps_and_in_mining() -> None:
    """With eight bits of mantissa: near, and not the same."""
    rows = []
    for amp in (False, True):
        network, spec = network_of()
        learner = Learner(network, spec, TrainingConfig("d", "m", size=64, amp=amp))
        estimate_statistics(learner.describer, pictures(12, seed=5), CPU)
        freeze_statistics(network)
        tuple_backward(learner.describer, ContrastiveLoss(1.9), pictures(4), CPU, amp, pairs=learner.pairs)
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).numpy()
        rows.append((gradient, learner.engine.describe(np.stack(pictures(3, shapes=((32, 48),)))).ravel()))
    for exact, rounded in zip(*rows, strict=True):
        assert 0.98 < exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded) < 1 - 1e-7


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_half_precision_is_refused_where_nothing_gains_by_it(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    config = TrainingConfig("d", "m", amp=True)
    for graphics, processor in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=graphics: there)
        monkeypatch.setattr(half, "has_bf16", lambda there=processor: there)
        if processor or (graphics and device == "auto"):
            config.require_possible(device)
        else:
            with pytest.raises(UsageError, match="--amp needs a CUDA device, or a processor") as refused:
                config.require_possible(device)
            assert "a run that was begun with it" in refused.value.hint, "which cannot leave it out"


# ---------------------------------------------------------------- optimiser


def test_the_exponent_learns_ten_times_faster_and_does_not_decay() -> None:
    """With no gradient but weight decay p stays; with equal gradients p moves ten times as far under SGD."""
    network, _ = network_of()
    config = TrainingConfig("d", "m", optimiser="sgd", lr=0.01, weight_decay=0.1)
    optimiser = create_optimiser(network, config)
    start = {n: p.detach().clone() for n, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    set_learning_rate(optimiser, 0.01)
    optimiser.step()
    for name, p in network.named_parameters():
        moved = start[name] - p.detach()
        if name == "pooling.p":
            assert torch.allclose(moved, torch.tensor([0.1]), atol=1e-6)
        else:
            assert torch.allclose(moved, 0.01 * (1 + 0.1 * start[name]), atol=1e-6), name


@pytest.mark.parametrize(("kind", "expected"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_other_optimisers(kind: str, expected: type) -> None:
    network, _ = network_of("tiny-gem-channel@random:0")
    optimiser = create_optimiser(network, TrainingConfig("d", "m", optimiser=kind, weight_decay=0.5))
    assert type(optimiser) is expected
    groups = {len(g["params"]): (g["factor"], g["weight_decay"]) for g in optimiser.param_groups}
    assert groups[1] == (100.0, 0.0)
    assert groups[len(list(network.parameters())) - 1] == (1.0, 0.5)


def test_a_fixed_exponent_does_not_move() -> None:
    network, _ = network_of()
    optimiser = create_optimiser(network, TrainingConfig("d", "m", lr=1.0, fixed_p=True))
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    assert float(network.pooling.p) == 3.0
    assert float(next(network.backbone.parameters()).detach().abs().mean()) > 0.5


def test_schedules_have_their_closed_forms() -> None:
    def rate(epoch: int, step: int = 0, **options: object) -> float:
        return learning_rate(TrainingConfig("d", "m", lr=2.0, epochs=10, **options), epoch, step, 4)  # type: ignore[arg-type]

    assert rate(7, 3, schedule="constant") == 2.0
    assert rate(0) == 2.0
    assert rate(3) == rate(3, 2) == pytest.approx(2 * math.exp(-0.03))
    assert rate(0, schedule="cosine") == 2.0
    assert rate(5, schedule="cosine") == pytest.approx(1.0)
    assert rate(2, 2, schedule="cosine") == pytest.approx(1 + math.cos(math.pi / 4))
    assert rate(10, schedule="cosine") == pytest.approx(0.0)
    rising = [rate(e, s, schedule="constant", warmup=1.5) for e in range(3) for s in range(4)]
    assert rising == pytest.approx([2 * min(1.0, (k + 1) / 6) for k in range(12)])


def test_margins_in_use() -> None:
    assert default_margin("contrastive", "resnet50", False) == 0.7
    assert default_margin("contrastive", "resnet101", False) == 0.85
    assert default_margin("contrastive", "resnet101", True) == pytest.approx(1.7)
    assert default_margin("triplet", "resnet101", True) == 0.5
    assert default_margin("ap", "resnet50", False) is None


def test_the_average_of_weights_follows_its_formula_and_gives_the_weights_back() -> None:
    network = nn.Linear(2, 1, bias=False)
    average = WeightAverage(network, 0.15)
    path = [network.weight.detach().clone()]
    for step in range(4):
        with torch.no_grad():
            network.weight += step + 1
        average.update(network)
        path.append(network.weight.detach().clone())
    expected = path[0]
    for step, weight in enumerate(path[1:]):
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    own = network.weight.detach().clone()
    with average.in_place_of(network):
        assert torch.allclose(network.weight, expected)
        assert not torch.allclose(network.weight, own)
    assert torch.equal(network.weight, own)


# ---------------------------------------------------------------- statistics


def test_frozen_statistics_stay_while_scale_and_shift_learn() -> None:
    network, _ = network_of()
    freeze_statistics(network)
    before = {n: v.clone() for n, v in network.named_buffers()}
    tuple_backward(Describer(network, RULE), ContrastiveLoss(1.9), pictures(4), CPU)
    assert all(torch.equal(v, before[n]) for n, v in network.named_buffers())
    layer = normalisations(network)[1]
    assert layer.weight.grad is not None
    assert float(layer.weight.grad.abs().max()) > 0


def test_measured_statistics_make_layers_zero_mean_unit_variance() -> None:
    """Against what the layers then give: over the same pictures, mean 0 and variance 1 before scale and shift.

    Not exactly: running variances are those of a sample, n / (n - 1) of what a batch is normalised by, and deeper layers see
    the difference; with n = 192 cells or more a layer it stays small.
    """
    network, _ = network_of()
    describer = Describer(network, RULE)
    arrays = pictures(12, shapes=((128, 128),))
    estimate_statistics(describer, arrays, CPU)
    out = {}
    layers = {m: i for i, m in enumerate(normalisations(network))}
    for layer in layers:
        layer.register_forward_hook(lambda m, i, o: out.update({layers[m]: o.clone()}))
    describer.eval()
    with torch.no_grad():
        describer(torch.from_numpy(np.stack(arrays)))
    assert len(out) == len(layers) == 3
    for index, value in out.items():
        assert float(value.mean((0, 2, 3)).abs().max()) < 0.15, index  # 48 values, and variances with and without bias
        assert torch.allclose(value.var((0, 2, 3)), torch.ones(value.shape[1]), atol=0.2), index
    assert not network.training


def test_statistics_are_weighted_by_pictures() -> None:
    """Two groups of unequal size and shape, against the weighted mean of the first layer's input means."""
    network, _ = network_of()
    describer = Describer(network, RULE)
    arrays = pictures(5, shapes=((48, 48),)) + pictures(2, 1, shapes=((64, 40),))
    estimate_statistics(describer, arrays, CPU)
    first = normalisations(network)[0]
    means = []
    network.backbone.body[0].register_forward_hook(lambda m, i, o: means.append(o.mean((0, 2, 3))))
    with torch.no_grad():
        for array in arrays:
            describer(torch.from_numpy(array)[None])
    assert torch.allclose(first.running_mean, torch.stack(means).mean(0), atol=1e-4)


# ---------------------------------------------------------------- pictures


def test_describing_leaves_no_trace_in_the_network_or_in_chance(tmp_path: Path) -> None:
    network, spec = network_of()
    freeze_statistics(network)
    modes = [m.training for m in network.modules()]
    state = copy.deepcopy(network.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    paths = write_pictures(tmp_path, 5, sizes=((40, 30), (30, 40)))
    (tmp_path / "0003.png").write_bytes(b"no picture")
    engine = LiveEngine(network, RULE, CPU, spec.dim)
    source = Pictures(paths, RULE)
    found, reasons = describe_pictures([4, 0, 3, 0], source.load, engine, workers=2)
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(v, state[n]) for n, v in network.state_dict().items())
    assert list(reasons) == [3]
    assert np.isnan(found[2]).all()
    assert np.array_equal(found[1], found[3])
    with torch.no_grad():
        alone = Describer(network, RULE).eval()(torch.from_numpy(source.load(4))[None])[0]
    assert np.allclose(found[0], alone, atol=1e-5)


def test_pictures_come_in_order_whatever_the_threads() -> None:
    import time

    def load(view: tuple[int, int]) -> np.ndarray:
        time.sleep(0.01 * (view[0] % 3))
        return np.full((2, 2, 3), view[0], np.uint8)

    groups = [[(i, 0), (i + 1, 0)] for i in range(0, 20, 2)]
    for workers in (1, 4):
        found = [[int(a[0, 0, 0]) for a in g] for g in ahead(groups, load, workers, 6) if not isinstance(g, Unreadable)]
        assert found == [[a, b] for (a, _), (b, _) in groups]


def test_only_so_many_pictures_are_decoded_ahead() -> None:
    asked = []

    def groups() -> object:
        for i in range(100):
            asked.append(i)
            yield [(i, 0)] * 7

    stream = ahead(groups(), lambda view: np.zeros((1, 1, 3), np.uint8), 2, 20)  # type: ignore[arg-type]
    next(stream)
    assert len(asked) <= 4
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((100, 100), (100, 100)),
        ((90, 100), (96, 100)),
        ((100, 83), (100, 96)),
        ((77, 100), (64, 100)),
        ((5, 90), (32, 100)),
    ],
)
def test_buckets(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert to_bucket(np.zeros((*shape, 3), np.uint8), 100).shape == (*expected, 3)


# ---------------------------------------------------------------- validation


def training_set(paths: list[Path], clusters: list[int], pairs: object = None) -> TrainingSet:
    table = np.zeros((0, 2), np.int64) if pairs is None else np.array(pairs, np.int64)
    return TrainingSet("made", tuple(paths), np.array(clusters, np.int64), table)


class Listed:
    """An engine whose descriptors are known: by the red value of a picture's first pixel."""

    name, dim, batch_pixels = "listed", 4, 10_000

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors.astype(np.float32)

    def describe(self, images: np.ndarray) -> np.ndarray:
        return self.vectors[images[:, 0, 0, 0]]


@pytest.mark.parametrize("with_pairs", [False, True])
def test_validation_is_the_mean_average_precision_of_a_full_ranking(tmp_path: Path, with_pairs: bool) -> None:
    from PIL import Image

    rng = np.random.default_rng(3)
    count = 14
    clusters = [-1] * count if with_pairs else [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, -1, -1]
    pairs = [(0, 1), (2, 3), (2, 4), (5, 6)] if with_pairs else None
    vectors = rng.normal(size=(count, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = []
    for i in range(count):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8), (i, 0, 0)).save(paths[-1])
    paths[8].write_bytes(b"broken")
    data = training_set(paths, clusters, pairs)
    found = HeldOut(data).mean_average_precision(Listed(vectors), RULE, Machine(workers=2))  # type: ignore[arg-type]
    scores, kept = [], [i for i in range(count) if i != 8]
    linked = {frozenset(pair) for pair in pairs or ()}
    for i in kept:
        others = [j for j in kept if j != i]
        others.sort(key=lambda j: -float(np.float32(vectors[i]) @ np.float32(vectors[j])))
        right = [r for r, j in enumerate(others) if (clusters[i] == clusters[j] >= 0) or frozenset((i, j)) in linked]
        if right:
            scores.append(average_precision(right, len(right)))
    assert found == pytest.approx(np.mean(scores), abs=1e-9)


def test_validation_without_matches_is_an_error(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 3)
    with pytest.raises(DatasetError, match="no held-out picture has a match"):
        HeldOut(training_set(paths, [0, 1, 2])).mean_average_precision(
            Listed(np.eye(256, 4)),  # type: ignore[arg-type]
            RULE,
            Machine(workers=1),
        )


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_restored_optimiser_goes_on_bit_by_bit(tmp_path: Path, kind: str) -> None:
    def made() -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        group = {"params": list(layer.parameters()), "factor": 1.0}
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        options = {"momentum": 0.9} if kind == "sgd" else {}
        return layer, kinds[kind]([group], lr=0.1, **options)

    def steps(layer: nn.Conv2d, optimiser: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            optimiser.zero_grad()
            torch.manual_seed(number)
            (layer(torch.randn(2, 3, 8, 8)).square().sum()).backward()
            optimiser.step()

    whole, one = made()
    steps(whole, one, range(6))
    half, two = made()
    steps(half, two, range(3))
    write_state(tmp_path / "s", {**half.state_dict(), **optimiser_tensors(two)}, {"a": 1})
    tensors, facts = read_state(tmp_path / "s")
    again, three = made()
    again.load_state_dict({k: tensors.pop(k) for k in ("weight", "bias")})
    restore_optimiser(three, tensors)
    steps(again, three, range(3, 6))
    assert facts == {"a": 1}
    assert torch.equal(again.weight, whole.weight)
    assert torch.equal(again.bias, whole.bias)


def test_a_damaged_or_missing_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing to resume"):
        read_state(tmp_path / "none")
    write_state(tmp_path / "s", {"a": torch.ones(1000)}, {})
    data = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(data[:2000])
    with pytest.raises(ModelError, match="damaged"):
        read_state(tmp_path / "s")


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    write_state(tmp_path / "s", {"a": torch.ones(3)}, {})

    def full(tensors: object, path: Path, metadata: object = None) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ModelError, match=r"No space left.*the one before is kept"):
        write_state(tmp_path / "s", {"a": torch.zeros(3)}, {})
    assert torch.equal(read_state(tmp_path / "s")[0]["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


# ---------------------------------------------------------------- configuration


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = TrainingConfig("d", "m", avoid=("a.json",), margin=0.3, patience=4, validate="0.2", fixed_p=True)
    (tmp_path / "c.json").write_text(config.to_json())
    assert TrainingConfig.load(tmp_path / "c.json") == config
    (tmp_path / "c.json").write_text('{"data": "d", "model": "m", "colour": 1}')
    with pytest.raises(UsageError, match="'colour'"):
        TrainingConfig.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"negatives": 0}, {"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"p_lr": -1.0}, {"ema": 1.0},
        {"size": 8}, {"optimiser": "lion"}, {"schedule": "steps"}, {"patience": 0}, {"seed": -1}, {"queries": 2.5},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TrainingConfig("d", "m", **wrong)  # type: ignore[arg-type]


def test_what_is_held_out() -> None:
    def share(validate: str | None, clusters: int) -> float:
        return TrainingConfig("d", "m", validate=validate).share_held_out(clusters)

    assert [share(None, 19), share(None, 20), share("0.25", 5), share("none", 99), share("gt.json", 99)] == [
        0, 0.1, 0.25, 0, 0,
    ]  # fmt: skip
    assert TrainingConfig("d", "m", validate="gt.json").truth == "gt.json"
    with pytest.raises(UsageError, match="between 0 and 1"):
        share("1.5", 9)


def test_how_long_a_run_will_take_is_said_once_after_some_steps() -> None:
    said: list[str] = []
    run = SimpleNamespace(
        foretold=False,
        config=SimpleNamespace(epochs=3),
        progress=SimpleNamespace(epoch=0),
        machine=SimpleNamespace(say=said.append),
    )

    def after(step: int, seconds: float, taken: int) -> list[str]:
        Trainer._foretell(run, step, 100, seconds, taken)  # type: ignore[arg-type]
        return said

    assert after(4, 8.0, 4) == []  # not yet a twentieth of an epoch
    # 95 steps of this epoch and 200 of two others, two seconds each.
    assert len(after(5, 10.0, 5)) == 1
    assert said[0].startswith("about 10 min to the end of 3 epochs")
    assert after(6, 12.0, 6) == said[:1]
    run.foretold, run.progress.epoch = False, 2
    assert after(90, 20.0, 10) == said[:1]  # a quarter of a minute is not worth it
