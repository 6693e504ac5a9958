"""Downloads and archives against a server of our own on 127.0.0.1 that misbehaves in every way we could think of."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import re
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from retrieval.datasets import acquire, published, revisited
from retrieval.datasets import download as downloading
from retrieval.datasets.archives import Limits, unpack
from retrieval.datasets.download import download
from retrieval.datasets.groundtruth import load_groundtruth
from retrieval.datasets.published import SETS, PublishedSet, RemoteFile
from retrieval.errors import DatasetError, DownloadError, RetrievalError, UsageError

BODY = random.Random(0).randbytes(300_000)
FAST = {"timeout": 5.0, "attempts": 3, "backoff": 0.01}


@dataclass
class Serving:
    """A file on the server and how it misbehaves. ``script``: a step a request, then nothing special any more:
    ("cut", n) breaks the connection after n bytes of body, ("status", code), ("hang",), ("swap", bytes, etag)."""

    body: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    ignore_if_range: bool = False
    wrong_start: bool = False
    length: int | None = None  # what it claims
    chunked: bool = False
    script: list[tuple] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Serving] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Range
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, path: str, body: bytes = BODY, **how: object) -> str:
        self.files[path] = Serving(body, **how)  # type: ignore[arg-type]
        return self.url + path

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # broken pipes are the point


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        file = self.server.files.get(self.path)
        if file is None:
            return self._status(404)
        step = file.script.pop(0) if file.script else ("serve",)
        if step[0] == "status":
            return self._status(*step[1:])
        if step[0] == "redirect":
            return self._status(302, {"Location": step[1]})
        if step[0] == "hang":
            self.server.released.wait(20)
            return None
        if step[0] == "swap":
            file.body, file.etag = step[1], step[2]
        start, body = 0, file.body
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        condition = self.headers.get("If-Range")
        same = condition is None or file.ignore_if_range or condition in (file.etag, file.modified)
        if match and file.ranges and same:
            start = int(match[1])
            if start >= len(body):
                return self._status(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start - file.wrong_start}-{len(body) - 1}/{len(body)}")
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str((len(body) if file.length is None else file.length) - start))
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.modified:
            self.send_header("Last-Modified", file.modified)
        self.end_headers()
        sent = body[start : start + step[1]] if step[0] == "cut" else body[start:]
        if file.chunked:
            sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"" if step[0] == "cut" else b"0\r\n\r\n")
        self.wfile.write(sent)
        self.wfile.flush()

    def _status(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", published.MIRROR):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.released.set()
    made.shutdown()
    made.server_close()
    thread.join()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "file")


# ---------------------------------------------------------------- one file


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    got = download(
        server.put("/a"), tmp_path / "deep" / "file", progress=lambda done, total: seen.append((done, total)), **FAST
    )
    assert (tmp_path / "deep" / "file").read_bytes() == BODY
    assert (got.bytes, got.sha256, got.etag) == (len(BODY), hashlib.sha256(BODY).hexdigest(), '"one"')
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert leftovers(tmp_path / "deep") == []


@pytest.mark.parametrize("how", [{}, {"etag": None, "modified": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_a_broken_connection_is_continued_not_repeated(server: Server, tmp_path: Path, how: dict) -> None:
    url = server.put("/a", script=[("cut", 100_000), ("cut", 50_000)], **how)
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize(
    "how",
    [
        {"ranges": False},  # the server sends it all again
        {"etag": None},  # nothing says it is the same file
        {"etag": 'W/"weak"'},
        {"wrong_start": True},  # the server sends another part than was asked for
    ],
)
def test_what_cannot_be_continued_is_begun_afresh(server: Server, tmp_path: Path, how: dict) -> None:
    url = server.put("/a", script=[("cut", 100_000)], **how)
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("ignore", [False, True])
def test_two_versions_are_never_joined(server: Server, tmp_path: Path, ignore: bool) -> None:
    newer = random.Random(1).randbytes(250_000)
    url = server.put("/a", script=[("cut", 100_000), ("swap", newer, '"two"')], ignore_if_range=ignore)
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == newer


def test_a_later_run_continues(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", script=[("cut", 120_000), ("status", 503), ("status", 503)])
    with pytest.raises(DownloadError, match=r"503.*continues it"):
        download(url, tmp_path / "file", **FAST)
    assert not (tmp_path / "file").exists()
    server.requests.clear()
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests == [("/a", "bytes=120000-")]
    assert leftovers(tmp_path) == []


def test_a_part_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    one = server.put("/one", script=[("cut", 120_000), *[("status", 503)] * 3])
    with pytest.raises(DownloadError):
        download(one, tmp_path / "file", **FAST)
    other = random.Random(2).randbytes(200_000)
    download(server.put("/two", other), tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == other


def test_a_part_that_outgrew_the_file_is_begun_afresh(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", script=[("cut", 200_000), ("status", 404)])
    with pytest.raises(DownloadError):
        download(url, tmp_path / "file", **FAST)
    server.files["/a"].body = BODY[:150_000]  # shorter now, and the ETag was not changed: 416
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY[:150_000]


def test_a_kill_in_the_middle_leaves_what_can_be_continued(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", length=len(BODY), script=[("cut", 100_000), ("hang",)])
    code = (
        "import sys\nfrom retrieval.datasets.download import download\n"
        "download(sys.argv[1], sys.argv[2], timeout=30, backoff=0.01)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path / "file")])
    deadline = time.monotonic() + 20
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "file").exists()
    kept = (tmp_path / "file.part").stat().st_size
    server.released.set()
    server.requests.clear()
    download(url, tmp_path / "file", **FAST)  # the dead process's lock is gone with it
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests == [("/a", f"bytes={kept}-" if kept else None)]


def test_tries_are_bounded_and_wait_longer_each_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloading.time, "sleep", waits.append)
    url = server.put("/a", script=[("status", 500)] * 50)
    with pytest.raises(DownloadError, match="500"):
        download(url, tmp_path / "file", attempts=4, backoff=0.5)
    assert len(server.requests) == 4
    assert waits == [0.5, 1.0, 2.0]
    assert leftovers(tmp_path) == []


def test_progress_earns_further_tries(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", script=[("cut", 30_000)] * 9)
    download(url, tmp_path / "file", timeout=5, attempts=2, backoff=0.001)
    assert (tmp_path / "file").read_bytes() == BODY


def test_the_server_says_when_to_come_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloading.time, "sleep", waits.append)
    download(server.put("/a", script=[("status", 429, {"Retry-After": "7"})]), tmp_path / "file", **FAST)
    assert waits == [7.0]


def test_what_is_not_there_is_asked_for_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(server.url + "/missing", tmp_path / "file", **FAST)
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", script=[("hang",)] * 3)
    begun = time.monotonic()
    with pytest.raises(DownloadError, match="no answer in time"):
        download(url, tmp_path / "file", timeout=0.2, attempts=2, backoff=0.01)
    assert time.monotonic() - begun < 3


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="127"):
        download("http://127.0.0.1:9/a", tmp_path / "file", attempts=2, backoff=0.01)


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/a", "/etc/hostname"])
def test_only_http_is_spoken(address: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        download(address, tmp_path / "file", **FAST)
    if "://" in address:
        with pytest.raises(DownloadError):  # nor is a server followed there
            download(server.put("/a", script=[("redirect", address)] * 9), tmp_path / "file", **FAST)
    assert not (tmp_path / "file").exists()


def test_a_redirect_is_followed_with_the_range(server: Server, tmp_path: Path) -> None:
    server.put("/b", script=[("cut", 1000)])
    url = server.put("/a", script=[("redirect", "/b"), ("redirect", "/b")])
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.requests[-1] == ("/b", "bytes=1000-")


def test_a_length_that_is_never_reached(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", length=len(BODY) + 10, ranges=False)
    with pytest.raises(DownloadError, match="broke after 300000 of 300010"):
        download(url, tmp_path / "file", **FAST)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("chunked", [False, True])
def test_another_size_than_published(server: Server, tmp_path: Path, chunked: bool) -> None:
    with pytest.raises(DownloadError, match="300000 bytes where 299999 were published"):
        download(server.put("/a", chunked=chunked), tmp_path / "file", size=299_999, **FAST)
    assert not (tmp_path / "file").exists()


def test_another_content_than_published(server: Server, tmp_path: Path) -> None:
    wrong = BODY[:-1] + bytes([BODY[-1] ^ 1])
    with pytest.raises(DownloadError, match="not the file that was published"):
        download(server.put("/a", wrong), tmp_path / "file", sha256=hashlib.sha256(BODY).hexdigest(), **FAST)
    assert not (tmp_path / "file").exists()
    assert leftovers(tmp_path) == []


def test_a_damaged_part_is_found_by_the_hash_and_fetched_again(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", script=[("cut", 120_000), ("status", 404)])
    with pytest.raises(DownloadError):
        download(url, tmp_path / "file", **FAST)
    part = tmp_path / "file.part"
    part.write_bytes(b"damage" + part.read_bytes()[6:])
    download(url, tmp_path / "file", sha256=hashlib.sha256(BODY).hexdigest(), **FAST)
    assert (tmp_path / "file").read_bytes() == BODY


def test_without_a_length_the_end_is_still_known(server: Server, tmp_path: Path) -> None:
    download(server.put("/a", chunked=True, script=[("cut", 1000)]), tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY


def test_an_empty_file(server: Server, tmp_path: Path) -> None:
    assert download(server.put("/a", b""), tmp_path / "file", **FAST).bytes == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_two_downloads_of_one_file_do_not_meet(server: Server, tmp_path: Path) -> None:
    url = server.put("/a", script=[("hang",)])
    first = threading.Thread(target=lambda: download(url, tmp_path / "file", timeout=30, backoff=0.01))
    first.start()
    while not server.requests:
        time.sleep(0.01)
    with pytest.raises(DownloadError, match="by another process"):
        download(url, tmp_path / "file", **FAST)
    server.released.set()
    first.join()
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_disk_without_room_is_told_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="full: 300000 bytes are to come and 1000 are free"):
        download(server.put("/a"), tmp_path / "file", **FAST)
    assert len(server.requests) == 1


def test_a_disk_that_fills_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading._Part, "write", write)
    with pytest.raises(DownloadError, match="is full: no space left"):
        download(server.put("/a"), tmp_path / "file", **FAST)
    assert len(server.requests) == 1  # trying again would not help
    monkeypatch.undo()
    download(server.put("/a"), tmp_path / "file", **FAST)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("a file")
    with pytest.raises(DownloadError, match="cannot write"):
        download(server.put("/a"), tmp_path / "in-the-way" / "file", **FAST)


# ---------------------------------------------------------------- archives

PICTURES = {"a.jpg": b"\xff\xd8 one" * 50, "deep/er/b.JPG": random.Random(3).randbytes(5000), "deep/c.jpg": b""}


def tar_of(entries: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as bundle:
        for name, data in entries.items():
            bundle.writestr(name, data)
    return out.getvalue()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


HOSTILE = {
    "tar climbs": raw_tar(entry("ok.jpg"), entry("../escaped.jpg", size=3)),
    "tar climbs inside": raw_tar(entry("a/../../escaped.jpg", size=3)),
    "tar absolute": raw_tar(entry("/tmp/escaped-absolute.jpg", size=3)),
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
    "zip absolute": zip_of({"/tmp/escaped-absolute.jpg": b"x"}),
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
    assert not Path("/tmp/escaped-absolute.jpg").exists()


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


# ---------------------------------------------------------------- sets

GALLERY, QUERIES = [f"ox_{i}" for i in range(6)], ["q_0", "q_1"]
JPEG = {name: f"\xff\xd8{name}".encode("latin-1") * 40 for name in (*GALLERY, *QUERIES)}
GND = {
    "imlist": GALLERY,
    "qimlist": QUERIES,
    "gnd": [
        {"bbx": [0.0, 0.0, 5.0, 5.0], "easy": [0], "hard": [1], "junk": [2]},
        {"bbx": [1.0, 1.0, 5.0, 5.0], "easy": [3], "hard": [], "junk": []},
    ],
}
OLD_GND = {"imlist": GALLERY, "qimlist": GALLERY[:1], "gnd": [{"bbx": [0.0, 0.0, 5.0, 5.0], "ok": [1], "junk": []}]}
CIDS = [hashlib.md5(bytes([i])).hexdigest() for i in range(5)]
TRAINING = {part: {"cids": CIDS[:4], "cluster": [0, 0, 1, 1], "qidxs": [0], "pidxs": [1]} for part in ("train", "val")}


def tree(cids: list[str]) -> dict[str, bytes]:
    return {f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}": cid.encode() for cid in cids}


@pytest.fixture
def mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """All published sets in miniature, at the mirror's address under their published names."""
    monkeypatch.setenv(published.MIRROR, server.url + "/")
    monkeypatch.setattr(downloading.time, "sleep", lambda _: None)
    small = {
        name: PublishedSet(**{**vars(item), "gallery": item.gallery and 6, "queries": item.queries and 2})
        for name, item in SETS.items()
    }
    million = SETS["revisitop1m"]
    small["revisitop1m"] = PublishedSet(**{**vars(million), "files": million.files[:4]})
    for name, item in small.items():
        monkeypatch.setitem(SETS, name, item)
    photos = [(f"v1/{name}.jpg", data) for name, data in JPEG.items()]
    server.put("/oxbuild_images-v1.tgz", tar_of({**dict(photos), "v1/README.txt": b"-"}))
    server.put("/paris_1-v1.tgz", tar_of(dict(photos[:3])))
    server.put("/paris_2-v1.tgz", tar_of(dict(photos[3:])))
    for name, form in (("roxford5k", GND), ("rparis6k", GND), ("oxford5k", OLD_GND), ("paris6k", OLD_GND)):
        server.put(f"/gnd_{name}.pkl", pickle.dumps(form, 2))
    for i in (1, 2, 3):
        server.put(f"/revisitop1m.{i}.tar.gz", tar_of({f"{i}/{n}/x.jpg": b"%d%d" % (i, n) for n in range(2)}))
    server.put("/revisitop1m.txt", "".join(f"{i}/{n}/x.jpg\n" for i in (1, 2, 3) for n in range(2)).encode())
    server.put("/ims.tar.gz", tar_of(tree(CIDS)))
    server.put("/retrieval-SfM-120k.pkl", pickle.dumps(TRAINING, 2))
    for name in ("30k", "120k"):
        white = {"cids": CIDS[1:], "qidxs": [0, 1], "pidxs": [2, 3]}
        server.put(f"/retrieval-SfM-{name}-whiten.pkl", pickle.dumps(white, 2))
    return server


