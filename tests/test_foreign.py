"""Foreign checkpoints, made here from random weights: what is imported describes pictures as the original does."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from narrow import DIM, resnet18, use_narrow
from PIL import Image
from torch import Tensor, nn

from retrieval.describe.model import load_model
from retrieval.errors import ModelError, RetrievalError, UsageError
from retrieval.files import torch_pickle
from retrieval.files.torch_file import read_torch_file
from retrieval.models.foreign.importing import import_checkpoint
from retrieval.models.foreign.torchvision import depth_of, named
from retrieval.models.loading import build_network
from retrieval.models.network import Describer

MEAN, STD = [0.45, 0.5, 0.4], [0.2, 0.25, 0.3]  # not ImageNet's: the file's own must win
SCALES = (1.0, 2**-0.5, 0.5)
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    use_narrow(monkeypatch)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A narrow ResNet-18 with random weights and lived-in batch statistics."""
    torch.manual_seed(1)
    net = resnet18()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 7, 9, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((144, 104), Image.Resampling.BICUBIC)) for one in coarse])


# ---------------------------------------------------------------- what the originals compute


def unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=1, keepdim=True) + 1e-6)


def region_boxes(height: int, width: int) -> list[tuple[int, int, int]]:
    """(top, left, side) of R-MAC's squares with three scales, from the paper's description."""
    short, long = sorted((height, width))
    shares = [1 - (long - short) / (n - 1) / short for n in range(2, 8)]  # overlap of n squares along the long side
    extra = 0 if short == long else int(np.argmin([abs(share - 0.4) for share in shares])) + 1
    boxes = []
    for scale in (1, 2, 3):
        side = int(2 * short / (scale + 1))
        if side:
            down, across = scale + extra * (height > width), scale + extra * (width > height)
            tops = np.linspace(0, height - side, down) if down > 1 else [0]
            lefts = np.linspace(0, width - side, across) if across > 1 else [0]
            boxes += [(int(top + 1e-6), int(left + 1e-6), side) for top in tops for left in lefts]
    return boxes


def pool(kind: str, x: Tensor, p: Tensor | None) -> Tensor:
    if kind == "mac":
        return x.flatten(2).max(2).values
    if kind == "spoc":
        return x.flatten(2).mean(2)
    if kind in ("gem", "gemmp"):
        assert p is not None
        exponent = p.reshape(1, -1, 1)
        return x.flatten(2).clamp(min=1e-6).pow(exponent).mean(2).pow(1 / p.reshape(1, -1))
    total = unit(x.flatten(2).max(2).values)
    for top, left, side in region_boxes(*x.shape[2:]):
        total = total + unit(x[:, :, top : top + side, left : left + side].flatten(2).max(2).values)
    return total


_MAPS: dict[tuple, Tensor] = {}


@torch.no_grad()
def feature_map(resnet: nn.Module, images: np.ndarray, scale: float, mean: list[float], std: list[float]) -> Tensor:
    """The last feature map of the pictures, normalised and resized as the originals do; computed once for all tests."""
    key = (scale, *mean, *std)
    if key not in _MAPS:
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        x = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
        if scale != 1:
            x = nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        for child in list(resnet.children())[:-2]:
            x = child(x)
        _MAPS[key] = x
    return _MAPS[key]


class Original:
    """The network of a cirtorch checkpoint, computed by hand."""

    def __init__(self, checkpoint: dict[str, Any], resnet: nn.Module) -> None:
        self.meta, self.state, self.resnet = checkpoint["meta"], checkpoint["state_dict"], resnet

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def pooled(self, x: Tensor) -> Tensor:
        if self.meta["local_whitening"]:
            x = self.linear(x.movedim(1, 3), "lwhiten").movedim(3, 1)
        kind = self.meta["pooling"]
        if self.meta["regional"]:
            p = self.state.get("pool.rpool.p")
            views = [x] + [x[:, :, t : t + s, left : left + s] for t, left, s in region_boxes(*x.shape[2:])]
            y = sum(unit(self.linear(unit(pool(kind, view, p)), "pool.whiten")) for view in views)
        else:
            y = pool(kind, x, self.state.get("pool.p"))
        y = unit(y)  # type: ignore[arg-type]
        return unit(self.linear(y, "whiten")) if self.meta["whitening"] else y

    def describe(self, images: np.ndarray, scales: tuple[float, ...], lw: dict[str, np.ndarray] | None) -> np.ndarray:
        meta = self.meta
        power = 1.0
        if len(scales) > 1 and meta["pooling"] == "gem" and not meta["regional"] and not meta["whitening"]:
            power = float(self.state["pool.p"])
        maps = [feature_map(self.resnet, images, s, meta["mean"], meta["std"]) for s in scales]
        total = sum(self.pooled(x) ** power for x in maps)
        y = unit((total / len(scales)) ** (1 / power)).double().numpy()
        if lw is not None:
            y = (y - lw["m"].T) @ lw["P"].T
            y = y / (np.linalg.norm(y, axis=1, keepdims=True) + 1e-6)
        return y


