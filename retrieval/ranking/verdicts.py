"""What is said of a match: a word, and the probability that it shows the same thing as people read it.

One rule: the word follows the probability alone, save that "same" takes geometry besides, so whoever reads both finds them agree.
Below 1 % there is no word; below 50 % a picture is "similar", which says that something speaks for it and nothing is shown; from
50 % on it is "likely"; from 95 % on, with eight inliers or as the very same file, "same".
"""

from __future__ import annotations

import math

SAME, LIKELY, SIMILAR = "same", "likely", "similar"

SAME_PROBABILITY, SAME_INLIERS = 0.95, 8
LIKELY_PROBABILITY = 0.5
SIMILAR_PROBABILITY = 0.01

NO_WORD = "other"  # where a sentence needs one


def verdict(probability: float, inliers: int | None) -> str | None:
    """What an answer is: "same" (the same thing, verified by geometry), "likely", "similar" (not known to be the same, but nearer
    to it than unrelated pictures are), or None."""
    if probability >= SAME_PROBABILITY and (inliers or 0) >= SAME_INLIERS:
        return SAME
    if probability >= LIKELY_PROBABILITY:
        return LIKELY
    return SIMILAR if probability >= SIMILAR_PROBABILITY else None


def percent(probability: float) -> str:
    """A probability in whole per cents, rounded down: rounded up, 49.6 % would read as the 50 % from which on another word is
    said. Only the very same file has 100 %."""
    if probability < SIMILAR_PROBABILITY:
        return "<1%"
    if 0.995 <= probability < 1:
        return ">99%"
    return f"{math.floor(100 * probability)}%"
