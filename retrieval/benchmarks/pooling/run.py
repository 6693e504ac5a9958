"""Poolings compared on one set: one pass of the backbone, many poolings of what it saw.

Every pooling gets the same features of the same pictures, so that nothing else differs between them. See
:class:`retrieval.benchmarks.pooling.results.Row` for the figures.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from retrieval.benchmarks.pooling.bench import Bench
from retrieval.benchmarks.pooling.methods import (
    choose_methods,
    default_baseline,
    make_method,
    trained_method,
)
from retrieval.benchmarks.pooling.results import PoolingReport
from retrieval.benchmarks.pooling.scoring import headline, protocols_of
from retrieval.benchmarks.pooling.whitened import fit_whitener, fitting_pictures
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.placing import check_boxes, present, without
from retrieval.errors import DatasetError, UsageError
from retrieval.messages import count_of, no_update, say_nothing

if TYPE_CHECKING:
    from retrieval.benchmarks.pooling.feature_cache import Picture
    from retrieval.describe.model import Model

NOISE = (0.1, 0.25, 0.5, 1.0)


def benchmark_pooling(
    model: Model,
    truth: GroundTruth,
    *,
    ps: Sequence[float] | None = None,
    methods: Sequence[str] = ("all",),
    baseline: str | None = None,
    noise: Sequence[float] = NOISE,
    bootstrap: int = 1000,
    seed: int = 0,
    whiten_on: str | os.PathLike[str] | None = None,
    budget: int | None = None,
    progress: Callable[[int, int], None] = no_update,
    say: Callable[[str], None] = say_nothing,
) -> PoolingReport:
    """Compare poolings of the backbone of ``model`` on a set; whatever the model does after pooling is left out.

    ``ps`` and ``methods``: see :func:`retrieval.benchmarks.pooling.methods.choose_methods`; a model from a checkpoint is compared
    with its trained pooling too. ``baseline``: the method the others are compared with (default: the average).
    ``noise``: strengths in standard deviations of the gallery's features. ``bootstrap``: resamples of the queries.
    ``whiten_on``: a folder of other pictures, on which a PCA-whitening is fitted for each method, whose results are added; or
    "gallery", to fit it on the gallery that is searched, marked so in each row. ``budget``: bytes of features kept in
    memory. ``progress`` is called with pictures done and their total, ``say`` with lines for people.

    Raises UsageError for options that make no sense, DatasetError where pictures are missing or cannot be read.
    """
    from retrieval.benchmarks.pooling.feature_cache import extract_features
    from retrieval.engines.torch.engine import TorchEngine
    from retrieval.models.registry import BACKBONES
    from retrieval.system.environment import environment

    if bootstrap < 1 or seed < 0:
        raise UsageError(f"bootstrap must be at least 1 and seed at least 0, not {bootstrap} and {seed}")
    if not all(0 <= s < math.inf for s in noise):
        raise UsageError(f"noise is given in standard deviations, 0 or more, not {list(noise)}")
    info = BACKBONES[model.spec.backbone]
    compared, notes = choose_methods(info, ps, methods)
    reference = make_method(baseline or default_baseline(info), info)
    if reference.label not in {method.label for method in compared}:
        compared.insert(0, reference)
    truth = present(truth, say)
    check_boxes(truth, oriented=model.spec.image.exif)
    others = [] if whiten_on in (None, "gallery") else fitting_pictures(whiten_on, truth)
    engine = TorchEngine(model.spec, model.checkpoint)
    if model.checkpoint is not None:
        compared.append(trained_method(model.spec.pooling, engine.describer.network.pooling))

    gallery, asked = _pictures(truth)
    fitted: list[Picture] = [(path, None) for path in others]
    pictures = list(dict.fromkeys([*gallery, *asked, *fitted]))  # a query that is in the gallery is seen once
    number = {picture: i for i, picture in enumerate(pictures)}

    unread: dict[int, str] | None = {} if truth.of_folder else None
    started = time.perf_counter()
    with extract_features(model, engine, pictures, budget=budget, progress=progress, unread=unread) as cache:
        if unread:
            troubles = {pictures[i][0]: why for i, why in sorted(unread.items())}
            if stranger := next((path for path in others if path in troubles), None):
                raise DatasetError(f"{stranger}: {troubles[stranger]}")
            names = {os.path.join(truth.root, path): path for path in truth.gallery}
            truth = without(truth, [(names[path], why) for path, why in troubles.items()], say)
            gallery, asked = _pictures(truth)
        extraction = time.perf_counter() - started
        bench = Bench(truth, cache, compared, [number[p] for p in gallery], [number[p] for p in asked], bootstrap, seed)
        bench.pool(list(noise), info.prefix)
        pooling = time.perf_counter() - started - extraction
        rows = bench.rows(reference.label, {})
        if whiten_on is not None:
            chosen = [number[p] for p in (fitted if others else gallery)]
            fits = {}
            for method in compared:
                whitener = fit_whitener(bench.vectors[method.label][chosen])
                if whitener is None:
                    notes.append(f"{method.label} is not whitened: {bench.vectors[method.label].shape[1]} dimensions")
                else:
                    fits[method.label] = whitener
            rows += bench.rows(reference.label, fits, "other" if others else "gallery")
            if len(chosen) < 2 * info.dim:
                notes.append(
                    f"whitening from {len(chosen)} pictures keeps {len(chosen) // 2} dimensions at most: it wants more pictures"
                )
        typical = cache.typical_shape()
        place = f"{cache.bytes / 1e6:,.0f} MB {cache.place}"
    sweep = time.perf_counter() - started - extraction
    if whiten_on == "gallery":
        notes.append("whitening was fitted on the searched gallery itself: marked (gallery!), not for comparison")
    if len(bench.noisy) < len(truth.queries):
        notes.append(f"noise was measured on {len(bench.noisy)} of {len(truth.queries)} queries")
    say(f"features of {len(pictures)} pictures: {place}")
    say(
        f"extraction {extraction:.1f} s, pooling {pooling:.1f} s, "
        f"all measurements of {count_of(len(compared), 'method')} {sweep:.1f} s "
        f"(the whole took {(extraction + sweep) / extraction:.2f} x the extraction)"
    )
    setting: dict[str, Any] = {
        "set": truth.name,
        "gallery": len(gallery),
        "queries": len(asked),
        "model": model.spec.name,
        "fingerprint": model.fingerprint,
        "spec": model.spec.to_dict(),
        "baseline": reference.label,
        "ranked_by": headline(protocols_of(truth)).name,
        "bootstrap": bootstrap,
        "seed": seed,
        "noise_queries": len(bench.noisy),
        "whitened_on": None
        if whiten_on is None
        else f"{len(fitted) or len(gallery)} pictures of {os.fspath(whiten_on)}",
        "features": {"typical_shape": list(typical), "std": bench.deviation, "kept": place},
        "seconds": {"extraction": extraction, "pooling": pooling, "all_measurements": sweep},
        "notes": notes,
        "environment": environment(),
    }
    return PoolingReport(rows, setting["ranked_by"], notes, setting)


def _pictures(truth: GroundTruth) -> tuple[list[Picture], list[Picture]]:
    """Gallery and queries, each with its box."""
    gallery: list[Picture] = [(os.path.join(truth.root, path), None) for path in truth.gallery]
    return gallery, [(os.path.join(truth.root, q.image), q.bbox) for q in truth.queries]
