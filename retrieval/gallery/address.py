"""Addresses of galleries that a server keeps: what they look like, and how they are shown without what is secret in them."""

from __future__ import annotations

import os
import re
import urllib.parse

SCHEMES = ("postgresql", "milvus")
_SECRET = re.compile(r"(?i)((?:^|&)(?:password|token|sslpassword)=)[^&]*")


def is_served(index: str | os.PathLike[str] | None) -> bool:
    """Whether ``--index`` names a server and not a folder."""
    return index is not None and os.fspath(index).partition("://")[0] in SCHEMES and "://" in os.fspath(index)


def served_address(index: str | os.PathLike[str] | None) -> str | None:
    """The address that ``--index`` names, or else ``RETRIEVE_INDEX``; None where that is a folder or nothing."""
    named = index or os.environ.get("RETRIEVE_INDEX")
    return os.fspath(named) if named and is_served(named) else None


def shown(address: str) -> str:
    """An address without password and token."""
    parts = urllib.parse.urlsplit(address)
    login, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=login.partition(":")[0] + at + host, query=_SECRET.sub(r"\1***", parts.query)).geturl()
