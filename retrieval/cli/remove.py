"""``retrieve remove``."""

from __future__ import annotations

import click

from retrieval.cli.common import Name, index_option, say, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, safe


@click.command("remove", cls=GroupedCommand)
@click.argument("names", nargs=-1, type=Name(), metavar="[NAME]...")
@index_option
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=Name(),
    metavar="FOLDER",
    help="Forget this indexed folder, also one that is gone, and all its pictures; `retrieve info` lists them.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be taken out.")
@verbosity_options
def command(
    names: tuple[str, ...], index: str | None, roots: tuple[str, ...], dry_run: bool, quiet: bool, verbose: int
) -> int:
    """Take pictures out of the gallery: a picture of exactly this NAME, else a folder's, else what fits a pattern.

    A picture whose name holds * or [ is meant by its name before the characters count as wildcards. The files stay
    untouched; pictures that were taken out stay out, until `retrieve index --restore` or their own name is given to it.
    """
    from retrieval.errors import GalleryError, UsageError
    from retrieval.gallery.address import served_address
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.selection import select

    if not names and not roots:
        raise UsageError("no picture was named", "Example: retrieve remove images/a.png, or --root images.")
    if address := served_address(index):
        return _remove_served(address, (*names, *roots), dry_run, bool(verbose))
    with Gallery.open(index) as gallery:
        meant = {name: select(gallery, name) for name in names}
        for name, selection in meant.items():
            if not selection.records:
                raise GalleryError(
                    f"nothing matches {safe(name)}",
                    "Names are as `retrieve query` prints them; nothing was taken out.",
                )
            if selection.kind != "picture":
                say(f"{safe(name)} is a {selection.kind} of {count_of(len(selection.records), 'picture')}", quiet)
        for root in roots:  # all are known before anything is taken out
            gallery.remove_root(root, dry_run=True)
        gone = dict.fromkeys(path for root in roots for path in gallery.remove_root(root, dry_run=dry_run))
        for name in names:
            gone.update(dict.fromkeys(gallery.remove_matching(name, dry_run=dry_run)))
    if verbose or dry_run:
        for path in gone:
            print(safe(path))
    where = safe(str(gallery.folder))
    if dry_run:
        say(f"{count_of(len(gone), 'picture')} would be taken out of {where}", quiet)
    else:
        print(f"{count_of(len(gone), 'picture')} taken out of {where}")
    return 0


def _remove_served(address: str, names: tuple[str, ...], dry_run: bool, verbose: bool) -> int:
    from retrieval.backends.served import ServedGallery
    from retrieval.errors import GalleryError

    with ServedGallery.open(address) as gallery:
        for name in names:
            if not gallery.remove_matching(name, dry_run=True):
                raise GalleryError(
                    f"nothing matches {safe(name)}",
                    "In a served gallery names and folders count, no patterns; nothing was taken out.",
                )
        gone = dict.fromkeys(path for name in names for path in gallery.remove_matching(name, dry_run=dry_run))
    if verbose or dry_run:
        for path in gone:
            print(safe(path))
    print(f"{count_of(len(gone), 'picture')} {'would be ' if dry_run else ''}taken out of {safe(gallery.folder)}")
    return 0
