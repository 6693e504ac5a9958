"""Small files that ask for much: refused by their headers, or stopped; and nothing else is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import CountedBytes, CountedFile
from PIL import Image, features

from retrieval.errors import ImageError, UsageError
from retrieval.pictures import apart
from retrieval.pictures.gate import Gate
from retrieval.pictures.imaging import Limits, load_picture, picture_size
from retrieval.pictures.splice import Spliced

HAS_AVIF = features.check("avif")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def reason(source: Any, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_picture(source, **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what is not pixels


def texts(kind: bytes, count: int, size: int) -> list[bytes]:
    body = b"x" * size
    heads = {b"tEXt": b"c\0", b"zTXt": b"c\0\0", b"iTXt": b"c\0\1\0\0\0", b"iCCP": b"c\0\0"}
    return [chunk(kind, heads[kind] + (body if kind == b"tEXt" else zlib.compress(body)))] * count


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"abCd", b"fdAT", b"acTL", b"fcTL"])
def test_a_png_is_read_whatever_lies_beside_its_pixels(kind: bytes, last: bool) -> None:
    image = noise(20, 10)
    data = encoded(image, "PNG")
    more = (
        b"".join(texts(kind, 3, 3_000_000))
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
        else chunk(kind, b"\xff" * 99)
    )
    place = data.index(b"IEND") - 4 if last else 33
    assert np.array_equal(load_picture(data[:place] + more + data[place:], size=None).array, np.asarray(image))


def test_metadata_of_a_png_that_tell_the_orientation_still_count() -> None:
    image = noise(20, 10)
    data = encoded(image, "PNG")
    xmp = b"XML:com.adobe.xmp\0%d\0\0\0" + b'<x tiff:Orientation="6"/>'
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  100\n" + exif.tobytes().hex().encode())
    for kind, text in ((b"iTXt", xmp.replace(b"%d", b"\0")), (b"zTXt", profile)):
        for place in (33, data.index(b"IEND") - 4):
            turned = data[:place] + chunk(kind, text) + data[place:]
            assert np.array_equal(load_picture(turned, size=None).array, np.rot90(np.asarray(image), -1))
            assert picture_size(turned) == (10, 20)


def test_a_jpeg_with_heaps_of_metadata_is_the_same_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(noise(40, 30), "JPEG", exif=exif)
    plain = load_picture(data, size=None).array
    heap = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", 65535) + head.ljust(65533, b"\0")
        for marker, head in (
            (0xFE, b"text"),
            (0xE2, b"ICC_PROFILE\0\1\1"),
            (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
            (0xED, b"x"),
        )
        for _ in range(40)
    )
    place = 4 + int.from_bytes(data[4:6], "big")
    crowded = data[:place] + heap + data[place:]
    assert np.array_equal(load_picture(crowded, size=None).array, plain)
    assert picture_size(crowded) == (30, 40)


def test_a_gif_with_comments_is_the_same_picture() -> None:
    data = encoded(noise(20, 10).quantize(16), "GIF", transparency=3)
    place = 13 + (3 << ((data[10] & 7) + 1))
    heap = (b"!\xfe" + (b"\xff" + b"c" * 255) * 500 + b"\0") * 3 + b"!\xff\x0bXMP DataXMP" + b"\3abc" * 900 + b"\0"
    assert np.array_equal(
        load_picture(data[:place] + heap + data[place:], size=None).array, load_picture(data, size=None).array
    )


def test_files_of_far_too_many_pieces_are_refused() -> None:
    """Whatever a file claims, a bounded number of looks at it is enough to refuse it: no reader walks through it first."""

    def refused(data: bytes, most_reads: int, most_bytes: int) -> str:
        file = CountedBytes(data)
        said = reason(file)
        assert file.reads <= most_reads, (said, file.reads)
        assert file.taken <= most_bytes, (said, file.taken)
        return said

    png = encoded(noise(9, 9), "PNG")
    jpeg = encoded(noise(9, 9), "JPEG")
    gif = encoded(noise(9, 9).quantize(4), "GIF")
    place = 13 + (3 << ((gif[10] & 7) + 1))
    assert "pieces" in refused(png[:33] + chunk(b"IDAT", b"") * 300_000 + png[33:], 200_020, 1_700_000)
    assert "segments" in refused(jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:], 20_020, 20_020 * 4096 + 200_000)
    assert "no segment" in refused(jpeg[:2] + b"\xff" * 5_000_000 + jpeg[2:], 20, 1_200_000)
    assert "blocks" in refused(gif[:place] + b"!\xfe" + b"\1a" * 3_000_000 + b"\0" + gif[place:], 20, 600_000)
    assert "header" in refused(b"P6\n#" + b"a" * 5_000_000, 20, 100_000)


# ------------------------------------------------------------------------------------------------ memory


def jpeg2000(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG2000"))
    box, codes = data.index(b"ihdr"), data.index(b"\xff\x4f\xff\x51")
    data[box + 4 : box + 12] = struct.pack(">II", height, width)
    for place in (codes + 8, codes + 24):  # the picture, and one tile for all of it
        data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    frame = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + b"VP8 " + struct.pack("<I", 10) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def avif(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "AVIF"))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", width, height)
    return bytes(data)


def tiff(width: int, height: int, kind: str) -> bytes:
    """One strip, packed, so that all of it is unpacked at once."""
    fields = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 32 if kind == "float" else 8), (259, 3, 1, 8),
        (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 9), (339, 3, 1, 3),
    ]  # fmt: skip
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + b"".join(struct.pack("<HHII", *f) for f in fields) + bytes(4)


def png(width: int, height: int, bits: int, colour: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


HUNGRY = {
    "png of one row": png(150_000_000, 1, 8, 0),
    "jpeg 2000": jpeg2000(13000, 13000),
    "webp": webp(13000, 13000),
    "tiff": tiff(13000, 13000, "float"),
    "tiff of strips": b"II*\0\x08\0\0\0"
    + struct.pack("<H", 5)
    + b"".join(
        struct.pack("<HHII", *field)
        for field in ((256, 4, 1, 1), (257, 4, 1, 9), (258, 3, 1, 8), (273, 4, 5_000_000, 8), (278, 4, 1, 1))
    ),
} | ({"avif": avif(13000, 13000)} if HAS_AVIF else {})


@pytest.mark.parametrize("kind", HUNGRY)
def test_a_picture_is_refused_for_its_memory_before_any_is_taken(kind: str) -> None:
    said = reason(HUNGRY[kind], size=64)
    assert "MB of memory, more than the limit of 720 MB" in said
    assert "--picture-memory" in said


def test_a_very_wide_picture_takes_no_longer_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's filter has six numbers for each column, computed anew for every strip."""
    filtered: list[int] = []
    resize = Image.Image.resize

    def counted(self: Image.Image, size: tuple[int, int], resample: Any = None, **options: Any) -> Image.Image:
        if resample != Image.Resampling.NEAREST:  # that one is how a part is cut out
            filtered.append(max(self.size))
        return resize(self, size, resample, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    # As few filters of that length as a picture has directions; strips of the usual size would be ten and more.
    data = encoded(Image.new("P", (1_000_000, 40)), "PNG")
    assert load_picture(data, size=64).array.shape == (1, 64, 3)
    assert sum(length == 1_000_000 for length in filtered) <= 2
    filtered.clear()
    assert load_picture(encoded(Image.new("P", (40, 1_000_000)), "PNG"), size=64).array.shape == (64, 1, 3)
    assert len(filtered) <= 20


def test_the_limit_of_memory_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(300, 200), "PNG")  # 4 bytes a pixel, and the result
    assert "limit of 0 MB" in reason(data, limits=Limits(memory=100_000))
    assert load_picture(data, limits=Limits(memory=2_000_000)).width == 300
    monkeypatch.setenv("RETRIEVE_PICTURE_MEMORY", "0.1")
    assert "limit of 0 MB" in reason(data)
    with pytest.raises(ImageError) as caught:
        load_picture(data)
    assert caught.value.limited
    for wrong in ("much", "-1", "0", "nan"):
        monkeypatch.setenv("RETRIEVE_PICTURE_MEMORY", wrong)
        with pytest.raises(UsageError, match="RETRIEVE_PICTURE_MEMORY"):
            load_picture(data)