def cirtorch(resnet: nn.Module, pooling: str = "gem", **flags: Any) -> dict[str, Any]:
    """A checkpoint as cirtorch writes it."""
    torch.manual_seed(7)
    meta = {"local_whitening": False, "regional": False, "whitening": False, **flags}
    meta |= {"architecture": "resnet18", "pooling": pooling, "mean": MEAN, "std": STD, "outputdim": DIM}
    state = OrderedDict()
    for number, child in enumerate(list(resnet.children())[:-2]):
        for name, value in child.state_dict().items():
            state[f"features.{number}.{name}"] = value
    inner = "pool.rpool.p" if meta["regional"] else "pool.p"
    if pooling == "gem":
        state[inner] = torch.tensor([2.6])
    if pooling == "gemmp":
        state[inner] = torch.rand(DIM) * 3 + 1.5
    for flag, name in (("local_whitening", "lwhiten"), ("regional", "pool.whiten"), ("whitening", "whiten")):
        if meta[flag]:
            state[f"{name}.weight"] = torch.randn(DIM, DIM) / DIM**0.5
            state[f"{name}.bias"] = torch.randn(DIM) * 0.02
    return {"meta": meta, "state_dict": state, "epoch": 3, "min_loss": np.float64(0.5)}


def learned(seed: int) -> dict[str, np.ndarray]:
    """A whitening as the training set would give it: a small mean, a projection with a wide spread of scales."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    return {
        "m": rng.uniform(0, 0.05, (DIM, 1)).astype(np.float32),
        "P": (rotation * np.geomspace(1, 80, DIM)[:, None]).astype(np.float32),
    }


LW = {"retrieval-SfM-120k": {"ss": learned(1), "ms": learned(2)}, "retrieval-SfM-30k": {"ms": learned(3)}}


def retrieve(*args: object) -> tuple[int, str]:
    from retrieval.cli.main import cli

    result = CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=False)
    if isinstance(result.exception, RetrievalError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.return_value or 0, result.output


def imported(tmp_path: Path, checkpoint: Any, *options: object, old: bool = False) -> Path:
    torch.save(checkpoint, tmp_path / "net.pth", _use_new_zipfile_serialization=not old)
    status, output = retrieve("models", "import", tmp_path / "net.pth", "--out", tmp_path / "model", *options)
    assert status == 0, output
    return tmp_path / "model"


def described(folder: Path, pictures: np.ndarray, scales: tuple[float, ...] | None = None) -> np.ndarray:
    # torch is spared the conversion; that engines agree is for tests/test_engines.py
    found = load_model(folder, scales=scales, engine="torch").engine().describe(pictures)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    return found


# ---------------------------------------------------------------- cirtorch


@pytest.mark.parametrize(
    ("pooling", "flags"),
    [
        ("gem", {}),
        ("gemmp", {}),
        ("mac", {}),
        ("spoc", {}),
        ("rmac", {}),
        ("gem", {"regional": True}),
        ("mac", {"regional": True}),
        ("gemmp", {"regional": True, "whitening": True}),
        ("gem", {"whitening": True}),
        ("gem", {"local_whitening": True}),
        ("spoc", {"local_whitening": True, "regional": True, "whitening": True}),
    ],
)
def test_cirtorch_descriptors_are_the_originals(
    pooling: str, flags: dict, resnet: nn.Module, pictures: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = cirtorch(resnet, pooling, **flags)
    folder = imported(tmp_path, checkpoint, old=pooling == "mac")
    model = load_model(folder)
    network = build_network(model.spec, model.checkpoint)
    for scales in ((1.0,), SCALES):
        rule = model.spec.with_image(scales=scales).image
        with torch.inference_mode():
            found = Describer(network, rule)(torch.from_numpy(pictures)).numpy()
        expected = Original(checkpoint, resnet).describe(pictures, scales, None)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert rule.mean == tuple(MEAN)


def test_several_scales_are_joined_by_the_power_mean(resnet: nn.Module, pictures: np.ndarray, tmp_path: Path) -> None:
    """The exponent matters by more than the tolerance, so the test above would see a wrong rule."""
    checkpoint = cirtorch(resnet)
    original = Original(checkpoint, resnet)
    right = original.describe(pictures, SCALES, None)
    mean = unit(sum(torch.from_numpy(original.describe(pictures, (s,), None)) for s in SCALES)).numpy()  # type: ignore[arg-type]
    assert np.abs(right - mean).max() > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("options", "scales", "which"),
    [
        ((), (1.0,), ("retrieval-SfM-120k", "ss")),
        (("--scales", "1,0.70710678,0.5"), SCALES, ("retrieval-SfM-120k", "ms")),
        (
            ("--whitening", "retrieval-SfM-120k:ms", "--scales", "1,0.70710678,0.5"),
            SCALES,
            ("retrieval-SfM-120k", "ms"),
        ),
        (("--whitening", "retrieval-SfM-120k:ms"), (1.0,), ("retrieval-SfM-120k", "ms")),
        (("--whitening", "retrieval-SfM-30k", "--scales", "1,0.70710678,0.5"), SCALES, ("retrieval-SfM-30k", "ms")),
        (("--whitening", "none"), (1.0,), None),
    ],
)
def test_cirtorch_learned_whitening(
    options: tuple, scales: tuple, which: tuple | None, resnet: nn.Module, pictures: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = cirtorch(resnet)
    checkpoint["meta"]["Lw"] = LW
    folder = imported(tmp_path, checkpoint, *options, old=scales == SCALES)
    lw = None if which is None else LW[which[0]][which[1]]
    expected = Original(checkpoint, resnet).describe(pictures, scales, lw)
    np.testing.assert_allclose(described(folder, pictures), expected, atol=TOLERANCE)
    whitening = load_model(folder).spec.whitening
    if which is None:
        assert whitening is None
    else:
        assert whitening == {"kind": "lw", "learned_on": which[0], "scales": which[1], "dim": DIM}


def test_cirtorch_whitening_after_an_fc_layer_and_fewer_dimensions(
    resnet: nn.Module, pictures: np.ndarray, tmp_path: Path
) -> None:
    checkpoint = cirtorch(resnet, whitening=True)
    tensors = {kind: {key: torch.from_numpy(value) for key, value in learned(5).items()} for kind in ("ss",)}
    checkpoint["meta"]["Lw"] = {"my-set": tensors}  # tensors in place of arrays, and a set of one's own
    folder = imported(tmp_path, checkpoint, "--dim", 16)
    lw = {"m": learned(5)["m"], "P": learned(5)["P"][:16]}
    expected = Original(checkpoint, resnet).describe(pictures, (1.0,), lw)
    assert expected.shape == (2, 16)
    np.testing.assert_allclose(described(folder, pictures), expected, atol=TOLERANCE)


def test_notes_tell_what_was_chosen(resnet: nn.Module, tmp_path: Path) -> None:
    checkpoint = cirtorch(resnet)
    checkpoint["meta"]["Lw"] = {"retrieval-SfM-30k": {"ms": learned(3)}}
    torch.save(checkpoint, tmp_path / "net.pth")
    said: list[str] = []
    spec = import_checkpoint(tmp_path / "net.pth", tmp_path / "a", say=said.append)
    assert spec.whitening is None
    assert said == ["no whitening: the file has none for these scales, only retrieval-SfM-30k:ms"]
    import_checkpoint(tmp_path / "net.pth", tmp_path / "b", whitening="retrieval-SfM-30k:ms", say=said.append)
    assert "was learned at other scales" in said[1]
    with pytest.raises(UsageError, match=r"no whitening retrieval-SfM-30k:ss.*It has: retrieval-SfM-30k:ms"):
        import_checkpoint(tmp_path / "net.pth", tmp_path / "c", whitening="retrieval-SfM-30k:ss")
    with pytest.raises(UsageError, match="--dim 600"):
        import_checkpoint(tmp_path / "net.pth", tmp_path / "c", whitening="retrieval-SfM-30k:ms", dim=600)
    with pytest.raises(UsageError, match="--dim 16"):
        import_checkpoint(tmp_path / "net.pth", tmp_path / "c", dim=16)
    with pytest.raises(UsageError, match="its own pooling"):
        import_checkpoint(tmp_path / "net.pth", tmp_path / "c", pooling={"name": "avg"})
    assert not (tmp_path / "c").exists()


def test_an_import_does_not_replace_a_model_unasked(resnet: nn.Module, tmp_path: Path) -> None:
    imported(tmp_path, cirtorch(resnet))
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    status, said = retrieve("models", "import", tmp_path / "net.pth", "--out", tmp_path / "model", "--size", 512)
    assert (status, "is there already" in said) == (2, True)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    imported(tmp_path, cirtorch(resnet), "--size", 512, "--overwrite")
    assert load_model(tmp_path / "model").spec.image.size == 512


def test_index_and_query_with_an_imported_model(resnet: nn.Module, pictures: np.ndarray, tmp_path: Path) -> None:
    checkpoint = cirtorch(resnet)
    checkpoint["meta"]["Lw"] = LW
    folder = imported(tmp_path, checkpoint, "--scales", "1,0.5", "--size", 128)
    (tmp_path / "photos").mkdir()
    for i, one in enumerate(pictures):
        Image.fromarray(one).save(tmp_path / "photos" / f"{i}.png")
    gallery = ("--index", tmp_path / "gallery")
    assert retrieve("index", tmp_path / "photos", "--model", folder, *gallery, "-q")[0] == 0
    status, output = retrieve("query", tmp_path / "photos" / "1.png", *gallery, "--format", "json", "-q")
    assert status == 0
    best = json.loads(output.splitlines()[-1])["results"][0]
    assert (Path(best["path"]).name, round(best["score"], 4)) == ("1.png", 1.0)
    shown = json.loads(retrieve("models", "show", folder)[1])
    assert shown["spec"]["whitening"]["scales"] == "ms"
    assert shown["spec"]["weights"]["id"] == "cirtorch/net.pth"


# ---------------------------------------------------------------- dirtorch


@pytest.fixture
def pca_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class under the name that scikit-learn's PCA had when the models were published."""
    for name in ("sklearn", "sklearn.decomposition", "sklearn.decomposition.pca"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    made = type("PCA", (), {"__module__": "sklearn.decomposition.pca"})
    sys.modules["sklearn.decomposition.pca"].PCA = made  # type: ignore[attr-defined]
    return made


def dirtorch(resnet: nn.Module, out: int = 32, prefix: str = "module.", **options: Any) -> dict[str, Any]:
    torch.manual_seed(9)
    state = OrderedDict((prefix + name, v) for name, v in resnet.state_dict().items() if not name.startswith("fc."))
    if options.get("pooling", "gem") == "gem":
        state[f"{prefix}adpool.p"] = torch.tensor([2.8])
    state[f"{prefix}fc.weight"] = torch.randn(out, DIM) / DIM**0.5
    state[f"{prefix}fc.bias"] = torch.randn(out)
    return {
        "model_options": {"arch": "resnet18_rmac", "out_dim": out, "pooling": "gem", **options},
        "state_dict": state,
        "preprocess": {"mean": MEAN, "std": STD, "input_size": 224},
        "epoch": 5,
    }


def with_pca(checkpoint: dict[str, Any], pca_class: type, dim: int = 32) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    pca = pca_class()
    pca.mean_ = rng.normal(0, 0.03, dim).astype(np.float32)
    pca.components_ = np.asfortranarray(np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32))
    pca.explained_variance_ = np.geomspace(1e-2, 1e-5, dim).astype(np.float32)
    pca.whiten, pca.svd_solver, pca.n_components_ = True, "full", dim
    checkpoint["pca"] = {"Landmarks_clean": pca}
    return checkpoint


