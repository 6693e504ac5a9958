"""Losses against the field's own code (the oracle), plain loops in float64, finite differences and a limit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retrieval.errors import UsageError
from retrieval.training.losses import ContrastiveLoss, SmoothAPLoss, TripletLoss, create_loss


def units(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Unit vectors in float64; a small ``spread`` brings them close together."""
    made = spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made[..., 0] += 1 - spread
    return made / made.norm(dim=-1, keepdim=True)


# -- tuples ------------------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_tuple_losses_are_those_of_the_field(shared_data: Path) -> None:
    oracle = np.load(shared_data / "oracles" / "layers.npz")
    labels = oracle["tuple_labels"]
    assert labels.tolist() == [-1, 1, 0, 0, 0, 0, 0] * 2  # two tuples: query, positive, five negatives
    flat = torch.from_numpy(oracle["tuple_vectors_DxN"].T.copy())
    for loss, key in (
        (ContrastiveLoss(0.7), "contrastive_margin0.7"),
        (ContrastiveLoss(0.85), "contrastive_margin0.85"),
        (TripletLoss(0.1), "triplet_margin0.1"),
    ):
        assert loss(flat, tuples=2).item() == pytest.approx(float(oracle[key]), rel=1e-6)
        assert loss(flat.reshape(2, 7, -1)).item() == pytest.approx(float(oracle[key]), rel=1e-6)


def contrastive_by_loop(tuples: np.ndarray, margin: float) -> float:
    total = 0.0
    for query, positive, *negatives in tuples:
        total += 0.5 * sum((a - b + 1e-6) ** 2 for a, b in zip(query, positive, strict=True))
        for negative in negatives:
            distance = sum((a - b + 1e-6) ** 2 for a, b in zip(query, negative, strict=True)) ** 0.5
            total += 0.5 * max(0.0, margin - distance) ** 2
    return total


def triplet_by_loop(tuples: np.ndarray, margin: float) -> float:
    total = 0.0
    for query, positive, *negatives in tuples:
        near = sum((a - b) ** 2 for a, b in zip(query, positive, strict=True))
        for negative in negatives:
            total += max(0.0, near - sum((a - b) ** 2 for a, b in zip(query, negative, strict=True)) + margin)
    return total


@pytest.mark.parametrize(
    ("kind", "by_loop", "margin"),
    [
        (ContrastiveLoss, contrastive_by_loop, 0.7),
        (ContrastiveLoss, contrastive_by_loop, 1.5),
        (TripletLoss, triplet_by_loop, 0.1),
        (TripletLoss, triplet_by_loop, 0.5),
    ],
)
@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_tuple_losses_are_plain_sums(kind: type[nn.Module], by_loop, margin: float, spread: float) -> None:
    tuples = units(3, 6, 8, seed=1, spread=spread)
    expected = by_loop(tuples.numpy(), margin)
    loss = kind(margin)
    assert loss(tuples).item() == pytest.approx(expected, rel=1e-12)
    assert sum(loss(one).item() for one in tuples) == pytest.approx(expected, rel=1e-12)


def test_known_values() -> None:
    turned = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    # Squared distances from the query: 0.8 to the positive, 2 and 4 to the negatives.
    assert ContrastiveLoss(1.5)(turned).item() == pytest.approx(0.4 + 0.5 * (1.5 - 2**0.5) ** 2, abs=1e-5)
    assert ContrastiveLoss(1.0)(turned).item() == pytest.approx(0.4, abs=1e-5)
    assert TripletLoss(1.5)(turned).item() == pytest.approx(0.8 - 2 + 1.5)
    assert TripletLoss(0.5)(turned).item() == 0


def test_gradients_agree_with_finite_differences() -> None:
    tuples = units(2, 5, 6, seed=2, spread=0.4).requires_grad_()
    for loss in (ContrastiveLoss(0.7), ContrastiveLoss(1.6), TripletLoss(0.4)):
        assert loss(tuples).item() > 0
        assert torch.autograd.gradcheck(loss, (tuples,), eps=1e-6, atol=1e-6)


def test_gradients_of_single_tuples_add_up() -> None:
    for loss in (ContrastiveLoss(1.2), TripletLoss(0.5)):
        tuples = units(4, 7, 16, seed=3, spread=0.5).requires_grad_()
        loss(tuples).backward()
        apart = tuples.detach().clone().requires_grad_()
        for one in range(4):
            loss(apart[one]).backward()
        torch.testing.assert_close(apart.grad, tuples.grad)


def test_the_positives_own_copy_gives_finite_gradients() -> None:
    same = units(1, 8, seed=4).expand(4, 8).clone().requires_grad_()
    loss = ContrastiveLoss(0.7)(same)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 0.5 * 0.7**2, rel=1e-4)
    assert torch.isfinite(same.grad).all()


