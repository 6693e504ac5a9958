"""A gallery opened for one question, whose picture is being described while the rest of the program is still on its way.

Imports little, so that the network's turn comes early: reading a compiled one takes as long as importing what asks it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from retrieval.gallery.address import locate
from retrieval.messages import Say

if TYPE_CHECKING:
    from retrieval.describe.model import Model
    from retrieval.gallery.gallery import Gallery

_TURN = 0.0005  # seconds for a thread that imports, while another one with the network waits for its turn

# To the end of the process, which does not take them apart: giving a network's memory back takes 20 ms.
_kept: list[Model] = []


def open_ahead(
    folder: str | os.PathLike[str] | None,
    image: str,
    bbox: Sequence[float] | None = None,
    *,
    engine: str = "auto",
    warn: Say,
) -> Gallery:
    """What ``Gallery.open`` gives, with the descriptor of ``image``, a file, or its ``bbox`` begun. Raises what that raises; what
    is wrong with the picture or the engine is raised by the question."""
    found = locate(folder)
    if found is None or not found.is_dir() or not os.path.isfile(image):
        from retrieval.gallery.gallery import Gallery

        return Gallery.open(folder, engine=engine, warn=warn)  # which says what is missing
    from retrieval.describe.begun import Begun
    from retrieval.gallery.description import described_model, read_description

    description = read_description(found)
    model = described_model(found, description, engine, say=warn)
    _kept.append(model)
    with _short_turns():
        begun = Begun(model, image, bbox)
        from retrieval.gallery.gallery import Gallery
    gallery = Gallery(found, description, engine, warn, model)
    gallery.begun = begun
    return gallery


@contextmanager
def _short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