@torch.no_grad()
def dirtorch_by_hand(checkpoint: dict, resnet: nn.Module, pictures: np.ndarray, power: float | None) -> np.ndarray:
    options = checkpoint["model_options"]
    state = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
    x = feature_map(resnet, pictures, 1, MEAN, STD)
    kinds = {"gem": "gem", "max": "mac", "avg": "spoc"}
    y = pool(kinds[options["pooling"]], x, state.get("adpool.p"))
    if options.get("norm_features"):
        y = nn.functional.normalize(y)
    if not options.get("without_fc"):
        y = y @ state["fc.weight"].T + state["fc.bias"]
    out = nn.functional.normalize(y).double().numpy()
    if power is not None:
        pca = checkpoint["pca"]["Landmarks_clean"]
        out = (out - pca.mean_) @ pca.components_.T / pca.explained_variance_.astype(np.float64) ** power
        out = out / np.linalg.norm(out, axis=1, keepdims=True)
    return out


@pytest.mark.parametrize(
    ("options", "how", "power"),
    [
        ({}, (), 0.25),
        ({}, ("--whitening", "Landmarks_clean:0.5"), 0.5),
        ({"norm_features": True}, ("--whitening", "none"), None),
        ({"without_fc": True}, ("--whitening", "none"), None),
        ({"pooling": "max"}, ("--whitening", "Landmarks_clean"), 0.25),
    ],
)
def test_dirtorch_descriptors_are_the_originals(
    options: dict,
    how: tuple,
    power: float | None,
    resnet: nn.Module,
    pictures: np.ndarray,
    pca_class: type,
    tmp_path: Path,
) -> None:
    checkpoint = with_pca(dirtorch(resnet, **options), pca_class)
    folder = imported(tmp_path, checkpoint, *how, old=power == 0.25)
    expected = dirtorch_by_hand(checkpoint, resnet, pictures, power)
    np.testing.assert_allclose(described(folder, pictures), expected, atol=TOLERANCE)


