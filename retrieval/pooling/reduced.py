"""Vision transformers with fewer tokens on the way, by a schedule that holds for pictures of every size.

What :class:`retrieval.pooling.vit.TokenPooledViT` computes, written out block by block: without hooks, so that several threads
may run it, and without decisions by size, so that one trace holds for every picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retrieval.pooling.reduction import reduce_tokens
from retrieval.pooling.schedules import TokenSchedule, kept
from retrieval.pooling.vit_attention import Sizes, attention_received


def run_reduced(blocks: nn.Module, x: Tensor, schedule: TokenSchedule, prefix: int) -> Tensor:
    """Tokens ``(B, N, D)`` through the blocks of torchvision's or timm's transformer: ``(B, K, D)``, the prefix first.

    A token that stands for m others counts m times in the attention that follows. Clusters start from the most significant
    tokens where the method looks at significance, else from evenly spaced ones.
    """
    steps = dict(schedule.steps)
    patches = x.shape[1] - prefix
    sizes = Sizes()
    for number, block in enumerate(blocks.children(), 1):
        share = steps.get(number)
        received = _received(block, x, sizes.logs) if share is not None and schedule.significant else None
        x = _run(block, x, sizes.logs)
        if share is not None:
            reduced = reduce_tokens(x, prefix + kept(patches, share), schedule.method, received, prefix=prefix)
            sizes.follow(reduced)
            x = reduced.tokens
    return x


def _run(block: Any, x: Tensor, logs: Tensor | None) -> Tensor:
    """One block; ``logs`` ``(B, N)`` is added to the scores of its attention."""
    result: Tensor
    if hasattr(block, "self_attention"):
        h = block.ln_1(x)
        attended, _ = block.self_attention(h, h, h, need_weights=False, attn_mask=_mask(block, x, logs))
        x = x + block.dropout(attended)
        result = x + block.mlp(block.ln_2(x))
    else:
        result = block(x) if logs is None else block(x, attn_mask=logs.to(x.dtype)[:, None, None])
    return result


@torch.no_grad()
def _received(block: Any, x: Tensor, logs: Tensor | None) -> Tensor:
    """The attention that each token receives in the block, ``(B, N)``."""
    if not hasattr(block, "self_attention"):
        return attention_received(block.attn, block.attn.qkv(block.norm1(x)), logs)
    h = block.ln_1(x)
    weights: Tensor = block.self_attention(h, h, h, need_weights=True, attn_mask=_mask(block, x, logs))[1]
    return weights.float().mean(1)


def _mask(block: Any, x: Tensor, logs: Tensor | None) -> Tensor | None:
    """As torchvision's attention takes it: a row for every query of every head."""
    if logs is None:
        return None
    batch, count = logs.shape
    bias = logs.to(x.dtype)[:, None, None].expand(batch, block.self_attention.num_heads, count, count)
    return bias.reshape(-1, count, count)
