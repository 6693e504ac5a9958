"""Losses over descriptors: contrastive and triplet on tuples, Smooth-AP on labelled batches, others by name.

A tuple is a query, its positive and its negatives, in this order. Tuple losses are summed, never averaged: over the
pictures of a tuple and over tuples, so that the backward passes of single tuples add up to that of all of them.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import UsageError

_EPS = 1e-6


class TupleLoss(nn.Module):
    """Base of the losses on tuples. ``listwise`` is False: a tuple at a time is all that is needed."""

    listwise = False

    def __init__(self, margin: float) -> None:
        super().__init__()
        if not margin > 0:
            raise UsageError(f"the margin must be above 0, not {margin}")
        self.margin = float(margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}"

    def forward(self, descriptors: Tensor, tuples: int = 1) -> Tensor:
        """The summed loss, a scalar, of ``descriptors`` (T, 2 + N, D): T queries, positives and N negatives each.

        (T (2 + N), D) is taken for ``tuples`` of equal length, one after the other. Computed in float32 at least. Raises
        UsageError for another shape or without negatives.
        """
        shape = tuple(descriptors.shape)
        if descriptors.ndim == 2 and tuples > 0 and len(descriptors) % tuples == 0:
            descriptors = descriptors.reshape(tuples, len(descriptors) // tuples, -1)
        if descriptors.ndim != 3 or descriptors.shape[1] < 3:
            raise UsageError(
                f"descriptors of shape {shape} are not {tuples} tuples of a query, a positive and negatives"
            )
        if descriptors.dtype not in (torch.float32, torch.float64):
            descriptors = descriptors.float()
        return self._of(descriptors[:, :1], descriptors[:, 1:])

    def _of(self, query: Tensor, others: Tensor) -> Tensor:
        raise NotImplementedError


class ContrastiveLoss(TupleLoss):
    """The contrastive loss of Hadsell, Chopra and LeCun (CVPR 2006), as Radenović et al. (TPAMI 2018) train GeM with it.

    With D = |q - x + 1e-6|: D² / 2 for the positive and max(0, margin - D)² / 2 for each negative. Between descriptors of
    unit length D lies in [0, 2]; margins in use are 0.7 (VGG, AlexNet), 0.85 (ResNet), about twice that with a whitening
    layer.
    """

    def __init__(self, margin: float = 0.7) -> None:
        super().__init__(margin)

    def _of(self, query: Tensor, others: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(query - others + _EPS, dim=2)
        lacking = (self.margin - distance[:, 1:]).clamp(min=0)
        return 0.5 * distance[:, 0].square().sum() + 0.5 * lacking.square().sum()


class TripletLoss(TupleLoss):
    """The triplet loss on squared distances (Schroff, Kalenichenko and Philbin, CVPR 2015, equation 2), one triplet a
    negative: max(0, |q - p|² - |q - n|² + margin)."""

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__(margin)

    def _of(self, query: Tensor, others: Tensor) -> Tensor:
        squared = (query - others).square().sum(dim=2)
        return (squared[:, :1] - squared[:, 1:] + self.margin).clamp(min=0).sum()


class SmoothAPLoss(nn.Module):
    """One minus the mean average precision of a batch, each picture asking for the others of its class: Smooth-AP
    (Brown, Xie, Kalogeiton and Zisserman, ECCV 2020, equations 9 to 11).

    The rank of i, 1 + the number of j that score higher, is made smooth by a sigmoid of (s_j - s_i) / ``temperature`` in
    place of the step. As the temperature goes to 0 it becomes the finite-sum average precision of a ranking. Chosen over
    the quantised AP of Revaud et al. (ICCV 2019) because it has one parameter instead of a grid of bins, and that limit to
    be checked against. Memory grows as the matching pairs times the pictures of the batch.
    """

    listwise = True

    def __init__(self, temperature: float = 0.01) -> None:
        super().__init__()
        if not temperature > 0:
            raise UsageError(f"the temperature must be above 0, not {temperature}")
        self.temperature = float(temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """A scalar in [0, 1] for ``descriptors`` (B, D) and int64 ``labels`` (B,); -1 marks a picture of no class.

        Pictures without another of their class ask nothing. Raises UsageError for other shapes, and where no two pictures
        are of one class.
        """
        labels = _checked_labels(descriptors, labels)
        if descriptors.dtype not in (torch.float32, torch.float64):
            descriptors = descriptors.float()
        same = ((labels[:, None] == labels[None]) & (labels[:, None] != -1)).fill_diagonal_(False)
        asks, found = same.nonzero(as_tuple=True)  # a row for each query and each of its positives
        if not len(asks):
            raise UsageError("no two pictures of the batch are of one class", "Put several of each class in a batch.")
        scores = descriptors @ descriptors.T
        above = torch.sigmoid((scores[asks] - scores[asks, found][:, None]) / self.temperature)
        place = torch.arange(len(labels), device=labels.device)
        above = above * (
            (place != asks[:, None]) & (place != found[:, None])
        )  # neither the query nor the picture itself
        precision = (1 + (above * same[asks]).sum(dim=1)) / (1 + above.sum(dim=1))
        positives = same.sum(dim=1)
        return 1 - (precision / positives[asks]).sum() / (positives > 0).sum()


class MetricLearningLoss(nn.Module):
    """A loss of the package pytorch-metric-learning, by the name of its class, with its parameters.

    Its classes take whole labelled batches. Those with weights of their own (a centre for each class and the like) are
    refused: nothing here would train or store them. Raises UsageError for that, for an unknown name, wrong parameters, or
    where the package is not installed.
    """

    listwise = True

    def __init__(self, name: str, **parameters: Any) -> None:
        super().__init__()
        kinds = _metric_learning_losses()
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, 3)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(kinds)}."
            raise UsageError(f"pytorch-metric-learning has no loss {name!r}", hint)
        try:
            self.loss = kinds[name](**parameters)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the loss pml:{name} cannot be made with {parameters or 'no parameters'}: {error}"
            ) from None
        if any(True for _ in self.loss.parameters()):
            raise UsageError(f"the loss pml:{name} has weights of its own, which are not trained here", "Take another.")

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """A scalar for ``descriptors`` (B, D) and int64 ``labels`` (B,); pictures of class -1 are each a class of their own."""
        labels = _checked_labels(descriptors, labels)
        alone = labels.max().clamp(min=0) + 1 + torch.arange(len(labels), device=labels.device)
        result: Tensor = self.loss(descriptors.float(), torch.where(labels == -1, alone, labels))
        return result


def create_loss(name: str, **parameters: Any) -> nn.Module:
    """A loss by name: ``contrastive`` and ``triplet`` (``margin``), ``ap`` (``temperature``), or ``pml:`` and the name of a
    class of pytorch-metric-learning, such as ``pml:MultiSimilarityLoss``.

    Its attribute ``listwise`` tells which arguments it takes: descriptors of tuples, or of a batch with labels. Raises
    UsageError for an unknown name or a parameter that the loss does not have.
    """
    if name.startswith("pml:"):
        return MetricLearningLoss(name.removeprefix("pml:"), **parameters)
    kinds: dict[str, type[nn.Module]] = {"contrastive": ContrastiveLoss, "triplet": TripletLoss, "ap": SmoothAPLoss}
    if name not in kinds:
        raise UsageError(f"no loss is called {name!r}", f"There are: {', '.join(kinds)}, and pml:NAME.")
    known = list(inspect.signature(kinds[name]).parameters)
    if unknown := sorted(set(parameters) - set(known)):
        raise UsageError(f"the loss {name} has no parameter {unknown[0]!r}", f"It has: {', '.join(known)}.")
    return kinds[name](**parameters)


def _checked_labels(descriptors: Tensor, labels: Tensor) -> Tensor:
    if descriptors.ndim != 2 or labels.shape != descriptors.shape[:1]:
        raise UsageError(
            f"descriptors of shape {tuple(descriptors.shape)} and labels of shape {tuple(labels.shape)} do not fit",
            "Give (B, D) and (B,).",
        )
    return labels.to(descriptors.device)


def _metric_learning_losses() -> dict[str, type[nn.Module]]:
    try:
        losses = importlib.import_module("pytorch_metric_learning.losses")
    except ImportError as error:
        raise UsageError(
            f"losses with 'pml:' need the package pytorch-metric-learning ({error})",
            "Install it: pip install pytorch-metric-learning.",
        ) from None
    base = losses.BaseMetricLossFunction
    abstract = {base, losses.GenericPairLoss, losses.MultipleLosses}
    return {
        name: kind
        for name, kind in vars(losses).items()
        if isinstance(kind, type) and issubclass(kind, base) and kind not in abstract
    }
