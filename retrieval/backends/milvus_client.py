"""A connection to Milvus."""

from __future__ import annotations

import os
import time
import urllib.parse
from typing import Any

_AGAIN = 2.5  # seconds


def connected(library: Any, uri: str, user: str, password: str) -> Any:
    """A client by ``library`` (pymilvus); ``user`` and ``password`` as they stand in an address. Raises MilvusException.

    A server ends connections that lay idle, and for a second or two gRPC then refuses new ones to it at once: so what fails is
    tried once more."""
    token = os.environ.get("MILVUS_TOKEN", "")
    user, password = urllib.parse.unquote(user), urllib.parse.unquote(password)
    for wait in (_AGAIN, None):
        try:
            return library.MilvusClient(uri=uri, user=user, password=password, token=token, timeout=20)
        except library.MilvusException:
            if wait is None:
                raise
            time.sleep(wait)
    raise AssertionError
