"""Places on a plane where neighbours are neighbours: a layout after UMAP (McInnes, Healy and Melville 2018), in NumPy.

Each vector is tied to its nearest ones with weights exp(-(d - rho) / sigma), rho its least distance, sigma such that they sum to
log2 k; ties of both directions are joined as a + b - ab. From the two main directions on, tied points attract each other and
points that are drawn at random repel each other, along the gradients of the cross entropy between the ties and
1 / (1 + a d^(2b)). Unlike the reference, which moves one pair after the other, a batch of pairs moves at once. Deterministic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from retrieval.system.calling_off import go_on

NEIGHBOURS = 15
EPOCHS = 200
_A, _B = 1.577, 0.895  # of the curve for a least distance of 0.1
_REPELLED = 5  # random points for each tie
_CLIP = 4.0  # of one pair's step
_BATCHES = 4  # of an epoch: what moves at once
_BLOCK = 1024

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.float64]


def laid_out(vectors: Vectors, neighbours: int = NEIGHBOURS, epochs: int = EPOCHS) -> Places:
    """Vectors (N, D) -> float64 (N, 2) in [-1, 1]. Time grows with N squared times D for the nearest, and with N times
    ``neighbours`` times ``epochs`` for the rest."""
    places = main_directions(vectors)
    if len(vectors) < 4:
        return places
    near, distances = nearest(vectors, min(neighbours, len(vectors) - 1))
    places = _settled(places * 10, ties(near, distances), epochs)
    places -= (places.max(axis=0) + places.min(axis=0)) / 2
    result: Places = places / max(float(np.abs(places).max()), 1e-12)
    return result


def main_directions(vectors: Vectors) -> Places:
    """Vectors (N, D) on their two main directions (PCA), float64 (N, 2) in [-1, 1]. The sign of a direction is such that its
    greatest entry is positive, so that a map stays as it is."""
    if len(vectors) < 3 or vectors.shape[1] < 2:
        return np.zeros((len(vectors), 2))
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    main = directions[:, [-1, -2]]
    main *= np.sign(main[np.abs(main).argmax(axis=0), [0, 1]])
    places = centred @ main
    result: Places = places / max(float(np.abs(places).max()), 1e-12)
    return result


def nearest(vectors: Vectors, k: int) -> tuple[npt.NDArray[np.int64], Places]:
    """For each of the vectors (N, D) the ``k`` others of the least Euclidean distance, ascending: int64 (N, k), and distances."""
    count = len(vectors)
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    found, far = np.empty((count, k), np.int64), np.empty((count, k))
    for begin in range(0, count, _BLOCK):
        go_on()
        block = vectors[begin : begin + _BLOCK]
        rows = np.arange(len(block))
        squared = squares[begin : begin + _BLOCK, None] + squares - 2 * (block @ vectors.T).astype(np.float64)
        squared[rows, begin + rows] = np.inf
        some = np.argpartition(squared, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(squared, some, 1)
        order = np.lexsort((some, values), axis=1)
        found[begin : begin + _BLOCK] = np.take_along_axis(some, order, 1)
        far[begin : begin + _BLOCK] = np.sqrt(np.maximum(np.take_along_axis(values, order, 1), 0))
    return found, far


def ties(near: npt.NDArray[np.int64], distances: Places) -> sparse.coo_matrix:
    """How strongly each two of N points belong together, 0 to 1, symmetric; of each one's neighbours (N, k) and distances."""
    count, k = near.shape
    beyond = np.maximum(distances - distances[:, :1], 0)
    low, high, sigma = np.zeros(count), np.full(count, np.inf), np.ones(count)
    for _ in range(48):
        above = np.exp(-beyond / sigma[:, None]).sum(axis=1) > max(np.log2(k), 1.0)
        low, high = np.where(above, low, sigma), np.where(above, sigma, high)
        sigma = np.where(np.isinf(high), sigma * 2, (low + high) / 2)
    sigma = np.maximum(sigma, 1e-3 * max(float(distances.mean()), 1e-12))
    weights = np.exp(-beyond / sigma[:, None])
    directed = sparse.coo_matrix(
        (weights.ravel(), (np.repeat(np.arange(count), k), near.ravel())), (count, count)
    ).tocsr()
    both = directed.multiply(directed.T)
    return (directed + directed.T - both).tocoo()


def _settled(places: Places, graph: sparse.coo_matrix, epochs: int) -> Places:
    """Move the points until attraction and repulsion are even. A tie counts in so many of the epochs as its weight says."""
    rng = np.random.default_rng(0)
    places = places + rng.normal(scale=1e-3, size=places.shape)  # copies of a picture need not lie on one point
    keep = graph.data >= graph.data.max() / epochs
    one, two, share = graph.row[keep], graph.col[keep], graph.data[keep] / graph.data.max()
    due = np.zeros(len(share))
    for epoch in range(epochs):
        go_on()
        rate = 1 - epoch / epochs
        due += share
        chosen = rng.permutation(np.flatnonzero(due >= 1))
        due[chosen] -= 1
        for batch in np.array_split(chosen, _BATCHES):
            i, j = one[batch], two[batch]
            between = places[i] - places[j]
            squared = (between**2).sum(axis=1, keepdims=True)
            power = np.maximum(squared, 1e-12) ** (_B - 1)
            pull = -2 * _A * _B * power / (1 + _A * power * squared)
            _move(places, i, rate * np.clip(pull * between, -_CLIP, _CLIP))
            i = np.repeat(i, _REPELLED)
            j = rng.integers(0, len(places), len(i))
            between = places[i] - places[j]
            squared = (between**2).sum(axis=1, keepdims=True)
            push = 2 * _B / ((0.001 + squared) * (1 + _A * squared**_B))
            _move(places, i, rate * np.clip(push * between, -_CLIP, _CLIP))
    return places


def _move(places: Places, which: npt.NDArray[np.int64], by: Places) -> None:
    for axis in (0, 1):
        places[:, axis] += np.bincount(which, by[:, axis], len(places))
