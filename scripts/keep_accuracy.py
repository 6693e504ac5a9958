"""What `retrieve duplicates --keep best` lists: photos beside lesser copies, and beside pictures made of them that are larger,
lossless or have more bytes, and are less or something else.

    python scripts/keep_accuracy.py photos/ --count 40

A photo that is listed beside something that is not as good is a loss; a lesser copy that is left alone costs room.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from threadpoolctl import threadpool_limits

from retrieval.gallery.duplicates.edits import worth_keeping
from retrieval.gallery.duplicates.items import Item
from retrieval.gallery.duplicates.look import Look
from retrieval.gallery.duplicates.quality import Quality, best_first, quality
from retrieval.gallery.duplicates.thumbnails import SIDE, thumbnail
from retrieval.pictures.imaging import is_picture_name, load_picture

Change = Callable[[Image.Image], Image.Image]


def _sized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(BytesIO(file.getvalue())).convert("RGB")


def _part(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 10, width - width // 10, height - height // 10))


def _words(image: Image.Image) -> Image.Image:
    higher = ImageOps.expand(image, (0, 0, 0, 50), "white")
    ImageDraw.Draw(higher).text((10, image.height + 10), "some words about it", fill="black", font_size=24)
    return higher


def _grain(image: Image.Image) -> Image.Image:
    grain = np.random.default_rng(0).normal(0, 12, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _sharpened(radius: float, percent: int) -> Change:
    return lambda image: image.filter(ImageFilter.UnsharpMask(radius, percent, 0))


# Suffix and quality of the file, and what is done before.
LESSER: dict[str, tuple[str, int, Change]] = {
    "half the size": (".jpg", 90, lambda image: _sized(image, 0.5)),
    "JPEG quality 75": (".jpg", 75, lambda image: image),
    "JPEG quality 30": (".jpg", 30, lambda image: image),
    "WebP quality 60": (".webp", 60, lambda image: image),
    "grey": (".jpg", 92, lambda image: image.convert("L")),
    "white border": (".jpg", 92, lambda image: ImageOps.expand(image, 40, "white")),
}
OTHERS: dict[str, tuple[str, int, Change]] = {
    "enlarged twofold": (".png", 0, lambda image: _sized(image, 2)),
    "enlarged by a quarter": (".jpg", 97, lambda image: _sized(image, 1.25)),
    "enlarged and blurred": (".jpg", 97, lambda image: _sized(image, 2).filter(ImageFilter.GaussianBlur(3))),
    "enlarged and sharpened": (".jpg", 97, lambda image: _sharpened(3, 150)(_sized(image, 2))),
    "enlarged, JPEG quality 20": (".jpg", 20, lambda image: _sized(image, 3)),
    "a part, enlarged": (".jpg", 95, lambda image: _sized(_part(image), 2)),
    "JPEG quality 25 as PNG": (".png", 0, lambda image: _jpeg(image, 25)),
    "JPEG quality 50 as PNG": (".png", 0, lambda image: _jpeg(image, 50)),
    "stretched": (".jpg", 97, lambda image: image.resize((round(1.3 * image.width), image.height))),
    "words below": (".png", 0, _words),
    "turned by 5 degrees": (".png", 0, lambda image: image.rotate(5, Image.Resampling.BICUBIC, expand=True)),
    "sharpened a little": (".png", 0, _sharpened(1, 60)),
    "saturated": (".png", 0, lambda image: ImageEnhance.Color(image).enhance(1.6)),
    "grain": (".png", 0, _grain),
    "a black border": (".png", 0, lambda image: ImageOps.expand(image, 40, "black")),
}


def _quality(path: Path) -> Quality:
    item = Item("file", None, path.name, str(path), "", None, None, None, "file")
    return quality(item, thumbnail(load_picture(str(path), size=SIDE).array), True)


def listed(photo: Path, made: Path) -> str:
    """Which of both need not be kept: "photo", "made", or "none"."""
    both = [photo, made]
    best, lesser = best_first([_quality(path) for path in both])
    return "none" if worth_keeping(Look(str(both[lesser])), Look(str(both[best]))) else ("photo", "made")[lesser]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=40, help="photos, evenly taken from the folders")
    given = parser.parse_args()
    photos = sorted(path for folder in given.photos for path in folder.rglob("*") if is_picture_name(path.name))
    photos = photos[:: max(1, len(photos) // given.count)][: given.count]
    print(f"{len(photos)} photos\n\n| made of it | the photo is listed | what was made | none |\n|---|---|---|---|")
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool, threadpool_limits(1, user_api="blas"):
        for name, (suffix, amount, change) in {**LESSER, **OTHERS}.items():

            def one(i: int, suffix: str = suffix, amount: int = amount, change: Change = change) -> str:
                made = Path(folder) / f"{i}{suffix}"
                image = change(Image.open(photos[i]).convert("RGB"))
                image.save(made, **({"quality": amount} if amount else {}))
                return listed(photos[i], made)

            counts = Counter(pool.map(one, range(len(photos))))
            print(f"| {name} | {counts['photo']} | {counts['made']} | {counts['none']} |", flush=True)


if __name__ == "__main__":
    main()
