"""Image retrieval with GeM descriptors.

>>> from retrieval import Gallery, load_model
>>> gallery = Gallery.create("album/.retrieval", load_model("auto"))    # doctest: +SKIP
>>> gallery.index(["album"])                                            # doctest: +SKIP
>>> for match in gallery.query("photo.jpg", k=10).matches:              # doctest: +SKIP
...     print(match.rank, match.score, match.path)
"""

from __future__ import annotations

from retrieval.errors import (
    DatasetError,
    DownloadError,
    GalleryDamaged,
    GalleryError,
    GalleryLocked,
    GalleryMismatch,
    ImageError,
    ModelError,
    RetrievalError,
    UsageError,
)
from retrieval.system.private import keep_private
from retrieval.version import __version__

keep_private()  # before any library that reports its use can be imported

TYPE_CHECKING = False  # typing takes as long to import as the rest of what a query needs before it is on its way
if TYPE_CHECKING:
    from retrieval.describe.model import Model, load_model
    from retrieval.evaluation.run import Evaluation, evaluate
    from retrieval.gallery.answers import Match, QueryResult
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.work import SyncReport
    from retrieval.pooling.registry import create_pooling
    from retrieval.training.config import TrainingConfig
    from retrieval.training.session import train

__all__ = [
    "DatasetError",
    "DownloadError",
    "Evaluation",
    "Gallery",
    "GalleryDamaged",
    "GalleryError",
    "GalleryLocked",
    "GalleryMismatch",
    "ImageError",
    "Match",
    "Model",
    "ModelError",
    "QueryResult",
    "RetrievalError",
    "SyncReport",
    "TrainingConfig",
    "UsageError",
    "__version__",
    "create_pooling",
    "evaluate",
    "load_model",
    "train",
]

# Loaded when first asked for, so that `import retrieval` costs nothing.
_HOMES = {
    "Evaluation": "retrieval.evaluation.run",
    "Gallery": "retrieval.gallery.gallery",
    "Match": "retrieval.gallery.answers",
    "Model": "retrieval.describe.model",
    "QueryResult": "retrieval.gallery.answers",
    "SyncReport": "retrieval.gallery.planning",
    "TrainingConfig": "retrieval.training.config",
    "create_pooling": "retrieval.pooling.registry",
    "evaluate": "retrieval.evaluation.run",
    "load_model": "retrieval.describe.model",
    "train": "retrieval.training.session",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'retrieval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
