"""What a gallery can be asked for, whatever keeps it; and the one error for what it does not offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from retrieval.models.spec import ModelSpec
from retrieval.web.errors import ApiError

_NAMES = {
    "duplicates": "a search for duplicates",
    "map": "a map",
    "why": "explanations",
    "rerank": "a second look",
    "fold": "folding of copies",
    "exclude_self": "leaving out the picture that asks",
    "rank": "an order by anything but the cosine",
    "min_probability": "probabilities",
    "places": "pages by their place",
    "files": "pictures of its own",
    "unreadable": "a list of what cannot be read",
}
ALL = frozenset(_NAMES)


class Shown(Protocol):
    """A gallery as requests see it. ``name`` is what they call it; ``verdicts``: whether answers come with them; ``offers``:
    which of :data:`ALL` it can do. Several threads may ask. Methods raise ApiError and the program's own errors."""

    name: str
    offers: frozenset[str]

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def verdicts(self) -> bool: ...

    def count(self) -> int:
        """How many pictures can be searched."""

    def search(self, source: bytes | int, k: int, box: Sequence[float] | None, **options: Any) -> dict[str, Any]:
        """By an upload or the picture of an id; ``options`` as ``Gallery.query`` has them, ``under`` as it is shown."""

    def search_by_vector(
        self, vector: Sequence[float], k: int, under: str | None, min_score: float | None
    ) -> dict[str, Any]:
        """By a descriptor of unit length."""

    def one(self, number: int) -> dict[str, Any]:
        """What is known of a picture."""

    def thumbnail(self, number: int, side: int) -> bytes:
        """A WebP."""

    def listing(self, after: int, limit: int, under: str | None, offset: int | None = None) -> dict[str, Any]:
        """So many pictures by ascending id, from the first after ``after`` on, or from the place ``offset`` on."""

    def stats(self) -> dict[str, Any]:
        """Counts, folders, and what could not be read."""

    def why(self, source: bytes | int, number: int, box: Sequence[float] | None, heads: bool) -> dict[str, Any]:
        """Why the picture ``number`` matches a query."""

    def sampled(self, count: int) -> tuple[list[dict[str, Any]], Any, int]:
        """At most ``count`` pictures, evenly chosen; their vectors, float32 (N, D); and how many there are."""

    def state(self) -> object:
        """Another one after every change."""

    def prepare(self) -> None:
        """Load what explains matches."""


def refused(gallery: str, what: str) -> ApiError:
    """The answer to a request for what a gallery does not offer; ``what`` is one of :data:`ALL`."""
    return ApiError(
        422,
        f"The gallery {gallery} is kept by a server and offers no {_NAMES[what].removeprefix('a ')}.",
        "not_offered",
    )


def require(gallery: Shown, what: str) -> None:
    """Raises ApiError 422 "not_offered" unless the gallery offers it."""
    if what not in gallery.offers:
        raise refused(gallery.name, what)
