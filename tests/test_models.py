"""Models: names, specifications, exact descriptors, checkpoints, weights that arrive over the network."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from narrow import DIM, use_narrow
from PIL import Image

from retrieval import load_model
from retrieval.errors import DownloadError, ModelError, UsageError
from retrieval.models import registry, weights, zoo
from retrieval.models.checkpoint import load_tensors, read_spec, save_checkpoint
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 has an eighth of its channels; a whole ResNet-50 is compared below."""
    use_narrow(monkeypatch)


def pixels(height: int = 160, width: int = 224, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def plain_gem(features: torch.Tensor, p: float = 3.0) -> torch.Tensor:
    return features.clamp(min=1e-6).pow(p).mean(dim=(-2, -1)).pow(1 / p)


def plain_input(array: np.ndarray) -> torch.Tensor:
    to_tensor = torchvision.transforms.ToTensor()
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalise(to_tensor(Image.fromarray(array)))[None]


def plain_resnet(name: str, seed: int) -> torch.nn.Module:
    """The same random weights in a torchvision model, handed over by name."""
    network = build_network(load_model(f"{name}-gem@random:{seed}").spec)
    whole = getattr(torchvision.models, name)()
    ours = {k.removeprefix("backbone.body."): v for k, v in network.state_dict().items() if "backbone" in k}
    missing, unexpected = whole.load_state_dict(ours, strict=False)
    assert unexpected == []
    assert set(missing) == {"fc.weight", "fc.bias"}
    whole.avgpool = torch.nn.Identity()
    whole.fc = torch.nn.Identity()
    return torch.nn.Sequential(*list(whole.children())[:-2]).eval()


# -- exactness ---------------------------------------------------------------------------------------------------------


def test_resnet50_descriptors_equal_a_plain_computation() -> None:
    with torch.no_grad():
        pooled = plain_gem(plain_resnet("resnet50", 3)(plain_input(pixels())))
    got = load_model("resnet50-gem@random:3", engine="torch").describe(pixels())
    np.testing.assert_allclose(got, (pooled / pooled.norm()).numpy()[0], atol=1e-5)
    assert np.linalg.norm(got) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("pooling", ["gem", "avg", "max", "gem:p=4.5"])
def test_resnet18_descriptors_equal_a_plain_computation(pooling: str) -> None:
    with torch.no_grad():
        features = plain_resnet("resnet18", 3)(plain_input(pixels()))
    pooled = {
        "gem": lambda: plain_gem(features),
        "avg": lambda: features.mean(dim=(-2, -1)),
        "max": lambda: features.amax(dim=(-2, -1)),
        "gem:p=4.5": lambda: plain_gem(features, 4.5),
    }[pooling]()
    got = load_model(f"resnet18-{pooling}@random:3", engine="torch").describe(pixels())
    np.testing.assert_allclose(got, (pooled / pooled.norm()).numpy()[0], atol=1e-5)


def test_multi_scale_equals_a_plain_computation() -> None:
    scales = (1, 2**-0.5, 0.5)
    body = plain_resnet("resnet18", 1)
    x = plain_input(pixels())
    for pooling, p in (("gem", 3.0), ("avg", 1.0), ("max", 1.0)):
        parts = []
        for scale in scales:
            resized = x
            if scale != 1:
                resized = torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
            with torch.no_grad():
                features = body(resized)
            vector = {"gem": plain_gem(features), "avg": features.mean((-2, -1)), "max": features.amax((-2, -1))}[
                pooling
            ]
            parts.append((vector / (vector.norm() + 1e-6)) ** p)
        vector = (sum(parts) / 3) ** (1 / p)
        expected = (vector / vector.norm()).numpy()[0]
        ours = load_model(f"resnet18-{pooling}@random:1", scales=scales, engine="torch").describe(pixels())
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_box_around_everything_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(pixels(600, 900)).save(tmp_path / "a.jpg")
    model = load_model("resnet18-gem@random:0", size=256)
    whole = model.describe(tmp_path / "a.jpg")
    np.testing.assert_array_equal(model.describe(tmp_path / "a.jpg", bbox=(0, 0, 900, 600)), whole)
    part = model.describe(tmp_path / "a.jpg", bbox=(100, 100, 500, 400))
    assert float(part @ whole) < 0.9999


def test_paths_bytes_arrays_and_lists_agree(tmp_path: Path) -> None:
    model = load_model("resnet18-gem@random:0", size=128)
    array = pixels(100, 120)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = model.describe(array)
    for other in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        Image.fromarray(array),
    ):
        np.testing.assert_array_equal(model.describe(other), expected)
    many = model.describe([array, pixels(64, 64), array])
    np.testing.assert_allclose(many[[0, 2]], [expected, expected], atol=1e-5)
    with pytest.raises(UsageError):
        model.describe([array], bbox=(0, 0, 1, 1))


