"""Vision transformers as backbones: the token layout against the libraries' own forward passes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import timm
import torch
import torchvision

from retrieval import load_model
from retrieval.errors import ModelError, UsageError
from retrieval.models.backbones import create_backbone, fit_to_patches, resize_positions
from retrieval.models.registry import BACKBONES

VITS = [name for name, info in BACKBONES.items() if info.layout == "tokens"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def test_torchvision_tokens_are_torchvision_s_own() -> None:
    whole = torchvision.models.vit_b_32().eval()
    torch.nn.init.normal_(whole.heads.head.weight)  # published weights have a classifier; it must not matter
    ours = create_backbone("vit_b_32").eval()
    ours.load_published(whole.state_dict())
    images = torch.randn(2, 3, 224, 224)
    tokens = ours(images)
    assert tokens.shape == (2, 1 + 49, 768)
    torch.testing.assert_close(whole.heads(tokens[:, 0]), whole(images), atol=1e-5, rtol=1e-5)
    x = whole._process_input(images)
    x = whole.encoder(torch.cat([whole.class_token.expand(2, -1, -1), x], dim=1))
    torch.testing.assert_close(tokens, x, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_deit_tokens_are_timm_s_own() -> None:
    whole = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval()
    ours = create_backbone("deit_tiny").eval()
    ours.load_published(whole.state_dict())
    images = torch.randn(2, 3, 224, 224)
    tokens = ours(images)
    torch.testing.assert_close(tokens, whole.forward_features(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens[:, 0], whole.forward_head(whole.forward_features(images), pre_logits=True))


@torch.no_grad()
@pytest.mark.parametrize("registers", [False, True])
def test_dinov2_weights_as_published(registers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2's files carry a mask token, positions that include the class token's, and registers under another name.
    Two of the twelve blocks, whose names differ in the number alone."""
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))
    name = "dinov2_vits14_reg4" if registers else "dinov2_vits14"
    whole = timm.create_model(BACKBONES[name].library_name, pretrained=False, num_classes=0).eval()
    published = {k: torch.randn_like(v) * 0.02 for k, v in whole.state_dict().items()}
    whole.load_state_dict(published)
    original = dict(published)
    original["mask_token"] = torch.zeros(1, 384)
    if registers:
        original["register_tokens"] = original.pop("reg_token")
        shift = torch.randn(1, 1, 384) * 0.02  # the class token's position is added to it by timm's form
        original["pos_embed"] = torch.cat([shift, original["pos_embed"]], dim=1)
        original["cls_token"] = original["cls_token"] - shift
    ours = create_backbone(name).eval()
    ours.load_published(original)
    images = torch.randn(1, 3, 518, 518)
    tokens = ours(images)
    assert tokens.shape == (1, BACKBONES[name].prefix + 37 * 37, 384)
    torch.testing.assert_close(tokens, whole.forward_features(images), atol=1e-4, rtol=1e-4)


def test_prefixes_are_the_libraries() -> None:
    for name in VITS:
        info = BACKBONES[name]
        if info.family == "timm_vit":
            with torch.device("meta"):
                whole = timm.create_model(info.library_name, pretrained=False, num_classes=0)
            assert (whole.num_prefix_tokens, whole.num_features) == (info.prefix, info.dim)
            assert whole.patch_embed.patch_size == (info.stride, info.stride)
            assert timm.get_pretrained_cfg(info.library_name).url == info.weights.url
            assert timm.get_pretrained_cfg(info.library_name).mean == info.weights.mean
        else:
            enum = torchvision.models.get_model_weights(info.library_name).IMAGENET1K_V1
            assert enum.url == info.weights.url
            assert enum.transforms().mean == list(info.weights.mean)


@torch.no_grad()
def test_pictures_of_any_size() -> None:
    for name in ("vit_b_32", "deit_tiny"):
        ours = create_backbone(name).eval()
        patch = BACKBONES[name].stride
        tokens = ours(torch.randn(1, 3, 3 * patch, 5 * patch))
        assert tokens.shape == (1, 1 + 15, BACKBONES[name].dim)
        assert ours(torch.randn(1, 3, 3 * patch + 5, 5 * patch - 6)).shape == tokens.shape
        assert ours(torch.randn(1, 3, 7, 9)).shape == (1, 2, BACKBONES[name].dim)
    images = torch.randn(1, 3, 64, 96)
    assert fit_to_patches(images, 16) is images
    positions = torch.randn(1, 1 + 49, 8)
    assert resize_positions(positions, 7, 7) is positions
    constant = torch.ones(1, 1 + 49, 8)
    torch.testing.assert_close(resize_positions(constant, 5, 11), torch.ones(1, 1 + 55, 8))


def test_descriptors_of_token_poolings() -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    body = load_model("deit_tiny-cls@random:0", engine="torch").engine().describer.network.backbone  # type: ignore[attr-defined]
    with torch.no_grad():
        x = torch.from_numpy(array).permute(2, 0, 1)[None] / 255
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        tokens = body((x - mean) / std)[0]
    for pooling, expected in {
        "cls": tokens[0],
        "mean": tokens[1:].mean(dim=0),
        "token-max": tokens[1:].amax(dim=0),
        "cls-mean": torch.cat([tokens[0], tokens[1:].mean(dim=0)]),
    }.items():
        model = load_model(f"deit_tiny-{pooling}@random:0", engine="torch")
        descriptor = model.describe(array)
        assert descriptor.shape == (model.spec.dim,)
        if pooling != "cls-mean":  # whose parts may be normalised on their own
            np.testing.assert_allclose(descriptor, (expected / expected.norm()).numpy(), atol=1e-5)


def test_poolings_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="gives token sequences"):
        load_model("deit_tiny-gem@random:0").describe(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UsageError, match="gives feature maps"):
        load_model("resnet18-cls@random:0").describe(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ModelError, match="do not fit"):
        create_backbone("deit_tiny").load_published(torchvision.models.vit_b_32().state_dict())
