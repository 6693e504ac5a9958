"""Options and habits that commands share."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from retrieval.messages import Say, safe

if TYPE_CHECKING:
    from retrieval.models.spec import ModelSpec

F = TypeVar("F", bound=Callable[..., Any])


class NumberList(click.ParamType):
    """Numbers separated by commas, spaces or both, such as ``1,0.7071,0.5``."""

    name = "numbers"

    def __init__(self, count: int | None = None) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in re.split(r"\s*,\s*|\s+", str(value).strip()))
        except ValueError:
            self.fail(f"{value!r} is not numbers separated by commas or spaces", param, ctx)
        if self.count is not None and len(numbers) != self.count:
            self.fail(f"{value!r} has {len(numbers)} numbers, not {self.count}", param, ctx)
        return numbers


class Name(click.ParamType):
    """A name of something; an empty one, which is mostly a variable that is not set, would mean the current folder."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("the name is empty; perhaps a variable is not set (. is the current folder)", param, ctx)
        return str(value)


class OutputFile(Name):
    """A file to write text or numbers into; no picture is lost to it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = super().convert(value, param, ctx)
        if os.path.exists(name):
            from retrieval.pictures.replacing import spare_pictures

            spare_pictures(name)
        return name


class Probability(click.ParamType):
    """From 0 to 1, or as it is printed: 50%."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        number = number / 100 if text.endswith("%") else number
        if not 0 <= number <= 1:
            likely = f" (did you mean {number:g}%?)" if 1 < number <= 100 and "%" not in text else ""
            self.fail(f"{text!r} is no probability: from 0 to 1, or such as 50%{likely}", param, ctx)
        return number


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


index_option = click.option(
    "--index",
    "index",
    metavar="DIR",
    help="The gallery (default: $RETRIEVE_INDEX, or .retrieval here or in a folder above).",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the network; auto is openvino on a CPU, where it can.",
)


def _set_picture_memory(_: click.Context, __: click.Parameter, megabytes: float | None) -> None:
    if megabytes is not None:  # where every reader of pictures looks, in this process and in those that it starts
        os.environ["RETRIEVE_PICTURE_MEMORY"] = f"{megabytes:g}"


model_options = _options(
    click.option(
        "--model",
        type=Name(),
        metavar="NAME",
        help="BACKBONE-POOLING such as resnet50-gem, a checkpoint, or auto (default).",
    ),
    click.option(
        "--size",
        type=click.IntRange(16, 16384),
        help="Longest side in pixels, downscale only (default: the model's own; 512 for the built-in one).",
    ),
    click.option("--scales", type=NumberList(), help="Multi-scale description, such as 1,0.7071,0.5 (default: 1)."),
    click.option(
        "--picture-memory",
        type=click.FloatRange(1, 1_000_000),
        metavar="MB",
        callback=_set_picture_memory,
        expose_value=False,
        help="Refuse pictures that take more memory to decode (default: $RETRIEVE_PICTURE_MEMORY, or 720).",
    ),
)
tokens_option = click.option(
    "--tokens",
    metavar="SCHEDULE",
    help="Pool a vision transformer's tokens on the way: 42% saves so much of its work, 4:0.37 keeps 37 % after block 4.",
)


def form_option(text: str, *more: str) -> Callable[[F], F]:
    """``--format``: a table (default), json, or one of ``more``; ``text`` is its help."""
    return click.option(
        "--format", "form", type=click.Choice(["table", "json", *more]), default="table", show_default=True, help=text
    )


rows_option = form_option("How results are printed; json is one row a line.")
verbosity_options = _options(
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors."),
    click.option("-v", "--verbose", count=True, help="Say more; -vv shows the traceback of an error."),
)


def say(message: str, quiet: bool = False) -> None:
    """A line for the user, on stderr: results alone go to stdout."""
    if not quiet:
        print("\n".join(map(safe, message.split("\n"))), file=sys.stderr)


def teller(quiet: bool, before: str = "") -> Say:
    """What a part below may say goes to the user by: a message in one line, with ``before``, such as "warning: "."""
    return lambda message: say(before + safe(message), quiet)


def print_json(data: Any) -> None:
    print(json.dumps(data))


def tell_saving(spec: ModelSpec, tell: Say) -> None:
    """Say what the schedule of tokens of a model saves."""
    from retrieval.models.token_reduction import cost_of

    tell(f"{spec.name}: {cost_of(spec)}; `retrieve benchmark tokens` measures what is lost")
