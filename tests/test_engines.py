"""Engines against the network itself, run as plain as can be: one picture, eager float32, nothing folded."""

from __future__ import annotations

import copy
import functools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import tiny
import torch
import torchvision
from converted import CHECKED, compiled_graph
from fakes import FakeEngine
from few_blocks import NAME as FEW_BLOCKS
from narrow import use_narrow
from PIL import Image
from torch import nn

from retrieval.describe.extraction import describe_all
from retrieval.describe.model import Model, load_model
from retrieval.engines.base import Engine, EngineUnavailable
from retrieval.engines.choose import create_engine
from retrieval.engines.openvino.regions import regions_of
from retrieval.engines.torch.folding import fold_batchnorm
from retrieval.errors import UsageError
from retrieval.models.backbones import _FAMILIES, Backbone, TimmViT, TorchvisionViT, create_backbone, fit_to_patches
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.loading import build_network
from retrieval.models.network import Describer, RetrievalNetwork, make_pooling
from retrieval.models.registry import BACKBONES
from retrieval.pooling.regions import rmac_regions
from retrieval.pooling.registry import list_poolings

RESNET, LITE = "resnet18-gem@random:0", "efficientnet_lite0-gem"
SHAPES = [(97, 131), (64, 64), (40, 203)]
ENGINES = ["torch", "openvino"]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 has an eighth of its channels here; the whole one runs in both engines in ``test_winograd.py``."""
    use_narrow(monkeypatch)


def pictures(height: int, width: int, count: int = 1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed + height * width)
    coarse = np.kron(rng.integers(0, 256, (count, -(-height // 20), -(-width // 20), 3)), np.ones((1, 20, 20, 1)))
    noise = rng.integers(-40, 40, (count, height, width, 3))
    return np.clip(coarse[:, :height, :width] + noise, 0, 255).astype(np.uint8)


_plain: dict[str, Describer] = {}  # the last one
_known: dict[tuple[str, bytes], np.ndarray] = {}


def plainly(model: Model, images: np.ndarray) -> np.ndarray:
    """The describer on float pictures, channels first, one at a time, in float64. What is known is not computed again."""
    if model.fingerprint not in _plain:
        network = build_network(model.spec, model.checkpoint)
        describer = Describer(network, model.spec.image).double().eval()
        describer.mean, describer.std = describer.mean.double(), describer.std.double()
        _plain.clear()
        _plain[model.fingerprint] = describer
    describer = _plain[model.fingerprint]
    rows = []
    for image in images:
        known = (model.fingerprint, str(image.shape).encode() + image.tobytes())
        if known not in _known:
            chw = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
            with torch.no_grad():
                _known[known] = _without_uint8(describer, chw.double()).numpy()
        rows.append(_known[known])
    return np.concatenate(rows)


def _without_uint8(describer: Describer, x: torch.Tensor) -> torch.Tensor:
    original = torch.Tensor.float
    try:
        torch.Tensor.float = lambda self: self  # type: ignore[assignment, method-assign]
        return describer(x.permute(0, 2, 3, 1))
    finally:
        torch.Tensor.float = original  # type: ignore[method-assign]


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest 1 - cosine."""
    got = got.astype(np.float64)
    return float((1 - (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)).max())


def engine(model: Model, name: str) -> Engine:
    return create_engine(model.spec, name, model.checkpoint)


@pytest.mark.parametrize("name", [RESNET, LITE])
@pytest.mark.parametrize("runs", ENGINES)
def test_every_engine_gives_the_networks_own_descriptors(name: str, runs: str) -> None:
    model = load_model(name)
    made = engine(model, runs)
    assert (made.name, made.dim) == (runs, model.spec.dim)
    for height, width in SHAPES:
        wanted = plainly(model, pictures(height, width, 3))
        for count in (1, 3):
            got = made.describe(pictures(height, width, 3)[:count])
            assert got.dtype == np.float32
            assert got.shape == (count, model.spec.dim)
            assert distance(got, wanted[:count]) < 1e-9
            np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert distance(wanted[:1], wanted[1:2]) > 1e-5  # so what is allowed above tells pictures apart


@pytest.fixture(scope="module")
def whitened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny backbone with an FC layer and a whitening, both of random matrices."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = load_model(tiny.MODEL)
    network = build_network(model.spec)
    torch.manual_seed(1)
    network.fc, network.whitening = nn.Linear(32, 20), nn.Linear(20, 12)
    spec = replace(model.spec, dim=12, whitening={"kind": "learned", "dim": 12, "fc": {"kind": "fc", "dim": 20}})
    save_checkpoint(network, spec, path)
    return path


