"""``retrieve datasets``."""

from __future__ import annotations

import click


@click.group("datasets")
def command() -> None:
    """Make data sets."""


@command.command("make-synthetic")
@click.argument("out", type=click.Path())
@click.option(
    "--objects",
    type=click.IntRange(min=2),
    default=40,
    show_default=True,
    help="How many objects to be found.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same pictures.")
def make_synthetic(out: str, objects: int, seed: int) -> None:
    """Draw a small retrieval set with ground truth: objects in easy and hard views, junk and distractors."""
    from pathlib import Path

    from retrieval.datasets.synthetic import make_synthetic as make

    truth = make(Path(out), objects=objects, seed=seed)
    print(f"{len(truth.gallery)} pictures and {len(truth.queries)} queries in {out}")
