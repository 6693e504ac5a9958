"""``retrieve import``."""

from __future__ import annotations

from pathlib import Path

import click

from retrieval.cli.common import index_option, model_options, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, safe


@click.command("import", cls=GroupedCommand)
@click.argument("file", metavar="FILE")
@index_option
@model_options
@verbosity_options
def command(
    file: str,
    index: str | None,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    quiet: bool,
    verbose: int,
) -> None:
    """Add the descriptors in FILE to the gallery, under their names: what `retrieve export` or another tool wrote.

    FILE is NAME.npy with NAME.names.jsonl or NAME.names.txt beside it, or NAME.parquet. Without a gallery one is made for
    --model. What was added so is kept until it is removed: it is not compared with any folder.
    """
    from retrieval.describe.choice import ModelChoice
    from retrieval.gallery.address import DEFAULT_FOLDER, holds_gallery, locate
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.same_model import require_same_model

    asked, folder = ModelChoice(model, size, scales), locate(index) or Path(DEFAULT_FOLDER)
    tell = teller(quiet)
    if holds_gallery(folder):
        gallery = Gallery.open(folder, warn=tell)
        require_same_model(gallery, asked, tell)
    else:
        gallery = Gallery.create(folder, asked.load(say=tell))
    with gallery:
        count = gallery.import_(file)
        print(f"{count_of(count, 'descriptor')} added to {safe(str(folder))}, which holds {len(gallery)}")
        names = list(gallery)
        if twice := len(names) - len(set(names)):  # a file of a folder, and what came in under its name
            tell(
                f"warning: {count_of(twice, 'name')} {'stands' if twice == 1 else 'stand'} for an indexed file and an imported "
                "descriptor. To have the files alone: retrieve remove NAME, then retrieve index --restore; "
                "for a gallery of its own: --index NEW"
            )
