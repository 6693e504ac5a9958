"""``retrieve``: the group of commands. Each command's module is imported only when that command runs."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from contextlib import suppress
from itertools import takewhile
from typing import Any

import click

from retrieval.cli.lazy import LazyGroup
from retrieval.cli.streams import OutputError, forget_output, prepare_streams
from retrieval.errors import RetrievalError
from retrieval.messages import first_line, safe
from retrieval.system.caches import cache_folder
from retrieval.system.ending import must_wait
from retrieval.system.shortage import is_shortage
from retrieval.version import __version__

COMMANDS = {
    "index": ("retrieval.cli.index", "Bring the gallery in line with folders of pictures."),
    "query": ("retrieval.cli.query", "Find the pictures most similar to given ones."),
    "duplicates": ("retrieval.cli.duplicates", "Find copies and shots of one scene; delete nothing."),
    "serve": ("retrieval.cli.serve", "Open a page in the browser for all of this, and a JSON API."),
    "info": ("retrieval.cli.info", "Tell what the gallery holds, and what could not be read."),
    "remove": ("retrieval.cli.remove", "Take pictures out of the gallery."),
    "describe": (
        "retrieval.cli.describe",
        "Describe pictures in parts, on any number of machines.",
    ),
    "export": ("retrieval.cli.export", "Write the gallery's descriptors and names to a file."),
    "import": ("retrieval.cli.import_", "Add descriptors with names from a file to the gallery."),
    "train": ("retrieval.cli.train", "Train a model on one's own pictures, or resume a run."),
    "evaluate": ("retrieval.cli.evaluate", "Measure mAP on a set with ground truth, with intervals."),
    "whiten": ("retrieval.cli.whiten", "Learn a whitening, from one's own pictures or from pairs."),
    "benchmark": ("retrieval.cli.benchmarks.group", "Compare poolings, engines and search indexes."),
    "models": ("retrieval.cli.models", "List, show, download and import models."),
    "datasets": ("retrieval.cli.datasets", "Get, check, convert and make data sets."),
    "doctor": ("retrieval.cli.doctor", "Look at machine, installation and gallery; say what is wrong."),
}
# Of click 8.2 and later; before, click itself prints the help.
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="retrieve")
def cli() -> None:
    """Image retrieval with GeM descriptors.

    \b
    retrieve index ./images      describe every picture in a folder, once
    retrieve query photo.jpg     the most similar pictures in it
    """


def run() -> None:
    """Entry point of the process: :func:`main`, and an end without taking the libraries apart, which is a sixth of the processor
    time of a query. What is registered for the end is done; with threads at work that have to be waited for the end is the usual
    one."""
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int) or must_wait():
            raise
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError, OutputError):
                stream.flush()
        os._exit(end.code)


def main() -> None:
    """A command, up to its SystemExit. Errors are one line on stderr: status 2 for a usage error, 1 for a failure; traceback with
    -vv."""
    prepare_streams()
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))  # its list of fonts is our cache, too
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # else NumPy's threads wait for work busily
    verbose = "-vv" in sys.argv
    if not verbose:  # libraries' warnings are for developers; what a user must know is said in our own words
        warnings.simplefilter("ignore")
    try:
        status = cli.main(prog_name="retrieve", standalone_mode=False)
        _leave(status if isinstance(status, int) else 0, verbose)
    except OutputError as error:
        forget_output()
        if error.gone:  # the reader of our output has stopped (`| head`): nothing to say
            sys.exit(error.exit_code)
        _fail(str(error), error.exit_code, verbose)
    except RetrievalError as error:
        _fail(str(error), error.exit_code, verbose)
    except click.exceptions.Exit as error:
        _leave(error.exit_code, verbose)
    except _NO_ARGUMENTS as error:  # a group without a command: its help as it stands, and the status of a usage error
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "retrieve"
        message = error.format_message().rstrip(".") + _named_like_an_option(error)
        _fail(f"{message}{'' if message.endswith('?') else '.'} See: {command} --help", 2, verbose)
    except (KeyboardInterrupt, click.Abort) as error:
        _fail(str(error.__cause__ or error) or "interrupted", 130, verbose)  # click makes an Abort of Ctrl-C
    except Exception as error:
        _fail(_unexpected(error), 1, verbose)


def _unexpected(error: Exception) -> str:
    """What nothing below has put into words, as far as it is the machine's."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if is_shortage(error):
        return f"too little memory, or too many open files or threads: {first_line(error)} (-vv shows where)"
    if isinstance(error, FileNotFoundError) and not _folder_there():
        return "the current folder is gone: it was deleted, or moved. Change to one that is there (cd)."
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror} (-vv shows where)"
    reason = f": {first_line(error)}" if str(error).strip() else ""
    return f"unexpected {type(error).__name__}{reason} (-vv shows where)"


def _folder_there() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _named_like_an_option(error: click.ClickException) -> str:
    """Of a file -photo.jpg click sees the options -p, -h, -o ..."""
    if isinstance(error, click.NoSuchOption):
        for name in takewhile(lambda argument: argument != "--", sys.argv[1:]):
            if name.startswith("-") and os.path.lexists(name):
                return f"; the file {name} is named by ./{name}"
    return ""


def _leave(status: int, verbose: bool) -> None:
    """End with ``status`` once all output is written."""
    try:
        sys.stdout.flush()
    except OutputError as error:
        forget_output()
        if not error.gone:
            _fail(str(error), error.exit_code, verbose)
    sys.exit(status)


def _fail(message: str, status: int, verbose: bool) -> None:
    if verbose:
        import traceback

        print("\n".join(map(safe, traceback.format_exc().splitlines())), file=sys.stderr)
    print(f"retrieve: {safe(' '.join(message.split()))}", file=sys.stderr)
    with suppress(OutputError):
        sys.stdout.flush()
        sys.exit(status)
    forget_output()
    sys.exit(status)
