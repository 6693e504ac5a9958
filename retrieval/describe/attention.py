"""Where a vision transformer's class token looks: its attention in the last block, softmax(q k^T / sqrt(d)), head by head.

Computed beside the network's own run from what enters that block's attention, for the class token's row alone; the network
itself gives what it gives without. The attention of a block is one step of many: it tells which patches the class token took
from last, not what the descriptor rests on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.models.backbones import Backbone, TimmViT, TorchvisionViT


def has_attention(backbone: Backbone) -> bool:
    """Whether there is a class token whose attention can be laid over the patches: not where tokens are merged on the way, for
    then a token stands for several patches."""
    return isinstance(backbone, TimmViT | TorchvisionViT) and backbone.info.prefix > 0 and backbone.schedule is None


@contextmanager
def watching(backbone: Backbone) -> Iterator[list[Tensor]]:
    """While this is open, each run of ``backbone`` adds the attention of its class token in the last block to the list: float32
    (B, heads, tokens), each row summing to 1 over all tokens, those before the patches included. For backbones that
    :func:`has_attention`, one thread at a time."""
    seen: list[Tensor] = []
    body: Any = backbone.body
    torchvision = isinstance(backbone, TorchvisionViT)
    attention = list(body.encoder.layers)[-1].self_attention if torchvision else body.blocks[-1].attn

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["query"]
        seen.append(_of_torchvision(module, x) if torchvision else _of_timm(module, x))

    handle = attention.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def _of_timm(attention: Any, x: Tensor) -> Tensor:
    qkv: Tensor = attention.qkv(x)
    q, k, _ = qkv.reshape(*qkv.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return _weights(attention.q_norm(q[:, :, :1]), attention.k_norm(k), attention.scale)


@torch.no_grad()
def _of_torchvision(attention: Any, x: Tensor) -> Tensor:
    heads = attention.num_heads
    weight, bias = (p.chunk(3) for p in (attention.in_proj_weight, attention.in_proj_bias))
    q, k = (F.linear(x, weight[i], bias[i]).reshape(*x.shape[:2], heads, -1).transpose(1, 2) for i in (0, 1))
    return _weights(q[:, :, :1], k, q.shape[-1] ** -0.5)


def _weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """``q`` (B, heads, 1, d) of the class token, ``k`` (B, heads, N, d) -> (B, heads, N)."""
    scores: Tensor = (q * scale) @ k.transpose(-2, -1)
    return scores.float().softmax(-1)[:, :, 0]
