"""The figures of approximate against exact search: as rows, as a table, as JSON."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from retrieval.errors import UsageError
from retrieval.files.whole import write_json


@dataclass(frozen=True)
class AnnRow:
    """One kind of index at one size.

    ``recall_1``, ``recall_10``, ``recall_100``: share of the true first k that were found, ties counted; ``mAP`` over the
    labelled queries with the first 100 ranks, ``change``: its difference to exact search, both in fractions of 1.
    ``milliseconds``: median of one query at a time, ``p95`` its 95th percentile, ``cold``: the first query after opening;
    ``ratio``: median of exact search divided by this; ``cpu`` and ``cpu_ratio``: the same in milliseconds of processor time,
    which others at work on the machine hardly change. ``milliseconds_changed``: median with changes beside the file: 1 %, or as
    many as are searched there.
    ``bytes`` of the index file, ``memory``: those divided by the vectors' as float32. ``build``: seconds from vectors to the
    written file; ``add`` and ``remove``: seconds to take 1 % more, or 1 % less, into the file, ``add_share`` and
    ``remove_share`` those divided by ``build``.
    """

    size: int
    dim: int
    kind: str
    factory: str
    effort: int | None
    recall_1: float
    recall_10: float
    recall_100: float
    mAP: float
    change: float
    milliseconds: float
    p95: float
    cold: float
    ratio: float
    cpu: float
    cpu_ratio: float
    milliseconds_changed: float
    bytes: int
    memory: float
    build: float
    add: float
    remove: float
    add_share: float
    remove_share: float


@dataclass(frozen=True)
class AnnReport:
    """Rows by size, exact search first; ``setting`` is what belongs to all of them."""

    rows: list[AnnRow]
    setting: dict[str, Any]


def table(report: AnnReport) -> str:
    """The rows for people."""
    header = (
        f"{'vectors':>9} {'index':<18} {'recall@1':>8} {'@10':>6} {'@100':>6} {'mAP':>6} {'change':>7} {'ms':>8} {'p95':>8} "
        f"{'faster':>7} {'cpu ms':>7} {'faster':>7} {'ms+1%':>7} {'memory':>6} {'build s':>8} {'+1%':>6} {'-1%':>6}"
    )
    lines = [header]
    for row in report.rows:
        lines.append(
            f"{row.size:>9} {row.factory:<18.18} {row.recall_1:>8.4f} {row.recall_10:>6.4f} {row.recall_100:>6.4f} "
            f"{100 * row.mAP:>6.2f} {100 * row.change:>+7.2f} {row.milliseconds:>8.2f} {row.p95:>8.2f} {row.ratio:>7.1f} "
            f"{row.cpu:>7.2f} {row.cpu_ratio:>7.1f} "
            f"{row.milliseconds_changed:>7.2f} {row.memory:>6.3f} {row.build:>8.1f} {row.add_share:>6.1%} "
            f"{row.remove_share:>6.1%}"
        )
    return "\n".join(lines)


def write_report(report: AnnReport, path: str | os.PathLike[str]) -> None:
    """``{"setting": {...}, "rows": [...]}`` as JSON. Raises UsageError where it cannot be written."""
    data = {"setting": report.setting, "rows": [asdict(row) for row in report.rows]}
    try:
        write_json(path, data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
