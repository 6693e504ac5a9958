"""Token Pooling as part of a model: the schedule in a specification, and what it saves. Imports torch to count alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from retrieval.errors import UsageError
from retrieval.models.registry import BACKBONES, BackboneInfo
from retrieval.models.spec import TOKENS, ModelSpec
from retrieval.pooling.schedules import TokenSchedule, read_schedule


def token_schedule(info: BackboneInfo, text: Any, size: int | None) -> TokenSchedule:
    """The schedule that ``text`` means for a backbone; a percentage holds for square pictures of its own ``size``.
    Raises UsageError for a backbone without tokens and for a schedule that cannot be read."""
    if info.layout != "tokens":
        raise UsageError(
            f"{info.name} has no tokens that could be pooled",
            "A schedule of tokens goes with a vision transformer, such as deit_small-cls.",
        )
    patches = max(1, round((size or info.size) / info.stride)) ** 2
    return read_schedule(text, depth=info.depth, dim=info.dim, patch=info.stride, patches=patches, prefix=info.prefix)


def with_tokens(spec: ModelSpec, text: str | None) -> ModelSpec:
    """The same model with another schedule; None keeps what is there. Raises UsageError."""
    if text is None:
        return spec
    schedule = token_schedule(BACKBONES[spec.backbone], text, BACKBONES[spec.backbone].size)
    return replace(spec, pooling={**spec.pooling, TOKENS: str(schedule)})


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates for one square picture: ``whole`` without a schedule, ``network`` with it, and ``own``, those of the
    clustering itself."""

    side: int
    whole: int
    network: int
    own: int

    def __str__(self) -> str:
        saved, net = (100 * (1 - cost / self.whole) for cost in (self.network, self.network + self.own))
        return (
            f"{saved:.1f} % of {self.whole / 1e9:.2f} G multiplications saved at {self.side} x {self.side} pixels "
            f"({net:.1f} % with the clustering's own)"
        )


def cost_of(spec: ModelSpec, side: int | None = None) -> Cost:
    """What one square picture of ``side`` pixels (default: the model's size) costs. UsageError for a model without tokens."""
    import torch

    from retrieval.models.backbones import create_backbone
    from retrieval.pooling.vit import TokenPooledViT

    info = BACKBONES[spec.backbone]
    side = side or spec.image.size or info.size
    schedule = token_schedule(info, spec.pooling.get(TOKENS) or "1:0.999", info.size)
    with torch.device("meta"):
        body: Any = create_backbone(spec.backbone).body
    patches = max(1, round(side / info.stride)) ** 2
    start = "significant" if schedule.significant else "spaced"
    counts = schedule.counts(patches, info.prefix, info.depth)
    pooled = TokenPooledViT(body, counts, schedule.method, start=start)
    whole = pooled.flops_unpooled(patches).total
    if not spec.pooling.get(TOKENS):
        return Cost(side, whole, whole, 0)
    flops = pooled.flops(patches)
    return Cost(side, whole, flops.network, sum(flops.clustering))
