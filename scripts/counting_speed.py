"""What exact ranks cost beside the bare matrix products that they need.

    python scripts/counting_speed.py

Counts the ranks of 100 and of 350 images a query, as many as Revisited Oxford and Paris ask for, in a memory-mapped float16
gallery of random unit vectors. The images wanted are any (the worst case: their scores lie where most others do) or, with
--alike, resemble their query as positives do. Times the same products alone: the plain loop that converts a block with numpy
and multiplies, and the same with the faster conversion (and the check for values that are not finite) that counting uses.
Prints all, the ratios for each round, and the peak memory; compares the ranks of a few queries with a full sort in float64.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from retrieval.evaluation.counting import positive_ranks_from_scores
from retrieval.ranking.neighbours import gallery_block

_ROWS = 16_384


def unit(rng: np.random.Generator, n: int, dim: int) -> npt.NDArray[np.float32]:
    vectors = rng.standard_normal((n, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bare_products(queries: npt.NDArray[np.float32], gallery: npt.NDArray[np.float16], fast: bool) -> None:
    """Blocks converted by numpy, or by what counting uses (``fast``), and multiplied."""
    room = np.empty((_ROWS, gallery.shape[1]), np.float32)
    for start in range(0, len(gallery), _ROWS):
        if fast:
            block, _ = gallery_block(gallery, start, start + _ROWS, room)
        else:
            block = room[: len(gallery[start : start + _ROWS])]
            np.copyto(block, gallery[start : start + _ROWS])
        queries @ block.T


def sorted_ranks(
    query: npt.NDArray[np.float32], gallery: npt.NDArray[np.float16], ids: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    scores = np.concatenate(
        [gallery[i : i + _ROWS].astype(np.float64) @ query.astype(np.float64) for i in range(0, len(gallery), _ROWS)]
    )
    place = np.empty(len(scores), np.int64)
    place[np.lexsort((np.arange(len(scores)), -scores))] = np.arange(len(scores))
    return place[ids]


@click.command()
@click.option("--vectors", default=1_005_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--queries", default=70, show_default=True)
@click.option(
    "--wanted", default="100,350", show_default=True, help="Images a query whose ranks are counted: a run each."
)
@click.option(
    "--alike", is_flag=True, help="The images wanted resemble their query (cosine 0 to 0.9), as positives do; else any."
)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(vectors: int, dim: int, queries: int, wanted: str, alike: bool, rounds: int, seed: int) -> None:
    """Time exact ranks against bare products."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        gallery = np.memmap(Path(folder) / "gallery.f16", np.float16, "w+", shape=(vectors, dim))
        for start in range(0, vectors, _ROWS):
            gallery[start : start + _ROWS] = unit(rng, min(_ROWS, vectors - start), dim)
        chosen = unit(rng, queries, dim)
        bare_products(chosen, gallery, False)  # the file is in memory from here on
        for number in (int(x) for x in wanted.split(",")):
            if alike:
                ids = list(rng.choice(vectors, number * queries, replace=False).reshape(queries, number))
                for query, rows in zip(chosen, ids, strict=True):
                    cosine = rng.uniform(0, 0.9, (number, 1)).astype(np.float32)
                    gallery[rows] = cosine * query + np.sqrt(1 - cosine**2) * unit(rng, number, dim)
            else:
                ids = [rng.choice(vectors, number, replace=False) for _ in chosen]
            right, junk = [x[: -number // 5] for x in ids], [x[-number // 5 :] for x in ids]
            for _ in range(rounds):
                began = time.perf_counter()
                bare_products(chosen, gallery, False)
                converted = time.perf_counter()
                bare_products(chosen, gallery, True)
                middle = time.perf_counter()
                ranks, _ = positive_ranks_from_scores(chosen, gallery, right, junk)
                counting, fast, plain = time.perf_counter() - middle, middle - converted, converted - began
                ratios = f"ratios {counting / plain:.2f} and {counting / fast:.2f}"
                times = f"products {plain:.2f} s, converted fast {fast:.2f} s, exact ranks {counting:.2f} s, {ratios}"
                click.echo(f"{number} ranks a query: {times}")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            click.echo(f"peak memory so far, the mapped file included: {peak:.2f} GB")
            for i in range(0, queries, max(1, queries // 4)):
                if not np.array_equal(ranks[i], sorted_ranks(chosen[i], gallery, right[i])):
                    raise click.ClickException(f"query {i}: the ranks differ from those of a full sort")
        click.echo("ranks compared with a full sort in float64 for a few queries: equal")


if __name__ == "__main__":
    main()