def retrieve(*args: object) -> tuple[int, str]:
    """The command as a user runs it, errors as ``main`` prints them."""
    from retrieval.cli.main import cli

    result = CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=False)
    if isinstance(result.exception, RetrievalError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.return_value or 0, result.output


def asked(server: Server) -> list[str]:
    names = [path[1:] for path, _ in server.requests]
    server.requests.clear()
    return names


@pytest.mark.parametrize("name", SETS)
def test_every_set_arrives_in_its_layout_and_stays_verifiable(name: str, mirror: Server, tmp_path: Path) -> None:
    status, output = retrieve("datasets", "download", name, "--dir", tmp_path)
    assert status == 0, output
    folder = tmp_path / name
    item = SETS[name]
    pictures = {path: data for path, data in files_in(folder).items() if path.startswith(item.folder + "/")}
    if item.flat:
        assert pictures == {f"jpg/{one}.jpg": data for one, data in JPEG.items()}
        truth = revisited.published_groundtruth(name, tmp_path)
        assert len(truth.gallery) == 6
        assert truth.original == (not name.startswith("r"))
        assert all((truth.root / path).is_file() for path in truth.gallery)
    elif name == "revisitop1m":
        assert pictures == {f"jpg/{i}/{n}/x.jpg": b"%d%d" % (i, n) for i in (1, 2, 3) for n in range(2)}
        assert [Path(path).read_bytes() for path in revisited.distractors(tmp_path)][:3] == [b"10", b"11", b"20"]
    else:
        assert pictures == {f"ims/{path}": data for path, data in tree(CIDS).items()}
    others = {path.name for path in folder.iterdir()} - {item.folder, *(file.name for file in item.lists)}
    assert others == {"download.json", ".contents", ".lock"}  # no archives, no parts
    assert sorted(asked(mirror)) == sorted(file.name for file in item.files)
    status, output = retrieve("datasets", "verify", name, "--dir", tmp_path)
    assert (status, "all compared" in output) == (0, True), output
    assert retrieve("datasets", "download", name, "--dir", tmp_path)[0] == 0  # is here: nothing is asked for
    assert asked(mirror) == []


def test_sets_with_the_same_pictures_share_them(mirror: Server, tmp_path: Path) -> None:
    for name in ("roxford5k", "oxford5k", "retrieval-SfM-120k", "retrieval-SfM-30k"):
        retrieve("datasets", "download", name, "--dir", tmp_path)
    assert asked(mirror).count("oxbuild_images-v1.tgz") == 1
    assert os.readlink(tmp_path / "oxford5k" / "jpg") == "../roxford5k/jpg"
    assert os.readlink(tmp_path / "retrieval-SfM-30k" / "ims") == "../retrieval-SfM-120k/ims"
    status, output = retrieve("datasets", "verify", "oxford5k", "--dir", tmp_path)
    assert (status, "9 files, all compared" in output) == (0, True), output
    (tmp_path / "roxford5k" / "jpg" / "ox_1.jpg").write_bytes(JPEG["ox_2"])
    status, output = retrieve("datasets", "verify", "oxford5k", "--dir", tmp_path)
    assert (status, "jpg/ox_1.jpg has changed" in output) == (1, True), output


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rename_in(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"ox_5", b"ox_9"))


