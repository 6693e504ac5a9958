"""How well `retrieve duplicates` knows altered copies: photos altered in twelve ways and more, precision and recall by kind.

    python scripts/duplicates_accuracy.py photos/ more/ --count 300 --out copies

Measured twice. Together: the photos, their copies and ``--others`` photos that were not altered lie in one gallery; a copy is
found when it is in one group with its photo. Apart: the copies lie in a gallery of their own and are compared with the one
of the photos. Precision: of all pictures that copies of a kind share a group with, those that come from the same photo.
Photos that lie in the folders twice count as different ones.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from retrieval.describe.model import load_model
from retrieval.gallery.gallery import Gallery
from retrieval.messages import progress_bar
from retrieval.pictures.imaging import is_picture_name, load_picture
from retrieval.views.fonts import Lettering

Alteration = Callable[[Image.Image, np.random.Generator], Image.Image]


def _sized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _crop(image: Image.Image, rng: np.random.Generator, area: float) -> Image.Image:
    width, height = (round(side * area**0.5) for side in image.size)
    left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    return image.crop((left, top, left + width, top + height))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(BytesIO(file.getvalue())).convert("RGB")


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    up, down = rng.uniform(1.2, 1.5), rng.uniform(0.6, 0.8)
    bright, contrast = (up, down) if rng.random() < 0.5 else (down, up)
    return ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(bright)).enhance(contrast)


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    colour = tuple(int(v) for v in rng.choice([0, 255]) * np.ones(3)) if rng.random() < 0.5 else _colour(rng)
    return ImageOps.expand(image, max(1, round(rng.uniform(0.05, 0.12) * max(image.size))), colour)


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    copy = image.copy()
    letters = Lettering(max(10, image.height // 7))
    for line in ("SAMPLE photo", "www.example.org"):
        y = int(rng.integers(0, max(1, copy.height - letters.line_height)))
        letters.draw(copy, int(rng.integers(0, max(1, copy.width // 4))), y, line, "white" if y % 2 else "black")
    return copy


def _combined(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Smaller, a little cropped, other light, JPEG, with a bar below, as what goes round on the net."""
    small = _light(_crop(_sized(image, 0.6), rng, 0.85), rng)
    bar = Image.new("RGB", (small.width, round(small.height * 1.12)), "white")
    bar.paste(small)
    ImageDraw.Draw(bar).line((4, bar.height - 6, bar.width // 2, bar.height - 6), "black", 2)
    return _jpeg(bar, 45)


KINDS: dict[str, Alteration] = {
    "half the size": lambda image, rng: _sized(image, 0.5),
    "a quarter of the size": lambda image, rng: _sized(image, 0.25),
    "crop, 75 % of the area": lambda image, rng: _crop(image, rng, 0.75),
    "crop, 50 % of the area": lambda image, rng: _crop(image, rng, 0.5),
    "JPEG quality 30": lambda image, rng: _jpeg(image, 30),
    "grey": lambda image, rng: image.convert("L").convert("RGB"),
    "brightness and contrast": _light,
    "border": _border,
    "text over it": _text,
    "turned by 5 degrees": lambda image, rng: image.rotate(5, Image.Resampling.BICUBIC, fillcolor=_colour(rng)),
    "turned by 90 degrees": lambda image, rng: image.transpose(Image.Transpose.ROTATE_90),
    "combined": _combined,
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "crop, 25 % of the area": lambda image, rng: _crop(image, rng, 0.25),
}
BEYOND = {"mirrored", "crop, 25 % of the area"}  # kinds beside the twelve


def make(folders: list[Path], out: Path, count: int, others: int, seed: int) -> None:
    """``out/NUMBER/``: a photo and its copies, named by kind; ``out/others/``: photos that were not altered."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if is_picture_name(path.name))
    rng = np.random.default_rng(seed)
    chosen = [paths[i] for i in rng.permutation(len(paths))]
    for number, path in enumerate(chosen[:count]):
        folder = out / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(load_picture(path, size=None).array)
        photo.save(folder / "photo.png")
        for index, (kind, alter) in enumerate(KINDS.items()):
            altered = alter(photo, np.random.default_rng((seed, number, index)))
            altered.save(folder / f"{kind.replace(' ', '_')}.jpg", quality=88)
    (out / "others").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(chosen[count : count + others]):
        (out / "others" / f"{number:05d}{path.suffix}").write_bytes(path.read_bytes())


def score(groups: Iterable[list[str]], photos: list[str]) -> dict[str, tuple[float, float]]:
    """kind -> precision, recall; ``groups`` hold paths FOLDER/KIND.jpg."""
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for group in groups:
        homes = [os.path.dirname(path) for path in group]
        for path, home in zip(group, homes, strict=True):
            kind = Path(path).stem.replace("_", " ")
            right[kind] += sum(other == home for other in homes) - 1
            seen[kind] += len(group) - 1
            found[kind] += os.path.join(home, "photo.png") in group
    return {k: (right[k] / seen[k] if seen[k] else 1.0, found[k] / len(photos)) for k in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=300, help="photos that are altered")
    parser.add_argument("--others", type=int, default=1000, help="photos that are not altered")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--wrong", type=Path, help="write the groups that hold copies of different photos here, as JSON"
    )
    given = parser.parse_args()
    if not given.out.exists():
        make(given.folders, given.out, given.count, given.others, given.seed)
    photos = sorted(os.path.relpath(path, given.out) for path in given.out.glob("[0-9]*/photo.png"))
    print(f"{len(photos)} photos, {len(KINDS)} copies of each, {len(list((given.out / 'others').iterdir()))} others\n")
    results = {}
    # Together, copies help each other: a crop of a small copy is found by way of the small copy. Apart they do not.
    for title, groups in (("together", together(given)), ("apart", apart(given, photos))):
        results[title] = score(groups, photos)
        wrong = [g for g in groups if len({os.path.dirname(path) for path in g}) > 1 or "others" in g[0]]
        print(f"{title}: {len(groups)} groups, {len(wrong)} of them hold different photos\n", flush=True)
        if given.wrong:
            given.wrong.with_suffix(f".{title}.json").write_text(json.dumps(wrong, indent=1))
    print("| kind | precision | recall | precision, apart | recall, apart |\n|---|---|---|---|---|")
    for kind in KINDS:
        row = [f"{value:.3f}" for title in results for value in results[title][kind]]
        print(f"| {kind}{' (beside the twelve)' if kind in BEYOND else ''} | {' | '.join(row)} |")
    twelve = [[v for title in results for v in results[title][k]] for k in KINDS if k not in BEYOND]
    print(f"| mean of the twelve | {' | '.join(f'{value:.3f}' for value in np.mean(twelve, axis=0))} |")


def opened(given: argparse.Namespace, name: str, paths: list[str]) -> Gallery:
    folder = given.out / name
    if folder.exists():
        return Gallery.open(folder)
    gallery = Gallery.create(folder, load_model(given.model, size=given.size))
    with progress_bar("describing", False) as update:
        gallery.index(paths, progress=update)
    return gallery


def grouped(gallery: Gallery, root: Path, other: Gallery | None = None) -> list[list[str]]:
    started = time.monotonic()
    found = gallery.duplicates(other=other)
    print(f"{found.pictures} pictures in {time.monotonic() - started:.0f} s", flush=True)
    here = os.path.abspath(root)
    return [[os.path.relpath(os.path.abspath(m.path), here) for m in group.members] for group in found.groups]


def together(given: argparse.Namespace) -> list[list[str]]:
    with opened(given, ".together", [str(given.out)]) as gallery:
        return grouped(gallery, given.out)


def apart(given: argparse.Namespace, photos: list[str]) -> list[list[str]]:
    copies = [str(path) for path in sorted(given.out.glob("[0-9]*/*.jpg"))]
    with (
        opened(given, ".photos", [*(str(given.out / photo) for photo in photos), str(given.out / "others")]) as gallery,
        opened(given, ".copies", copies) as other,
    ):
        return grouped(gallery, given.out, other)


if __name__ == "__main__":
    main()