def test_half_precision_is_computed_in_single() -> None:
    tuples = units(2, 5, 64, seed=5, spread=0.3)
    for loss in (ContrastiveLoss(), TripletLoss()):
        value = loss(tuples.half())
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(loss(tuples.half().double()).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(7,), (2, 8), (2, 2, 8), (1, 2, 3, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="tuples of a query"):
        ContrastiveLoss()(torch.zeros(shape))


def test_a_flat_batch_must_divide_into_tuples() -> None:
    with pytest.raises(UsageError, match="are not 2 tuples"):
        TripletLoss()(torch.zeros(13, 8), tuples=2)


# -- Smooth-AP ---------------------------------------------------------------------------------------------------------


def smooth_ap_by_loop(vectors: np.ndarray, labels: list[int], temperature: float) -> float:
    def step(x: float) -> float:
        return float(1 / (1 + np.exp(-x / temperature)))

    values = []
    for q in range(len(labels)):
        positives = [i for i in range(len(labels)) if i != q and labels[i] == labels[q] != -1]
        if not positives:
            continue
        scores = [float(np.dot(vectors[q], other)) for other in vectors]
        total = 0.0
        for i in positives:
            others = [j for j in range(len(labels)) if j not in (q, i)]
            rank = 1 + sum(step(scores[j] - scores[i]) for j in others)
            among = 1 + sum(step(scores[j] - scores[i]) for j in others if j in positives)
            total += among / rank
        values.append(total / len(positives))
    return 1 - float(np.mean(values))


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_smooth_ap_is_the_double_loop(temperature: float) -> None:
    labels = [0, 1, 0, 2, 1, 0, -1, 3, -1, 2]
    vectors = units(10, 6, seed=6, spread=0.6)
    value = SmoothAPLoss(temperature)(vectors, torch.tensor(labels)).item()
    assert value == pytest.approx(smooth_ap_by_loop(vectors.numpy(), labels, temperature), rel=1e-10)


def test_smooth_ap_becomes_average_precision() -> None:
    from sklearn.metrics import average_precision_score

    labels = torch.arange(40) % 8
    vectors = units(40, 5, seed=7)
    scores = (vectors @ vectors.T).numpy()
    exact = []
    for q in range(40):
        others = np.arange(40) != q
        exact.append(average_precision_score((labels == labels[q]).numpy()[others], scores[q][others]))
    assert SmoothAPLoss(1e-7)(vectors, labels).item() == pytest.approx(1 - np.mean(exact), abs=1e-6)


def test_smooth_ap_gradients_agree_with_finite_differences() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2, -1])
    vectors = units(7, 4, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: SmoothAPLoss(0.2)(v, labels), (vectors,), eps=1e-6, atol=1e-6)


def test_a_descent_on_smooth_ap_sorts_the_batch() -> None:
    labels = torch.arange(24) % 6
    vectors = units(24, 8, seed=9).requires_grad_()
    loss, optimiser = SmoothAPLoss(0.05), torch.optim.Adam([vectors], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss(vectors / vectors.norm(dim=1, keepdim=True), labels).backward()
        optimiser.step()
    assert loss(vectors / vectors.norm(dim=1, keepdim=True), labels).item() < 0.02


def test_smooth_ap_needs_two_of_a_class_and_fitting_shapes() -> None:
    loss = SmoothAPLoss()
    with pytest.raises(UsageError, match="no two pictures"):
        loss(units(4, 3), torch.tensor([0, 1, -1, -1]))
    with pytest.raises(UsageError, match="do not fit"):
        loss(units(4, 3), torch.tensor([0, 1, 1]))


# -- by name -----------------------------------------------------------------------------------------------------------


def test_losses_by_name() -> None:
    assert isinstance(create_loss("contrastive"), ContrastiveLoss)
    assert create_loss("contrastive").margin == 0.7
    assert create_loss("triplet", margin=0.1).margin == 0.1
    assert create_loss("ap", temperature=0.02).temperature == 0.02
    assert [create_loss(name).listwise for name in ("contrastive", "triplet", "ap")] == [False, False, True]
    with pytest.raises(UsageError, match=r"no loss is called 'hinge'.*contrastive, triplet, ap"):
        create_loss("hinge")
    with pytest.raises(UsageError, match=r"contrastive has no parameter 'temperature'.*margin"):
        create_loss("contrastive", temperature=1)
    for wrong in ({"name": "contrastive", "margin": 0}, {"name": "ap", "temperature": float("nan")}):
        with pytest.raises(UsageError, match="above 0"):
            create_loss(**wrong)


def test_losses_of_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    vectors = units(6, 5, seed=10).float().requires_grad_()
    for name, parameters in (("TripletMarginLoss", {"margin": 0.3}), ("MultiSimilarityLoss", {}), ("NTXentLoss", {})):
        loss = create_loss(f"pml:{name}", **parameters)
        assert loss.listwise
        value = loss(vectors, labels)
        assert value.item() == pytest.approx(getattr(losses, name)(**parameters)(vectors, labels).item())
        value.backward()
    # Pictures of no class do not match one another.
    loss = create_loss("pml:TripletMarginLoss", margin=0.3)
    without = loss(vectors, torch.tensor([0, 0, -1, -1, 2, 2]))
    assert without.item() == pytest.approx(loss(vectors, torch.tensor([0, 0, 7, 8, 2, 2])).item())


def test_troubles_with_pytorch_metric_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_metric_learning")
    with pytest.raises(UsageError, match=r"no loss 'TripletLoss'.*Did you mean.*TripletMarginLoss"):
        create_loss("pml:TripletLoss")
    with pytest.raises(UsageError, match=r"pml:TripletMarginLoss cannot be made with.*margins"):
        create_loss("pml:TripletMarginLoss", margins=1)
    with pytest.raises(UsageError, match="pml:ArcFaceLoss cannot be made with no parameters"):
        create_loss("pml:ArcFaceLoss")
    with pytest.raises(UsageError, match="weights of its own"):
        create_loss("pml:ArcFaceLoss", num_classes=3, embedding_size=5)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(UsageError, match=r"need the package pytorch-metric-learning.*pip install"):
        create_loss("pml:TripletMarginLoss")
