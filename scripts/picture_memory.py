"""How much memory the largest pictures take that the default limits let through: the loading process and the one that decodes.

python scripts/picture_memory.py        # Linux; writes half a gigabyte of pictures into a temporary folder
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

LOAD = """
import sys
from retrieval.errors import ImageError
from retrieval.pictures.imaging import load_picture
try:
    print("x".join(map(str, load_picture(sys.argv[1], size=512).array.shape)))
except ImageError as error:
    print("refused:", error.message)
"""
SIDE = 12_600  # of a square whose pixels take four bytes each and a little: just within 720 MB with what resizing needs


def write_png(path: Path, width: int, height: int, *, channels: int, depth: int) -> None:
    """Row by row: equal rows of noise."""
    row = b"\0" + np.random.default_rng(0).bytes(width * channels * depth // 8)
    packed = zlib.compressobj(1)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    )


def write_all(folder: Path) -> None:
    write_png(folder / "rgb.png", SIDE, SIDE, channels=3, depth=8)
    write_png(folder / "rgba.png", SIDE, SIDE, channels=4, depth=8)
    write_png(folder / "grey, 16 bits.png", SIDE, SIDE, channels=1, depth=16)
    write_png(folder / "rgba, 16 bits.png", 9_000, 9_000, channels=4, depth=16)
    write_png(folder / "wide.png", 160_000, 1_000, channels=3, depth=8)
    Image.MAX_IMAGE_PIXELS = None
    picture = Image.new("RGB", (SIDE, SIDE), (30, 90, 200))
    for name in ("baseline.jpg", "rgb.bmp", "rgb.ppm"):
        picture.save(folder / name)
    picture.convert("P").save(folder / "palette.gif")
    picture.resize((SIDE - 100, SIDE)).save(folder / "lzw.tif", compression="tiff_lzw")
    picture.convert("CMYK").save(folder / "cmyk.tif")
    for name, side in (
        ("progressive.jpg", 10_000),
        ("lossy.webp", 6_200),
        ("jpeg2000.jp2", 5_700),
        ("av1.avif", 7_300),
    ):
        picture.resize((side, side)).save(folder / name, **({"progressive": True} if name.endswith("jpg") else {}))


def tree(pid: int) -> list[int]:
    try:
        children = [
            int(c) for path in Path(f"/proc/{pid}/task").iterdir() for c in (path / "children").read_text().split()
        ]
    except OSError:
        return [pid]
    return [pid, *(p for child in children for p in tree(child))]


def held(pid: int) -> int:
    """Bytes; what several processes share counts once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(folder)
        print("| picture | MB | s | |\n|---|---|---|---|")
        for path in sorted(folder.iterdir()):
            began, most = time.perf_counter(), 0
            process = subprocess.Popen([sys.executable, "-c", LOAD, str(path)], stdout=subprocess.PIPE, text=True)
            while process.poll() is None:
                most = max(most, sum(map(held, tree(process.pid))))
                time.sleep(0.02)
            said = process.communicate()[0].strip()
            print(f"| {path.name} | {most / 1e6:.0f} | {time.perf_counter() - began:.1f} | {said} |", flush=True)


if __name__ == "__main__":
    main()
