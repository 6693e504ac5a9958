"""Winograd's filtering against convolutions written out, and inside the engines against the network run plainly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retrieval.describe.model import load_model
from retrieval.engines import winograd
from retrieval.engines.choose import create_engine
from retrieval.engines.openvino import winograd as winograd_openvino
from retrieval.engines.torch import engine as torch_engine
from retrieval.engines.torch import winograd as winograd_torch
from retrieval.engines.torch.folding import fold_batchnorm
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.models.spec import ImageRule, ModelSpec

WIDE = winograd.LEAST_CHANNELS


@pytest.fixture
def paying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """As on a processor where it pays, with a cache of its own."""
    monkeypatch.setattr(winograd, "pays_here", lambda: True)
    monkeypatch.setattr(torch_engine, "pays_here", lambda: True)
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))
    return monkeypatch


def wanted(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Direct, in float64."""
    bias = None if conv.bias is None else conv.bias.detach().double()
    return F.conv2d(x.double(), conv.weight.detach().double(), bias, padding=1)


def wide_convolution(out: int = 8, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(out)
    return nn.Conv2d(WIDE, out, 3, padding=1, bias=bias).eval().requires_grad_(False)


def test_a_tile_is_what_sixteen_sums_by_hand_are() -> None:
    rng = np.random.default_rng(0)
    window = rng.integers(-9, 10, (2, 6, 6))
    kernels = rng.integers(-9, 10, (3, 2, 3, 3))
    tile = np.zeros((3, 4, 4))
    for o, y, x, c in np.ndindex(3, 4, 4, 2):
        tile[o, y, x] += sum(window[c, y + i, x + j] * kernels[o, c, i, j] for i in range(3) for j in range(3))
    positions = winograd.INPUT @ window.reshape(2, 36).T  # (36, C)
    sums = np.einsum("poc,pc->po", winograd.transformed(kernels), positions)
    np.testing.assert_allclose((winograd.OUTPUT @ sums).T.reshape(3, 4, 4), tile, atol=1e-3)
    sums[winograd.CONSTANT] += 5
    np.testing.assert_allclose((winograd.OUTPUT @ sums).T.reshape(3, 4, 4), tile + 5, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 17, 22), (1, 63, 14), (3, 12, 31)])
@pytest.mark.parametrize("bias", [True, False])
def test_torch_gives_the_direct_convolution(shape: tuple[int, int, int], bias: bool) -> None:
    batch, height, width = shape
    conv = wide_convolution(bias=bias)
    x = torch.randn(batch, WIDE, height, width).relu()
    filtered = winograd_torch.WinogradConvolution(conv)
    filtered.direct.forward = None  # type: ignore[assignment]  # cannot be what answers
    for given in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(filtered(given).double(), wanted(x, conv), atol=1e-4, rtol=0)


def test_small_maps_go_the_direct_way_whatever_lies_beside_them() -> None:
    conv = wide_convolution()
    x = torch.randn(9, WIDE, 12, 20)  # fifteen tiles
    assert torch.equal(winograd_torch.WinogradConvolution(conv)(x), conv(x))


