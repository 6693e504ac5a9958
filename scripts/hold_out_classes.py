"""Hold whole classes out of a labelled set, for training on some classes and testing on others.

    python scripts/hold_out_classes.py train.txt test.txt --share 0.25 --out lists

writes ``lists/kept.txt``, the lines of the first list whose class is kept, and ``lists/heldout.txt``, the lines of the second
whose class is held out: no class is in both.
"""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np

from retrieval.datasets.labelled import Labelled, read_list


def split(train: Labelled, test: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """The lines of ``train`` of the kept classes, and those of ``test`` of the classes held out of it."""
    classes = sorted({label for _, label in train if label is not None})
    held = set(np.random.default_rng(seed).permutation(classes)[: round(share * len(classes))])
    return [x for x in train if x[1] not in held], [x for x in test if x[1] in held]


@click.command()
@click.argument("train", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("test", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--share", default=0.25, show_default=True, help="Of the classes, how many are held out.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("."), show_default=True)
def main(train: Path, test: Path, share: float, seed: int, out: Path) -> None:
    """Split the lists TRAIN and TEST (lines path,label) by class."""
    kept, held = split(read_list(train), read_list(test), share, seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in (("kept.txt", kept), ("heldout.txt", held)):
        with open(out / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
    click.echo(f"{out / 'kept.txt'}: {len(kept)} pictures of {len({c for _, c in kept})} classes")
    click.echo(f"{out / 'heldout.txt'}: {len(held)} pictures of {len({c for _, c in held})} classes")


if __name__ == "__main__":
    main()
