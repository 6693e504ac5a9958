"""What a program hands to a gallery, looked at once: names, lists, the model. What cannot be meant is a UsageError, in words."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from retrieval.describe.model import Model
from retrieval.errors import UsageError


def one_name(what: str, value: object) -> str:
    """A path or a name as text. Raises UsageError for anything else, and for an empty one: the current folder is not meant."""
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        raise UsageError(f"{what} must be a name or a path, not {value!r:.60}")
    if not name:
        raise UsageError(f"{what}: the name is empty", "The current folder is '.'.")
    return name


def names_of(what: str, value: object) -> list[str]:
    """One path or name, or several. Raises UsageError."""
    if isinstance(value, str | os.PathLike):
        return [one_name(what, value)]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise UsageError(f"{what} must be a name, a path or a list of them, not {value!r:.60}")
    return [one_name(what, name) for name in value]


def listed(what: str, value: Any) -> list[Any]:
    """Several things as a list. Raises UsageError for what holds none."""
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise UsageError(f"{what} must be a list, not {value!r:.60}")
    return list(value)


def check_model(model: object) -> None:
    """Raises UsageError for what is no model, such as the name of one."""
    if not isinstance(model, Model):
        raise UsageError(f"a gallery is made with a model, not with {model!r:.60}", "load_model(NAME) loads one.")