def test_only_convolutions_of_that_kind_are_replaced() -> None:
    class Same(nn.Conv2d):
        """Pads by a rule of its own."""

    def conv(**other: object) -> nn.Conv2d:
        return nn.Conv2d(**{"in_channels": WIDE, "out_channels": 4, "kernel_size": 3, "padding": 1, **other})  # type: ignore[arg-type]

    kept = [
        conv(stride=2), conv(dilation=2), conv(padding=0), conv(kernel_size=1), conv(kernel_size=(3, 1)), conv(groups=4),
        conv(padding_mode="reflect"), conv(in_channels=WIDE // 2), Same(WIDE, 4, 3, padding=1),
    ]  # fmt: skip
    module = nn.Sequential(*kept, nn.Sequential(conv(), nn.ReLU()), conv())
    winograd_torch.use_winograd(module)
    assert list(module[: len(kept)]) == kept
    replaced = (module[len(kept)][0], module[len(kept) + 1])
    assert all(isinstance(child, winograd_torch.WinogradConvolution) for child in replaced)


def test_openvino_gives_the_direct_convolution_at_every_remainder() -> None:
    openvino = pytest.importorskip("openvino")
    from openvino import opset8

    conv = wide_convolution(bias=False)
    picture = opset8.parameter([1, WIDE, -1, -1], np.float32)
    kernels = conv.weight.numpy()
    direct = opset8.convolution(picture, kernels, [1, 1], [1, 1], [1, 1], [1, 1])
    other = opset8.convolution(direct, np.ones((4, 8, 3, 3), np.float32), [1, 1], [1, 1], [1, 1], [1, 1])  # narrow
    model = openvino.Model([direct, other], [picture])
    assert winograd_openvino.use_winograd(model) == 1
    assert [node.get_type_name() for node in model.get_ops()].count("Convolution") == 1
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in [(h, w) for h in (1, 2, 3, 4, 17, 18, 19, 20) for w in (5, 6, 7, 8)]:
        x = torch.randn(1, WIDE, height, width)
        got = np.asarray(compiled({0: x.numpy()})[0], np.float64)
        np.testing.assert_allclose(got, wanted(x, conv).numpy(), atol=1e-4)


def test_openvino_leaves_other_convolutions() -> None:
    openvino = pytest.importorskip("openvino")
    from openvino import opset8

    picture = opset8.parameter([1, WIDE, -1, -1], np.float32)
    kernels = np.zeros((WIDE, WIDE, 3, 3), np.float32)
    kinds = [  # strides, padding before, padding after, dilations
        ([2, 2], [1, 1], [1, 1], [1, 1]), ([1, 1], [0, 0], [1, 1], [1, 1]), ([1, 1], [1, 1], [0, 0], [1, 1]),
        ([1, 1], [1, 1], [1, 1], [2, 2]),
    ]  # fmt: skip
    results = [opset8.convolution(picture, kernels, *kind) for kind in kinds]
    results.append(opset8.convolution(picture, kernels, [1, 1], [1, 1], [1, 1], [1, 1], auto_pad="valid"))
    results.append(opset8.convolution(picture, kernels[:, :, :1, :1], [1, 1], [1, 1], [1, 1], [1, 1]))
    assert winograd_openvino.use_winograd(openvino.Model(results, [picture])) == 0


@pytest.mark.parametrize("runs", ["torch", "openvino"])
def test_engines_use_it_and_keep_the_networks_own_descriptors(paying: pytest.MonkeyPatch, runs: str) -> None:
    pytest.importorskip("openvino")
    counts: list[int] = []
    transformations: list[tuple[int, ...]] = []
    inner, transformed = winograd_openvino.use_winograd, winograd.transformed

    def counted(kernels: np.ndarray) -> np.ndarray:
        transformations.append(kernels.shape)
        return transformed(kernels)

    paying.setattr(winograd_openvino, "use_winograd", lambda model: counts.append(inner(model)))
    paying.setattr(winograd_openvino, "transformed", counted)
    model = load_model("resnet18-gem@random:0", scales=(1.0, 0.5))
    engine = create_engine(model.spec, runs) if runs == "openvino" else torch_engine.TorchEngine(model.spec)
    if runs == "openvino":
        assert counts == [12]  # six convolutions at two scales
        assert len(transformations) == 6
    else:
        kinds = [type(child) for child in engine.describer.modules()]
        assert kinds.count(winograd_torch.WinogradConvolution) == 6
    plain = Describer(build_network(model.spec), model.spec.image).double().eval()
    plain.mean, plain.std = plain.mean.double(), plain.std.double()
    for height, width in ((301, 402),):  # wide maps, of a whole number of tiles in no direction
        image = np.random.default_rng(height).integers(0, 256, (1, height, width, 3)).astype(np.uint8)
        with torch.no_grad():
            expected = plain(torch.from_numpy(image).double()).numpy()
        np.testing.assert_allclose(engine.describe(image), expected, atol=2e-6)


def test_folded_networks_outside_the_engine_stay_direct() -> None:
    network = fold_batchnorm(build_network(load_model("resnet18-gem@random:0").spec))
    assert not any(isinstance(child, winograd_torch.WinogradConvolution) for child in network.modules())


@pytest.mark.parametrize(
    ("flags", "pays"),
    [
        ("flags : fpu sse4_2 avx fma avx2", True),
        ("flags : fpu avx fma avx2 avx512f avx512bw", True),
        ("flags : fpu sse4_2 avx", False),
        ("Features : fp asimd sve", False),
        ("", False),
    ],
)
def test_it_is_used_where_it_was_measured(monkeypatch: pytest.MonkeyPatch, flags: str, pays: bool) -> None:
    monkeypatch.setattr(winograd, "processor_flags", lambda: flags)
    assert winograd.pays_here() is pays


@pytest.mark.parametrize(
    ("name", "size", "suits"),
    [
        ("resnet50-gem@random:0", 1024, True),
        ("resnet50-gem@random:0", 448, True),
        ("resnet50-gem@random:0", 447, False),
        ("efficientnet_lite0-gem@random:0", 1024, False),
    ],
)
def test_openvino_takes_it_for_large_pictures_of_wide_networks(name: str, size: int, suits: bool) -> None:
    spec: ModelSpec = load_model(name).spec.with_image(size=size)
    assert winograd_openvino.suits(spec) is suits


def test_pictures_of_any_size_count_as_large() -> None:
    from dataclasses import replace

    spec = replace(load_model("resnet50-gem@random:0").spec, image=ImageRule(size=None))
    assert winograd_openvino.suits(spec)
