"""``retrieve``: the group of commands. Each command's module is imported only when that command runs."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from importlib import import_module

import click

from retrieval import __version__
from retrieval.errors import RetrievalError

# name -> (module, one-line help); the help is repeated here so that `retrieve --help` imports none of the modules.
COMMANDS = {
    "index": ("retrieval.cli.index", "Bring the gallery in line with folders of pictures."),
    "query": ("retrieval.cli.query", "Find the pictures most similar to given ones."),
    "info": ("retrieval.cli.info", "Tell what the gallery holds, and what could not be read."),
    "remove": ("retrieval.cli.remove", "Take pictures out of the gallery."),
    "train": ("retrieval.cli.train", "Train a model on one's own pictures, or resume a run."),
    "evaluate": ("retrieval.cli.evaluate", "Measure mAP on a set with ground truth, with intervals."),
    "whiten": ("retrieval.cli.whiten", "Learn a whitening, from one's own pictures or from pairs."),
    "benchmark": ("retrieval.cli.benchmark", "Compare poolings on one's own pictures."),
    "models": ("retrieval.cli.models", "List, show, download and import models."),
    "datasets": ("retrieval.cli.datasets", "Get, check, convert and make data sets."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return import_module(COMMANDS[name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}; there are: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="retrieve")
def cli() -> None:
    """Image retrieval with GeM descriptors.

    \b
    retrieve index ./images      describe every picture in a folder, once
    retrieve query photo.jpg     the most similar pictures in it
    """


def main() -> None:
    """Entry point. Errors are one line on stderr: status 2 for a usage error, 1 for a failure; traceback with -vv."""
    verbose = "-vv" in sys.argv
    if not verbose:  # libraries' warnings are for developers; what a user must know is said in our own words
        warnings.simplefilter("ignore")
        logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        status = cli.main(prog_name="retrieve", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except RetrievalError as error:
        _fail(str(error), error.exit_code, verbose)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "retrieve"
        _fail(f"{error.format_message().rstrip('.')}. See: {command} --help", 2, verbose)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130, verbose)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing to say, and nothing more to write at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except MemoryError:
        _fail("out of memory", 1, verbose)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        _fail(f"unexpected {type(error).__name__}{': ' if reason else ''}{reason} (-vv shows where)", 1, verbose)


def _fail(message: str, status: int, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    print(f"retrieve: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
