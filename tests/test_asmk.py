"""The local kernel against double loops, its inverted file against the kernel, poses against known affinities."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from textures import texture

from retrieval.errors import UsageError
from retrieval.ranking import asmk
from retrieval.ranking.asmk import Codebook, LocalCodes, places, similarity, standard_codebook
from retrieval.ranking.geometry import OrientedFeatures, local_features
from retrieval.ranking.inverted import invert
from retrieval.ranking.pose import Agreement, estimate

RNG = np.random.default_rng(3)


def features(count: int, seed: int, size: tuple[int, int] = (400, 300)) -> OrientedFeatures:
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.6, size=(count, 128))
    root = np.sqrt(raw / raw.sum(axis=1, keepdims=True)) if count else raw
    points = rng.uniform(0, 1, (count, 2)) * size
    shapes = np.stack([rng.uniform(2, 60, count), rng.uniform(0, 360, count)], axis=1)
    return OrientedFeatures(
        points.astype(np.float32),
        np.minimum(np.rint(root * 512), 255).astype(np.uint8),
        size,
        shapes.astype(np.float32),
    )


def small_codebook() -> Codebook:
    return Codebook(features(37, 99).descriptors)


def slow_codes(codebook: Codebook, found: OrientedFeatures, words: int) -> dict[int, list[int]]:
    """Word -> 128 signs, point by point and value by value."""
    sums: dict[int, list[int]] = {}
    for descriptor in found.descriptors.astype(int):
        distances = [
            sum((int(a) - int(b)) ** 2 for a, b in zip(descriptor, word, strict=True)) for word in codebook.words
        ]
        for word in sorted(range(len(distances)), key=lambda i: (distances[i], i))[:words]:
            total = sums.setdefault(word, [0] * 128)
            for i in range(128):
                total[i] += int(descriptor[i]) - int(codebook.words[word][i])
    return {word: [int(value > 0) for value in total] for word, total in sums.items()}


def slow_similarity(query: dict[int, list[int]], other: dict[int, list[int]]) -> float:
    total = 0.0
    for word, signs in query.items():
        if word in other:
            c = 1 - sum(a != b for a, b in zip(signs, other[word], strict=True)) / 64
            if c > 0.1:
                total += c**3
    return total / math.sqrt(len(query)) / math.sqrt(len(other)) if query and other else 0.0


@pytest.mark.parametrize("query", [False, True])
def test_codes_and_kernel_equal_double_loops(query: bool) -> None:
    codebook = small_codebook()
    found = [features(count, seed) for seed, count in enumerate((60, 1, 25, 140))]
    slow = [slow_codes(codebook, f, 3 if query and i == 0 else 1) for i, f in enumerate(found)]
    fast = [codebook.aggregate(f, query=query and i == 0) for i, f in enumerate(found)]
    for codes, expected in zip(fast, slow, strict=True):
        assert codes.words.tolist() == sorted(expected)
        for word, code in zip(codes.words.tolist(), codes.codes, strict=True):
            assert np.unpackbits(code).tolist() == expected[word]
    for i in range(len(found)):
        assert similarity(fast[0], fast[i]) == pytest.approx(slow_similarity(slow[0], slow[i]), abs=1e-12)
    if not query:
        assert similarity(fast[0], fast[0]) == pytest.approx(1)


def test_only_the_words_of_the_strongest_points_stay() -> None:
    codebook, found = small_codebook(), features(200, 5)
    whole = codebook.aggregate(found)
    few = codebook.aggregate(found, most=6)
    near = codebook.assign(found.descriptors)[:, 0].tolist()
    assert sorted(dict.fromkeys(near).__iter__(), key=near.index)[:6] == sorted(few.words.tolist(), key=near.index)
    kept = np.isin(whole.words, few.words)
    np.testing.assert_array_equal(whole.codes[kept], few.codes)
    np.testing.assert_array_equal(whole.places[kept], few.places)


def test_a_word_lies_where_its_strongest_point_does() -> None:
    codebook, found = small_codebook(), features(80, 6)
    codes = codebook.aggregate(found)
    near, all_places = codebook.assign(found.descriptors)[:, 0].tolist(), places(found)
    for word, place in zip(codes.words.tolist(), codes.places, strict=True):
        np.testing.assert_array_equal(place, all_places[near.index(word)])
    x, y = found.points[0]
    assert abs(all_places[0][0] / 256 * 400 - x) <= 2
    assert abs(all_places[0][1] / 256 * 400 - y) <= 2
    assert abs(all_places[0][3] / 256 * 360 - found.shapes[0][1]) <= 1


def test_an_image_without_points_is_like_nothing() -> None:
    white = standard_codebook().aggregate(local_features(np.full((50, 40, 3), 255, np.uint8)))
    assert len(white) == 0
    other = standard_codebook().aggregate(local_features(texture(1)))
    assert similarity(white, other) == similarity(other, white) == similarity(white, white) == 0
    inverted = invert([white, other, white], 2048)
    np.testing.assert_array_equal(inverted.similarities(white, inverted.hits(white)), [0, 0, 0])


def test_the_inverted_file_gives_the_kernel_to_the_bit_in_any_order() -> None:
    codebook = small_codebook()
    pictures = [codebook.aggregate(features(int(n), 100 + i)) for i, n in enumerate(RNG.integers(0, 90, 40))]
    query = codebook.aggregate(features(70, 7), query=True)
    expected = [similarity(query, picture) for picture in pictures]
    order = RNG.permutation(40)
    inverted = invert([pictures[i] for i in order], len(codebook))
    found = inverted.similarities(query, inverted.hits(query))
    np.testing.assert_array_equal(found, np.array(expected)[order])
    for picture, i in zip(inverted.pictures(), order, strict=True):
        np.testing.assert_array_equal(picture.words, pictures[i].words)
        np.testing.assert_array_equal(picture.codes, pictures[i].codes)
        np.testing.assert_array_equal(picture.places, pictures[i].places)


def test_hits_name_the_shared_words() -> None:
    codebook = small_codebook()
    pictures = [codebook.aggregate(features(50, 200 + i)) for i in range(9)]
    query = codebook.aggregate(features(50, 8), query=True)
    inverted = invert(pictures, len(codebook))
    hits = inverted.hits(query)
    expected = {
        (int(word), number, int(bin(int.from_bytes((code ^ other).tobytes(), "big")).count("1")))
        for number, picture in enumerate(pictures)
        for word, code in zip(query.words, query.codes, strict=True)
        for same, other in zip(picture.words, picture.codes, strict=True)
        if same == word and bin(int.from_bytes((code ^ other).tobytes(), "big")).count("1") <= 57
    }
    assert expected
    found = set(
        zip(query.words[hits.query_words].tolist(), hits.pictures.tolist(), hits.distances.tolist(), strict=True)
    )
    assert found == expected
    assert (inverted.postings[hits.entries] == hits.pictures).all()


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = RNG.integers(0, 256, (50, 16), dtype=np.uint8)
    expected = np.unpackbits(codes, axis=1).sum(axis=1)
    np.testing.assert_array_equal(asmk.hamming(codes, np.zeros_like(codes)), expected)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    np.testing.assert_array_equal(asmk.hamming(codes, np.zeros_like(codes)), expected)


@pytest.mark.parametrize(("turn", "scale"), [(0, 1.0), (90, 1.0), (25, 0.6), (-40, 1.5)])
def test_a_pose_is_found_among_wrong_pairs(turn: float, scale: float) -> None:
    rng = np.random.default_rng(11)
    right, wrong = 30, 50
    a = rng.uniform(80, 180, (right + wrong, 2))
    angle = math.radians(turn)
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    b = (a - 128) @ linear.T * 0.6 + 128
    b[right:] = rng.uniform(0, 256, (wrong, 2))
    sizes = rng.uniform(10, 60, right + wrong)
    turns = rng.uniform(0, 256, right + wrong)
    query = np.stack([a[:, 0], a[:, 1], sizes, turns], axis=1)
    other = np.stack([b[:, 0], b[:, 1], sizes + 16 * math.log2(0.6 * scale), (turns + turn / 360 * 256) % 256], axis=1)
    other[right:, 2:] = rng.uniform(0, 256, (wrong, 2))
    found = estimate(np.clip(query, 0, 255).astype(np.uint8), np.clip(other, 0, 255).astype(np.uint8))
    assert found.inliers >= 26
    assert found.agreeing[:right].sum() >= 26
    assert found.agreeing[right:].sum() <= 4
    assert found.affinity is not None
    np.testing.assert_allclose(found.affinity[:, :2], 0.6 * linear, atol=0.05)


def test_points_that_agree_by_themselves_at_one_place_were_laid_over() -> None:
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (200, 4)).astype(np.uint8)
    photo[:, 1] //= 2  # the upper half
    bar = rng.integers(0, 256, (40, 4)).astype(np.uint8)
    bar[:, 1] = 200 + bar[:, 1] % 30
    places = np.concatenate([photo, bar])

    def over(agree: np.ndarray, moved: int = 0, count: int | None = None) -> bool:
        theirs = agree.copy()
        theirs[:, 0] += np.uint8(moved)
        return Agreement(len(agree) if count is None else count, places, agree, theirs).laid_over()

    assert over(bar)
    assert over(bar[:20])
    assert not over(bar[:10], count=7)  # too few to tell
    middle = bar.copy()
    middle[:, 0], middle[:, 1] = 100 + bar[:, 0] % 50, 90 + bar[:, 1] % 40  # a painting on a wall
    hung = np.concatenate([photo, middle])
    assert not Agreement(40, hung, middle, middle).laid_over()
    assert not over(bar, moved=20)  # elsewhere: no part of the page
    assert not over(places[rng.permutation(240)[:60]])  # a copy: every fourth point, wherever it lies
    assert not over(places)


def test_unrelated_pairs_have_no_pose() -> None:
    rng = np.random.default_rng(12)
    counts = [
        estimate(rng.integers(0, 256, (40, 4), dtype=np.uint8), rng.integers(0, 256, (40, 4), dtype=np.uint8)).inliers
        for _ in range(200)
    ]
    assert max(counts) < 6
    assert estimate(np.zeros((2, 4), np.uint8), np.zeros((2, 4), np.uint8)).inliers == 0
    assert estimate(np.zeros((50, 4), np.uint8), np.zeros((50, 4), np.uint8)).inliers == 0  # one point, fifty times


def test_real_views_agree_and_others_do_not() -> None:
    codebook = standard_codebook()
    plain = texture(21)
    warp = cv2.getRotationMatrix2D((240, 180), 20, 0.7)
    view = cv2.warpAffine(plain, warp, (480, 360))
    query = codebook.aggregate(local_features(view, 400, 640), query=True)
    same, other = (codebook.aggregate(local_features(image, 400, 640)) for image in (plain, texture(22)))
    assert similarity(query, same) > 4 * similarity(query, other)  # drawn corners are much alike


@pytest.mark.parametrize("bad", [np.zeros((3, 64), np.uint8), np.zeros((3, 128), np.float32), np.zeros(128, np.uint8)])
def test_other_arrays_are_no_codebook(bad: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="codebook"):
        Codebook(bad)


def test_the_codebook_of_the_package() -> None:
    codebook = standard_codebook()
    assert codebook.words.shape == (2048, 128)
    assert len(np.unique(codebook.words, axis=0)) == 2048
    lengths = np.linalg.norm(codebook.words.astype(float), axis=1)
    assert 200 < lengths.min() <= lengths.max() < 520  # means of vectors of length 512


def test_codes_of_most_words_take_less_than_six_kilobytes() -> None:
    found = features(2048, 1)
    codes = standard_codebook().aggregate(replace(found, descriptors=standard_codebook().words))
    assert len(codes) == 270
    assert isinstance(codes, LocalCodes)
    assert codes.words.nbytes + codes.codes.nbytes + codes.places.nbytes < 6000