@pytest.mark.parametrize(
    ("spoil", "said", "quick"),
    [
        (lambda f: damage(f / "jpg" / "ox_3.jpg"), "jpg/ox_3.jpg has changed since it was downloaded", False),
        (lambda f: (f / "jpg" / "ox_3.jpg").unlink(), "jpg/ox_3.jpg is missing", True),
        (lambda f: (f / "jpg" / "q_1.jpg").write_bytes(b"short"), "jpg/q_1.jpg has 5 bytes where 200", True),
        (lambda f: rename_in(f / "gnd_roxford5k.pkl"), "gnd_roxford5k.pkl has changed", True),
    ],
)
def test_later_damage_is_found(spoil: Callable, said: str, quick: bool, mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    spoil(tmp_path / "roxford5k")
    status, output = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)
    assert (status, said in output) == (1, True), output
    status, output = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path, "--quick")
    assert status == (1 if quick else 0), output


def test_the_record_says_what_was_fetched(mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    record = json.loads((tmp_path / "roxford5k" / "download.json").read_text())
    body = mirror.files["/oxbuild_images-v1.tgz"].body
    found = record["files"]["oxbuild_images-v1.tgz"]
    assert found["sha256"] == hashlib.sha256(body).hexdigest()
    assert (found["bytes"], found["unpacked"]) == (len(body), 8)
    assert found["url"] == f"{mirror.url}/oxbuild_images-v1.tgz"
    assert record["complete"] is True


def test_an_interrupted_set_continues_with_what_is_left(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/revisitop1m.2.tar.gz"].script = [("cut", 60), *[("status", 500)] * 4]
    status, said = retrieve("datasets", "download", "revisitop1m", "--dir", tmp_path)
    assert (status, "500" in said) == (1, True)
    assert not (tmp_path / "revisitop1m" / "jpg").exists()
    status, output = retrieve("datasets", "verify", "revisitop1m", "--dir", tmp_path)
    assert (status, "has not been completed" in output) == (1, True)
    mirror.requests.clear()
    assert retrieve("datasets", "download", "revisitop1m", "--dir", tmp_path)[0] == 0
    assert mirror.requests == [("/revisitop1m.2.tar.gz", "bytes=60-"), ("/revisitop1m.3.tar.gz", None)]
    assert retrieve("datasets", "verify", "revisitop1m", "--dir", tmp_path)[0] == 0


def test_an_archive_changed_since_then_is_not_trusted(mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    folder = tmp_path / "roxford5k"
    for path in (folder / "jpg").iterdir():
        path.unlink()
    (folder / "jpg").rmdir()
    good = mirror.files["/oxbuild_images-v1.tgz"].body
    mirror.files["/oxbuild_images-v1.tgz"].body = tar_of({f"{name}.jpg": b"other" for name in JPEG})
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "is not what it was on" in said) == (1, True), said
    mirror.files["/oxbuild_images-v1.tgz"].body = good
    assert retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)[0] == 0
    assert retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)[0] == 0


