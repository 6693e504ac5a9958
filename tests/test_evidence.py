"""From scores to verdicts: backgrounds, log-odds, probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from retrieval.ranking import evidence
from retrieval.ranking.evidence import Background, background, log_odds, probability, weigh
from retrieval.ranking.verdicts import LIKELY, LIKELY_PROBABILITY, SAME, SIMILAR, percent, verdict

PRIOR = (0.5, 0.1)


def test_a_large_gallery_shows_its_own_background() -> None:
    scores = np.random.default_rng(0).normal(0.3, 0.04, 20_000)
    found = background(scores, PRIOR)
    assert found.median == pytest.approx(0.3, abs=0.002)
    assert found.spread == pytest.approx(0.04, abs=0.002)
    with_answers = background(np.concatenate([scores, np.full(600, 0.95)]), PRIOR)
    assert with_answers.spread == pytest.approx(found.spread, rel=0.12)


def test_a_small_one_is_mostly_what_is_usual() -> None:
    assert background(np.zeros(0), PRIOR) == Background(*PRIOR)
    one = background(np.array([0.99]), PRIOR)
    assert 0.5 < one.median < 0.53
    assert 0.09 < one.spread <= 0.1
    assert one.z(np.array([0.99]))[0] > 4  # its one picture still stands out
    equal = background(np.full(1000, 0.5), PRIOR)
    assert 0 < equal.spread < 0.02


def test_each_evidence_adds_and_none_takes_away() -> None:
    z = np.linspace(-3, 12, 100)
    zero = np.zeros(100)
    none = np.zeros(100, np.int64)
    for odds in (log_odds(z, zero, none), log_odds(zero, z, none), log_odds(zero, zero, np.arange(100))):
        assert (np.diff(odds) >= 0).all()
    assert (np.diff(log_odds(np.linspace(-0.9, 12, 100), zero, none)) > 0).all()
    np.testing.assert_array_equal(log_odds(z, np.full(100, np.nan), none), log_odds(z, zero, none))
    few = log_odds(np.zeros(6), np.zeros(6), np.arange(6))
    assert (few == few[0]).all()  # up to five agree by chance


def test_probabilities_and_verdicts() -> None:
    assert probability(np.array([0.0]))[0] == 0.5
    assert probability(np.array([-900.0, 900.0])).tolist() == pytest.approx([0, 1], abs=1e-12)
    assert verdict(0.999, 20) == SAME
    assert verdict(0.95, 8) == SAME
    assert verdict(0.999, 7) == LIKELY  # never verified by geometry
    assert verdict(0.999, None) == LIKELY
    assert verdict(0.94, 30) == verdict(0.5, 0) == LIKELY
    assert verdict(0.31, 0) == verdict(0.02, 30) == SIMILAR
    assert verdict(0.009, 30) is None


def read(said: str) -> tuple[float, float]:
    """The probabilities that a reader of "31%", "<1%" or ">99%" has in mind: from, up to (not included)."""
    number = float(said.strip("<>%")) / 100
    return (0.0, number) if said[0] == "<" else (number, 1.0 if said[0] == ">" else number + 0.01)


def test_the_word_never_contradicts_the_percentage_beside_it() -> None:
    rng = np.random.default_rng(1)
    many = 20_000
    cosine, local = rng.uniform(-2, 30, many), rng.exponential(8, many)
    inliers = rng.integers(0, 40, many)
    drawn = probability(log_odds(cosine, local, inliers))
    edges = [float(np.nextafter(edge, to)) for edge in (0.01, 0.5, 0.95, 0.995, 1.0) for to in (0, 1, edge)]
    chances = [*drawn.tolist(), *np.linspace(0, 1, 2001).tolist(), *edges]
    geometry: list[int | None] = [*inliers.tolist(), *[None, 0, 7, 8, 30] * 500][: len(chances)]
    said = set()
    for chance, found in zip(chances, geometry, strict=True):
        word = verdict(chance, found)
        low, high = read(percent(chance))
        said.add((word, percent(chance)))
        # The number alone tells the word, but for the check that "same" takes besides.
        if high <= 0.01:
            assert word is None, chance
        elif high <= 0.5 + 1e-9:
            assert word == SIMILAR, chance
        elif low < 0.95:
            assert word == LIKELY, chance
        else:
            assert word == (SAME if (found or 0) >= 8 else LIKELY), chance
        assert (percent(chance) == "100%") == (chance == 1)
    assert {(None, "<1%"), (SIMILAR, "31%"), (SIMILAR, "49%"), (LIKELY, "50%"), (LIKELY, "94%"), (SAME, "95%")} <= said
    # The greater probability never has the lesser word, whatever the cosine is.
    ranks = [None, SIMILAR, LIKELY, SAME]
    for count in (None, 0, 8, 30):
        words = [ranks.index(verdict(chance, count)) for chance in sorted(chances)]
        assert words == sorted(words)


def test_a_gallery_that_shows_little_background_says_little_by_local_scores() -> None:
    far, none = np.array([50.0]), np.zeros(1, np.int64)
    few, more, many = (log_odds(np.zeros(1), far, none, seen)[0] for seen in (1, 50, 100_000))
    assert few < more < many == pytest.approx(log_odds(np.zeros(1), far, none)[0], abs=0.01)
    base = log_odds(np.zeros(1), np.zeros(1), none)[0]
    # One picture and a prior that counts as 30: a score beyond them all is rarer than one in 31, and hardly more is known.
    assert 0.7 * np.log(31) < few - base < 1.7 * np.log(31)
    order = log_odds(np.zeros(30), np.linspace(0, 60, 30), np.zeros(30, np.int64), 1)
    assert (np.diff(order[2:]) > 0).all()  # the greater is still the better


def test_no_local_score_alone_makes_a_match_in_a_gallery_of_one() -> None:
    z = np.array([3.0]), np.array([300.0])
    assert probability(log_odds(*z, np.zeros(1, np.int64), 1))[0] < LIKELY_PROBABILITY
    assert probability(log_odds(*z, np.zeros(1, np.int64), 500))[0] > LIKELY_PROBABILITY


@dataclass
class Looked:
    inliers: int
    over: bool

    def laid_over(self) -> bool:
        return self.over


def test_what_was_laid_over_both_pictures_makes_no_match_unless_they_are_alike_besides() -> None:
    def odds(cosine: float, over: bool) -> tuple[float, list[int | None]]:
        found, inliers = weigh(np.array([cosine]), np.array([20.0]), lambda i: Looked(30, over))
        return float(found[0]), inliers

    plain = float(log_odds(np.array([1.0]), np.zeros(1), np.zeros(1, np.int64))[0])
    held, told = odds(1.0, True)
    assert plain < held
    assert probability(np.array([held]))[0] < LIKELY_PROBABILITY
    assert told == [30]  # what was counted is told
    both = weigh(np.array([1.0, 1.0]), np.array([30.0, 20.0]), lambda i: Looked(30, True))[0]
    assert both[0] > both[1]  # in the order of the evidence
    assert odds(1.0, False)[0] > plain + 10
    assert odds(4.0, True) == odds(4.0, False)
    found, inliers = weigh(np.array([1.0]), np.array([np.nan]), lambda i: None)
    assert (float(found[0]), inliers) == (plain, [None])


def test_the_cosine_alone_never_makes_a_match() -> None:
    odds = log_odds(np.array([4.0, 30.0]), np.zeros(2), np.zeros(2, np.int64))
    assert (probability(odds) < LIKELY_PROBABILITY).all()


def test_quantiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 10, 57, 512):
        scores = rng.standard_normal(count)
        found = evidence._quantiles(scores, (0.05, 0.5, 0.95))
        np.testing.assert_allclose(found, np.quantile(scores, [0.05, 0.5, 0.95]), rtol=1e-14, atol=1e-15)
