"""The entry point of ``retrieve``: what need not wait for the command line's library, then the command."""

from __future__ import annotations

import sys

from retrieval.resident.early import begin


def run() -> None:
    """:func:`retrieval.cli.main.run`."""
    begin(sys.argv[1:])
    from retrieval.cli.main import run as run_command

    run_command()
