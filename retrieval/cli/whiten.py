"""``retrieve whiten``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.common import engine_option, index_option, model_options, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, progress_bar, safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrieval.describe.model import Model
    from retrieval.models.whitening import Whitening


@click.command(
    "whiten",
    cls=GroupedCommand,
    groups={
        "What is learned from": "index source",
        "Whitening": "out kind dim shrinkage derive",
        "With --from": "model size scales data images gallery",
    },
)
@index_option
@click.option("--from", "source", metavar="SOURCE", help="Learn from a ground truth or a published set instead.")
@click.option("--out", required=True, metavar="DIR", help="The folder of the new model, for --model DIR.")
@click.option(
    "--kind", type=click.Choice(["pca", "lw"]), help="pca needs no labels, lw matching pairs (default with --from)."
)
@click.option("--dim", type=click.IntRange(1), metavar="D", help="Dimensions to keep (default: all).")
@click.option(
    "--shrinkage", type=click.FloatRange(0, 1), help="Of pca: 0 whitens fully (default), 1 only centres and rotates."
)
@click.option(
    "--derive", metavar="DIR", help="Also make a gallery of the whitened vectors of --index; opens no picture."
)
@model_options
@engine_option
@click.option("--gallery", metavar="DIR", help="Keep the descriptors of --from here (default: in the user's cache).")
@click.option("--data", default="data", show_default=True, metavar="DIR", help="The folder of downloaded sets.")
@click.option("--images", metavar="DIR", help="The folder of the pictures of --from, where it is not found by itself.")
@verbosity_options
def command(
    index: str | None,
    source: str | None,
    out: str,
    kind: str | None,
    dim: int | None,
    shrinkage: float | None,
    derive: str | None,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Learn a whitening and write it as a model.

    Without --from: from the vectors of one's own gallery (--index), without labels. With --from SOURCE: from the matching
    pairs of a ground truth (.json, .pkl, a folder with a sub-folder a class, a list of path,label lines), or of
    retrieval-SfM-30k or retrieval-SfM-120k. The new model works wherever --model does, at the scales it was learned at.
    Never learn from the pictures that are evaluated.

    \b
    retrieve whiten --out whitened --dim 128     then: index --model whitened
    retrieve whiten --from truth.json --out lw   learned from matching pairs
    """
    from retrieval.describe.whitened_model import check_whitenable, whitened_model
    from retrieval.errors import UsageError
    from retrieval.gallery.derive import check_free, derive_gallery, fit_gallery
    from retrieval.gallery.gallery import Gallery
    from retrieval.models.checkpoint import FILE_NAME

    tell = teller(quiet)
    if source is None and kind == "lw":
        raise UsageError("lw is learned from matching pairs", "Name a ground truth with --from, or take --kind pca.")
    if shrinkage is not None and (kind or ("lw" if source else "pca")) == "lw":
        raise UsageError("--shrinkage goes with --kind pca")
    if source is None and (
        options["model"] or options["size"] or options["scales"] or options["gallery"] or options["images"]
    ):
        raise UsageError("a gallery has its own model and image rule", "--model, --size and --scales go with --from.")
    if derive is not None:
        check_free(Path(derive))
    own = Gallery.open(index, engine=options["engine"], warn=tell) if source is None or derive is not None else None
    if source is None:
        assert own is not None
        base = own.model
        check_whitenable(base.spec, Path(out) / FILE_NAME)
        whitening, origin = fit_gallery(own, dim, shrinkage or 0.0)
    else:
        base, whitening, origin = _learn(source, out, kind or "lw", dim, shrinkage or 0.0, tell, quiet, **options)
        if own is not None:
            own.require(base)
    model = whitened_model(base, whitening, origin, out)
    print(
        f"{safe(out)}: {whitening.kind} from {base.spec.dim} to {model.spec.dim} dimensions, learned on "
        f"{count_of(origin['pictures'], 'picture')} of {safe(origin['name'])}, fingerprint {model.fingerprint}"
    )
    if own is not None:
        with own:
            if derive is not None:
                with derive_gallery(own, whitening, model, derive) as made:
                    print(f"{safe(derive)}: {count_of(made.catalog.searchable_count(), 'picture')}, whitened")


def _learn(
    source: str,
    out: str,
    kind: str,
    dim: int | None,
    shrinkage: float,
    tell: Callable[[str], None],
    quiet: bool,
    *,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    engine: str,
    gallery: str | None,
    data: str,
    images: str | None,
) -> tuple[Model, Whitening, dict[str, Any]]:
    """The model before the whitening, the whitening learned from ``source``, and what it was learned on."""
    from retrieval.datasets.load import load_truth
    from retrieval.datasets.published.whitening_pairs import whitening_pairs
    from retrieval.describe.choice import ModelChoice
    from retrieval.describe.whitened_model import check_whitenable
    from retrieval.evaluation.described_set import describe_set, matching_pairs
    from retrieval.evaluation.set_cache import open_gallery
    from retrieval.models.checkpoint import FILE_NAME
    from retrieval.models.whitening import fit_pairs, fit_pca
    from retrieval.models.whitening_origin import learned_on

    if source.startswith("retrieval-SfM-") and not Path(source).exists():
        truth = whitening_pairs(source, data)
    else:
        truth = load_truth(source, data, images)
    with open_gallery(truth, source, gallery, ModelChoice(model, size, scales), engine, tell) as cache:
        check_whitenable(cache.spec, Path(out) / FILE_NAME)
        described = describe_set(truth, cache, say=tell, bars=lambda label: progress_bar(label, quiet))
        vectors, pairs = matching_pairs(described)
        whitening = fit_pairs(vectors, pairs, dim) if kind == "lw" else fit_pca(vectors, dim, shrinkage)
        return cache.model, whitening, learned_on(truth.name, described.hashes)