def test_a_page_in_place_of_an_archive_can_be_mended(mirror: Server, tmp_path: Path) -> None:
    good = mirror.files["/oxbuild_images-v1.tgz"].body
    mirror.files["/oxbuild_images-v1.tgz"].body = b"<!DOCTYPE html>moved"
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "damaged or no archive" in said) == (1, True), said
    mirror.files["/oxbuild_images-v1.tgz"].body = good
    assert retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)[0] == 0


def test_another_ground_truth_is_refused_before_the_pictures(mirror: Server, tmp_path: Path) -> None:
    other = {**GND, "imlist": [*GALLERY, "ox_6"]}
    mirror.files["/gnd_roxford5k.pkl"].body = pickle.dumps(other, 2)
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "has 7 pictures in the gallery where roxford5k has 6" in said) == (1, True), said
    assert asked(mirror) == ["gnd_roxford5k.pkl"]


def test_archives_without_all_pictures_are_told(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/paris_2-v1.tgz"].body = tar_of({"q_0.jpg": b"1"})
    status, said = retrieve("datasets", "download", "rparis6k", "--dir", tmp_path)
    assert (status, "lacks 4 of the 8 pictures" in said) == (1, True), said
    assert not json.loads((tmp_path / "rparis6k" / "download.json").read_text())["complete"]


def test_a_set_put_there_by_hand_is_taken_as_it_is(mirror: Server, tmp_path: Path) -> None:
    folder = tmp_path / "roxford5k" / "jpg"
    folder.mkdir(parents=True)
    for name, data in JPEG.items():
        (folder / f"{name}.jpg").write_bytes(data)
    (folder.parent / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(GND, 2))
    assert "contents were not compared" in retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)[1]
    assert retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)[0] == 0
    assert asked(mirror) == []
    (folder / "ox_0.jpg").unlink()
    status, output = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)
    assert (status, "jpg/ox_0.jpg is missing" in output) == (1, True), output
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "lacks 1 of the 8 pictures" in said) == (1, True), said


