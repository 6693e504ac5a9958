"""``retrieve remove``."""

from __future__ import annotations

import sys

import click

from retrieval.cli.common import index_option, say, verbosity_options
from retrieval.messages import safe


@click.command("remove")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@index_option
@verbosity_options
def command(patterns: tuple[str, ...], index: str | None, quiet: bool, verbose: int) -> int:
    """Take pictures out of the gallery whose path matches PATTERN (shell wildcards; a folder means all below it).

    The files stay untouched; the next `retrieve index` of their folder takes them in again if they are still there.
    """
    from retrieval.gallery.gallery import Gallery

    with Gallery.open(index) as gallery:
        gone = [path for pattern in patterns for path in gallery.remove(pattern)]
    if verbose:
        for path in gone:
            print(safe(path))
    if not gone:
        say("retrieve: nothing matches; patterns are compared with paths as `retrieve query` prints them")
        return 1
    print(f"{len(gone)} pictures taken out of {safe(str(gallery.folder))}", file=sys.stdout)
    return 0