@pytest.mark.realdata
def test_the_embedded_model_recognises_what_it_was_trained_on(shared_data: Path) -> None:
    """The package's tensors land in the right places: as a classifier, timm's network knows ImageNet classes."""
    import timm

    from retrieval.models.backbones import read_published

    folder = shared_data / "imagenet-sample"
    network = timm.create_model("tf_efficientnet_lite0")
    published = read_published(str(weights.weights_file(registry.BACKBONES["efficientnet_lite0"].weights)))
    network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=True)))
    ours = build_network(load_model("efficientnet_lite0-gem").spec).backbone.body.state_dict()
    for name, value in ours.items():
        assert torch.equal(value, network.state_dict()[name]), name
    files = sorted(folder.glob("*.jpg"))  # one a class, by WordNet id: the order of ImageNet's classes
    assert len(files) == 1000
    chosen = list(range(0, 1000, 25))
    batch = [
        np.asarray(Image.open(files[i]).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) for i in chosen
    ]
    with torch.inference_mode():
        x = (torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        right = (network.eval()(x).argmax(dim=1) == torch.tensor(chosen)).float().mean()
    assert right > 0.5


# -- names and specifications ------------------------------------------------------------------------------------------


def test_names_are_read() -> None:
    assert zoo.parse_name("resnet50-gem") == zoo.ParsedName("resnet50", {"name": "gem"}, None)
    assert zoo.parse_name("resnet101-gem:p=4.5@random:7") == zoo.ParsedName("resnet101", {"name": "gem", "p": 4.5}, 7)
    assert zoo.parse_name("efficientnet_lite0").pooling == {"name": "gem"}
    for bad in ("resnet51-gem", "gem", "", "resnet50-gem:4", "resnet50-gem@trained"):
        with pytest.raises(UsageError):
            zoo.parse_name(bad)
    with pytest.raises(UsageError):
        zoo.parse_name("resnet18-nonsense@random:0")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ResNet18-gem", "Did you mean resnet18?"),
        ("resnet-50-gem", "Did you mean resnet50?"),
        ("vit-b-16", "Did you mean vit_b_16?"),
        ("resnet51-gem", "Did you mean resnet50?"),
        ("GeM:p=4", "GeM is a pooling, which follows a backbone."),
        ("resnet18-GeM", "Did you mean gem?"),
        ("mobilenet", "'mobilenet'. A model is BACKBONE-POOLING"),
    ],
)
def test_a_name_that_is_meant_is_named(name: str, told: str) -> None:
    with pytest.raises(UsageError) as raised:
        zoo.parse_name(name)
    assert told in str(raised.value)


def test_a_name_survives_its_specification() -> None:
    for name in ("resnet18-gem:p=4@random:2", "efficientnet_lite0-avg"):
        assert load_model(load_model(name).spec.name).fingerprint == load_model(name).fingerprint


def test_fingerprints_follow_meaning() -> None:
    base = load_model("resnet18-gem@random:0").spec
    assert ModelSpec.from_dict(json.loads(json.dumps(base.to_dict()))) == base
    others = [
        load_model("resnet18-gem@random:1").spec,
        load_model("resnet18-avg@random:0").spec,
        base.with_image(size=512),
        base.with_image(scales=(1.0, 0.5)),
        base.with_image(exif=False),
    ]
    assert len({spec.fingerprint for spec in [base, *others]}) == 6
    # Where the same weights came from is told, but does not make another model.
    renamed = ModelSpec.from_dict({**base.to_dict(), "weights": {"id": "elsewhere", "sha256": base.weights.sha256}})
    assert renamed.fingerprint == base.fingerprint


@pytest.mark.parametrize("field", ["backbone", "weights", "pooling", "dim", "image"])
def test_damaged_specifications_are_refused(field: str) -> None:
    data = load_model("resnet18-gem@random:0").spec.to_dict()
    with pytest.raises(ModelError):
        ModelSpec.from_dict({k: v for k, v in data.items() if k != field})
    with pytest.raises(ModelError):
        ModelSpec.from_dict(
            {**data, field: 3.5 if field != "dim" else "many"} if field != "backbone" else {**data, "image": 1}
        )


def test_image_rules_are_checked() -> None:
    for bad in (
        {"size": 3},
        {"interpolation": "nearest"},
        {"scales": ()},
        {"scales": (0.0,)},
        {"std": (1.0, 0.0, 1.0)},
    ):
        with pytest.raises(UsageError):
            ImageRule(**bad)  # type: ignore[arg-type]


def test_the_table_of_weights_is_torchvision_s_own() -> None:
    for depth in (18, 34, 50, 101, 152):
        published = getattr(torchvision.models, f"ResNet{depth}_Weights").IMAGENET1K_V1
        info = registry.BACKBONES[f"resnet{depth}"]
        assert published.url == info.weights.url
        assert info.weights.url.endswith(f"-{info.weights.sha256}.pth")
        assert published.transforms().mean == list(info.weights.mean)
        assert published.transforms().std == list(info.weights.std)
        assert info.weights.megabytes == pytest.approx(published.meta["_file_size"], abs=0.1)


