"""Image retrieval with GeM descriptors.

>>> from retrieval import Gallery, load_model
>>> gallery = Gallery.create("album/.retrieval", load_model("auto"))    # doctest: +SKIP
>>> gallery.index(["album"])                                            # doctest: +SKIP
>>> for match in gallery.query("photo.jpg", k=10).matches:              # doctest: +SKIP
...     print(match.rank, match.score, match.path)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retrieval.version import __version__

if TYPE_CHECKING:
    from retrieval.describe.model import Model, load_model
    from retrieval.gallery.gallery import Gallery

__all__ = ["Gallery", "Model", "__version__", "load_model"]

# Loaded when first asked for, so that `import retrieval` costs nothing.
_HOMES = {
    "Gallery": "retrieval.gallery.gallery",
    "Model": "retrieval.describe.model",
    "load_model": "retrieval.describe.model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
