"""Schedules of Token Pooling in words: after which blocks of a vision transformer how many of its tokens are left.

A schedule counts in shares of a picture's patches, so that it holds for pictures of every size:
``4:0.37`` leaves 37 % of the patches after the fourth block, ``4:0.5+8:0.25`` half after the fourth and a quarter after the
eighth. ``4:0.37+topk`` says by which method. ``42%`` stands for a schedule that saves so much. Knows no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from retrieval.errors import UsageError

METHODS = ("kmeans", "kmedoids", "weighted-kmeans", "weighted-kmedoids", "topk")
"""Those of :func:`retrieval.pooling.reduction.reduce_tokens` that go with pictures of every size and give the same twice."""
USUAL = METHODS[0]
_HINT = "Examples: 42%, 4:0.37, 4:0.5+8:0.25, 4:0.37+kmedoids."


@dataclass(frozen=True)
class TokenSchedule:
    """``steps``: (block, thousandths), rising and falling: after that block (the first is 1) so many thousandths of the
    picture's patches are left. ``method``: one of ``METHODS``."""

    steps: tuple[tuple[int, int], ...]
    method: str = USUAL

    def __str__(self) -> str:
        words = [f"{block}:{share / 1000:g}" for block, share in self.steps]
        return "+".join(words if self.method == USUAL else [*words, self.method])

    @property
    def significant(self) -> bool:
        """Whether the method looks at the attention that tokens receive; the others start evenly spaced."""
        return self.method.startswith("weighted") or self.method == "topk"

    def counts(self, patches: int, prefix: int, depth: int) -> list[int | None]:
        """For each of the ``depth`` blocks how many tokens leave it, the ``prefix`` included; None for no change."""
        keep: list[int | None] = [None] * depth
        for block, share in self.steps:
            keep[block - 1] = prefix + kept(patches, share)
        return keep


def kept(patches: Any, share: int) -> Any:
    """Of ``patches`` (a whole number, or a tensor of one while a trace is made) ``share`` thousandths, rounded up."""
    return (patches * share + 999) // 1000


def read_schedule(text: str, *, depth: int, dim: int, patch: int, patches: int, prefix: int) -> TokenSchedule:
    """A schedule in words (see above), for a plain transformer of ``depth`` blocks and token width ``dim`` on patches of
    ``patch`` pixels; a percentage holds for pictures of so many ``patches``, the multiplications of the network alone
    counted. Raises UsageError.
    """
    steps: list[tuple[int, int]] = []
    method = saved = None
    for word in str(text).replace(" ", "").split("+"):
        if word in METHODS and method is None:
            method = word
        elif match := re.fullmatch(r"(\d+):(0?\.\d{1,3}|1(?:\.0*)?)", word):
            steps.append((int(match[1]), round(1000 * float(match[2]))))
        elif (match := re.fullmatch(r"(\d+(?:\.\d+)?)%", word)) and saved is None:
            saved = float(match[1])
        else:
            raise UsageError(f"{word!r} is no part of a schedule of tokens", _HINT)
    if (saved is None) == (not steps):
        raise UsageError(f"the schedule of tokens {text!r} names steps or a percentage, one of both", _HINT)
    if saved is not None:
        steps = [_step_that_saves(saved / 100, depth, dim, patch, patches, prefix)]
    blocks, shares = [block for block, _ in steps], [share for _, share in steps]
    if blocks != sorted(set(blocks)) or not 1 <= blocks[0] <= blocks[-1] < depth:
        raise UsageError(
            f"the blocks of a schedule rise from 1 to {depth - 1} (after the last nothing is saved), not {blocks}",
            _HINT,
        )
    if shares != sorted(set(shares), reverse=True) or shares[0] == 1000 or shares[-1] == 0:
        raise UsageError(f"the shares of {text!r} fall, from below 1 to above 0", _HINT)
    return TokenSchedule(tuple(steps), method or USUAL)


def _step_that_saves(part: float, depth: int, dim: int, patch: int, patches: int, prefix: int) -> tuple[int, int]:
    """One reduction, for few large ones lose less than many small ones (docs/token_pooling.md): after a third of the blocks,
    or after a sixth where that leaves too little to save."""

    def block(share: int) -> int:  # as in pooling.vit
        tokens = kept(patches, share) + prefix
        return 12 * dim**2 * tokens + 2 * dim * tokens**2

    whole = depth * block(1000) + 3 * patch**2 * dim * patches
    for after in (max(1, depth // 3), max(1, depth // 6)):
        for share in range(999, 99, -1):
            if (depth - after) * (block(1000) - block(share)) >= part * whole:
                return after, share
    raise UsageError(f"no schedule saves {100 * part:g} % with a tenth of the patches left", _HINT)
