"""The program of docs/api.md: what somebody writes who builds retrieval into a program of their own."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from retrieval import Gallery, ImageError, Match, Model, QueryResult, load_model


def fill(gallery: Gallery, photos: dict[str, bytes]) -> list[int]:
    """Pictures from memory, each with what the program knows about it, in one call."""
    notes = [{"bytes": len(data), "shelf": i} for i, data in enumerate(photos.values())]
    added = gallery.add(list(photos), image=list(photos.values()), metadata=notes)
    assert isinstance(added, list)
    return added


def best(gallery: Gallery, picture: Image.Image) -> Match | None:
    result: QueryResult = gallery.query(picture, k=1, min_score=0.5)
    return result.matches[0] if result.matches else None


def main(folder: Path, model: Model, out: Path) -> dict[str, str]:
    photos = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.jpg"))}
    with Gallery.temporary(model) as gallery:
        fill(gallery, photos)
        pictures = {key: Image.open(io.BytesIO(data)) for key, data in photos.items()}
        with ThreadPoolExecutor(4) as pool:
            found = dict(
                zip(pictures, pool.map(lambda picture: best(gallery, picture), pictures.values()), strict=True)
            )
        try:
            gallery.add("broken", image=b"no picture")
        except ImageError as error:
            print(error, file=sys.stderr)
        gallery.export(out)
        return {key: "" if match is None else f"{match.path} {match.metadata}" for key, match in found.items()}


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), load_model("efficientnet_lite0-gem", size=320), Path(sys.argv[2])))
