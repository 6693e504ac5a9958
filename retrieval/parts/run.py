"""Describing a source in parts, and how far that is. Needs no engine and no gallery: any number of processes, anywhere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, ModelError, UsageError
from retrieval.messages import Say, Update, first_line, no_update, say_nothing
from retrieval.parts.manifest import Manifest, prepare
from retrieval.parts.part import check_pyarrow, part_counts
from retrieval.parts.shards import describe_shard

SHARD_PICTURES = 1000
TRIES = 3
_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Status:
    """``done``: shard -> (pictures, errors); ``missing``: shards without a part; ``bad``: shard -> why its part is none."""

    done: dict[int, tuple[int, int]]
    missing: list[int]
    bad: dict[int, str]

    @property
    def pictures(self) -> int:
        return sum(count for count, _ in self.done.values())

    @property
    def errors(self) -> int:
        return sum(errors for _, errors in self.done.values())


@dataclass
class PartsReport:
    """What one process did: ``shards`` were its share, of these ``described`` now and the others before; ``failed``: shard ->
    why it could not be described, after three tries."""

    shards: int = 0
    described: int = 0
    pictures: int = 0
    failed: dict[int, str] = field(default_factory=dict)


def status_of(manifest: Manifest) -> Status:
    """From the parts' metadata. Raises UsageError without pyarrow."""
    check_pyarrow()
    done: dict[int, tuple[int, int]] = {}
    missing, bad = [], {}
    for shard in range(len(manifest.shards)):
        try:
            counts = part_counts(manifest, shard)
        except GalleryDamaged as error:
            bad[shard] = error.message
            continue
        if counts is None:
            missing.append(shard)
        else:
            done[shard] = counts
    return Status(done, missing, bad)


def describe_parts(
    source: str,
    folder: str | os.PathLike[str],
    model: Model,
    *,
    share: tuple[int, int] = (1, 1),
    shard_size: int = SHARD_PICTURES,
    local: bool = True,
    timeout: float = 20.0,
    workers: int | None = None,
    progress: Update = no_update,
    say: Say = say_nothing,
) -> PartsReport:
    """Describe ``source`` (see :func:`retrieval.parts.sources.look_at`) with ``model`` into parts in ``folder``, whatever is
    not described yet.

    ``share`` (i, n), 1 <= i <= n: only every n-th shard from the i-th on, for the i-th of n processes. ``shard_size``: pictures
    in a shard, where the manifest is not there yet. ``local``: with local codes. ``timeout``: seconds for a web address.
    ``progress(done, total)`` counts shards. Raises UsageError, GalleryMismatch, GalleryError, ModelError.
    """
    check_pyarrow()
    own, processes = share
    if not 1 <= own <= processes:
        raise UsageError(f"the share {own}/{processes} is not one of 1/{processes} to {processes}/{processes}")
    manifest = prepare(source, folder, model, shard_size=shard_size, multiple=processes, local=local)
    manifest.shelf.tidy()
    mine = range(own - 1, len(manifest.shards), processes)
    report = PartsReport(len(mine))
    for number, shard in enumerate(mine):
        progress(number, len(mine))
        if is_done(manifest, shard):
            continue
        trouble = ""
        for attempt in range(TRIES):
            try:
                report.pictures += describe_shard(manifest, shard, model, timeout=timeout, workers=workers)
                report.described += 1
                break
            except (ModelError, UsageError):  # the next shard would meet the same
                raise
            except GalleryError as error:  # the store of the parts, which was tried three times already
                report.failed[shard] = error.message
                say(f"shard {shard}: {error.message}")
                break
            except Exception as error:  # each file system has errors of its own
                trouble = first_line(error)
                say(f"shard {shard}: {trouble} (try {attempt + 1} of {TRIES})")
                if attempt + 1 < TRIES:
                    time.sleep(_WAIT_SECONDS * 2**attempt)
        else:
            report.failed[shard] = trouble
    progress(len(mine), len(mine))
    return report


def is_done(manifest: Manifest, shard: int) -> bool:
    """Whether the shard's part is there and counts."""
    try:
        return part_counts(manifest, shard) is not None
    except GalleryDamaged:
        return False