def test_two_downloads_of_one_set_do_not_meet(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/oxbuild_images-v1.tgz"].script = [("hang",)]
    first = threading.Thread(target=lambda: acquire.download_set(SETS["roxford5k"], tmp_path))
    first.start()
    while len(mirror.requests) < 2:
        time.sleep(0.01)
    with pytest.raises(DownloadError, match="another process is at work"):
        acquire.download_set(SETS["roxford5k"], tmp_path)
    mirror.released.set()
    first.join()
    assert acquire.verify_set(SETS["roxford5k"], tmp_path).problems == []


def test_archives_are_kept_when_asked(mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "rparis6k", "--dir", tmp_path, "--keep-archives")
    assert sorted(os.listdir(tmp_path / "rparis6k" / ".archives")) == ["paris_1-v1.tgz", "paris_2-v1.tgz"]


def test_unknown_and_absent_sets(mirror: Server, tmp_path: Path) -> None:
    status, said = retrieve("datasets", "download", "oxford")
    assert (status, "roxford5k, rparis6k" in said) == (2, True)
    status, said = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)
    assert (status, "retrieve datasets download roxford5k" in said) == (1, True)
    with pytest.raises(UsageError, match="no ground truth"):
        revisited.published_groundtruth("revisitop1m", tmp_path)
    (tmp_path / "roxford5k").mkdir()
    (tmp_path / "roxford5k" / "download.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        acquire.verify_set(SETS["roxford5k"], tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps({"cids": [os.path.join("..", "..", "etc")]}, 2),
        pickle.dumps([1, 2], 2),
        b"cos\nsystem\n(S'touch /tmp/escaped-pickle'\ntR.",
    ],
)
def test_a_hostile_training_list_is_refused(body: bytes, mirror: Server, tmp_path: Path) -> None:
    mirror.files["/retrieval-SfM-30k-whiten.pkl"].body = body
    assert retrieve("datasets", "download", "retrieval-SfM-30k", "--dir", tmp_path)[0] == 1
    assert not Path("/tmp/escaped-pickle").exists()
    assert asked(mirror) == ["retrieval-SfM-30k-whiten.pkl"]


