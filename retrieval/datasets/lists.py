"""Lists of training pairs as files: CSV lines of two paths, and the published retrieval-SfM lists. Opens no picture."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.datasets.published.revisited import training_path
from retrieval.errors import DatasetError, UsageError
from retrieval.files import plain_pickle
from retrieval.files.lines import lines_of

_LIST_LIMIT = 1 << 30  # bytes; the largest published list has some tens of millions
_HEADINGS = ({"query", "path", "image", "a"}, {"positive", "match", "path2", "image2", "b"})


@dataclass(frozen=True)
class PairList:
    """``paths``: N pictures, as the list has them. ``pairs``: (query, positive) as positions in ``paths``. ``clusters``: N
    names or numbers, or None where the list has none."""

    paths: list[str]
    pairs: list[tuple[int, int]]
    clusters: list[Any] | None


def read_pairs(file: Path) -> PairList:
    """Lines ``path,path`` or ``path,path,cluster`` (UTF-8, comma-separated, quotes as in CSV): a query, its positive, and
    what both show.

    A first line of headings (``query,positive[,cluster]``) and empty lines are passed over. Raises DatasetError, with the
    line's number, for a line without two paths, of a picture with itself, with a cluster where others have none, or that
    puts a picture into a second cluster.
    """
    rows: dict[str, int] = {}
    clusters: list[str | None] = []
    pairs: list[tuple[int, int]] = []
    labelled: bool | None = None
    reader = csv.reader(io.StringIO(_text(file), newline=""), skipinitialspace=True, strict=True)
    try:
        for number, row in enumerate(reader):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 0 and _is_heading(cells)):
                continue
            where = f"{file}, line {reader.line_num}"
            if len(cells) < 2 or not cells[0] or not cells[1] or "\0" in cells[0] + cells[1]:
                raise DatasetError(
                    f"{where}: expected 'path,path' or 'path,path,cluster', found {','.join(row)[:80]!r}"
                )
            if cells[0] == cells[1]:
                raise DatasetError(f"{where}: {cells[0]!r:.200} is paired with itself")
            cluster = cells[2] if len(cells) > 2 and cells[2] else None
            if labelled is None:
                labelled = cluster is not None
            elif labelled != (cluster is not None):
                raise DatasetError(f"{where}: a cluster (the third column) is given for all pairs or for none")
            ends = []
            for path in cells[:2]:
                row_of = rows.setdefault(path, len(rows))
                if row_of == len(clusters):
                    clusters.append(cluster)
                elif clusters[row_of] != cluster:
                    raise DatasetError(
                        f"{where}: {path!r:.200} is in cluster {cluster!r:.200}, before it was in {clusters[row_of]!r:.200}"
                    )
                ends.append(row_of)
            pairs.append((ends[0], ends[1]))
    except csv.Error as error:
        raise DatasetError(f"{file}, line {reader.line_num}: {error}") from error
    if not pairs:
        raise DatasetError(f"{file}: no 'path,path' lines in it")
    return PairList(list(rows), pairs, clusters if labelled else None)


def looks_like_pairs(file: Path) -> bool:
    """Whether a CSV holds pairs rather than labels: by its headings, or because its second column is named as pictures are."""
    from retrieval.pictures.imaging import is_picture_name

    for number, line in enumerate(lines_of(_text(file))):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
        except csv.Error:
            return False
        if any(cells):
            return len(cells) > 1 and ((number == 0 and _is_heading(cells)) or is_picture_name(cells[1]))
    return False


def read_sfm(file: Path, part: str) -> PairList:
    """A published retrieval-SfM list (Radenović, Tolias and Chum, TPAMI 2018): its ``part``, ``"train"`` or ``"val"``.

    The pickle is a dict of the two parts, each with ``cids`` (names of N pictures), ``qidxs`` and ``pidxs`` (numbers of the
    pairs' pictures) and ``cluster`` (N numbers of 3D models); the whitening lists are one such part without clusters.
    Paths are relative to the folder of the pictures. Nothing in the file is run. Raises DatasetError for any other form.
    """
    try:
        if file.stat().st_size > _LIST_LIMIT:
            raise DatasetError(f"{file} is larger than any list of pictures: refused")
        form = plain_pickle.loads(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from error
    except DatasetError as error:
        raise DatasetError(f"{file}: {error.message}", error.hint) from None
    if isinstance(form, dict) and "cids" not in form:
        if part not in form:
            raise UsageError(f"{file} has no part {part!r:.200}", f"It has: {', '.join(map(str, form))[:80]}.")
        form = form[part]
    form = form if isinstance(form, dict) else {}
    cids, queries, positives = (plain_pickle.as_list(form.get(key)) or [] for key in ("cids", "qidxs", "pidxs"))
    clusters = plain_pickle.as_list(form.get("cluster"))
    if not cids or not all(isinstance(cid, str) and cid.isalnum() and len(cid) >= 6 for cid in cids):
        raise DatasetError(f"{file}: expected names of pictures under 'cids'")
    if (
        not queries
        or len(queries) != len(positives)
        or not all(type(n) is int and 0 <= n < len(cids) for n in [*queries, *positives])
    ):
        raise DatasetError(f"{file}: expected pairs of numbers from 0 to {len(cids) - 1} under 'qidxs' and 'pidxs'")
    if clusters is not None and (len(clusters) != len(cids) or not all(type(n) is int for n in clusters)):
        raise DatasetError(f"{file}: expected {len(cids)} numbers under 'cluster'")
    return PairList([training_path(cid) for cid in cids], list(zip(queries, positives, strict=True)), clusters)


def _is_heading(cells: list[str]) -> bool:
    return len(cells) > 1 and all(cell.lower() in known for cell, known in zip(cells, _HEADINGS, strict=False))


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from error
