"""Write a synthetic retrieval set: python scripts/make_synthetic.py OUT --objects 8 --seed 0"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from tqdm import tqdm

from retrieval.datasets.synthetic.make import make_synthetic
from retrieval.errors import RetrievalError


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--objects", default=40, show_default=True, help="House fronts to be found.")
@click.option("--views", default=(4, 5, 1), show_default=True, nargs=3, help="Easy, hard and junk views of each.")
@click.option("--distractors", type=int, help="Other streets in the gallery; default: four an object.")
@click.option("--train-objects", type=int, help="Other fronts, to train on; default: as many as objects.")
@click.option("--train-views", default=8, show_default=True, help="Views of each of these.")
@click.option("--size", default=320, show_default=True, help="Longest side of the pictures, in pixels.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other fronts.")
def main(
    out: Path,
    objects: int,
    views: tuple[int, int, int],
    distractors: int | None,
    train_objects: int | None,
    train_views: int,
    size: int,
    seed: int,
) -> None:
    """Make a small retrieval set (house fronts in streets) in the folder OUT, with ground truth and a training part."""
    try:
        with tqdm(unit=" pictures", disable=not sys.stderr.isatty(), leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            truth = make_synthetic(
                out,
                objects=objects,
                views=views,
                distractors=distractors,
                train_objects=train_objects,
                train_views=train_views,
                size=size,
                seed=seed,
                progress=progress,
            )
    except RetrievalError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    train = len((out / "labels.csv").read_text().splitlines()) - 1
    click.echo(f"{out}: {len(truth.gallery)} gallery pictures, {len(truth.queries)} queries, {train} to train on")
    click.echo(f"ground truth: {out / 'groundtruth.json'}, training labels: {out / 'labels.csv'}")


if __name__ == "__main__":
    main()