@pytest.mark.parametrize("runs", ENGINES)
@pytest.mark.parametrize("name", [RESNET, f"{FEW_BLOCKS}-gem@random:0", "whitened"])
def test_scales_and_whitening_are_inside(name: str, runs: str, whitened: Path) -> None:
    model = load_model(whitened if name == "whitened" else name, scales=(1, 0.7071, 0.5))
    made = engine(model, runs)
    for height, width in SHAPES[:2]:
        images = pictures(height, width, 2)
        assert distance(made.describe(images), plainly(model, images)) < 1e-9


@pytest.mark.parametrize("runs", ENGINES)
def test_a_wrong_input_is_refused_and_a_read_only_one_is_not(runs: str) -> None:
    made = engine(load_model(RESNET), runs)
    with pytest.raises(UsageError, match="uint8"):
        made.describe(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(UsageError, match="uint8"):
        made.describe(np.zeros((32, 32, 3), np.uint8))
    images = pictures(64, 64, 2)
    wanted = made.describe(images)
    images.setflags(write=False)
    np.testing.assert_array_equal(made.describe(images), wanted)
    np.testing.assert_array_equal(made.describe(images[:, ::1]), wanted)
    flipped = images[:, :, ::-1]
    np.testing.assert_array_equal(made.describe(flipped), made.describe(flipped.copy()))


def test_openvino_describes_a_picture_the_same_beside_any_others_and_on_any_thread() -> None:
    model = load_model(LITE)
    made = engine(model, "openvino")
    images = pictures(97, 131, 6)
    alone = np.concatenate([made.describe(image[None]) for image in images])
    np.testing.assert_array_equal(made.describe(images), alone)
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(made.describe, [images] * 8):
            np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(made.describe(images), alone, atol=1e-6)


# -- which poolings convert ------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A backbone that costs nothing: stride 16, 8 channels, nothing negative."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 5, 4, 2), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


MAPS = [info.name for info in list_poolings() if info.kind == "map"]
TOKENS = [info.name for info in list_poolings() if info.kind == "tokens"]
# Maps of 10 x 6, 4 x 21, 1 x 3 and 13 x 13 cells, and half of that: R-MAC has fewer scales on the small ones.
MANY_SHAPES = [(150, 90), (61, 333), (16, 41), (200, 200)]
HALF_SHAPES = [(height // 2, width // 2) for height, width in MANY_SHAPES]
MANY_NODES = ("rmac", "rgem", "spp")


def assert_converted(describer: Describer, shapes: list[tuple[int, int]]) -> None:
    """The graph gives what torch gives, for pictures of each shape."""
    compiled = compiled_graph(describer)
    for height, width in [*shapes, *CHECKED]:
        images = pictures(height, width)
        with torch.no_grad():
            assert distance(compiled(images)[0], describer(torch.from_numpy(images)).double().numpy()) < 1e-9


def tiny_describer(pooling: dict[str, object], scales: tuple[float, ...] = (1, 0.5)) -> Describer:
    torch.manual_seed(0)
    info = replace(BACKBONES["resnet18"], dim=8)
    network = RetrievalNetwork(Tiny(), make_pooling(pooling, info))  # type: ignore[arg-type]
    return Describer(network, load_model(RESNET, scales=scales).spec.image).eval()


@pytest.mark.parametrize(
    "pooling",
    [*MAPS, "gem:1", "gem:2.7", "gem:9", "gem:inf", "rgem:9", "rgem:inf"],
)
def test_a_pooling_of_maps_converts_faithfully(pooling: str) -> None:
    name, _, p = pooling.partition(":")
    shapes = MANY_SHAPES[:2] if name.startswith(("local", "strided")) else MANY_SHAPES  # whose windows want cells
    if name in MANY_NODES and pooling != "rmac":  # which a second scale doubles: pictures of half the size instead
        describer = tiny_describer({"name": name, **({"p": float(p), "levels": 2} if p else {})}, scales=(1,))
        assert_converted(describer, [*shapes, *HALF_SHAPES])
    else:
        assert_converted(tiny_describer({"name": name, **({"p": float(p)} if p else {})}), shapes)


@pytest.mark.parametrize("pooling", ["gem", "max", "avg"])
def test_whitened_regions_convert_faithfully(pooling: str) -> None:
    describer = tiny_describer({"name": pooling, "whitened_regions": 2}, scales=(1,))
    with torch.no_grad():
        describer.network.pooling.whiten.weight.normal_()  # type: ignore[union-attr]
    assert_converted(describer, [*MANY_SHAPES, *HALF_SHAPES])


def test_regions_by_arithmetic_are_those_of_rmac() -> None:
    for height in range(1, 30):
        for width in range(1, 45, 2):
            found = []
            for rows, columns, exists in regions_of(torch.tensor([height, width]), 4):
                if exists:
                    found += [(int(r[0]), int(c[0]), len(r), len(c)) for r in rows for c in columns]
            assert found == rmac_regions(height, width, 4)


class SmallTimmViT(TimmViT):
    """Two blocks, patches of 8 pixels, two registers, and positions that matter."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.info = replace(BACKBONES["deit_tiny"], dim=24, stride=8, prefix=3)
        self.body = timm.models.vision_transformer.VisionTransformer(
            img_size=64, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, global_pool="", reg_tokens=2,
            init_values=0.1, dynamic_img_size=True,
        )  # fmt: skip
        nn.init.normal_(self.body.pos_embed, std=0.5)


class SmallTorchvisionViT(TorchvisionViT):
    """The same of torchvision's make, without registers."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.info = replace(BACKBONES["vit_b_16"], dim=24, stride=8, prefix=1)
        self.body = torchvision.models.VisionTransformer(64, 8, 2, 3, 24, 96)
        self.body.heads = nn.Identity()
        nn.init.normal_(self.body.encoder.pos_embedding, std=0.5)


# The example's own shape in patches, the trained one, sides that are no whole patches and lie between two, one patch.
VIT_SHAPES = [(128, 160), (64, 64), (100, 36), (44, 333), (5, 7)]


class Patches(Backbone):
    """Tokens that cost nothing: patches of 8 pixels, embedded, behind three tokens of no patch."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(BACKBONES["deit_tiny"], dim=24, stride=8, prefix=3)
        self.embed = nn.Conv2d(3, 24, 8, 8)
        self.first = nn.Parameter(torch.randn(1, 3, 24))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embed(fit_to_patches(images, 8)).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(patches), -1, -1), patches], 1)


@pytest.mark.parametrize(
    ("backbone", "pooling"),
    [
        *((Patches, pooling) for pooling in TOKENS),
        *((backbone, pooling) for backbone in (SmallTimmViT, SmallTorchvisionViT) for pooling in ("mean", "pma")),
    ],
)
def test_a_vision_transformer_converts_faithfully(backbone: type[Backbone], pooling: str) -> None:
    torch.manual_seed(0)
    made = backbone()  # type: ignore[call-arg]
    network = RetrievalNetwork(made, make_pooling({"name": pooling}, made.info))
    assert_converted(Describer(network, load_model(RESNET).spec.image).eval(), VIT_SHAPES)


@pytest.mark.parametrize("name", ["deit_tiny-cls@random:0", "dinov2_vits14_reg4-cls-gem@random:0"])
def test_the_products_transformers_convert_for_every_size(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As they are built, but of two blocks of the twelve, which are alike."""
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))  # theirs has the same name there
    model = load_model(name)
    made = engine(model, "openvino")
    for height, width in [(224, 224), (90, 160), (131, 50)]:
        images = pictures(height, width)
        assert distance(made.describe(images), plainly(model, images)) < 1e-9


def test_auto_takes_torch_for_what_does_not_convert_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Decides(tiny.Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.shape[2] < x.shape[3] else -x)

    monkeypatch.setitem(_FAMILIES, "decides", Decides)
    monkeypatch.setitem(BACKBONES, "decides", replace(BACKBONES["tiny"], name="decides", family="decides"))
    model = load_model("decides-gem@random:0")
    images = pictures(97, 131)
    for tries in range(2):
        said: list[str] = []
        made = create_engine(model.spec, "auto", say=said.append)
        assert made.name == "torch"
        assert "shape" in said[-1]
        assert "torch" in said[-1]
        assert len(said) == 2 - tries  # that the model is being prepared is said the first time
        assert distance(made.describe(images), plainly(model, images)) < 1e-9
        monkeypatch.setattr("retrieval.engines.openvino.export.convert", None)  # not asked again
    with pytest.raises(EngineUnavailable, match="--engine torch"):
        create_engine(model.spec, "openvino")


def test_auto_is_openvino_unless_it_is_missing_or_the_processor_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_model(RESNET).spec
    said: list[str] = []
    assert create_engine(spec, "auto", say=said.append).name == "openvino"
    assert not any("torch" in line for line in said)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        said.clear()
        assert create_engine(spec, "auto", say=said.append).name == "torch"
        assert len(said) == 1
        assert "pip install openvino" in said[0]
        with pytest.raises(EngineUnavailable, match="pip install openvino"):
            create_engine(spec, "openvino")
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    said.clear()
    assert create_engine(spec, "auto", say=said.append).name == "torch"
    assert len(said) == 1
    assert "s390x" in said[0]
    with pytest.raises(UsageError, match="unknown engine"):
        create_engine(spec, "fast")


# -- folding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_lite0"])
def test_folding_leaves_no_normalisation_and_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    network = create_backbone(name).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as training leaves them, not as they start
            module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.normal_(module.bias, 0, 0.2)
    network.train()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batchnorm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        wanted, got = network(x), folded(x)
    assert (wanted - got).abs().max() < 1e-5 * wanted.abs().max()
    network.train()
    network(x).sum().backward()
    assert next(network.parameters()).grad is not None


def test_a_normalisation_that_does_not_follow_a_convolution_stays() -> None:
    class First(nn.Sequential):
        pass

    module = First(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    module[3].running_mean += 1
    folded = fold_batchnorm(module)
    x = torch.randn(1, 3, 5, 5)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 2
    torch.testing.assert_close(folded(x), module(x))


# -- several batches at a time ---------------------------------------------------------------------------------------


def test_an_engine_with_streams_gets_as_many_batches_at_a_time() -> None:
    class Streams(FakeEngine):
        streams = 3
        batch_pixels = 1
        now = most = 0
        lock = threading.Lock()
        all_in = threading.Event()

        def describe(self, images: np.ndarray) -> np.ndarray:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
                if self.now == self.streams:
                    self.all_in.set()
            assert self.all_in.wait(10)
            try:
                return super().describe(images)
            finally:
                with self.lock:
                    self.now -= 1

    made = Streams()
    images = pictures(20, 30, 40)
    results = {r.item: r.descriptor for r in describe_all(range(40), lambda i: images[i], lambda: made)}
    assert made.most == 3
    for i in range(40):
        np.testing.assert_array_equal(results[i], FakeEngine().describe(images[i][None])[0])


def test_the_last_pictures_are_shared_out_among_the_streams() -> None:
    class Engine:
        name, dim, batch_pixels, streams = "fake", 2, 1000, 2

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def describe(self, images: np.ndarray) -> np.ndarray:
            self.sizes.append(len(images))
            return np.tile(np.float32([1, 0]), (len(images), 1))

    engine = Engine()
    pictures = [np.zeros((4, width, 3), np.uint8) for width in (4, 5, 6, 4, 5, 6)]
    done = list(describe_all(range(6), lambda i: pictures[i], lambda: engine))
    assert sorted(result.item for result in done) == list(range(6))
    assert sorted(engine.sizes) == [
        1,
        1,
        2,
        2,
    ]  # three batches of two would keep one stream for four, the other for two


def test_a_failure_in_one_of_the_streams_is_raised() -> None:
    class Broken(FakeEngine):
        streams = 2

        def describe(self, images: np.ndarray) -> np.ndarray:
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        list(describe_all(range(9), lambda i: pictures(20, 30)[0], Broken))


@pytest.mark.parametrize("runs", ENGINES)
@pytest.mark.parametrize("name", ["tiny-local-max:window=3@random:0", "tiny-strided-conv@random:0"])
def test_maps_smaller_than_a_window_are_refused_and_named(name: str, runs: str, tmp_path: Path) -> None:
    """A compiled graph computes something of them, the same for every picture."""
    window = 3 if "window" in name else 2
    model = load_model(name, engine=runs)
    engine = model.engine()
    fits = 8 * (window - 1) + 1
    assert np.isfinite(engine.describe(pictures(fits, 40))).all()
    with pytest.raises(UsageError, match="smaller than the"):
        engine.describe(pictures(fits - 1, 40))
    with pytest.raises(UsageError, match="smaller than the"):
        load_model(name, engine=runs, scales=(1, 0.5)).engine().describe(pictures(fits, 40))
    for side, file in ((40, "large.png"), (fits - 1, "small.png")):
        Image.fromarray(pictures(side, 40)[0]).save(tmp_path / file)
    found = model.describe([tmp_path / "large.png", tmp_path / "small.png"], errors="skip")
    assert found.positions.tolist() == [0]
    assert "smaller than the" in found.skipped[1]
