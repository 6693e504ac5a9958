"""Where the parts of a vision transformer are, in torchvision's build and in timm's (neither library is imported)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from retrieval.errors import UsageError


@dataclass(frozen=True)
class Parts:
    """Where the parts of a vision transformer are."""

    blocks: list[nn.Module]
    norm: nn.Module
    prefix: int
    patches: int
    embedding: nn.Module
    head: list[nn.Linear]
    torchvision: bool


def parts_of(vit: nn.Module) -> Parts:
    parts: Any = vit
    if hasattr(vit, "class_token") and hasattr(getattr(vit, "encoder", None), "layers"):
        heads = [m for m in parts.heads.modules() if isinstance(m, nn.Linear)]
        blocks = list(parts.encoder.layers)
        return Parts(blocks, parts.encoder.ln, 1, parts.seq_length - 1, parts.conv_proj, heads, True)
    blocks = list(getattr(vit, "blocks", ()))
    fused = [getattr(getattr(block, "attn", None), "qkv", None) for block in blocks]
    if blocks and all(isinstance(qkv, nn.Linear) for qkv in fused) and hasattr(vit, "num_prefix_tokens"):
        heads = [m for name in ("head", "head_dist") for m in [getattr(vit, name, None)] if isinstance(m, nn.Linear)]
        embed = parts.patch_embed
        return Parts(blocks, parts.norm, parts.num_prefix_tokens, embed.num_patches, embed.proj, heads, False)
    raise UsageError(
        f"{type(vit).__name__} is not a vision transformer that can be pooled",
        "torchvision's vit_* and timm's vit_* and deit_* models can.",
    )


def linear_weights(block: nn.Module) -> int:
    """Number of weights of the linear layers of a block: each is used once for every token."""
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Linear))
    return weights + sum(m.in_proj_weight.numel() for m in block.modules() if isinstance(m, nn.MultiheadAttention))


def attention_dim(block: nn.Module, build: Parts) -> int:
    parts: Any = block
    return parts.self_attention.embed_dim if build.torchvision else parts.attn.qkv.out_features // 3
