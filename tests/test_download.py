"""Downloads of one file, from a server of our own that misbehaves in every way we could think of."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from webserver import BODY, Server, serving

from retrieval.datasets.published import download as downloading
from retrieval.datasets.published.download import download
from retrieval.datasets.published.partial import Part
from retrieval.errors import DownloadError

FAST = {"timeout": 5.0, "attempts": 3, "backoff": 0.01}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "file")


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
    ("how", "asked"),
    [
        ({"ranges": False}, [None, "bytes=100000-"]),  # the server sends it all again
        ({"wrong_start": 1}, [None, "bytes=100000-", None]),  # it sends another part than was asked for
        ({"wrong_start": -1}, [None, "bytes=100000-", None]),
        ({"etag": None}, [None, None]),  # nothing says it is the same file
        ({"etag": 'W/"weak"'}, [None, None]),  # hardly anything does
    ],
)
def test_what_cannot_be_continued_is_begun_afresh(server: Server, tmp_path: Path, how: dict, asked: list) -> None:
    url = server.put("/a", script=[("cut", 100_000)], **how)
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == asked


@pytest.mark.parametrize("ignore", [False, True])
def test_two_versions_are_never_joined(server: Server, tmp_path: Path, ignore: bool) -> None:
    newer = random.Random(1).randbytes(250_000)
    url = server.put("/a", script=[("cut", 100_000), ("swap", newer, '"two"')], ignore_if_range=ignore)
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == newer


def test_two_versions_told_apart_by_date_alone(server: Server, tmp_path: Path) -> None:
    newer = random.Random(1).randbytes(250_000)
    url = server.put("/a", etag=None, modified="Wed, 21 Oct 2015 07:28:00 GMT", script=[("cut", 1000), ("status", 404)])
    with pytest.raises(DownloadError):
        download(url, tmp_path / "file", **FAST)
    server.put("/a", newer, etag=None, modified="Thu, 22 Oct 2015 07:28:00 GMT")
    download(url, tmp_path / "file", **FAST)
    assert (tmp_path / "file").read_bytes() == newer
    assert server.requests[-1] == ("/a", "bytes=1000-")


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
        "import sys\nfrom retrieval.datasets.published.download import download\n"
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
    with pytest.raises(
        DownloadError, match="no answer in time"
    ):  # the server itself would end it otherwise, and another way
        download(url, tmp_path / "file", timeout=0.2, attempts=2, backoff=0.01)
    assert len(server.requests) == 2


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
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="full: 300000 bytes are to come and 1000 are free"):
        download(server.put("/a"), tmp_path / "file", **FAST)
    assert len(server.requests) == 1


def test_a_disk_that_fills_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Part, "write", write)
    with pytest.raises(DownloadError, match="is full: no space left"):
        download(server.put("/a"), tmp_path / "file", **FAST)
    assert len(server.requests) == 1  # trying again would not help
    monkeypatch.undo()
    download(server.put("/a"), tmp_path / "file", **FAST)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("a file")
    with pytest.raises(DownloadError, match="cannot write"):
        download(server.put("/a"), tmp_path / "in-the-way" / "file", **FAST)
