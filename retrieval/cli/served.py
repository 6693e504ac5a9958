"""What ``retrieve index FOLDER`` does with a gallery on a server."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.backends.indexing import index_folders
from retrieval.backends.served import ServedGallery
from retrieval.cli.common import print_json, teller
from retrieval.describe.choice import ModelChoice
from retrieval.errors import GalleryMissing
from retrieval.gallery.same_model import require_same_model
from retrieval.messages import count_of, progress_bar, safe

_MOST_NAMED = 10


def index_served(
    folders: Sequence[str], address: str, asked: ModelChoice, engine: str, form: str, strict: bool, quiet: bool
) -> int:
    """Bring the gallery in line with folders; it is made where there is none. The exit status: 1 where ``strict`` and a picture
    could not be read, or a folder is gone or empty."""
    tell = teller(quiet)
    try:
        gallery = ServedGallery.open(address, engine=engine, say=tell)
    except GalleryMissing:
        gallery = ServedGallery.create(address, asked.load(engine, tell), say=tell)
    with gallery:
        require_same_model(gallery, asked, tell)
        with progress_bar("index", quiet) as update:
            report = index_folders(gallery, folders, progress=update)
        if report.added or report.changed or report.removed:
            recall, effort = gallery.tune()
            tell(f"recall@10 {recall:.3f} at effort {effort}")
        images = len(gallery)
    for warning in report.warnings:  # of folders that could not be looked at: not for --quiet to keep back
        teller(quiet=False, before="warning: ")(warning)
    if form == "json":
        print_json({"index": gallery.folder, "images": images, **vars(report)})
    else:
        counts = [
            f"{n} {word}" for word in ("added", "changed", "removed", "unchanged") if (n := getattr(report, word))
        ]
        print(f"{count_of(images, 'picture')} in {safe(gallery.folder)}: {', '.join(counts) or 'nothing to do'}")
        for path, why in list(report.troubles.items())[:_MOST_NAMED]:
            print(f"could not be read: {safe(path)}: {safe(why)}")
        if len(report.troubles) > _MOST_NAMED:
            print(f"and {len(report.troubles) - _MOST_NAMED} more")
    return 1 if strict and (report.troubles or report.warnings) else 0