def test_listing_models_imports_no_torch() -> None:
    code = "import sys; from retrieval.models import zoo; zoo.resolve('auto'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_checkpoints_carry_everything(tmp_path: Path) -> None:
    spec = load_model("resnet18-gem@random:4", size=256).spec
    network = build_network(spec)
    with torch.no_grad():
        network.pooling.p.fill_(4.2)
    stored = save_checkpoint(network, spec, tmp_path / "run" / "model.safetensors")
    assert read_spec(tmp_path / "run") == stored
    model = load_model(tmp_path / "run")
    assert model.fingerprint == stored.fingerprint != spec.fingerprint
    with torch.inference_mode():
        expected = Describer(network, spec.image)(torch.tensor(pixels()[None]))[0].numpy()
    np.testing.assert_allclose(
        load_model(tmp_path / "run" / "model.safetensors").describe(pixels()), expected, atol=1e-6
    )


def test_a_pooling_of_the_other_kind_names_those_that_fit() -> None:
    with pytest.raises(UsageError, match="token sequences, but resnet18 gives feature maps") as told:
        load_model("resnet18-cls@random:0").engine()
    assert "gem, gem-channel, avg" in str(told.value)
    assert "token-gem" not in str(told.value)


def test_the_list_of_models_names_the_poolings_of_each_kind() -> None:
    from click.testing import CliRunner

    from retrieval.cli.models import command

    said = CliRunner().invoke(command, ["list"]).output
    assert "Of convolutional networks: gem, " in said
    assert "Of vision transformers (cls by default): cls, mean" in said
    assert "..." not in CliRunner().invoke(command, ["--help"]).output.partition("Commands:")[2]


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    spec = load_model("resnet18-gem@random:4").spec
    path = tmp_path / "model.safetensors"
    save_checkpoint(build_network(spec), spec, path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        load_tensors(path)
    path.write_bytes(data[:1000])
    with pytest.raises(ModelError):
        load_model(path).engine()
    path.write_text("nothing of the kind")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no checkpoint"):
        load_model(tmp_path / "empty")
    with pytest.raises(ModelError, match="no checkpoint"):
        load_model("runs/nowhere")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    from retrieval.models.backbones import create_backbone, read_published

    with pytest.raises(ModelError, match="do not fit resnet18"):
        create_backbone("resnet18").load_published(torchvision.models.resnet34().state_dict())
    with pytest.raises(ModelError, match="do not fit efficientnet_lite0"):
        create_backbone("efficientnet_lite0").load_published(torchvision.models.resnet18().state_dict())
    torch.save({"a": 1}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="state dict"):
        read_published(str(tmp_path / "x.pth"))


# -- downloads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A local server of weights: what it serves is in the dictionary; torch's cache is empty."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path.lstrip("/"))
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv("RETRIEVE_WEIGHTS_URL", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield files
    httpd.shutdown()


def test_weights_are_downloaded_once_and_checked(server: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    torch.manual_seed(0)
    whole = torchvision.models.resnet18()
    torch.save(whole.state_dict(), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
    info = registry._resnet(18, DIM, digest, 44.7)
    monkeypatch.setitem(registry.BACKBONES, "resnet18", info)
    said: list[str] = []
    name = f"resnet18-{digest}.pth"
    with pytest.raises(DownloadError, match="404"):
        load_model("resnet18-gem", say=said.append)
    assert "downloading" in said[0]
    server[name] = buffer.getvalue()[:-1] + b"x"
    with pytest.raises(DownloadError, match="hash"):
        load_model("resnet18-gem")
    assert not weights.weights_present(registry.BACKBONES["resnet18"].weights)
    server[name] = buffer.getvalue()
    array = pixels()
    ours = load_model("resnet18-gem").describe(array)
    server.clear()
    np.testing.assert_array_equal(load_model("resnet18-gem").describe(array), ours)
    body = torch.nn.Sequential(*list(whole.children())[:-2]).eval()
    with torch.no_grad():
        expected = plain_gem(body(plain_input(array)))
    np.testing.assert_allclose(ours, (expected / expected.norm()).numpy()[0], atol=1e-5)
    weights.weights_file(registry.BACKBONES["resnet18"].weights).write_bytes(b"damaged meanwhile")
    with pytest.raises(ModelError, match="damaged"):
        load_model("resnet18-gem")


def test_auto_takes_what_is_here_and_never_the_network(
    server: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    said: list[str] = []
    assert load_model("auto", say=said.append).spec.name == "lite0_instance-gem"
    assert "others: retrieve models list" in said[0]
    data = b"weights"
    digest = hashlib.sha256(data).hexdigest()[:8]
    monkeypatch.setitem(registry.BACKBONES, "resnet50", registry._resnet(50, 2048, digest, 97.8))
    path = weights.weights_file(registry.BACKBONES["resnet50"].weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert load_model("auto").spec.backbone == "resnet50"


def test_a_specification_of_unknown_weights_is_refused() -> None:
    spec = load_model("resnet18-gem@random:0").spec
    unknown = ModelSpec.from_dict({**spec.to_dict(), "weights": WeightsRef("nobody/knows", "0" * 64).__dict__})
    with pytest.raises(ModelError, match="not known"):
        build_network(unknown)
