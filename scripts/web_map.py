"""Processor time of the page's map for samples of clustered vectors, and how many neighbours it keeps, beside PCA.

python scripts/web_map.py [--dim 1280] [1000 5000 ...]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from retrieval.web.layout import laid_out, main_directions
from retrieval.web.maps import kept_neighbours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--dim", type=int, default=1280)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for count in options.counts:
        centres = rng.normal(size=(count // 50, options.dim))
        vectors = centres[rng.integers(0, len(centres), count)] + 0.6 * rng.normal(size=(count, options.dim))
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        begun = time.process_time()
        places = laid_out(unit)
        seconds = time.process_time() - begun
        kept = [kept_neighbours(unit, one) for one in (places, main_directions(unit))]
        print(f"{count}: {seconds:.1f} s, neighbours kept {kept[0]:.2f}, by PCA {kept[1]:.2f}")


if __name__ == "__main__":
    main()
