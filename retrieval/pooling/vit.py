"""Token Pooling inside a vision transformer: the wrapped model.

Works on torchvision's and timm's ``VisionTransformer`` by their build alone (neither library is imported): the model
runs unchanged, and after each block of the schedule its tokens are clustered, weighted by the attention that each
received in that block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import UsageError
from retrieval.pooling.base import one_of, positive_int
from retrieval.pooling.flops import Flops
from retrieval.pooling.reduction import METHODS, OUTPUTS, Reduced, clustering_cost, reduce_tokens
from retrieval.pooling.token_counts import Schedule
from retrieval.pooling.vit_attention import Sizes, bias_attention, watch_attention
from retrieval.pooling.vit_parts import attention_dim, linear_weights, parts_of

STARTS = ("significant", "spaced")


class TokenPooledViT(nn.Module):
    """A vision transformer whose tokens are pooled after its blocks; returns what the wrapped model returns.

    Args:
        vit: a torchvision or timm ``VisionTransformer``. It is used as it is, with its weights; outside a call of
            this module it behaves as before. Calls must not overlap in several threads.
        keep: for each block how many tokens leave it, the class token and registers included; None for no change.
            See :mod:`retrieval.pooling.token_counts`.
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
        build = parts_of(vit)
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
        handle = parts_of(self.vit).norm.register_forward_hook(lambda _m, _args, out: seen.append(out))
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
        build = parts_of(self.vit)
        steps: list[Reduced] = []
        sizes = Sizes()
        with ExitStack() as stack:
            for block, k in zip(build.blocks, self.keep, strict=True):
                if self.proportional:
                    bias_attention(block, build, sizes, stack)
                if k is not None:
                    received = watch_attention(block, build, sizes, stack) if self._needs_significance() else None
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
        build = parts_of(self.vit)
        if not isinstance(build.embedding, nn.Conv2d) or getattr(self.vit, "attn_pool", None) is not None:
            raise UsageError("the cost of this model's patch embedding or head is not counted here")
        count = build.patches if patches is None else positive_int(patches, "patches")
        n = count + build.prefix
        blocks, clustering = [], []
        for block, k in zip(build.blocks, keep, strict=True):
            dim = attention_dim(block, build)
            blocks.append(linear_weights(block) * n + 2 * n * n * dim)
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
