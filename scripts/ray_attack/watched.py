"""``retrieve`` as it is attacked: with a tiny network that takes its time, and a note of each shard that a worker begins.

Driver and workers import it by this name, so what it changes holds in both. Notes are lines of JSON in the file that
``ATTACK_NOTES`` names; ``ATTACK_MARK`` is the mark of whoever started the worker's Ray.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import tiny
import torch

from retrieval.parts import on_ray, part
from retrieval.parts.manifest import Manifest
from retrieval.parts.run import is_done

SECONDS_A_PICTURE = float(os.environ.get("ATTACK_SECONDS", "0.01"))
_described, _write, _forward = on_ray._described, part.write_part, tiny.Tiny.forward


def note(event: str, shard: int) -> None:
    line = {"event": event, "shard": shard, "pid": os.getpid(), "mark": os.environ.get("ATTACK_MARK", "")}
    notes = os.open(os.environ["ATTACK_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(notes, json.dumps(line).encode() + b"\n")  # one call: lines of several processes do not mix
    finally:
        os.close(notes)


def slowly(self: tiny.Tiny, images: torch.Tensor) -> torch.Tensor:
    time.sleep(SECONDS_A_PICTURE * len(images))
    return _forward(self, images)


def noted_writing(manifest: Manifest, shard: int, items: list[object]) -> None:
    note("writing", shard)
    _write(manifest, shard, items)  # type: ignore[arg-type]
    note("written", shard)


def described(folder: str, shard: int, *rest: object) -> int:
    if not is_done(on_ray.read_manifest(folder), shard):
        note("begun", shard)
    return _described(folder, shard, *rest)  # type: ignore[arg-type]


def main() -> None:
    from retrieval.cli.main import main

    main()


tiny.Tiny.forward = slowly  # type: ignore[method-assign]
on_ray._described = described  # type: ignore[assignment]
sys.modules["retrieval.parts.shards"].write_part = noted_writing  # type: ignore[attr-defined]
