"""Learn the codebook of the local index: K-means of root-SIFT descriptors of photos that may be shipped.

    python scripts/train_codebook.py PHOTOS --out retrieval/ranking/data/rootsift2048.bin

The result is the same on every machine that gives the same SIFT points: seeds are fixed, means are rounded to whole numbers.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np

from retrieval.gallery.local.pictures import POINTS, SIDE
from retrieval.pictures import imaging
from retrieval.ranking.asmk import DIM, Codebook
from retrieval.ranking.geometry import local_features

POINTS_A_PICTURE = 100


def descriptors_of(path: Path, points: int) -> np.ndarray:
    picture = imaging.load_picture(str(path), size=SIDE, exif=True)
    found = local_features(picture.array, POINTS, SIDE).descriptors
    rng = np.random.default_rng(int.from_bytes(path.name.encode()[-8:], "little"))
    return found[rng.permutation(len(found))[:points]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=int, default=2048)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--iterations", type=int, default=20)
    args = parser.parse_args()
    paths = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(args.pictures, len(paths))).astype(int)]
    with ThreadPoolExecutor(2) as pool:
        found = np.concatenate(list(pool.map(lambda p: descriptors_of(p, POINTS_A_PICTURE), chosen)))
    print(f"{len(found)} descriptors of {len(chosen)} pictures")
    kmeans = faiss.Kmeans(DIM, args.words, niter=args.iterations, seed=1, max_points_per_centroid=256)
    kmeans.train(found.astype(np.float32))
    words = np.unique(np.clip(np.rint(kmeans.centroids), 0, 255).astype(np.uint8), axis=0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(words.tobytes())
    print(f"{args.out}: {Codebook(words).name}, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
