"""Where galleries are: folders, and addresses of those that a server keeps, shown without what is secret in them.

Imports next to nothing: a query is on its way to another process before pathlib, or typing, is there.
"""

from __future__ import annotations

import os

from retrieval.errors import UsageError
from retrieval.files.withheld import may_be_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_FOLDER = ".retrieval"
DESCRIPTION, CATALOG = "gallery.json", "catalog.sqlite"  # in a gallery's folder
VECTORS_FOLDER, LOCAL_FOLDER, ANN_FOLDER = "vectors", "local", "ann"  # there too
SCHEMES = ("postgresql", "milvus")
_SECRET = r"(?i)((?:^|&)(?:password|token|sslpassword)=)[^&]*"


def holds_gallery(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a gallery in a folder, be it a damaged one."""
    return any(_is_there(os.path.join(folder, name)) for name in (DESCRIPTION, CATALOG))


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return may_be_whole(error)
    except ValueError:  # no name of a file
        return False
    return True


def is_served(index: str | os.PathLike[str] | None) -> bool:
    """Whether ``--index`` names a server and not a folder."""
    return index is not None and os.fspath(index).partition("://")[0] in SCHEMES and "://" in os.fspath(index)


def served_address(index: str | os.PathLike[str] | None) -> str | None:
    """The address that ``--index`` names, or else ``RETRIEVE_INDEX``; None where that is a folder or nothing."""
    named = index or os.environ.get("RETRIEVE_INDEX")
    return os.fspath(named) if named and is_served(named) else None


def shown(address: str) -> str:
    """An address without password and token."""
    import re  # only here: every command looks for its gallery
    import urllib.parse

    parts = urllib.parse.urlsplit(address)
    login, at, host = parts.netloc.rpartition("@")
    return parts._replace(
        netloc=login.partition(":")[0] + at + host, query=re.sub(_SECRET, r"\1***", parts.query)
    ).geturl()


def locate(index: str | os.PathLike[str] | None = None, *, start: str | os.PathLike[str] = ".") -> Path | None:
    """Where the gallery is: ``index`` if given, else ``RETRIEVE_INDEX``, else ``.retrieval`` in this or a folder above. A folder
    that is named and holds none itself stands for the one in its ``.retrieval``. Raises UsageError for an address."""
    from pathlib import Path

    found = located(index, start)
    return None if found is None else Path(found)


def located(index: str | os.PathLike[str] | None = None, start: str | os.PathLike[str] = ".") -> str | None:
    """See :func:`locate`."""
    named = index or os.environ.get("RETRIEVE_INDEX")
    if is_served(named):
        raise UsageError(
            f"{shown(os.fspath(named or ''))} is a served gallery, with which this command cannot work",
            "index (of parts), query, info and remove can.",
        )
    if named:
        inside = os.path.join(named, DEFAULT_FOLDER)
        return inside if holds_gallery(inside) and not holds_gallery(named) else os.fspath(named)
    here = os.path.abspath(start)
    while not os.path.isdir(found := os.path.join(here, DEFAULT_FOLDER)):
        if here == (here := os.path.dirname(here)):
            return None
    return found
