"""Attention inside a vision transformer's blocks, by hooks: what each token receives, and how often each counts."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.pooling.reduction import Reduced
from retrieval.pooling.vit_parts import Parts


class Sizes:
    """How many tokens each present token stands for; ``logs`` ``(B, K)`` is None as long as each stands for itself."""

    def __init__(self) -> None:
        self.logs: Tensor | None = None

    def follow(self, reduced: Reduced) -> None:
        before = torch.ones_like(reduced.assignment, dtype=torch.float32) if self.logs is None else self.logs.exp()
        counts = before.new_zeros(reduced.tokens.shape[:2]).scatter_add(1, reduced.assignment, before)
        # A centre that stands for nothing (of two equal ones, the second) is not looked at.
        self.logs = counts.clamp(min=1e-6).log()


def bias_attention(block: nn.Module, build: Parts, sizes: Sizes, stack: ExitStack) -> None:
    """A hook (removed with ``stack``) that adds the log of the tokens' sizes to the scores of the block's attention."""
    parts: Any = block

    def add(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if sizes.logs is None:
            return None
        bias = sizes.logs.to(args[0].dtype)[:, None, None]
        if build.torchvision:
            bias = bias.expand(-1, module.num_heads, bias.shape[-1], -1).flatten(0, 1)
        return args, {**kwargs, "attn_mask": bias}

    attention = parts.self_attention if build.torchvision else parts.attn
    stack.callback(attention.register_forward_pre_hook(add, with_kwargs=True).remove)


def watch_attention(block: nn.Module, build: Parts, sizes: Sizes, stack: ExitStack) -> list[Tensor]:
    """Hooks (removed with ``stack``) that put the attention received in a run of ``block``, ``(B, N)``, in a list."""
    received: list[Tensor] = []
    parts: Any = block
    if build.torchvision:

        def ask(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "need_weights": True, "average_attn_weights": True}

        def take(_module: nn.Module, _args: Any, out: tuple[Tensor, Tensor]) -> None:
            received.append(out[1].detach().float().mean(1))

        stack.callback(parts.self_attention.register_forward_pre_hook(ask, with_kwargs=True).remove)
        stack.callback(parts.self_attention.register_forward_hook(take).remove)
    else:

        def compute(_module: nn.Module, _args: Any, qkv: Tensor) -> None:
            received.append(attention_received(parts.attn, qkv.detach(), sizes.logs))

        stack.callback(parts.attn.qkv.register_forward_hook(compute).remove)
    return received


@torch.no_grad()
def attention_received(attention: Any, qkv: Tensor, bias: Tensor | None) -> Tensor:
    """The mean over heads and queries of ``softmax(Q K^T / sqrt(d) + bias)``: ``(B, N, 3 h d)`` -> ``(B, N)``."""
    q, k, _ = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias[:, None, None]
    return scores.float().softmax(-1).mean((1, 2))
