"""``retrieve train``: a model learned from pictures that belong together."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from retrieval.cli.common import say, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import progress_bar, safe

if TYPE_CHECKING:
    from retrieval.training.config import TrainingConfig
    from retrieval.training.copies.config import CopiesConfig
    from retrieval.training.trainer import Outcome

_COPIES_ONLY = (
    "also steps hours pairs view_share last_size chunk dark "
    "temperature koleo head momentum queue teacher teacher_weight"
)
_OF_THE_MACHINE = {"workers", "tensorboard", "quiet", "verbose"}


@click.command(
    "train",
    cls=GroupedCommand,
    groups={
        "Run": "out resume config_file recipe workers amp save_every preview tensorboard seed",
        "Pictures": "kind images size augment avoid avoid_above",
        "Network": "model p_lr fixed_p freeze_backbone whiten_layer ema",
        "Steps": "epochs lr optimiser weight_decay schedule warmup",
        "Validation": "validate patience",
        "Tuples (--recipe tuples)": "loss margin negatives queries pool repick tuples_per_step",
        "Copies (--recipe copies, no labels)": _COPIES_ONLY,
    },
)
@click.argument("data", required=False)
@click.option(
    "--model", default="auto", show_default=True, metavar="NAME", help="Where to start: a model's name or a checkpoint."
)
@click.option("--out", metavar="DIR", help="The folder of the run: configuration, figures, plots, checkpoints.")
@click.option("--resume", metavar="DIR", help="Continue the run in this folder; --epochs alone can be changed.")
@click.option("--config", "config_file", metavar="FILE", help="Repeat a run by its config.json; options change it.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "folders", "list", "pairs", "sfm", "unlabelled"]),
    default="auto",
    show_default=True,
    help="What DATA is, where it cannot be told.",
)
@click.option("--images", metavar="DIR", help="The folder that a list's paths are relative to.")
@click.option("--loss", default="contrastive", show_default=True, help="contrastive, triplet, ap, or pml:NAME.")
@click.option("--margin", type=float, help="The loss's margin (default: by loss and model, contrastive 0.7 or 0.85).")
@click.option("--negatives", type=int, default=5, show_default=True, help="Hard negatives in a tuple.")
@click.option("--queries", type=int, default=2000, show_default=True, help="Tuples in an epoch.")
@click.option("--pool", type=int, default=20_000, show_default=True, help="Pictures that negatives are mined from.")
@click.option("--repick", is_flag=True, help="Take the most similar match in the pool as the positive.")
@click.option("--tuples-per-step", type=int, default=5, show_default=True, help="Tuples whose gradients are summed.")
@click.option("--epochs", type=int, default=30, show_default=True, help="How many epochs, of --queries tuples each.")
@click.option("--lr", type=float, default=5e-5, show_default=True, help="Learning rate.")
@click.option(
    "--optimiser", type=click.Choice(["adam", "adamw", "sgd"]), default="adam", show_default=True, help="What steps."
)
@click.option("--weight-decay", type=float, default=1e-6, show_default=True, help="Pull of the weights to zero.")
@click.option(
    "--schedule",
    type=click.Choice(["exponential", "cosine", "constant"]),
    default="exponential",
    show_default=True,
    help="How the rate falls.",
)
@click.option(
    "--warmup", type=float, default=0.0, metavar="EPOCHS", help="Let the rate rise from zero first (default: 0)."
)
@click.option("--p-lr", type=float, default=10.0, show_default=True, help="Multiple of the rate for GeM's p.")
@click.option("--fixed-p", is_flag=True, help="Do not learn GeM's p.")
@click.option("--freeze-backbone", is_flag=True, help="Learn the head alone: GeM's p, and the whitening layer.")
@click.option(
    "--ema",
    type=float,
    default=0.0,
    metavar="DECAY",
    help="Keep an average of the weights, such as 0.999 (default: none).",
)
@click.option("--size", type=int, default=362, show_default=True, help="Longest side in pixels.")
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "views"]),
    help="How pictures are altered (default: light; unlabelled: views).",
)
@click.option(
    "--validate",
    metavar="SHARE|GT.json|none",
    help="Share of the classes to hold out, or a ground truth (default: 0.1 of 20 classes or more).",
)
@click.option("--patience", type=int, metavar="EPOCHS", help="Stop after so many epochs without a better mAP.")
@click.option("--whiten-layer", type=int, metavar="DIM", help="Add a layer that starts as a learned whitening.")
@click.option("--avoid", multiple=True, metavar="GT.json", help="Leave out pictures like the queries of this set.")
@click.option("--avoid-above", type=float, default=0.8, show_default=True, help="From which similarity on.")
@click.option("--amp", is_flag=True, help="bfloat16 in the backbone, on a GPU or a processor that has it.")
@click.option("--workers", type=click.IntRange(1), help="Threads that decode pictures (default: by the processors).")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same.")
@click.option("--save-every", type=int, default=100, metavar="STEPS", help="Steps between checkpoints (default: 100).")
@click.option(
    "--recipe",
    type=click.Choice(["tuples", "copies"]),
    default="tuples",
    show_default=True,
    help="tuples: from pictures that belong together; copies: without labels, from altered copies.",
)
@click.option("--also", multiple=True, metavar="PATH", help="A further folder or list of pictures.")
@click.option("--steps", type=int, help="How many steps to train.")
@click.option("--hours", type=float, help="How long to train, instead of --steps.")
@click.option("--pairs", type=int, help="Pairs in a step (default: 56).")
@click.option("--view-share", type=float, help="Share of these pairs that are views out of groups (default: 0.1).")
@click.option("--last-size", type=int, metavar="PIXELS", help="Longest side in the last third (default: --size).")
@click.option("--temperature", type=float, help="Temperature of InfoNCE (default: 0.05).")
@click.option("--koleo", type=float, help="Weight of the loss that spreads descriptors (default: 0.3).")
@click.option("--head", type=int, help="Outputs of the layer that only training has (default: 512).")
@click.option("--dark", type=float, help="Share of copies at night (default: 0.25).")
@click.option(
    "--chunk", type=int, metavar="PICTURES", help="Pictures held in memory at once (default: a whole step's)."
)
@click.option("--momentum", type=float, help="Decay of a second, slow encoder, such as 0.99.")
@click.option("--queue", type=int, help="Old descriptors of that encoder to tell apart as well.")
@click.option("--teacher", metavar="NAME", help="A model whose cosines are learned too.")
@click.option("--teacher-weight", type=float, help="Weight of the loss of --teacher (default: 10).")
@click.option("--preview", metavar="FILE", help="A contact sheet of the first epoch's tuples (.jpg or .png).")
@click.option("--tensorboard", is_flag=True, help="Write logs for TensorBoard into the run's folder.")
@verbosity_options
@click.pass_context
def command(
    context: click.Context,
    out: str | None,
    resume: str | None,
    config_file: str | None,
    workers: int | None,
    preview: str | None,
    tensorboard: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Train a model on DATA: a folder with a sub-folder a class, a list of path,label lines, a list of pairs, a downloaded
    retrieval-SfM set, or a folder of unlabelled pictures.

    \b
    retrieve train photos/ --out runs/a          then: index --model runs/a
    retrieve train --resume runs/a               after an interruption
    retrieve train --resume runs/a --epochs 40   a finished run, made longer
    torchrun --nproc-per-node 4 -m retrieval train photos/ --out runs/a
    """
    from retrieval.errors import UsageError

    recipe = options.pop("recipe")
    quiet = quiet or os.environ.get("RANK", "0") != "0"  # under torchrun, one process speaks
    given = {
        name
        for name in context.params
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    }
    habits: dict[str, Any] = {
        "workers": workers,
        "tensorboard": tensorboard,
        "say": teller(quiet),
        "bars": lambda label: progress_bar(label, quiet),
    }
    with _resumable(resume or out):
        if resume is not None:
            if extra := sorted(given - {"resume", "epochs"} - _OF_THE_MACHINE):
                raise UsageError(
                    f"--resume continues a run as it was begun: {_option(extra[0])} cannot be changed",
                    "For another run: --config and --out.",
                )
            from retrieval.training.copies.config import is_copies_run

            if is_copies_run(resume):
                if "epochs" in given:
                    raise UsageError(
                        "a run of --recipe copies ends with its schedule: --epochs cannot be changed",
                        f"Another goes on from it: --model {resume} --recipe copies --out NEW.",
                    )
                from retrieval.training.copies.run import resume_copies

                say(f"trained: {safe(str(resume_copies(resume, **_without_boards(habits))))}{_next(resume)}", quiet)
                return
            from retrieval.training.session import resume as continue_run

            outcome = continue_run(resume, epochs=options["epochs"] if "epochs" in given else None, **habits)
        else:
            if out is None:
                raise UsageError("no folder for the run was named", "Example: retrieve train photos/ --out runs/a.")
            if preview is not None and not Path(preview).absolute().parent.is_dir():
                raise UsageError(f"the folder of {preview} does not exist")
            if preview is not None:
                from retrieval.views.sheet import check_sheet_path

                check_sheet_path(preview)
            if recipe == "copies" or (config_file is not None and _recipe_of(config_file) == "copies"):
                from retrieval.training.copies.run import train_copies

                copies = _copies_configuration(config_file, given, options)
                made = train_copies(copies, out, preview=preview, **_without_boards(habits))
                say(f"trained: {safe(str(made))}{_next(out)}", quiet)
                return
            if odd := sorted(given & set(_COPIES_ONLY.split())):
                raise UsageError(f"{_option(odd[0])} belongs to --recipe copies")
            options = {name: value for name, value in options.items() if name not in _COPIES_ONLY.split()}
            config = _configuration(config_file, given, options)
            from retrieval.training.session import train

            outcome = train(config, out, preview=preview, **habits)
    say(_ending(outcome, str(resume or out)), quiet)


