"""Token Pooling inside a vision transformer: the wrapped model, schedules of token counts, and what they cost.

Works on torchvision's and timm's ``VisionTransformer`` by their build alone (neither library is imported): the model
runs unchanged, and after each block of the schedule its tokens are clustered, weighted by the attention that each
received in that block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .base import one_of, positive_int
from .reduction import METHODS, OUTPUTS, Reduced, clustering_cost, reduce_tokens

Schedule = Sequence[int | None]
STARTS = ("significant", "spaced")


def schedule_linear(depth: int, tokens: int, last: int) -> list[int | None]:
    """Token counts that fall along a straight line.

    Args:
        depth: number of blocks.
        tokens: tokens before the first block, the prefix included.
        last: tokens that enter the last block.

    Returns:
        for each block how many tokens leave it; None after the last, where a reduction saves nothing.
    """
    positive_int(depth, "depth")
    if not 1 <= last <= tokens:
        raise UsageError(f"last must be between 1 and the {tokens} tokens at the start, not {last}")
    steps = max(depth - 1, 1)
    return [*(round(tokens + (last - tokens) * i / steps) for i in range(1, depth)), None]


def schedule_from_keep_rate(
    depth: int, tokens: int, rate: float, after: Sequence[int] | None = None, prefix: int = 1
) -> list[int | None]:
    """Token counts that keep a fraction of the patches at each reduction.

    Args:
        depth: number of blocks.
        tokens: tokens before the first block, the prefix included.
        rate: fraction of the patch tokens kept, above 0 and at most 1; rounded up.
        after: the blocks (from 0) that are followed by a reduction; all but the last if None.
        prefix: tokens that are always kept.
    """
    positive_int(depth, "depth")
    if not 0 < rate <= 1:
        raise UsageError(f"rate must be above 0 and at most 1, not {rate!r}")
    chosen = range(depth - 1) if after is None else after
    if any(not 0 <= block < depth for block in chosen):
        raise UsageError(f"after must name blocks from 0 to {depth - 1}, not {list(chosen)}")
    keep: list[int | None] = [None] * depth
    patches = tokens - prefix
    for block in sorted(set(chosen)):
        # The tolerance keeps a product such as 0.07 * 100 = 7.000000000000001 at 7.
        patches = math.ceil(rate * patches - 1e-9)
        keep[block] = prefix + patches
    return keep


# Straight lines for 224-pixel pictures (196 patches and a class token) that save 42 % of the multiply-accumulates,
# the saving published for DeiT-Ti. The published counts came out of a search and are not these.
SCHEDULES: dict[str, tuple[int | None, ...]] = {
    "deit-ti-42": tuple(schedule_linear(12, 197, 37)),
    "deit-s-42": tuple(schedule_linear(12, 197, 34)),
}


@dataclass(frozen=True)
class Flops:
    """Cost of one image in multiply-accumulates, which is what papers on these models call FLOPs.

    Attributes:
        patch_embedding: the convolution that makes tokens of patches.
        blocks: for each block its linear layers and the two products of attention.
        head: the classifier.
        clustering: after each block, finding the significance (where it has to be computed anew) and the clusters.
    """

    patch_embedding: int
    blocks: tuple[int, ...]
    head: int
    clustering: tuple[int, ...] = field(default=())

    @property
    def network(self) -> int:
        """All but the clustering."""
        return self.patch_embedding + sum(self.blocks) + self.head

    @property
    def total(self) -> int:
        """The network and the clustering."""
        return self.network + sum(self.clustering)


@dataclass(frozen=True)
class _Build:
    """Where the parts of a vision transformer are."""

    blocks: list[nn.Module]
    norm: nn.Module
    prefix: int
    patches: int
    embedding: nn.Module
    head: list[nn.Linear]
    torchvision: bool


def _build_of(vit: nn.Module) -> _Build:
    parts: Any = vit
    if hasattr(vit, "class_token") and hasattr(getattr(vit, "encoder", None), "layers"):
        heads = [m for m in parts.heads.modules() if isinstance(m, nn.Linear)]
        blocks = list(parts.encoder.layers)
        return _Build(blocks, parts.encoder.ln, 1, parts.seq_length - 1, parts.conv_proj, heads, True)
    blocks = list(getattr(vit, "blocks", ()))
    fused = [getattr(getattr(block, "attn", None), "qkv", None) for block in blocks]
    if blocks and all(isinstance(qkv, nn.Linear) for qkv in fused) and hasattr(vit, "num_prefix_tokens"):
        heads = [m for name in ("head", "head_dist") for m in [getattr(vit, name, None)] if isinstance(m, nn.Linear)]
        embed = parts.patch_embed
        return _Build(blocks, parts.norm, parts.num_prefix_tokens, embed.num_patches, embed.proj, heads, False)
    raise UsageError(
        f"{type(vit).__name__} is not a vision transformer that can be pooled",
        "torchvision's vit_* and timm's vit_* and deit_* models can.",
    )


class TokenPooledViT(nn.Module):
    """A vision transformer whose tokens are pooled after its blocks; returns what the wrapped model returns.

    Args:
        vit: a torchvision or timm ``VisionTransformer``. It is used as it is, with its weights; outside a call of
            this module it behaves as before. Calls must not overlap in several threads.
        keep: for each block how many tokens leave it, the class token and registers included; None for no change.
            See :func:`schedule_linear`, :func:`schedule_from_keep_rate` and ``SCHEDULES``.
        method, iterations, output: see :func:`reduce_tokens`. Class token and registers are always kept.
        proportional: whether a token that stands for m others counts m times in the attention that follows: log m is
            added to its scores (Bolya et al., "Token Merging: Your ViT But Faster", 2023, equation 1). The paper on
            Token Pooling does without and trains the model again; a model that is used as it is needs it.
        start: where ``kmeans`` and ``kmedoids`` start, ``significant`` tokens or ``spaced`` ones, for which no significance is
            computed.
        generator: source of randomness for the method ``random``.

    With ``keep`` all None or all equal to the number of tokens, the output is that of the wrapped model.

    The significance of a token is the attention it receives in the block just passed, averaged over heads and
    queries, computed from the block's own queries and keys.

    Raises:
        UsageError: a model of another build, a schedule of the wrong length, that grows, or that drops the prefix.
    """

    def __init__(
        self,
        vit: nn.Module,
        keep: Schedule,
        method: str = "weighted-kmedoids",
        *,
        iterations: int = 5,
        output: str = "mean",
        proportional: bool = True,
        start: str = "significant",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.vit = vit
        self.method = one_of(method, METHODS, "method")
        self.iterations = positive_int(iterations, "iterations")
        self.output = one_of(output, OUTPUTS, "output")
        self.proportional = proportional
        self.start = one_of(start, STARTS, "start")
        self.generator = generator
        build = _build_of(vit)
        self.prefix = build.prefix
        self.keep = tuple(keep)
        if len(self.keep) != len(build.blocks):
            raise UsageError(f"the schedule has {len(self.keep)} entries, the model {len(build.blocks)} blocks")
        counts = [positive_int(k, "a token count") for k in self.keep if k is not None]
        if counts != sorted(counts, reverse=True):
            raise UsageError(f"token counts must not grow from block to block: {counts}")
        if counts and counts[-1] <= self.prefix:
            raise UsageError(f"{counts[-1]} tokens leave none beside the {self.prefix} of the prefix")

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> what the wrapped model gives, for a classifier ``(B, classes)``."""
        with self._pooling():
            result: Tensor = self.vit(images)
        return result

    def tokens(self, images: Tensor) -> Tensor:
        """The tokens after the last block and the final normalisation, ``(B, K, D)``, prefix first: what a token
        pooling with ``prefix=self.prefix`` takes.
        """
        return self._run(images)[0]

    def clusters(self, images: Tensor) -> Tensor:
        """For each token before the first block, which of the final tokens stands for it: ``(B, N)`` int64."""
        return self._run(images)[1]

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        handle = _build_of(self.vit).norm.register_forward_hook(lambda _m, _args, out: seen.append(out))
        try:
            with self._pooling() as steps:
                self.vit(images)
        finally:
            handle.remove()
        tokens = seen[0]
        batch, count = tokens.shape[:2]
        if not steps:
            return tokens, torch.arange(count, device=tokens.device).expand(batch, -1)
        owner = steps[0].assignment
        for step in steps[1:]:
            owner = step.assignment.gather(1, owner)
        return tokens, owner

    @contextmanager
    def _pooling(self) -> Iterator[list[Reduced]]:
        """While this is open, the blocks of the wrapped model reduce their tokens; yields what they did so far."""
        build = _build_of(self.vit)
        steps: list[Reduced] = []
        sizes = Sizes()
        with ExitStack() as stack:
            for block, k in zip(build.blocks, self.keep, strict=True):
                if self.proportional:
                    _bias_attention(block, build, sizes, stack)
                if k is not None:
                    received = _watch_attention(block, build, sizes, stack) if self._needs_significance() else None
                    handle = block.register_forward_hook(self._reducer(k, received, steps, sizes))
                    stack.callback(handle.remove)
            yield steps

    def _needs_significance(self) -> bool:
        return self.method not in ("random", "grid", *(("kmeans", "kmedoids") if self.start == "spaced" else ()))

    def _reducer(
        self, k: int, received: list[Tensor] | None, steps: list[Reduced], sizes: Sizes
    ) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def reduce(_module: nn.Module, _args: Any, tokens: Tensor) -> Tensor:
            reduced = reduce_tokens(
                tokens,
                k,
                self.method,
                received.pop() if received is not None else None,
                iterations=self.iterations,
                output=self.output,
                prefix=self.prefix,
                generator=self.generator,
            )
            steps.append(reduced)
            if self.proportional:
                sizes.follow(reduced)
            return reduced.tokens

        return reduce

    def flops(self, patches: int | None = None) -> Flops:
        """Multiply-accumulates for one image with the schedule, from the sizes of the layers.

        A block with N tokens costs N for every weight of its linear layers (12 D^2 in a plain ViT) and 2 N^2 D for
        attention. Normalisations, activations, biases and the softmax are left out, as is usual.

        Args:
            patches: number of patches; those of the model's own image size if None.
        """
        return self._flops(self.keep, patches)

    def flops_unpooled(self, patches: int | None = None) -> Flops:
        """The same for the wrapped model without pooling."""
        return self._flops([None] * len(self.keep), patches)

    def _flops(self, keep: Schedule, patches: int | None) -> Flops:
        build = _build_of(self.vit)
        if not isinstance(build.embedding, nn.Conv2d) or getattr(self.vit, "attn_pool", None) is not None:
            raise UsageError("the cost of this model's patch embedding or head is not counted here")
        count = build.patches if patches is None else positive_int(patches, "patches")
        n = count + build.prefix
        blocks, clustering = [], []
        for block, k in zip(build.blocks, keep, strict=True):
            dim = _attention_dim(block, build)
            blocks.append(_linear_weights(block) * n + 2 * n * n * dim)
            cost = 0
            if k is not None and k != n:
                body = n - build.prefix
                cost = clustering_cost(body, k - build.prefix, dim, self.method, self.iterations)
                # torchvision's attention hands its weights out; timm's fused one does not, so Q K^T is done again.
                cost += n * n * dim if self._needs_significance() and not build.torchvision else 0
                n = k
            clustering.append(cost)
        head = sum(layer.weight.numel() for layer in build.head)
        return Flops(build.embedding.weight.numel() * count, tuple(blocks), head, tuple(clustering))

    def extra_repr(self) -> str:
        settings = f"iterations={self.iterations}, output={self.output!r}, proportional={self.proportional}"
        return f"keep={list(self.keep)}, method={self.method!r}, {settings}"


