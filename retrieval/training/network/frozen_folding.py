"""A convolution and the frozen normalisation behind it as one operation: less to compute, and less to keep for the backward
pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.models.network import RetrievalNetwork
from retrieval.training.network.modes import evaluating

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def find_pairs(network: nn.Module, images: Tensor) -> list[Pair]:
    """The convolutions of ``network`` whose output goes into a normalisation, seen on a forward pass of ``images``.

    None where folding them would not give the same result: if a convolution's output is used elsewhere too, for one.
    """
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # holds the outputs, so that no other tensor takes their id
    pairs: list[Pair] = []

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        outputs[id(output)] = (module, output)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    hooks: list[Any] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after))
        elif _foldable(module):
            hooks.append(module.register_forward_pre_hook(before))
    with torch.no_grad():
        try:
            plain = network(images)
        finally:
            for hook in hooks:
                hook.remove()
        if len({id(part) for pair in pairs for part in pair}) != 2 * len(pairs):
            return []  # something is used twice
        with folded(pairs):
            again = network(images)
    scale = float(plain.abs().max())
    return pairs if torch.allclose(again, plain, rtol=1e-2, atol=1e-2 * scale) else []


def foldable(network: RetrievalNetwork, device: torch.device) -> list[Pair]:
    """:func:`find_pairs` of a network's backbone, in evaluation mode and on made-up pixels."""
    sample = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    with evaluating(network):
        return find_pairs(network.backbone, sample)


@contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """Within this, convolutions have their normalisation folded in, and of the normalisation only what follows it remains.

    With weights W and offset a, running mean m and variance v, scale g and shift b: g (W x + a - m) / s + b, s = sqrt(v +
    eps), is the convolution of x by (g / s) W with the offset b + (a - m) g / s. Both are computed here, with their graph,
    once for all forward passes inside, so W, a, g and b get the gradients that they get without folding. One backward
    pass is possible; the optimiser's step belongs outside.
    """
    kept: list[tuple[nn.Conv2d, dict[str, nn.Parameter | None], nn.BatchNorm2d]] = []
    try:
        for convolution, norm in pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            offset = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
            shift = norm.bias + offset * scale
            weight = convolution.weight * scale[:, None, None, None]
            kept.append((convolution, dict(convolution._parameters), norm))
            # As torch.func.functional_call does it: tensors with a graph in the parameters' places.
            parameters: dict[str, Any] = {"weight": weight, "bias": shift}
            convolution._parameters.update(parameters)
            norm.forward = _what_follows(norm)  # type: ignore[method-assign]
        yield
    finally:
        for convolution, own, norm in kept:
            convolution._parameters.update(own)
            del norm.forward


def _foldable(module: nn.Module) -> bool:
    if not isinstance(module, nn.BatchNorm2d) or not module.affine or module.running_mean is None:
        return False
    return type(module) is nn.BatchNorm2d or (hasattr(module, "act") and hasattr(module, "drop"))


def _what_follows(norm: nn.BatchNorm2d) -> Any:
    """timm's BatchNormAct2d drops and activates after normalising; the plain one does nothing more."""
    if type(norm) is nn.BatchNorm2d:
        return lambda x: x
    then: Any = norm
    return lambda x: then.act(then.drop(x))
