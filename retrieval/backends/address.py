"""What names a gallery on a server, and what an engine says of it without its secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable

from retrieval.errors import UsageError
from retrieval.gallery.address import shown
from retrieval.messages import first_line

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


def require_named(address: str, name: str, place: str | None, form: str) -> None:
    """Raises UsageError where ``address``, which has this ``form``, names no gallery or no ``place`` where it would be."""
    if not _NAME.fullmatch(name) or not place:
        raise UsageError(
            f"{shown(address)} names no gallery", f"It is {form}; NAME is lower-case letters, digits and _."
        )


def without_secrets(error: object, secrets: Iterable[str | None]) -> str:
    """What a library says, in one line, should its address or its password be part of it."""
    text = first_line(error, 300)
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
