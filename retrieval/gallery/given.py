"""What a program hands to a gallery, looked at once: names, lists, the model. What cannot be meant is a UsageError, in words."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.describe.model import Model
from retrieval.errors import UsageError


def one_name(what: str, value: object) -> str:
    """A path or a name as text. Raises UsageError for anything else, and for an empty one: the current folder is not meant."""
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        raise UsageError(f"{what} must be a name or a path, not {value!r:.60}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise UsageError(f"{what}: {name!r:.60} is not valid Unicode") from None
    if not name:
        raise UsageError(f"{what}: the name is empty", "The current folder is '.'.")
    return name


def names_of(what: str, value: object) -> list[str]:
    """One path or name, or several. Raises UsageError."""
    if isinstance(value, str | os.PathLike):
        return [one_name(what, value)]
    several = _several(value)
    if several is None:
        raise UsageError(f"{what} must be a name, a path or a list of them, not {value!r:.60}")
    return [one_name(what, name) for name in several]


def listed(what: str, value: Any) -> list[Any]:
    """Several things as a list. Raises UsageError for what holds none."""
    several = _several(value)
    if several is None:
        raise UsageError(f"{what} must be a list, not {value!r:.60}")
    return several


def _several(value: Any) -> list[Any] | None:
    """None for what is one thing; NumPy's arrays without a dimension look as if they held several."""
    if isinstance(value, str | bytes | os.PathLike):
        return None
    try:
        several = iter(value)
    except TypeError:
        return None
    return list(several)  # what a generator raises is its own


def real_numbers(values: npt.ArrayLike, kind: type[np.floating[Any]], what: str) -> np.ndarray:
    """An array of ``kind``. Raises UsageError, which says ``what`` is wanted, for what holds no real numbers."""
    try:
        found = np.asarray(values)
        if found.dtype.kind != "c":  # else the imaginary part would be lost
            return found.astype(kind, copy=False)
    except (TypeError, ValueError, OverflowError, OSError):  # OSError: of a picture that cannot be read
        pass
    raise UsageError(what)


def check_model(model: object) -> None:
    """Raises UsageError for what is no model, such as the name of one."""
    if not isinstance(model, Model):
        raise UsageError(f"a gallery is made with a model, not with {model!r:.60}", "load_model(NAME) loads one.")