def test_a_hostile_list_of_distractors_is_refused(mirror: Server, tmp_path: Path) -> None:
    for line in (b"../../x.jpg", b"/etc/x.jpg", b""):
        mirror.files["/revisitop1m.txt"].body = line + b"\n"
        status, _ = retrieve("datasets", "download", "revisitop1m", "--dir", tmp_path / hashlib.md5(line).hexdigest())
        assert status == 1
    assert set(asked(mirror)) == {"revisitop1m.txt"}


def test_the_table_of_sets(tmp_path: Path) -> None:
    by_name: dict[str, set[str]] = {}
    for item in SETS.values():
        for file in item.files:
            by_name.setdefault(file.name, set()).add(file.url)
    assert all(len(urls) == 1 for urls in by_name.values())  # a name on a mirror means one file
    status, output = retrieve("datasets", "list", "--format", "json", "--dir", tmp_path)
    rows = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [row["name"] for row in rows] == list(SETS)
    assert all(row["here"] == "not here" and row["terms"] and row["layout"] for row in rows)
    urls = [file["url"] for row in rows for file in row["files"]]
    assert "http://cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl" in urls
    assert "http://ptak.felk.cvut.cz/revisitop/revisitop1m/jpg/revisitop1m.100.tar.gz" in urls
    assert "rparis6k" in retrieve("datasets", "list", "--dir", tmp_path)[1]


