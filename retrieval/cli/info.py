"""``retrieve info``."""

from __future__ import annotations

import click

from retrieval.cli.common import human_bytes, index_option, print_json, safe, verbosity_options


@click.command("info")
@index_option
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="How it is printed.")
@verbosity_options
def command(index: str | None, form: str, quiet: bool, verbose: int) -> None:
    """Tell what the gallery holds, its model and size, and which pictures could not be read and why."""
    from retrieval.gallery.gallery import Gallery

    with Gallery.open(index) as gallery:
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
                "roots": info.roots,
                "images": info.images,
                "vectors": info.vectors,
                "pending": info.pending,
                "unreadable": [{"path": path, "reason": reason} for path, reason in info.troubled],
                "bytes": info.bytes_total,
                "ann": info.index_file,
            }
        )
        return
    rule = spec.image
    scales = ", ".join(f"{s:g}" for s in rule.scales)
    waiting = f", {info.pending} waiting to be described (run retrieve index)" if info.pending else ""
    lines = [
        ("gallery", f"{safe(info.path)} ({human_bytes(info.bytes_total)})"),
        ("pictures", f"{info.images} ({info.vectors} different){waiting}"),
        ("from", "; ".join(safe(root) for root in info.roots) or "nothing yet"),
        ("model", f"{spec.name}, {spec.dim} dimensions, fingerprint {spec.fingerprint}"),
        ("weights", f"{spec.weights.id}, sha256 {spec.weights.sha256[:16]}"),
        (
            "image rule",
            f"longest side {rule.size}, {rule.interpolation}, scales {scales}, EXIF orientation {'on' if rule.exif else 'off'}",
        ),
        ("vectors", f"{info.dtype}, {human_bytes(info.bytes_vectors)}"),
        (
            "search index",
            safe(info.index_file) if info.index_file else "not written yet (search is exact without it)",
        ),
    ]
    for name, value in lines:
        print(f"{name:>12}  {value}")
    if info.troubled:
        print(f"\n{len(info.troubled)} could not be read:")
        for path, reason in info.troubled:
            print(f"  {safe(path)}: {safe(reason)}")
