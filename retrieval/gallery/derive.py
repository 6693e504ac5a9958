"""Whitening put to use: fitted on a gallery's own vectors, written as a model, applied to a gallery that exists.

A model with a whitening says in its specification what the whitening was learned on, so that nobody measures it on the
very same pictures by mistake, and at which scales, because it fits no others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch, UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.store.catalog import Record
from retrieval.gallery.store.vectors import VectorStore
from retrieval.models.checkpoint import FILE_NAME, save_checkpoint
from retrieval.models.spec import ModelSpec
from retrieval.models.whitening import Whitening, learn_lw, learn_pca

if TYPE_CHECKING:
    from retrieval.models.network import RetrievalNetwork

_SAMPLE = 256  # content hashes kept of the pictures that a whitening was learned on
_DIGITS = 12
_MOST_VECTORS = 50_000  # more do not change a covariance of a few thousand dimensions
_ROWS_AT_ONCE = 8192


def learned_on(name: str, hashes: Iterable[str]) -> dict[str, Any]:
    """What a specification says about the pictures behind a whitening: ``name``, how many different ``pictures``, and a
    ``sample`` of their content hashes: the smallest ones, so that the samples of two sets can be compared."""
    different = sorted({digest[:_DIGITS] for digest in hashes})
    return {"name": name, "pictures": len(different), "sample": different[:_SAMPLE]}


def pictures_seen(whitening: Mapping[str, Any] | None, hashes: Iterable[str]) -> int:
    """How many of the pictures with these content hashes a whitening was certainly learned on.

    Exact up to 256 pictures learned on; of larger sets only those in the sample can be told. 0 where nothing is known.
    """
    origin = (whitening or {}).get("learned_on")
    if not isinstance(origin, Mapping) or not origin.get("sample"):
        return 0
    return len(set(origin["sample"]) & {digest[:_DIGITS] for digest in hashes})


def leak(whitening: Mapping[str, Any] | None, name: str, hashes: Sequence[str]) -> str | None:
    """Why a whitening must not be judged on the set called ``name`` with these content hashes; None if it may be."""
    origin = (whitening or {}).get("learned_on")
    if isinstance(origin, str):  # of a foreign model only the name is known
        same = origin.removeprefix("r") == name.removeprefix("r")
        return f"the whitening was learned on {origin}" if same else None
    seen = pictures_seen(whitening, hashes)
    if not seen or not isinstance(origin, Mapping):
        return None
    least = "" if origin["pictures"] <= _SAMPLE else "at least "
    return f"the whitening was learned on {origin['name']}, with {least}{seen} of the pictures that are evaluated"


def require_scales(spec: ModelSpec) -> None:
    """Raises UsageError where a whitening is to be used at other scales than it was learned at."""
    scales = (spec.whitening or {}).get("scales")
    if isinstance(scales, list | tuple) and tuple(scales) != spec.image.scales:
        learned, wanted = (",".join(f"{s:.4g}" for s in each) for each in (scales, spec.image.scales))
        raise UsageError(
            f"the model's whitening was learned at scales {learned} and does not fit scales {wanted}",
            "Leave out --scales, or learn another with: retrieve whiten --scales.",
        )


# ---------------------------------------------------------------- learning


def fit_gallery(gallery: Gallery, dim: int | None = None, shrinkage: float = 0.0) -> tuple[Whitening, dict[str, Any]]:
    """PCA whitening of a gallery's own vectors, without labels, and what it was learned on.

    Copies count once; of more than 50,000 different pictures, 50,000 spread evenly. Raises UsageError for a gallery with
    fewer pictures than it takes, see :func:`fit_pca`.
    """
    with gallery.catalog.reading():
        rows, store = gallery.catalog.live_rows(), gallery.store()
        store.check_sizes(gallery.catalog.number("vector_count"))
        hashes = [record.hash for record in gallery.catalog.records() if record.row is not None and record.hash]
        roots = gallery.catalog.roots()
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_VECTORS)).astype(np.int64)] if len(rows) else rows
    whitening = fit_pca(store.take(chosen, check=True), dim, shrinkage)
    folders = [os.path.basename(gallery.folder_of(root)) for root in roots]
    name = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
    return whitening, learned_on(name, hashes)


def fit_pca(vectors: np.ndarray, dim: int | None = None, shrinkage: float = 0.0) -> Whitening:
    """:func:`retrieval.models.whitening.learn_pca` of descriptors (N, D), refused with advice where they are too few."""
    wanted = vectors.shape[1] if dim is None else dim
    if len(vectors) <= wanted <= vectors.shape[1]:
        advice = (
            f"Say --dim {len(vectors) // 2} or less, or take more pictures."
            if len(vectors) > 3
            else "Take more pictures."
        )
        raise UsageError(
            f"{len(vectors)} different pictures are too few for a whitening to {wanted} dimensions", advice
        )
    return learn_pca(vectors, dim, shrinkage)


def fit_pairs(vectors: np.ndarray, pairs: Sequence[tuple[int, int]], dim: int | None = None) -> Whitening:
    """:func:`retrieval.models.whitening.learn_lw` of descriptors (N, D) and pairs of rows (query, positive).

    Raises UsageError where the pairs' differences cannot span all dimensions: a whitening learned from them would be
    noise in the others.
    """
    if dim is not None and dim > vectors.shape[1]:
        raise UsageError(f"descriptors of {vectors.shape[1]} dimensions cannot be whitened to {dim}")
    span = _independent(pairs)
    if span < vectors.shape[1]:
        raise UsageError(
            f"{len(pairs)} matching pairs with {span} independent differences are too few "
            f"to learn a whitening of {vectors.shape[1]} dimensions",
            "Take more pairs, or --kind pca with a small --dim, which needs no pairs.",
        )
    table = np.array(pairs, np.int64)
    return learn_lw(vectors, table[:, 0], table[:, 1], dim)


def _independent(pairs: Sequence[tuple[int, int]]) -> int:
    """Rank that the differences of pairs can have: one for each edge that joins two groups of pictures."""
    leader: dict[int, int] = {}

    def find(i: int) -> int:
        while leader.setdefault(i, i) != i:
            leader[i] = i = leader[leader[i]]
        return i

    joined = 0
    for a, b in pairs:
        first, second = find(a), find(b)
        if first != second:
            leader[first] = second
            joined += 1
    return joined


# ---------------------------------------------------------------- writing


def whitened_model(model: Model, whitening: Whitening, origin: Mapping[str, Any], out: str | os.PathLike[str]) -> Model:
    """The model with the whitening as its last layer, written to the folder ``out`` as a checkpoint of its own.

    ``origin`` is from :func:`learned_on`. Raises UsageError when the model is whitened already or ``out`` holds one.
    """
    from retrieval.models.loading import build_network

    path = Path(out) / FILE_NAME
    check_whitenable(model.spec, path)
    if whitening.projection.shape[1] != model.spec.dim:
        raise UsageError(f"a whitening of {whitening.projection.shape[1]} dimensions does not fit {model.spec.dim}")
    network = build_network(model.spec, model.checkpoint)
    _add_layer(network, whitening)
    about: dict[str, Any] = {
        "kind": whitening.kind,
        "dim": len(whitening.projection),
        "learned_on": dict(origin),
        "scales": list(model.spec.image.scales),
        **{key: value for key, value in whitening.info.items() if key in ("pairs", "shrinkage")},
    }
    if model.spec.whitening is not None:  # an FC layer, which stays below
        about["fc"] = {key: value for key, value in model.spec.whitening.items() if key != "kind"}
    spec = replace(model.spec, dim=len(whitening.projection), whitening=about)
    spec = save_checkpoint(network, spec, path, origin=f"{model.spec.weights.id}, whitened")
    return Model(spec, path, model.engine_name)


def check_whitenable(spec: ModelSpec, path: Path) -> None:
    """Raises UsageError where a whitened model cannot be made of ``spec``, or not at ``path``."""
    if spec.whitening is not None and spec.whitening.get("kind") != "fc":
        raise UsageError(f"{spec.name} is whitened already", "Whiten the model that it was made of.")
    if path.exists():
        raise UsageError(f"{path} is there already", "Name another folder with --out.")


def _add_layer(network: RetrievalNetwork, whitening: Whitening) -> None:
    import torch
    from torch import nn

    layer = nn.Linear(whitening.projection.shape[1], len(whitening.projection))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(whitening.projection))
        layer.bias.copy_(torch.from_numpy(whitening.bias))
    network.whitening = layer


def derive_gallery(source: Gallery, whitening: Whitening, model: Model, folder: str | os.PathLike[str]) -> Gallery:
    """A gallery of the same pictures with whitened vectors, made from the stored ones: no picture is opened.

    ``model`` is the whitened one that belongs to ``whitening``; ``source`` was made with the model before it. The new gallery
    appears complete or not at all. Raises GalleryMismatch, GalleryError (``folder`` is in use), GalleryDamaged.
    """
    folder = Path(folder)
    if len(whitening.mean) != source.spec.dim or len(whitening.projection) != model.spec.dim:
        raise GalleryMismatch(f"the whitening does not lead from the vectors of {source.folder} to those of the model")
    check_free(folder)
    temporary = folder.with_name(f".{folder.name.lstrip('.')}.{os.getpid()}.derived")
    try:
        gallery = Gallery.create(temporary, model, dtype=source.description["dtype"])
        with source.catalog.reading():
            rows, store = source.catalog.live_rows(), source.store()
            count = source.catalog.number("vector_count")
            records = list(source.catalog.records())
            roots = source.catalog.roots()
        _write_vectors(store, count, rows, whitening, gallery.store())
        with gallery.writing() as catalog:
            with catalog.writing():
                place = {r.id: catalog.add_root(gallery.root_path(source.folder_of(r)), r.kind).id for r in roots}
                for record in records:
                    catalog.add_pending(place[record.root], [record.path])
                for made, record in zip(list(catalog.records()), records, strict=True):
                    _copy_record(catalog, made.id, record, rows)
                catalog.set_meta("vector_count", len(rows))
                catalog.bump_version()
                gallery.describe_roots(catalog)
            gallery.refresh_index(catalog)
        gallery.close()
        os.rename(temporary, folder)
    except OSError as error:
        raise GalleryError(f"cannot make a gallery in {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Gallery.open(folder)


def check_free(folder: Path) -> None:
    """Raises GalleryError where no new gallery can be made because something is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GalleryError(f"{folder} is there already and not empty", "Name another folder.")


def _write_vectors(store: VectorStore, count: int, rows: np.ndarray, whitening: Whitening, new: VectorStore) -> None:
    valid, hashes = store.verify(count)
    if not valid[rows].all():
        lost = int(np.sum(~valid[rows]))
        raise GalleryDamaged(f"{store.folder} has {lost} damaged vectors", "Run `retrieve index --repair` first.")
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[begin : begin + _ROWS_AT_ONCE]
        new.write(begin, whitening.apply(store.take(part)), [bytes(hashes[row]).hex() for row in part])


def _copy_record(catalog: Any, i: int, record: Record, rows: np.ndarray) -> None:
    """Give picture ``i`` of the new catalog the state of ``record``; its vector is where its old row stands in ``rows``."""
    if record.row is not None and record.hash is not None:
        catalog.set_ok(
            i,
            size=record.size,
            mtime_ns=record.mtime_ns,
            digest=record.hash,
            width=record.width,
            height=record.height,
            row=int(np.searchsorted(rows, record.row)),
        )
    if record.error is not None:
        catalog.set_error(
            i, size=record.size, mtime_ns=record.mtime_ns, error=record.error, keep_vector=record.row is not None
        )
