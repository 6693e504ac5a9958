"""The peak memory of training steps of 1, 2 and 5 tuples.

    python scripts/training_memory.py
    python scripts/training_memory.py --images photos/ --model efficientnet_lite0-gem

Trains on the same number of tuples each time, every run in a process of its own, and prints its peak resident memory. Without
``--images`` (a folder with a sub-folder a class) made-up photos in 3:4 and 4:3 are used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image


def make_pictures(folder: Path, classes: int = 12, each: int = 3) -> None:
    """Noise of few frequencies; half of the pictures upright."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"{c:02d}").mkdir(parents=True)
        for i in range(each):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            picture = coarse.resize((640, 480), Image.Resampling.BICUBIC)
            (picture if i % 2 else picture.transpose(Image.Transpose.ROTATE_90)).save(folder / f"{c:02d}" / f"{i}.jpg")


def peak_of(command: list[str]) -> float:
    """Gigabytes that a command's process had at its peak. Raises ClickException where it fails."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise click.ClickException(said.read().decode(errors="replace")[-500:])
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


@click.command()
@click.option(
    "--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Default: made-up photos."
)
@click.option("--model", default="resnet50-gem@random:0", show_default=True)
@click.option("--size", default=362, show_default=True)
@click.option("--negatives", default=5, show_default=True)
@click.option("--tuples", default=10, show_default=True, help="In every run.")
@click.option("--per-step", default="1,2,5", show_default=True)
@click.option("--rounds", default=2, show_default=True)
def main(images: Path | None, model: str, size: int, negatives: int, tuples: int, per_step: str, rounds: int) -> None:
    """Print the peak memory of training by tuples a step."""
    with tempfile.TemporaryDirectory() as place:
        folder = images or Path(place) / "photos"
        if images is None:
            make_pictures(folder)
        for number in (int(word) for word in per_step.split(",")):
            peaks = [
                peak_of([
                    sys.executable, "-m", "retrieval", "train", str(folder), "--model", model, "--out", f"{place}/{number}-{i}",
                    "--size", str(size), "--negatives", str(negatives), "--queries", str(tuples), "--pool", "30",
                    "--epochs", "1", "--validate", "none", "--tuples-per-step", str(number), "--quiet",
                ])
                for i in range(rounds)
            ]  # fmt: skip
            click.echo(f"{number} tuples a step: peak {', '.join(f'{peak:.2f}' for peak in peaks)} GB")


if __name__ == "__main__":
    main()
