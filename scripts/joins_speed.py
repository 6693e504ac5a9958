"""How long `similar_pairs` takes among many vectors, and how many of the near pairs it finds: planted ones, by a plain product.

python scripts/joins_speed.py --count 100000
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from retrieval.ranking.joins import similar_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--least", type=float, default=0.8)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((given.count, given.dim)).astype(np.float32)
    near = given.count // 5
    of = rng.integers(0, given.count, near)
    vectors[:near] = vectors[of] + 0.25 * rng.standard_normal((near, given.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    started = time.monotonic()
    found = similar_pairs(vectors, least=given.least, k=16)
    seconds = time.monotonic() - started
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    planted = {(min(i, j), max(i, j)) for i, j in enumerate(of.tolist()) if i != j}
    wanted = [pair for pair in planted if vectors[pair[0]] @ vectors[pair[1]] >= given.least]
    share = sum(pair in pairs for pair in wanted) / max(len(wanted), 1)
    print(
        f"{given.count} x {given.dim}: {seconds:.1f} s, {len(pairs)} pairs, {share:.2%} of {len(wanted)} planted ones"
    )


if __name__ == "__main__":
    main()
