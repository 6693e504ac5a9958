"""What a whitening was learned on, so that nobody measures it on the very same pictures by mistake, and at which scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retrieval.errors import UsageError
from retrieval.models.spec import ModelSpec

_SAMPLE = 256  # content hashes kept of the pictures that a whitening was learned on


_DIGITS = 12


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
