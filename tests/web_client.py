"""The client of docs/web.md: the JSON API from Python, with the standard library alone."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any


class Client:
    """Asks a ``retrieve serve``. Errors of the server are RuntimeErrors that begin with the error's code."""

    def __init__(self, address: str = "http://127.0.0.1:8000", token: str | None = None) -> None:
        self.address, self.token = address.rstrip("/"), token

    def search(self, photo: Path | int, **options: Any) -> list[dict[str, Any]]:
        """Answers to a photo, or to the indexed picture of an id; ``k=5``, ``box="x1,y1,x2,y2"``, ``under="album"`` ..."""
        if isinstance(photo, int):
            answer = self._ask("/api/search", {"id": photo, **options})
        else:
            answer = self._ask("/api/search", options, photo.read_bytes())
        found: list[dict[str, Any]] = json.loads(answer)["results"]
        return found

    def thumbnail(self, number: int) -> bytes:
        """A small WebP."""
        return self._ask(f"/api/thumbnails/{number}", {})

    def _ask(self, path: str, options: dict[str, Any], body: bytes | None = None) -> bytes:
        url = f"{self.address}{path}?{urllib.parse.urlencode(options)}"
        headers = {"Content-Type": "application/octet-stream"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            told = json.load(error)["error"]
            raise RuntimeError(f"{told['code']}: {told['message']}") from error


if __name__ == "__main__":
    for row in Client().search(Path(sys.argv[1]), k=5):
        print(row["rank"], row["verdict"] or "-", f"{row['score']:.3f}", row["path"])
