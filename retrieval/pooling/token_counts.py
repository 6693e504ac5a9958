"""Schedules of Token Pooling in numbers: how many tokens leave each block of a vision transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retrieval.errors import UsageError
from retrieval.pooling.base import positive_int

Schedule = Sequence[int | None]


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