def test_dirtorch_without_pca_or_options(resnet: nn.Module, pictures: np.ndarray, tmp_path: Path) -> None:
    checkpoint = dirtorch(resnet, prefix="")
    expected = dirtorch_by_hand(checkpoint, resnet, pictures, None)
    del checkpoint["model_options"]
    np.testing.assert_allclose(described(imported(tmp_path, checkpoint), pictures), expected, atol=TOLERANCE)


# ---------------------------------------------------------------- plain state dicts


@pytest.mark.parametrize("form", ["plain", "module", "wrapped", "numbered"])
def test_plain_state_dicts(form: str, resnet: nn.Module, pictures: np.ndarray, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(resnet.state_dict())
    if form == "module":
        state = {f"module.{name}": value for name, value in state.items()}
    if form == "wrapped":
        state = {"state_dict": {name: nn.Parameter(v, v.is_floating_point()) for name, v in state.items()}, "epoch": 1}
    if form == "numbered":
        state = dict(nn.Sequential(*list(resnet.children())[:-2]).state_dict())
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    options = ("--pooling", "avg") if form == "plain" else ("--pooling", "gem:p=4") if form == "module" else ()
    folder = imported(tmp_path, state, *options)
    x = feature_map(resnet, pictures, 1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    p = torch.tensor([4.0 if form == "module" else 3.0])
    expected = unit(pool("spoc" if form == "plain" else "gem", x, p)).numpy()
    np.testing.assert_allclose(described(folder, pictures), expected, atol=TOLERANCE)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_depth_is_told_from_the_names(depth: int) -> None:
    with torch.device("meta"):
        net = getattr(torchvision.models, f"resnet{depth}")()
    assert depth_of(Path("x"), {named(name) or "fc": 0 for name in net.state_dict()}) == f"resnet{depth}"


# ---------------------------------------------------------------- what does not fit


def refused(tmp_path: Path, checkpoint: Any, **options: Any) -> str:
    torch.save(checkpoint, tmp_path / "net.pth")
    with pytest.raises(ModelError) as caught:
        import_checkpoint(tmp_path / "net.pth", tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()
    return str(caught.value)


def test_tensors_that_do_not_fit_are_named(resnet: nn.Module, tmp_path: Path) -> None:
    checkpoint = cirtorch(resnet, whitening=True)
    state = checkpoint["state_dict"]
    del state["features.7.1.bn2.bias"]
    state["features.8.weight"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(1)
    state["whiten.bias"] = torch.zeros(7)
    said = refused(tmp_path, checkpoint)
    assert "lacks layer4.1.bn2.bias;" in said
    assert "has unknown features.8.weight, head.weight;" in said
    assert "has other shapes: whiten.bias is [7], not [64]" in said


def test_wrong_contents(resnet: nn.Module, tmp_path: Path) -> None:
    good = cirtorch(resnet)

    def changed(meta: dict[str, Any] | None = None, **state: Any) -> dict[str, Any]:
        return {"meta": {**good["meta"], **(meta or {})}, "state_dict": {**good["state_dict"], **state}}

    assert "'vgg16', which is not supported" in refused(tmp_path, changed({"architecture": "vgg16"}))
    assert "its pooling is 'netvlad'" in refused(tmp_path, changed({"pooling": "netvlad"}))
    assert "says resnet34, but its tensors are those of resnet18" in refused(
        tmp_path, changed({"architecture": "resnet34"})
    )
    assert "its mean is not three numbers" in refused(tmp_path, changed({"mean": [0.5]}))
    assert "std above 0" in refused_usage(tmp_path, changed({"std": [0.5, 0.0, 0.5]}))
    assert "pool.p is no exponent" in refused(tmp_path, changed(**{"pool.p": torch.tensor([-1.0])}))
    assert "pool.p holds" not in refused(tmp_path, changed(**{"pool.p": torch.tensor([float("nan")])}))
    assert "features.0.weight holds NaN" in refused(
        tmp_path, changed(**{"features.0.weight": torch.full((8, 3, 7, 7), float("nan"))})
    )
    assert "lacks the tensor whiten.weight" in refused(tmp_path, changed({"whitening": True}))
    assert "not everything in its state dict is a tensor: pool.p" in refused(tmp_path, changed(**{"pool.p": 3.0}))
    bad = {"retrieval-SfM-120k": {"ss": {"m": np.zeros(3), "P": np.zeros((3, 3))}}}
    assert "do not fit descriptors of 64" in refused(tmp_path, changed({"Lw": bad}))
    bad = {"retrieval-SfM-120k": {"ss": {"m": np.zeros(DIM), "P": np.full((DIM, DIM), np.nan)}}}
    assert "holds NaN" in refused(tmp_path, changed({"Lw": bad}))
    assert "not made of arrays" in refused(tmp_path, changed({"Lw": {"retrieval-SfM-120k": {"ss": {"m": 1}}}}))
    assert "no dict of tensors" in refused(tmp_path, [1, 2])
    assert "no checkpoint of a known kind: it holds a, b" in refused(tmp_path, {"a": 1, "b": torch.zeros(2)})
    assert "blocks" in refused(tmp_path, {k: v for k, v in resnet.state_dict().items() if not k.startswith("layer3.")})
    center = dirtorch(resnet, center_bias=0.5)
    assert "center_bias" in refused(tmp_path, center)
    assert "its architecture is 'resnet18_fpn_rmac'" in refused(tmp_path, dirtorch(resnet, arch="resnet18_fpn_rmac"))


def refused_usage(tmp_path: Path, checkpoint: Any) -> str:
    torch.save(checkpoint, tmp_path / "net.pth")
    with pytest.raises(RetrievalError) as caught:
        import_checkpoint(tmp_path / "net.pth", tmp_path / "model")
    return str(caught.value)


def test_a_whole_module_is_not_weights(tmp_path: Path) -> None:
    for old in (False, True):
        torch.save(nn.Linear(2, 2), tmp_path / "net.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(ModelError, match=r"whole object \(torch.nn.modules.linear.Linear\)"):
            import_checkpoint(tmp_path / "net.pth", tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello, this is no checkpoint", b"PK\x03\x04 and no more"])
def test_files_that_are_no_checkpoints(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    status, said = retrieve("models", "import", tmp_path / "net.pth", "--out", tmp_path / "model")
    assert (status, "net.pth" in said) == (1, True)
    with pytest.raises(ModelError, match="no file at"):
        read_torch_file(tmp_path / "absent.pth")
    with pytest.raises(ModelError):
        read_torch_file(tmp_path)


# ---------------------------------------------------------------- hostile files


class Calls:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def hostile(marker: Path) -> dict[str, Any]:
    touch = f"open({str(marker)!r}, 'w')"
    command = f"touch {marker}"
    from functools import partial
    from subprocess import Popen

    from torch._utils import _rebuild_tensor_v2

    return {
        "os.system": Calls(os.system, command),
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "subprocess": Calls(Popen, ["touch", str(marker)]),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "partial": Calls(partial(os.system, command)),
        "map": Calls(list, Calls(map, os.system, [command])),
        "torch.load": Calls(torch.load, str(marker)),
        "torch.hub": Calls(torch.hub.load, str(marker), "model", "local"),
        "rebuild a tensor of an object": Calls(
            _rebuild_tensor_v2, Calls(os.system, command), 0, (1,), (1,), False, None
        ),
        "rebuild from type": Calls(torch._tensor._rebuild_from_type_v2, os.system, str, (command,), {}),
        "setattr": Calls(setattr, torch_pickle.PickledObject, "state", 1),
        "numpy": Calls(np.load, str(marker), None, True),
    }


@pytest.mark.parametrize("what", hostile(Path("x")))
@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_file_is_run(what: str, old: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for number, content in enumerate(
        (hostile(marker)[what], {"meta": {}, "state_dict": {}, "x": hostile(marker)[what]})
    ):
        file = tmp_path / f"{number}.pth"
        torch.save(content, file, _use_new_zipfile_serialization=not old)
        with pytest.raises(ModelError, match="Nothing in it was run"):
            import_checkpoint(file, tmp_path / "model")
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.pth" for i in range(number + 1)]


def torch_zip(pkl: bytes, **entries: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        bundle.writestr("a/data.pkl", pkl)
        for name, data in entries.items():
            bundle.writestr(f"a/data/{name.removeprefix('_')}", data)
    return out.getvalue()


def global_(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


@pytest.mark.parametrize(
    "pkl",
    [
        b"(S'touch MARKER'\nios\nsystem\n.",  # INST
        b"(" + global_("os.system") + b"S'touch MARKER'\no.",  # OBJ
        global_("builtins.getattr") + b"(" + global_("os.path") + b"S'join'\ntR(S'touch MARKER'\ntR.",
        b"\x82\x01.",  # EXT1
        b"P1\n.",  # PERSID
        b"\x80\x02(S'storage'\n" + global_("os.system") + b"S'0'\nS'cpu'\nK\x01tQ.",  # a storage of a strange kind
        b"\x80\x02(S'file'\nS'/etc/passwd'\ntQ.",
        b"\x80\x02"
        + global_("torch._utils._rebuild_tensor_v2")
        + b"}S'_run'\n"
        + global_("os.system")
        + b"sb.",  # BUILD
        b"\x80\x02" + global_("torch.FloatStorage") + b"}S'dtype'\nS'load'\nsb.",
        b"\x80\x02" + global_("torch._utils._rebuild_parameter") + global_("builtins.exec") + b"\x85R)R.",
        b"\x80\x02" + global_("copyreg._reconstructor") + global_("os.system") + b"S'touch MARKER'\nN\x87R)R.",
        b"\x80\x02r\xff\xff\xff\x7f.",  # LONG_BINPUT at two thousand million
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of exabytes
    ],
)
def test_crafted_instructions(pkl: bytes, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pkl = pkl.replace(b"MARKER", str(marker).encode())
    flat = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    for data in (torch_zip(pkl), flat + pkl + pickle.dumps([], 2)):
        (tmp_path / "net.pth").write_bytes(data)
        with pytest.raises(ModelError):
            import_checkpoint(tmp_path / "net.pth", tmp_path / "model")
        assert os.listdir(tmp_path) == ["net.pth"]


@pytest.mark.parametrize(
    "pkl", [b"(S'x'\nios\nsystem\n.", b"(" + global_("os.system") + b"S'x'\no.", b"\x82\x01.", b"P1\n."]
)
def test_instructions_beyond_plain_data_are_not_obeyed(pkl: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(torch_zip(pkl))
    with pytest.raises(ModelError, match=r"it holds the instruction (INST|OBJ|EXT1|PERSID)"):
        read_torch_file(tmp_path / "net.pth")


def test_names_are_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "evil_when_imported.py").write_text(f"open({str(marker)!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for pkl in (global_("evil_when_imported.Thing") + b".", global_("evil_when_imported.Thing") + b")\x81."):
        (tmp_path / "net.pth").write_bytes(torch_zip(b"\x80\x02" + pkl))
        read_torch_file(tmp_path / "net.pth")
    assert not marker.exists()
    assert "evil_when_imported" not in sys.modules


def tensor_pickle(offset: int, shape: tuple, stride: tuple, count: int = 4, key: str = "0") -> bytes:
    """``{"t": tensor}`` with sizes of one's choosing."""

    def number(n: int) -> bytes:
        return b"L%dL\n" % n

    pid = b"(S'storage'\n" + global_("torch.FloatStorage") + b"S'%s'\nS'cpu'\n" % key.encode() + number(count) + b"tQ"
    sizes = b"".join(b"(" + b"".join(map(number, dims)) + b"t" for dims in (shape, stride))
    build = global_("torch._utils._rebuild_tensor_v2") + b"(" + pid + number(offset) + sizes + b"I00\n}tR"
    return b"\x80\x02}S't'\n" + build + b"s."


def read_tensor(tmp_path: Path, pkl: bytes, **entries: bytes) -> Tensor:
    (tmp_path / "net.pth").write_bytes(torch_zip(pkl, **entries))
    return read_torch_file(tmp_path / "net.pth")["t"].load()


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_a_tensor_of_ones_choosing(tmp_path: Path) -> None:
    assert read_tensor(tmp_path, tensor_pickle(0, (2, 2), (1, 2)), _0=FOUR).tolist() == [[1, 3], [2, 4]]
    assert read_tensor(tmp_path, tensor_pickle(1, (2,), (2,)), _0=FOUR).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("pkl", "entry"),
    [
        (tensor_pickle(0, (5,), (1,)), FOUR),  # beyond the storage
        (tensor_pickle(3, (2,), (1,)), FOUR),
        (tensor_pickle(0, (2, 2), (1, 3)), FOUR),
        (tensor_pickle(-1, (2,), (1,)), FOUR),
        (tensor_pickle(0, (-2,), (1,)), FOUR),
        (tensor_pickle(0, (2,), (-1,)), FOUR),
        (tensor_pickle(0, (1 << 40,), (0,)), FOUR),  # one number blown up to terabytes
        (tensor_pickle(0, (1 << 30, 1 << 30, 1 << 30), (0, 0, 0)), FOUR),
        (tensor_pickle(0, (2, 2), (1,)), FOUR),
        (tensor_pickle(0, (5,), (1,), count=5), FOUR),  # the storage is not as long as it says
        (tensor_pickle(0, (2,), (1,), count=3), FOUR),
        (tensor_pickle(0, (4,), (1,), key="1"), FOUR),  # no such storage
        (tensor_pickle(0, (4,), (1,), key="../../../../etc/passwd"), FOUR),
        (tensor_pickle(0, (1,) * 40, (1,) * 40), FOUR),
    ],
)
def test_sizes_that_lie(pkl: bytes, entry: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        read_tensor(tmp_path, pkl, _0=entry)


def test_a_tensor_cannot_be_changed_after_its_check(tmp_path: Path) -> None:
    pkl = tensor_pickle(0, (4,), (1,)).replace(b"tRs.", b"tR(N}S'stride'\n(L-1L\ntstbs.")
    with pytest.raises(ModelError, match="none of its own"):
        read_tensor(tmp_path, pkl, _0=FOUR)


def test_a_compressed_storage_is_refused(tmp_path: Path) -> None:
    count = 1 << 20
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        bundle.writestr("a/data.pkl", tensor_pickle(0, (count,), (1,), count))
        bundle.writestr("a/data/0", bytes(4 * count), zipfile.ZIP_DEFLATED)
    (tmp_path / "net.pth").write_bytes(out.getvalue())
    with pytest.raises(ModelError, match="compressed"):
        read_torch_file(tmp_path / "net.pth")["t"].load()


def test_torchscript_and_other_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as bundle:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"):
            bundle.writestr(name, b"")
    with pytest.raises(ModelError, match="TorchScript"):
        read_torch_file(tmp_path / "net.pth")
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as bundle:
        bundle.writestr("photo.jpg", b"")
    with pytest.raises(ModelError, match="none of torch's"):
        read_torch_file(tmp_path / "net.pth")


@pytest.mark.parametrize("old", [False, True])
def test_damage_is_told_and_never_crashes(old: bool, tmp_path: Path) -> None:
    """Cut anywhere or with bytes changed, a file is refused, or read as something of plain data."""
    content = {
        "a": torch.arange(6.0).view(2, 3),
        "m": {"P": np.eye(3), "n": [1, "two", None]},
        "l": nn.Linear(2, 2).state_dict(),
    }
    torch.save(content, tmp_path / "whole.pth", _use_new_zipfile_serialization=not old)
    whole = (tmp_path / "whole.pth").read_bytes()
    rng = random.Random(0)
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(40)]
    for _ in range(160):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        damaged.append(bytes(data))
    said = []
    for data in damaged:
        (tmp_path / "net.pth").write_bytes(data)
        try:
            found = read_torch_file(tmp_path / "net.pth")
            if isinstance(found, dict) and isinstance(found.get("a"), torch_pickle.StoredTensor):
                found["a"].load()
        except ModelError as error:
            said.append(str(error))
    assert len(said) >= 40
    assert all("net.pth" in line for line in said)
    assert sorted(os.listdir(tmp_path)) == ["net.pth", "whole.pth"]


@pytest.mark.parametrize("old", [False, True])
def test_every_kind_of_tensor_is_read(old: bool, tmp_path: Path) -> None:
    base = torch.arange(20.0).view(4, 5)
    content = {
        "transposed": base.t(),
        "view": base[1:3, ::2],
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(base + 1),
        **{
            str(kind): base.to(kind)
            for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8)
        },
        "bool": base > 3,
    }
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not old)
    found = read_torch_file(tmp_path / "net.pth")
    assert list(found) == list(content)
    for name, value in content.items():
        loaded = found[name].load()
        assert loaded.dtype == value.dtype
        assert torch.equal(loaded, value), name


def test_a_real_pca_object_is_read(tmp_path: Path) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    pca = decomposition.PCA(whiten=True, random_state=np.random.RandomState(0)).fit(
        np.random.default_rng(0).normal(size=(40, 6))
    )
    torch.save({"pca": {"here": pca}}, tmp_path / "net.pth")
    record = read_torch_file(tmp_path / "net.pth")["pca"]["here"]
    assert type(record).__name__ == "sklearn.decomposition._pca.PCA"
    assert record.state["whiten"] is True
    for key in ("components_", "mean_", "explained_variance_"):
        np.testing.assert_array_equal(torch_pickle.as_array(record.state[key]), getattr(pca, key))
