"""What `retrieve index --thumbnails` costs: processor time of indexing one folder with and without, in turns.

    python scripts/thumbnails_cost.py FOLDER [--model NAME] [--rounds 5]

Prints seconds of processor time of each run and the ratio of the sums. The engine is prepared before the first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from retrieval import Gallery, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = load_model(options.model)
    model.engine()

    def run(thumbnails: bool) -> float:
        with tempfile.TemporaryDirectory() as place, Gallery.create(Path(place) / "gallery", model) as gallery:
            started = time.process_time()
            gallery.index([options.folder], thumbnails=thumbnails)
            return time.process_time() - started

    run(False)
    without, with_them = [], []
    for _ in range(options.rounds):
        without.append(run(False))
        with_them.append(run(True))
    print("without", [round(s, 2) for s in without], "with", [round(s, 2) for s in with_them])
    print(f"ratio {sum(with_them) / sum(without):.3f}")


if __name__ == "__main__":
    main()