def _next(folder: str) -> str:
    """What a trained model is for."""
    return f"\nto use it: retrieve index FOLDER --index NEW --model {safe(shlex.quote(folder))}"


def _ending(outcome: Outcome, folder: str) -> str:
    """What came of a run, and where it lies."""
    if outcome.best is None:
        return f"trained: {folder}{_next(folder)}"
    best = f"best: mAP {100 * outcome.best:.2f}"
    if outcome.best_epoch == 0:
        last = outcome.metrics[-1]["mAP"] if len(outcome.metrics) > 1 else None
        now = "" if last is None else f" (mAP {100 * last:.2f})"
        return (
            f"{best} before training, and no epoch was better: {folder} is the model as it was; "
            f"the last epoch's{now} is {Path(folder) / 'last'}"
        )
    start = outcome.metrics[0]["mAP"] if outcome.metrics else None
    before = "" if start is None else f", {100 * start:.2f} before training"
    return f"{best} at epoch {outcome.best_epoch}{before}: {folder}{_next(folder)}"


@contextmanager
def _resumable(folder: str | None) -> Iterator[None]:
    """Who interrupts a run that has a checkpoint is told how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is None or not (Path(folder) / "last" / "state.safetensors").is_file():
            raise
        raise KeyboardInterrupt(f"interrupted; it goes on with: retrieve train --resume {safe(folder)}") from None


def _configuration(config_file: str | None, given: set[str], options: dict[str, Any]) -> TrainingConfig:
    from retrieval.errors import UsageError
    from retrieval.training.config import TrainingConfig

    if config_file is not None:
        return replace(TrainingConfig.load(config_file), **{n: v for n, v in options.items() if n in given})
    if options["data"] is None:
        raise UsageError("no training data were named", "Example: retrieve train photos/ --out runs/a.")
    return TrainingConfig(**options)


def _copies_configuration(config_file: str | None, given: set[str], options: dict[str, Any]) -> CopiesConfig:
    from dataclasses import fields

    from retrieval.errors import UsageError
    from retrieval.training.copies.config import CopiesConfig

    known = {field.name for field in fields(CopiesConfig)}
    if odd := sorted((given & set(options)) - known):
        raise UsageError(f"{_option(odd[0])} does not belong to --recipe copies")
    chosen = {name: value for name, value in options.items() if name in given and name in known}
    if config_file is not None:
        # One end replaces the other.
        ends = {"steps": None, "hours": None} if given & {"steps", "hours"} else {}
        return replace(CopiesConfig.load(config_file), **{**ends, **chosen})
    if options["data"] is None:
        raise UsageError("no training data were named", "Example: retrieve train photos/ --recipe copies --out runs/a.")
    return CopiesConfig(**{"model": options["model"], **chosen})


def _recipe_of(config_file: str) -> object:
    from retrieval.training.config import read_form

    return read_form(config_file).get("recipe")


def _without_boards(habits: dict[str, Any]) -> dict[str, Any]:
    from retrieval.errors import UsageError

    if habits["tensorboard"]:
        raise UsageError("--tensorboard does not belong to --recipe copies", "Its figures are in metrics.jsonl.")
    return {name: value for name, value in habits.items() if name != "tensorboard"}


def _option(name: str) -> str:
    named = {"data": "DATA", "config_file": "--config"}
    return named.get(name, "--" + name.replace("_", "-"))
