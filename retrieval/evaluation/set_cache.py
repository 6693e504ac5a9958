"""Where a set's descriptors are kept: a gallery in the user's cache or one that is named; and its queries' beside them."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.published.sets import SETS
from retrieval.describe.choice import ModelChoice
from retrieval.describe.model import Model
from retrieval.errors import UsageError
from retrieval.gallery.address import holds_gallery
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.same_model import require_same_model
from retrieval.gallery.store.view import read_arrays
from retrieval.messages import Say

QUERIES_FILE = "queries.npz"


def cache_folder(truth: GroundTruth, model: Model) -> Path:
    """Where a set's descriptors by a model are kept unless a gallery is named: below ``$XDG_CACHE_HOME/retrieval/evaluate``,
    by the set's name and place and the model's fingerprint."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = hashlib.blake2b(os.fsencode(truth.root.resolve()), digest_size=4).hexdigest()
    name = re.sub(r"[^\w.-]+", "_", truth.name).strip("._")[:60] or "set"
    return base / "retrieval" / "evaluate" / f"{name}-{place}-{model.fingerprint}"


def open_cache(folder: Path, model: Model | None, *, engine: str = "auto", warn: Say | None = None) -> Gallery:
    """The gallery in ``folder``, or a new one for ``model``. Raises GalleryMismatch when it was made with another model."""
    if model is None or holds_gallery(folder):
        gallery = Gallery.open(folder, engine=engine, warn=warn)
        if model is not None:
            gallery.require(model)
        return gallery
    return Gallery.create(folder, model, local=False)


def kept_queries(gallery: Gallery) -> dict[str, np.ndarray]:
    """Descriptors of queries by content hash and box; a file that is damaged or of another model counts as none."""
    found = read_arrays(gallery.folder / QUERIES_FILE)
    if found is None or set(found) != {"fingerprint", "keys", "vectors"}:
        return {}
    keys, vectors = found["keys"], found["vectors"]
    fits = str(found["fingerprint"]) == gallery.spec.fingerprint and vectors.shape == (len(keys), gallery.spec.dim)
    if not fits or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        return {}
    return {str(key): vector for key, vector in zip(keys, vectors, strict=True)}


def open_gallery(
    truth: GroundTruth,
    dataset: str,
    folder: str | Gallery | None,
    asked: ModelChoice,
    engine: str,
    say: Say,
) -> Gallery:
    """The gallery that keeps a set's descriptors: the one named or given, or one in the user's cache."""
    if asked.exif is None and (truth.name in SETS or dataset.lower().endswith(".pkl")):
        asked = replace(asked, exif=False)  # the benchmarks' boxes and published figures know no orientation
    if isinstance(folder, Gallery) or (folder is not None and holds_gallery(folder)):
        cache = folder if isinstance(folder, Gallery) else open_cache(Path(folder), None, engine=engine, warn=say)
        require_same_model(cache, asked, say)
        if asked.exif is not None and cache.spec.image.exif != asked.exif:
            words = ("with", "--exif") if cache.spec.image.exif else ("without", "--no-exif")
            raise UsageError(
                f"the gallery {getattr(cache, 'address', folder)} was made {words[0]} EXIF orientation",
                f"Name another gallery, or say {words[1]} to use it as it is.",
            )
        return cache
    chosen = asked.load(engine, say)
    return open_cache(Path(folder) if folder else cache_folder(truth, chosen), chosen, engine=engine, warn=say)
