"""What a query costs with the local index and without: one open gallery, medians, picture by picture in turns and each by itself.

retrieve index photos/ --index gallery
python scripts/query_cost.py gallery photos/ --count 60
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from retrieval import Gallery

RANKS = ("cosine", "fused")


def milliseconds(gallery: Gallery, photo: Path, rank: str) -> float:
    started = time.perf_counter()
    gallery.query(photo, k=10, rank=rank)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gallery", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=60, help="queries, evenly taken from the folder")
    given = parser.parse_args()
    photos = sorted(given.photos.rglob("*.jpg"))
    photos = photos[:: max(1, len(photos) // given.count)][: given.count]
    with Gallery.open(given.gallery) as gallery:
        for photo in photos[:5]:  # everything is loaded, and has been used
            for rank in RANKS:
                milliseconds(gallery, photo, rank)
        turns = [[milliseconds(gallery, photo, rank) for rank in RANKS] for photo in photos]
        alone = [[milliseconds(gallery, photo, rank) for photo in photos] for rank in RANKS]
    for title, (cosine, fused) in (("in turns", zip(*turns, strict=True)), ("by itself", alone)):
        low, high = statistics.median(cosine), statistics.median(fused)
        print(f"{title}: {low:.1f} ms by cosine, {high:.1f} ms with the local index, {high / low:.2f} times as long")


if __name__ == "__main__":
    main()
