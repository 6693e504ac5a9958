"""Archives, honest and hostile: what is unpacked, what is refused, and that nothing is left behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from webserver import BODY, files_in, tar_of

from retrieval.datasets.published.archives import Limits, unpack
from retrieval.datasets.published.sets import SETS
from retrieval.errors import DownloadError

PICTURES = {"a.jpg": b"\xff\xd8 one" * 50, "deep/er/b.JPG": random.Random(3).randbytes(5000), "deep/c.jpg": b""}


def zip_of(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as bundle:
        for name, data in entries.items():
            bundle.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("make", [tar_of, lambda e: tar_of(e, "w"), zip_of, lambda e: zip_of(e, zipfile.ZIP_STORED)])
def test_an_archive_is_unpacked(make: Callable[[dict[str, bytes]], bytes], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(make(PICTURES))
    seen: list[int] = []
    found = unpack(tmp_path / "x", tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert files_in(tmp_path / "out") == PICTURES
    expected = [(name, len(data), hashlib.blake2b(data, digest_size=16).hexdigest()) for name, data in PICTURES.items()]
    assert [(one.path, one.size, one.digest) for one in found] == expected
    assert len(seen) == len(PICTURES)
    assert sorted(os.listdir(tmp_path)) == ["out", "x"]


def test_only_what_is_placed_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(tar_of({**PICTURES, "deep/README": b"read me"}))
    unpack(tmp_path / "x", tmp_path / "out", place=SETS["roxford5k"].place())
    assert sorted(files_in(tmp_path / "out")) == ["a.jpg", "b.JPG", "c.jpg"]
    (tmp_path / "x").write_bytes(tar_of({"a/1.jpg": b"1", "b/1.jpg": b"2"}))
    with pytest.raises(DownloadError, match="twice"):
        unpack(tmp_path / "x", tmp_path / "flat", place=SETS["roxford5k"].place())


def raw_tar(*infos: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return out.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def zip_link(name: str, to: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(info, to)
    return out.getvalue()


ESCAPED = f"/tmp/escaped-absolute-{os.getpid()}.jpg"
HOSTILE = {
    "tar climbs": raw_tar(entry("ok.jpg"), entry("../escaped.jpg", size=3)),
    "tar climbs inside": raw_tar(entry("a/../../escaped.jpg", size=3)),
    "tar absolute": raw_tar(entry(ESCAPED, size=3)),
    "tar climbing folder": raw_tar(entry("../escaped", tarfile.DIRTYPE)),
    "tar backslash": raw_tar(entry("..\\escaped.jpg", size=3)),
    "tar drive": raw_tar(entry("C:escaped.jpg", size=3)),
    "tar newline": raw_tar(entry("a\nb.jpg", size=3)),
    "link out, written through": raw_tar(
        entry("door", tarfile.SYMTYPE, "../outside"), entry("door/escaped.jpg", size=3)
    ),
    "link to absolute": raw_tar(entry("door", tarfile.SYMTYPE, "/etc")),
    "link inside": raw_tar(entry("a.jpg", size=3), entry("b.jpg", tarfile.SYMTYPE, "a.jpg")),
    "hard link": raw_tar(entry("a.jpg", tarfile.LNKTYPE, "../outside/secret")),
    "character device": raw_tar(entry("null", tarfile.CHRTYPE)),
    "block device": raw_tar(entry("disk", tarfile.BLKTYPE)),
    "pipe": raw_tar(entry("pipe", tarfile.FIFOTYPE)),
    "zip climbs": zip_of({"../escaped.jpg": b"x"}),
    "zip absolute": zip_of({ESCAPED: b"x"}),
    "zip link": zip_link("door", "/etc"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_whole(what: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "x").write_bytes(HOSTILE[what])
    with pytest.raises(DownloadError, match=r"refused.*Nothing of it was kept"):
        unpack(inside / "x", inside / "out")
    assert os.listdir(inside) == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["inside", "outside"]
    assert files_in(tmp_path / "outside") == {"secret": b"secret"}
    assert not Path(ESCAPED).exists()


def test_our_own_checks_stand_without_tarfiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    for what, data in HOSTILE.items():
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(DownloadError, match="refused"):
            unpack(tmp_path / "x", tmp_path / "out")
        assert os.listdir(tmp_path) == ["x"], what


SMALL = Limits(files=1000, bytes=1 << 20, ratio=20.0, grace=10_000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tar_of({"a.jpg": bytes(500_000)}), "unpacks to more"),  # by its ratio
        (zip_of({"a.jpg": bytes(500_000)}), "unpacks to more"),
        (tar_of({f"{i}.jpg": random.Random(i).randbytes(300_000) for i in range(4)}, "w"), "unpacks to more"),
        (tar_of({f"{i}.jpg": b"" for i in range(1001)}), "more than 1000 entries"),
        (zip_of({f"{i}.jpg": b"" for i in range(1001)}), "more than 1000 entries"),
        (raw_tar(*(entry(f"{i}", tarfile.DIRTYPE) for i in range(1001))), "more than 1000 entries"),
    ],
)
def test_a_bomb_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DownloadError, match=reason):
        unpack(tmp_path / "x", tmp_path / "out", limits=SMALL)
    assert os.listdir(tmp_path) == ["x"]


def test_a_zip_directory_beyond_the_limit_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(zip_of({f"{i}.jpg": b"" for i in range(3000)}))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("read"))
    with pytest.raises(DownloadError, match="more than 10 entries"):
        unpack(tmp_path / "x", tmp_path / "out", limits=Limits(files=10))


def test_a_bomb_in_what_is_left_out_counts_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(tar_of({"README": bytes(3_000_000), "a.jpg": b"1"}))
    with pytest.raises(DownloadError, match="unpacks to more"):
        unpack(tmp_path / "x", tmp_path / "out", place=SETS["roxford5k"].place(), limits=SMALL)
    (tmp_path / "x").write_bytes(gzip.compress(tar_of({"a.jpg": b"1"}, "w") + bytes(3_000_000)))
    with pytest.raises(DownloadError, match="unpacks to more"):
        unpack(tmp_path / "x", tmp_path / "out", limits=SMALL)


def test_a_header_of_gigabytes_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "x").write_bytes(gzip.compress(header.tobuf() + bytes(1 << 16)))
    with pytest.raises(DownloadError, match="longer than any name"):
        unpack(tmp_path / "x", tmp_path / "out")


WHOLE = tar_of({f"{i}.jpg": random.Random(i).randbytes(3000) for i in range(20)})
GARBLED = bytearray(gzip.decompress(WHOLE))
GARBLED[512 * 7 * 5 : 512 * 7 * 5 + 300] = b"\x01" * 300  # the sixth header: tarfile alone would take it for the end


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><title>404</title>",
        b"",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-4],
        WHOLE[:30_000] + b"\0\0\0\0" + WHOLE[30_004:],
        gzip.compress(bytes(GARBLED)),
        gzip.compress(gzip.decompress(WHOLE)[: 512 * 7 * 5]),  # ends where an entry ends
        zip_of(PICTURES)[:-30],
        zip_of({"a.jpg": BODY}, zipfile.ZIP_STORED).replace(BODY[1000:1010], b"0123456789"),
    ],
)
def test_a_damaged_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DownloadError, match="damaged or no archive"):
        unpack(tmp_path / "x", tmp_path / "out")
    assert os.listdir(tmp_path) == ["x"]


def test_nothing_is_unpacked_over_something(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(WHOLE)
    (tmp_path / "out").mkdir()
    with pytest.raises(DownloadError, match="is there already"):
        unpack(tmp_path / "x", tmp_path / "out")