def test_an_address_without_mirror_is_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(published.MIRROR, raising=False)
    file = RemoteFile("http://authors.example/a/b.pkl")
    assert file.address() == "http://authors.example/a/b.pkl"
    monkeypatch.setenv(published.MIRROR, "http://mirror.example/sets")
    assert file.address() == "http://mirror.example/sets/b.pkl"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_official_ground_truths_have_the_counts_of_the_table(name: str, shared_data: Path) -> None:
    truth = revisited.published_groundtruth(name, shared_data / "revisited")
    assert (len(truth.gallery), len(truth.queries)) == (SETS[name].gallery, SETS[name].queries)


# ---------------------------------------------------------------- convert


def test_convert_the_official_pickle(tmp_path: Path) -> None:
    (tmp_path / "gnd_mine.pkl").write_bytes(pickle.dumps(GND, 2))
    (tmp_path / "jpg").mkdir()
    status, output = retrieve("datasets", "convert", tmp_path / "gnd_mine.pkl", tmp_path / "mine.json")
    assert (status, "6 pictures, 2 queries" in output) == (0, True)
    form = json.loads((tmp_path / "mine.json").read_text())
    assert form["queries"][0] == {
        "image": "jpg/q_0.jpg",
        "bbox": [0.0, 0.0, 5.0, 5.0],
        "easy": ["jpg/ox_0.jpg"],
        "hard": ["jpg/ox_1.jpg"],
        "junk": ["jpg/ox_2.jpg"],
    }
    assert "8 of 8 pictures are missing" in output  # said, not refused
    assert load_groundtruth(tmp_path / "mine.json").gallery == load_groundtruth(tmp_path / "gnd_mine.pkl").gallery


def test_convert_with_the_pictures_elsewhere(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, data in JPEG.items():
        (photos / f"{name}.jpg").write_bytes(data)
    (tmp_path / "gnd_mine.pkl").write_bytes(pickle.dumps(GND, 2))
    out = tmp_path / "mine.json"
    status, output = retrieve("datasets", "convert", tmp_path / "gnd_mine.pkl", out, "--images", photos)
    assert (status, "missing" in output) == (0, False), output
    assert json.loads(out.read_text())["gallery"][0] == "photos/ox_0.jpg"


@pytest.mark.parametrize("kind", ["folder", "csv", "txt"])
def test_convert_labels(kind: str, tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    source = tmp_path / "set"
    if kind != "folder":
        source = source / f"list.{kind}"
        source.write_text("cat/1.jpg,cat\ncat/2.jpg,cat\ndog/1.jpg,dog\ndog/2.jpg,dog\n")
    out = tmp_path / "set" / "groundtruth.json"
    status, output = retrieve("datasets", "convert", source, out)
    assert (status, "4 pictures, 4 queries" in output) == (0, True), output
    first = json.loads(out.read_text())["queries"][0]
    assert (first["image"], first["easy"], first["junk"]) == ("cat/1.jpg", ["cat/2.jpg"], ["cat/1.jpg"])


def test_convert_refuses(tmp_path: Path) -> None:
    assert retrieve("datasets", "convert", tmp_path / "a.pkl", tmp_path / "b.txt")[0] == 2
    assert retrieve("datasets", "convert", tmp_path / "a.pkl", tmp_path / "b.json")[0] == 1
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/escaped-pickle'\ntR.")
    status, said = retrieve("datasets", "convert", tmp_path / "a.pkl", tmp_path / "b.json")
    assert (status, "refused" in said) == (1, True)
    assert not Path("/tmp/escaped-pickle").exists()
