"""``retrieve export``."""

from __future__ import annotations

from pathlib import Path

import click

from retrieval.cli.common import OutputFile, index_option, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, safe


@click.command("export", cls=GroupedCommand)
@click.argument("file", type=OutputFile(), metavar="FILE")
@index_option
@verbosity_options
def command(file: str, index: str | None, quiet: bool, verbose: int) -> None:
    """Write the gallery's descriptors and names to FILE.

    NAME.npy gets float32 (N, D), and NAME.names.jsonl beside it a line of JSON a row; NAME.parquet (with pyarrow) holds both.
    """
    from retrieval.gallery.exchange import names_beside
    from retrieval.gallery.gallery import Gallery

    with Gallery.open(index) as gallery:
        count = gallery.export(file)
        path = Path(file)
        names = "" if path.suffix == ".parquet" else f"; names: {safe(str(names_beside(path)))}"
        print(f"{safe(file)}: {count_of(count, 'descriptor')} of {gallery.spec.dim} dimensions{names}")