def _linear_weights(block: nn.Module) -> int:
    """Number of weights of the linear layers of a block: each is used once for every token."""
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Linear))
    return weights + sum(m.in_proj_weight.numel() for m in block.modules() if isinstance(m, nn.MultiheadAttention))


def _attention_dim(block: nn.Module, build: _Build) -> int:
    parts: Any = block
    return parts.self_attention.embed_dim if build.torchvision else parts.attn.qkv.out_features // 3


class Sizes:
    """How many tokens each present token stands for; ``logs`` ``(B, K)`` is None as long as each stands for itself."""

    def __init__(self) -> None:
        self.logs: Tensor | None = None

    def follow(self, reduced: Reduced) -> None:
        before = torch.ones_like(reduced.assignment, dtype=torch.float32) if self.logs is None else self.logs.exp()
        counts = before.new_zeros(reduced.tokens.shape[:2]).scatter_add(1, reduced.assignment, before)
        # A centre that stands for nothing (of two equal ones, the second) is not looked at.
        self.logs = counts.clamp(min=1e-6).log()


def _bias_attention(block: nn.Module, build: _Build, sizes: Sizes, stack: ExitStack) -> None:
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


def _watch_attention(block: nn.Module, build: _Build, sizes: Sizes, stack: ExitStack) -> list[Tensor]:
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