PEAK = """
import json, resource, sys
from retrieval.pictures import apart
from retrieval.pictures.imaging import load_picture
said = []
for path in sys.argv[1:]:
    try:
        said.append(str(load_picture(path, size=64).array.shape))
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
apart._end_all()
with open("/proc/self/status") as file:  # not ru_maxrss, in which that of the parent counts
    own = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
peaks = [own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
print(json.dumps({"said": said, "peaks": peaks}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_no_picture_takes_more_than_the_limit(tmp_path: Path) -> None:
    """Slow: it decodes pictures as large as a limit of a third of the usual lets through, in every format."""
    flat = Image.new("RGB", (3460, 3170), (9, 99, 9))
    files = {
        "a.png": encoded(Image.new("RGBA", (7200, 6900), (9, 9, 9, 99)), "PNG", compress_level=1),
        "b.gif": encoded(Image.new("P", (7200, 6900)), "GIF", transparency=0),
        "c.jpg": encoded(Image.new("RGB", (5190, 4610)), "JPEG", progressive=True),
        "d.tif": encoded(Image.new("F", (7200, 6900)), "TIFF", compression="tiff_lzw"),
        "e.jp2": encoded(flat, "JPEG2000"),
        "f.webp": encoded(Image.new("RGBA", (3750, 3170), (9, 9, 9, 99)), "WEBP", lossless=True, method=0),
    } | {f"{kind}.bin": data for kind, data in HUNGRY.items()}
    if HAS_AVIF:
        files["g.avif"] = encoded(flat, "AVIF", speed=10)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *(str(tmp_path / name) for name in files)],
        env=os.environ | {"RETRIEVE_PICTURE_MEMORY": "280"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    read = [said for said in told["said"] if said.startswith("(")]
    assert len(read) == len(files) - len(HUNGRY), told
    assert max(told["peaks"]) * 1024 < 280e6 + 130e6, told  # the interpreter and numpy take some, too


def test_pictures_wait_for_memory_in_their_order() -> None:
    gate = Gate()
    order: list[str] = []
    entered = threading.Event()
    leave = threading.Event()

    def hold(name: str, need: int) -> None:
        with gate.room(need, 100):
            order.append(name)
            if name == "first":
                entered.set()
                leave.wait(10)

    first = threading.Thread(target=hold, args=("first", 60))
    first.start()
    assert entered.wait(10)
    others = []
    for name, need in (("giant", 500), ("small", 10)):  # what comes after a giant does not overtake it for ever
        others.append(threading.Thread(target=hold, args=(name, need)))
        others[-1].start()
        while len(gate._waiting) < len(others):
            time.sleep(0.001)
    assert order == ["first"]
    leave.set()
    for thread in (first, *others):
        thread.join(10)
    assert order == ["first", "giant", "small"]


# ------------------------------------------------------------------------------------------------ time, and crashes


def many_scans(count: int, width: int = 64, height: int = 48) -> bytes:
    """A progressive JPEG whose last refinement is repeated: a few bytes a scan."""
    data = encoded(Image.new("L", (width, height)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    for data in (many_scans(5000), many_scans(5000).replace(b"\xff\xd9", b"")):
        file = CountedBytes(data)
        assert "more than 200 scans" in reason(file, size=32)
        assert file.reads < 250  # one a scan, up to the limit, and none by a decoder
    assert load_picture(many_scans(50), size=32).array.shape == (24, 32, 3)
    assert "longer than the limit of 0.001 s" in reason(many_scans(150, 2000, 2000), limits=Limits(seconds=0.001))


def test_a_film_behind_a_jpeg_is_not_taken_for_scans() -> None:
    data = encoded(noise(40, 30), "JPEG", progressive=True) + b"\xff\xda\0\2" * 10_000
    assert load_picture(data, size=None).array.shape == (30, 40, 3)


@pytest.fixture
def workers() -> Any:
    apart._end_all()
    yield
    apart._end_all()


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF"])
def test_formats_of_doubtful_decoders_are_decoded_in_another_process(kind: str, workers: None, tmp_path: Path) -> None:
    if kind == "AVIF" and not HAS_AVIF:
        pytest.skip("this Pillow was built without AVIF")
    image = noise(60, 40)
    data = encoded(image, kind)
    path = tmp_path / "é [1].jp2"
    path.write_bytes(data)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for source in (path, str(path), data, io.BytesIO(data)):
        picture = load_picture(source, size=None)
        assert np.array_equal(picture.array, want)
        assert (picture.width, picture.height) == (60, 40)
        assert picture_size(source) == (60, 40)
    assert len(apart._idle) == 1
    with open(path, "rb") as file:
        assert np.array_equal(load_picture(file, size=None).array, want)
    with pytest.raises(UsageError, match="60 x 40 pixels"):
        load_picture(data, bbox=(100, 0, 120, 10))
    assert reason(data[: len(data) // 2]).startswith(("damaged", "truncated"))
    with ThreadPoolExecutor(6) as pool:
        for picture in pool.map(lambda size: load_picture(data, size=size), [8, 16, 30] * 8):
            assert picture.array.shape[1] in (8, 16, 30)
    assert len(apart._idle) <= 4


def test_without_another_process_pictures_are_decoded_here(workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(apart, "_none_can_be_had", False)
    data = encoded(noise(30, 20), "JPEG2000")
    assert load_picture(data, size=None).array.shape == (20, 30, 3)
    assert apart._none_can_be_had


def stopped(pid: int, number: int) -> None:
    time.sleep(0.2)
    for each in (number, signal.SIGCONT):  # what is stopped dies of the first when it goes on
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, each)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGSEGV, "crashed on it (SIGSEGV)"),
        (signal.SIGPROF, "takes longer than the limit"),
        (signal.SIGKILL, "did not end"),
    ],
)
def test_a_process_that_dies_costs_its_picture_alone(number: int, message: str, workers: None) -> None:
    data = encoded(noise(30, 20), "JPEG2000")
    load_picture(data)
    (worker,) = apart._idle
    os.kill(worker._process.pid, signal.SIGSTOP)  # as if it took long
    killer = threading.Thread(target=stopped, args=(worker._process.pid, number))
    killer.start()
    assert message in reason(data, limits=Limits(seconds=20))
    killer.join()
    assert load_picture(data, size=None).array.shape == (20, 30, 3)  # by a new one


def test_a_process_stays_after_a_damaged_picture(workers: None) -> None:
    data = encoded(noise(30, 20), "JPEG2000")
    load_picture(data)
    (worker,) = apart._idle
    for _ in range(3):
        assert reason(data[: len(data) // 2]).startswith(("damaged", "truncated"))
        assert apart._idle == [worker]
    assert load_picture(data, size=None).array.shape == (20, 30, 3)


def test_a_process_that_dies_of_the_picture_before_costs_none(workers: None) -> None:
    data = encoded(noise(30, 20), "JPEG2000")
    reason(data[: len(data) // 2])
    (worker,) = apart._idle
    os.kill(worker._process.pid, signal.SIGSTOP)
    killer = threading.Thread(target=stopped, args=(worker._process.pid, signal.SIGSEGV))
    killer.start()
    assert load_picture(data, size=None).array.shape == (20, 30, 3)
    killer.join()
    assert worker not in apart._idle


def test_a_process_that_died_meanwhile_costs_no_picture(workers: None) -> None:
    data = encoded(noise(30, 20), "JPEG2000")
    load_picture(data)
    (worker,) = apart._idle
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    assert load_picture(data, size=None).array.shape == (20, 30, 3)


def test_a_decoder_that_does_not_end_is_stopped(workers: None) -> None:
    data = encoded(noise(30, 20), "JPEG2000")
    load_picture(data)
    (worker,) = apart._idle
    os.kill(worker._process.pid, signal.SIGSTOP)  # by itself it would never end
    with pytest.raises(ImageError, match=r"did not end within 0\.5 s") as caught:
        load_picture(data, limits=Limits(seconds=0.5))
    assert caught.value.transient  # the machine may have been busy: tried again at the next run
    assert worker._process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to its memory")
def test_a_decoder_that_takes_more_than_was_expected_is_stopped(workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG 2000 that needs 300 MB, passed off as one that needs next to nothing."""
    data = encoded(Image.new("RGB", (4000, 4000)), "JPEG2000")
    monkeypatch.setattr("retrieval.pictures.imaging.check_memory", lambda need, limits: None)
    worker = apart._take()
    assert worker is not None
    question = {"what": "load", "path": None, "options": {"size": 8}, "limits": vars(Limits(memory=400_000_000))}
    pixels, width, height = worker.ask(question, data, Limits())
    assert (width, height, pixels.shape) == (4000, 4000, (8, 8, 3))
    code = (
        "import sys; from retrieval.pictures import headers, worker; from retrieval.pictures.limits import Limits\n"
        "worker.restrict(Limits(memory=1_000_000), 0)\n"
        "try: bytearray(300_000_000)\nexcept MemoryError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "refused"
    worker.end()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    path.write_bytes(encoded(noise(30, 20), "JPEG2000"))
    code = (
        "import os, sys; from retrieval.pictures import apart; from retrieval.pictures.imaging import load_picture\n"
        "load_picture(sys.argv[1]); print(apart._idle[0]._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{pid}/stat") as file:
            if ") Z " in file.read():
                return
        time.sleep(0.02)
    raise AssertionError("still there")


# ------------------------------------------------------------------------------------------------ files


def test_a_sparse_giant_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    for name, head, said in (
        ("a.jpg", b"", "not a picture"),
        ("b.jpg", b"\xff\xd8\xff\xe0", "60.0 GB in one file"),
        ("c.tif", b"II*\0\x08\0\0\0", "60.0 GB in one file"),
    ):
        with open(tmp_path / name, "wb") as file:
            file.write(head)
            file.truncate(60_000_000_000)
        assert said in reason(tmp_path / name)
        with CountedFile(tmp_path / name) as opened:
            assert said in reason(opened)
            assert opened.taken <= 1000


@pytest.mark.parametrize(
    "target", ["/proc/kmsg", "/proc/self/status", "/dev/zero", "/dev/tty", "/dev/null", "/proc/kcore"]
)
def test_links_to_files_of_the_system_are_refused_at_once(target: str, tmp_path: Path) -> None:
    if not os.path.exists(target):
        pytest.skip(f"no {target} here")
    link = tmp_path / "a.jpg"
    link.symlink_to(target)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(reason(link)), daemon=True)
    thread.start()
    thread.join(10)
    assert said
    assert said[0] in (
        "empty file",
        "not a regular file (device)",
        "permission denied",
        "not a picture that can be read",
    )


def test_a_spliced_file_reads_like_its_parts_put_together() -> None:
    data = bytes(range(256)) * 3
    spans = [(700, 710), (5, 5), (3, 40), (40, 90), (600, 768), (0, 1)]
    want = b"".join(data[begin:end] for begin, end in spans)
    spliced = Spliced(io.BytesIO(data), spans)
    assert spliced.read() == want
    rng = np.random.default_rng(0)
    for _ in range(200):
        place, count = (int(n) for n in rng.integers(0, len(want) + 5, 2))
        spliced.seek(place)
        assert spliced.read(count) == want[place : place + count]
        assert spliced.tell() == place + len(want[place : place + count])
    assert spliced.seek(0, io.SEEK_END) == len(want)
