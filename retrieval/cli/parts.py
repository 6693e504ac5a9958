"""What ``retrieve index`` does with folders of parts: takes them in, or tells how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.cli.common import print_json, teller
from retrieval.describe.choice import ModelChoice
from retrieval.errors import GalleryMismatch, UsageError
from retrieval.gallery.address import holds_gallery
from retrieval.gallery.description import precision_of
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.same_model import require_same_dtype, require_same_model
from retrieval.messages import Say, count_of, progress_bar, safe
from retrieval.parts.manifest import read_manifest
from retrieval.parts.merge import MergeReport, merge_parts
from retrieval.parts.part import check_pyarrow
from retrieval.parts.run import status_of

_MOST_NAMED = 10


@dataclass(frozen=True)
class Merging:
    """What is asked of the gallery that parts go into, as the options say it: None where nothing is said."""

    model: ModelChoice
    dtype: str | None
    local: bool | None
    engine: str


def merge(parts: Sequence[str], folder: Path, asked: Merging, form: str, quiet: bool) -> int:
    """Take parts into the gallery in ``folder``, which is made where there is none. The exit status: 1 where shards are missing
    or bad."""
    check_pyarrow()

    tell = teller(quiet)
    manifests = [read_manifest(part) for part in parts]
    gallery = _opened(folder, manifests[0].model(asked.engine), asked.dtype, asked.engine, tell)
    with gallery:
        require_same_model(gallery, asked.model, tell)
        gallery.configure_local(asked.local)
        reports = []
        for manifest in manifests:
            with progress_bar("merge", quiet, unit="shard") as update:
                reports.append(merge_parts(gallery, manifest, progress=update))
        images = gallery.catalog.searchable_count()
    for part, report in zip(parts, reports, strict=True):
        _show(part, report, folder, images, form)
    return 1 if any(report.missing or report.bad for report in reports) else 0


def merge_served(parts: Sequence[str], address: str, asked: Merging, form: str, quiet: bool) -> int:
    """The same into a gallery that a server keeps."""
    from retrieval.backends.served import ServedGallery

    check_pyarrow()
    if asked.dtype == "float16" or asked.local:
        raise UsageError("a served gallery keeps float32 vectors and no local codes", "Leave out --dtype and --local.")

    tell = teller(quiet)
    manifests = [read_manifest(part) for part in parts]
    with ServedGallery.create(address, manifests[0].model(asked.engine), say=tell) as gallery:
        require_same_model(gallery, asked.model, tell)
        reports = []
        for manifest in manifests:
            with progress_bar("merge", quiet, unit="shard") as update:
                reports.append(gallery.merge(manifest, progress=update))
        recall, effort = gallery.tune()
        tell(f"recall@10 {recall:.3f} at effort {effort}")
        images = len(gallery)
    for part, report in zip(parts, reports, strict=True):
        _show(part, report, gallery.folder, images, form)
    return 1 if any(report.missing or report.bad for report in reports) else 0


def _opened(folder: Path, model: object, dtype: str | None, engine: str, tell: Say) -> Gallery:
    if not holds_gallery(folder):
        return Gallery.create(folder, model, dtype=dtype or "float32")  # type: ignore[arg-type]
    gallery = Gallery.open(folder, engine=engine, warn=tell)
    require_same_dtype(gallery, dtype)
    if (precision := precision_of(gallery.description)) != "fp32":
        raise GalleryMismatch(f"the gallery {folder} is described with {precision}, parts are with fp32")
    return gallery


def _show(part: str, report: MergeReport, folder: object, images: int, form: str) -> None:
    if form == "json":
        print_json({"index": str(folder), "parts": part, "images": images, **vars(report)})
        return
    words = ("added", "changed", "unchanged", "unreadable", "stayed_out")
    counts = [f"{n} {word.replace('_', ' ')}" for word in words if (n := getattr(report, word))]
    print(f"{count_of(images, 'picture')} in {safe(str(folder))}: {', '.join(counts) or 'nothing to do'}")
    _tell_lacking(part, report.missing, report.bad)


def tell_status(parts: Sequence[str], form: str) -> int:
    """Print which shards are done, missing and bad. The exit status: 1 where not all are done."""
    lacking = False
    for part in parts:
        manifest = read_manifest(part)
        status = status_of(manifest)
        lacking |= len(status.done) < len(manifest.shards)
        if form == "json":
            print_json(
                {
                    "parts": part,
                    "source": manifest.source,
                    "model": manifest.spec.name,
                    "fingerprint": manifest.fingerprint,
                    "shards": len(manifest.shards),
                    "done": len(status.done),
                    "pictures": status.pictures,
                    "errors": status.errors,
                    "missing": status.missing,
                    "bad": {str(shard): why for shard, why in status.bad.items()},
                }
            )
            continue
        print(
            f"{safe(part)}: {len(status.done)} of {count_of(len(manifest.shards), 'shard')} done "
            f"({count_of(status.pictures, 'picture')}, {status.errors} of them unreadable), "
            f"{len(status.missing)} missing, {len(status.bad)} bad"
        )
        _tell_lacking(part, status.missing, status.bad)
    return 1 if lacking else 0


def _tell_lacking(part: str, missing: Sequence[int], bad: dict[int, str]) -> None:
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        which = f"shard{'' if len(missing) == 1 else 's'} {', '.join(map(str, missing[:_MOST_NAMED]))}{more}"
        print(f"{safe(part)} lacks {which}, counted from 0 as its files are; describing again makes what is missing")
    for shard, why in bad.items():
        print(f"shard {shard} is bad: {safe(why)}")
