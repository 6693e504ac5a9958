"""``retrieve info``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import form_option, index_option, print_json, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, human_bytes, safe

if TYPE_CHECKING:
    from retrieval.gallery.facts import GalleryInfo

_SHOWN = 5  # of the places a gallery is from
_NO_FOLDER = "no folder: imported, or added by a program"


@click.command("info", cls=GroupedCommand)
@index_option
@form_option("How it is printed.")
@verbosity_options
def command(index: str | None, form: str, quiet: bool, verbose: int) -> None:
    """Tell what the gallery holds, its model and size, and which pictures could not be read and why."""
    from retrieval.gallery.address import served_address
    from retrieval.gallery.gallery import Gallery

    if address := served_address(index):
        return _tell_served(address, form)
    with Gallery.open(index, warn=teller(quiet, "warning: ")) as gallery:
        info = gallery.info()
    spec = info.spec
    if form == "json":
        print_json(
            {
                "index": info.path,
                "model": spec.to_dict(),
                "name": spec.name,
                "fingerprint": spec.fingerprint,
                "dtype": info.dtype,
                "precision": info.precision,
                "precision_loss": info.precision_loss,
                "roots": info.roots,
                "exclude": list(info.exclude),
                "images": info.images,
                "vectors": info.vectors,
                "pending": info.pending,
                "unreadable": [{"path": path, "reason": reason} for path, reason in info.troubled],
                "bytes": info.bytes_total,
                "ann": info.index_file,
                "search": _search(info),
                "local": _local(info),
            }
        )
        return
    rule = spec.image
    scales = ", ".join(f"{s:g}" for s in rule.scales)
    waiting = f", {info.pending} waiting to be described (run retrieve index)" if info.pending else ""
    lines = [
        ("gallery", f"{safe(info.path)} ({human_bytes(info.bytes_total)})"),
        ("pictures", f"{info.images} ({info.vectors} different){waiting}"),
        ("from", _places(info.roots, info.images)),
        ("model", f"{spec.name}, {spec.dim} dimensions, fingerprint {spec.fingerprint}"),
        ("weights", f"{spec.weights.id}, sha256 {spec.weights.sha256[:16]}"),
        (
            "image rule",
            f"longest side {rule.size}, {rule.interpolation}, scales {scales}, EXIF orientation {'on' if rule.exif else 'off'}",
        ),
        ("vectors", f"{info.dtype}, {human_bytes(info.bytes_vectors)}, of the network in {_precision(info)}"),
        ("search index", _search_line(info)),
    ]
    if info.index_file:
        lines.append(("in", safe(info.index_file)))
    lines.append(("local index", _local_line(info)))
    if info.exclude:
        lines.append(("left out", "; ".join(safe(pattern) for pattern in info.exclude)))
    for name, value in lines:
        print(f"{name:>12}  {value}")
    if info.troubled:
        print(f"\n{len(info.troubled)} could not be read:")
        for path, reason in info.troubled:
            print(f"  {safe(path)}: {safe(reason)}")


def _places(roots: Sequence[str], images: int) -> str:
    """The first few: a gallery that was filled file by file has as many as pictures."""
    more = [f"{len(roots) - _SHOWN} more places (--format json lists them)"] if len(roots) > _SHOWN + 1 else []
    return "; ".join([*map(safe, roots[: _SHOWN if more else None]), *more]) or (
        _NO_FOLDER if images else "nothing yet"
    )


def _tell_served(address: str, form: str) -> None:
    from retrieval.backends.served import ServedGallery

    with ServedGallery.open(address) as gallery:
        spec, kept = gallery.spec, gallery.backend.description
        images, size = len(gallery), gallery.backend.bytes_on_disk()
    if form == "json":
        search = {name: kept.get(name) for name in ("effort", "recall", "queries")}
        print_json(
            {
                "index": gallery.folder,
                "model": spec.to_dict(),
                "name": spec.name,
                "fingerprint": spec.fingerprint,
                "dtype": "float32",
                "roots": kept.get("roots", []),
                "images": images,
                "bytes": size,
                "search": search,
                "local": None,
            }
        )
        return
    print(f"     gallery  {safe(gallery.folder)}{'' if size is None else f' ({human_bytes(size)})'}")
    print(f"    pictures  {images}")
    print(f"        from  {_places(kept.get('roots', []), images)}")
    print(f"       model  {spec.name}, {spec.dim} dimensions, fingerprint {spec.fingerprint}")
    if "recall" in kept:
        print(f"      search  recall@10 {kept['recall']:.3f} at effort {kept['effort']} ({kept['queries']} queries)")


def _search(info: GalleryInfo) -> dict[str, object]:
    """The search index for JSON; "recall", "milliseconds", "queries" and "measured_at" as last measured on the gallery, of all
    its files together; "effort" and "reach" are null where there are several."""
    out: dict[str, object] = {"asked": info.ann, "target": info.recall}
    note = info.search
    if note is not None:
        out |= {
            "kind": note.kind,
            "factory": note.factory,
            "vectors": note.count,
            "bytes": note.bytes,
            "changes": info.changes,
            "effort": note.effort,
            "reach": note.reach,
            "shortlist": note.shortlist,
            "recall": note.recall,
            "milliseconds": note.milliseconds,
            "queries": note.queries,
            "measured_at": note.measured,
            "seconds": note.seconds,
            "files": [
                {
                    "name": f"{shard.name}.faiss",
                    "factory": shard.factory,
                    "vectors": shard.count,
                    "bytes": shard.bytes,
                    "effort": shard.effort,
                    "reach": shard.reach,
                    "shortlist": shard.shortlist,
                    "recall": shard.recall,
                }
                for shard in note.shards
            ],
        }
    return out


def _local(info: GalleryInfo) -> dict[str, object] | None:
    if info.local is None:
        return None
    return {
        "codebook": info.local.codebook,
        "pictures": info.local.pictures,
        "bytes": info.local.bytes,
        "milliseconds": None if info.local.milliseconds is None else round(info.local.milliseconds, 2),
    }


def _local_line(info: GalleryInfo) -> str:
    local = info.local
    if local is None:
        return "none (retrieve index --local makes it)"
    if not local.pictures:
        return "empty until the next retrieve index" if info.roots or not info.images else "empty: no files to look at"
    lacking = max(info.vectors - local.pictures, 0)
    beside = f"; not in it: {count_of(lacking, 'picture')}" if lacking else ""
    each = human_bytes(local.bytes // local.pictures)
    took = "" if local.milliseconds is None else f" and {local.milliseconds:.0f} ms of a core"
    return f"{count_of(local.pictures, 'picture')}, {human_bytes(local.bytes)}, {each}{took} a picture{beside}"


def _search_line(info: GalleryInfo) -> str:
    from retrieval.gallery.search.looking import K

    note = info.search
    if note is None:
        return f"not written yet (asked for: {safe(info.ann)}; search is exact without it)"
    name = "flat, exact" if note.kind == "flat" else safe(note.factory)
    several = f" in {len(note.shards)} files" if len(note.shards) > 1 else ""
    parts = [f"{name}, {human_bytes(note.bytes)}{several}"]
    if note.queries:
        parts.append(
            f"recall@{K} {note.recall:.3f} (target {note.target:g}, {count_of(note.queries, 'query', 'queries')})"
        )
    if note.milliseconds is not None:
        parts.append(f"{note.milliseconds:.2g} ms a query")
    if info.changes:
        parts.append(f"{count_of(info.changes, 'change')} beside it")
    return "; ".join(parts)


def _precision(info: GalleryInfo) -> str:
    loss = info.precision_loss
    return info.precision if loss is None else f"{info.precision} (cosine to fp32 {loss['mean_cosine']:.4f})"
