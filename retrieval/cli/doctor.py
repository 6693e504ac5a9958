"""``retrieve doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from retrieval.checkup import (
    Finding,
    look_at_cache,
    look_at_extras,
    look_at_packages,
    look_at_processor,
    look_at_python,
)
from retrieval.cli.common import form_option, index_option, print_json, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, safe


@click.command("doctor", cls=GroupedCommand)
@index_option
@form_option("How it is printed.")
@verbosity_options
def command(index: str | None, form: str, quiet: bool, verbose: int) -> int:
    """Look at what this machine, the installation and the gallery are like, and say what is wrong and what to do.

    Each line is ok, a note (something would be better or is missing that may not be wanted) or a problem; with a problem the
    exit status is 1. Nothing is changed, and the network is not used. -q leaves out what is ok.
    """
    found = [
        look_at_python(),
        *look_at_packages(),
        look_at_processor(),
        *_engine(),
        look_at_cache(),
        *_gallery(index),
        *look_at_extras(),
    ]
    problems = sum(finding.state == "problem" for finding in found)
    if form == "json":
        print_json({"ok": not problems, "checks": [asdict(finding) for finding in found]})
    else:
        shown = [finding for finding in found if not (quiet and finding.state == "ok")]
        width = max((len(finding.what) for finding in shown), default=0)
        for finding in shown:
            do = f"  -> {finding.do}" if finding.do else ""
            print(f"{finding.state:<7}  {finding.what:<{width}}  {safe(finding.told)}{safe(do)}")
        print(count_of(problems, "problem") if problems else "no problem")
    return 1 if problems else 0


def _engine() -> list[Finding]:
    """What `--engine auto` and `--precision auto` would take."""
    from retrieval.engines.choose import gpu_driver
    from retrieval.engines.openvino.available import unsupported
    from retrieval.system.installed import versions_of
    from retrieval.system.processor import has_bf16

    driver = gpu_driver()
    torch = versions_of(["torch"])[0] or ""
    found = [Finding("ok", "accelerator", "none: the processor computes" if driver is None else f"driver at {driver}")]
    if driver is not None and "+cpu" in torch:
        found = [
            Finding(
                "note",
                "accelerator",
                f"driver at {driver}, and torch {torch} is for processors alone",
                "Install a torch for it.",
            )
        ]
    reason = unsupported()
    if driver is not None and "+cpu" not in torch:
        found.append(
            Finding("ok", "engine", "auto takes torch where it can use the accelerator, else as on a processor")
        )
    elif reason is None:
        found.append(Finding("ok", "engine", "auto takes openvino: it is installed and made for this processor"))
    else:
        found.append(
            Finding("note", "engine", f"auto takes torch, for openvino cannot be used: {reason}", "OpenVINO is faster.")
        )
    what = "tries bf16, which this processor has" if has_bf16() else "takes fp32, for this processor has no bf16"
    found.append(Finding("ok", "precision", f"fp32 unless asked; `index --precision auto` {what}"))
    return found


def _gallery(index: str | None) -> list[Finding]:
    """The gallery that commands find from here, and whether a server answers for it."""
    from retrieval.errors import GalleryDamaged, RetrievalError
    from retrieval.gallery.address import holds_gallery, locate, served_address, shown

    if (address := served_address(index)) is not None:
        return [
            Finding(
                "note", "gallery", f"{shown(address)} is on a server, which is not asked here", "retrieve info asks it."
            )
        ]
    folder = locate(index)
    if folder is None or not holds_gallery(folder):
        where = "here or in a folder above" if folder is None else f"in {folder}"
        return [Finding("note", "gallery", f"none {where}", "Make one: retrieve index FOLDER. --index names another.")]
    from retrieval.gallery.gallery import Gallery

    warnings: list[str] = []
    try:
        with Gallery.open(folder, warn=warnings.append) as gallery:
            info = gallery.info()
    except RetrievalError as error:
        do = error.hint or ("retrieve index --repair mends it." if isinstance(error, GalleryDamaged) else "")
        return [Finding("problem", "gallery", f"{folder}: {error.message}", do)]
    told = f"{info.path}: {count_of(info.images, 'picture')}, {info.spec.name}"
    if warnings:
        found = [Finding("problem", "gallery", f"{told}; {warnings[0]}", "retrieve index mends what is derived.")]
    elif info.pending:
        found = [Finding("note", "gallery", f"{told}, {info.pending} not described yet", "retrieve index goes on.")]
    elif info.troubled:
        found = [
            Finding(
                "note",
                "gallery",
                f"{told}, intact; {len(info.troubled)} could not be read",
                "retrieve info says which and why.",
            )
        ]
    else:
        found = [Finding("ok", "gallery", f"{told}, intact")]
    return [*found, _server(folder)]


def _server(folder: Path) -> Finding:
    from retrieval.resident.ask import ask_resident

    resident = ask_resident(folder)
    if resident is None:
        return Finding(
            "ok", "server", "no `retrieve serve` answers for this gallery: each query loads the model itself"
        )
    with resident:
        return Finding("ok", "server", "a `retrieve serve` answers queries of this gallery")
