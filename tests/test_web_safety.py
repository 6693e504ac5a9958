"""Hostile requests: nothing but pictures of the gallery is served, no error is a 500, and no other site may ask."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra [web]")
pytest.importorskip("httpx", reason="the page is tested with httpx")

from web_album import asked, known, make_album, on_a_port

from retrieval import Gallery, load_model
from retrieval.web.errors import ApiError, public
from retrieval.web.settings import WebLimits, WebSettings, is_loopback
from retrieval.web.work import Workers

TOKEN = "correct-horse-battery"
ABSOLUTE = re.compile(r"(?<![\w:/.])/(?:tmp|work|home|root|usr|var|private)\b")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    model = load_model("tiny-gem@random:0", size=96, engine="torch")
    with make_album(tmp_path_factory.mktemp("safe"), model=model) as made:
        yield made


@pytest.fixture
def client(gallery: Gallery) -> Iterator[Any]:
    with asked([gallery]) as made:
        yield made


def refused(answer: Any, *statuses: int) -> dict[str, str]:
    """The error, which has the stable form and tells no path."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    told: dict[str, str] = answer.json()["error"]
    assert set(told) == {"code", "message"}
    assert not ABSOLUTE.search(told["message"])
    return told


# -- uploads -----------------------------------------------------------------------------------------------------------


def sources() -> list[bytes]:
    out = []
    for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        stream = io.BytesIO()
        Image.open(io.BytesIO(known())).convert("RGB").save(stream, form)
        out.append(stream.getvalue())
    return out


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        at = rng.randrange(len(changed))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"))
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 64)]
        elif kind == 3:
            changed[at:at] = changed[at : at + 40]
        else:
            del changed[max(at, 8) :]
        if not changed:
            break
    return bytes(changed)


def test_mutated_uploads(client: Any) -> None:
    rng, originals = random.Random(0), sources()
    seen = {200: 0, 422: 0}
    for _ in range(int(os.environ.get("RETRIEVE_TEST_UPLOADS", "300"))):
        answer = client.post("/api/search", params={"k": 2}, content=mutated(rng, rng.choice(originals)) or b"x")
        if answer.status_code != 200:
            refused(answer, 422, 413)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert seen[200] > 10
    assert seen[422] > 50


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that unpacks to as many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(1 << 20), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_bombs(client: Any) -> None:
    refused(client.post("/api/search", content=bomb(50_000, 50_000)), 422, 413)
    told = refused(client.post("/api/search", content=bomb(12_000, 12_000)), 413)
    assert "million" in told["message"]
    refused(client.post("/api/heatmap", params={"id": 1}, content=bomb(12_000, 12_000)), 413)


@pytest.mark.parametrize(
    "body",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        b"%PDF-1.7 ...",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"<html>",
        b"GIF89a",
        b"\0" * 1000,
        b"/etc/passwd",
        b"file:///etc/passwd",
    ],
)
def test_what_is_no_picture(client: Any, body: bytes) -> None:
    refused(client.post("/api/search", content=body), 422)


def test_types_and_empty_bodies(client: Any) -> None:
    refused(client.post("/api/search", content=b""), 422)
    refused(client.post("/api/search", content=known(), headers={"Content-Type": "text/html"}), 415)
    refused(client.post("/api/search", files={"file": known()}), 415)
    refused(client.post("/api/search", content=b"[" * 100_000, headers={"Content-Type": "application/json"}), 422)
    refused(client.put("/api/search", content=b"x"), 405)


def test_too_large_is_refused_before_it_is_read(gallery: Gallery) -> None:
    with asked([gallery], limits=WebLimits(upload_bytes=1 << 20)) as client:
        refused(client.post("/api/search", content=bytes((1 << 20) + 1)), 413)

        # Without a length nobody knows how much will come.
        refused(client.post("/api/search", content=(bytes(1 << 16) for _ in range(40))), 413)


def test_nothing_of_an_upload_is_stored(client: Any, gallery: Gallery) -> None:
    def files() -> set[Path]:
        return {p for p in gallery.folder.parent.rglob("*") if "-shm" not in p.name and "-wal" not in p.name}

    client.post("/api/search", content=known())
    before = files()
    marked = png_with(b"a secret in the picture")
    assert Image.open(io.BytesIO(marked)).info["k"] == "a secret in the picture"
    assert client.post("/api/search", content=marked).status_code == 200
    assert files() == before
    assert not any(b"a secret in" in p.read_bytes() for p in before if p.is_file())


def png_with(text: bytes) -> bytes:
    chunk = b"tEXt" + b"k\0" + text
    data = known()
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def raw(base: str, head: bytes, *later: bytes, wait: float = 0.0) -> bytes:
    """What a server answers to these very bytes."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(head)
        for part in later:
            time.sleep(wait)
            try:
                line.sendall(part)
            except OSError:
                break
        out = b""
        try:
            while block := line.recv(65536):
                out += block
                if b"\r\n\r\n" in out and b"}" in out.rpartition(b"\r\n\r\n")[2]:
                    break
        except OSError:
            pass
        return out


def test_over_a_real_connection(gallery: Gallery) -> None:
    limits = WebLimits(upload_seconds=0.5)
    with on_a_port([gallery], limits=limits) as base:
        host = base.removeprefix("http://").encode()
        slow = b"POST /api/search HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n\r\n" % host
        assert b" 408 " in raw(base, slow, b"x", b"x", wait=0.1)
        huge = b"GET /healthz HTTP/1.1\r\nHost: %s\r\nX: %s\r\n\r\n" % (host, b"a" * 200_000)
        assert b" 200 " not in raw(base, huge)
        assert b" 400 " in raw(base, b"\x16\x03\x01 not http\r\n\r\n")
        for path in (
            b"/../../etc/passwd",
            b"//etc/passwd",
            b"/static/../../app.py",
            b"/static/%2e%2e/app.py",
            b"/static/..%5capp.py",
        ):
            told = raw(base, b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host))
            assert b" 404 " in told.split(b"\r\n")[0], told[:200]
            assert b"root:" not in told
            assert b"create_app" not in told
        # A client that leaves in the middle of its upload: the server goes on, and counts nothing as held.
        for _ in range(12):
            line = socket.create_connection((host.decode().split(":")[0], int(host.decode().split(":")[1])))
            line.sendall(slow + b"some")
            line.close()
        connection = http.client.HTTPConnection(host.decode(), timeout=20)
        connection.request("POST", "/api/search?k=1", known(), {"Content-Type": "image/png"})
        assert connection.getresponse().status == 200
        connection.close()


# -- ids and parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", ["-1", "0", "999999", "9007199254740993", "1e3", "../1", "%2e%2e%2f1", "1%00", "1;drop", "٣"]
)
def test_ids(client: Any, number: str) -> None:
    for path in ("/api/images/{}", "/api/thumbnails/{}"):
        refused(client.get(path.format(number)), 404, 422)
    refused(client.get(f"/api/search?id={number}"), 404, 422)
    refused(client.get(f"/api/heatmap?id={number}&query=1"), 404, 422, 400)


@pytest.mark.parametrize(
    "parameters",
    [
        {"k": 0},
        {"k": -5},
        {"k": "many"},
        {"box": "1,2,3"},
        {"box": "nan,0,1,1"},
        {"box": "0,0,1e999,5"},
        {"box": "5,5,1,1"},
        {"box": "9000,9000,9001,9001"},
        {"rank": "best"},
        {"rerank": "dba:n=1000000000"},
        {"rerank": "__import__"},
        {"min_score": "inf"},
        {"min_score": 7},
        {"gallery": "../other"},
        {"rank": "local", "rerank": "qe"},
        {"min_probability": 0.5, "rank": "cosine"},
        {"under": "\ud800"},
    ],
)
def test_parameters(client: Any, parameters: dict[str, Any]) -> None:
    from urllib.parse import quote

    text = "&".join(f"{name}={quote(str(value), errors='surrogatepass')}" for name, value in parameters.items())
    refused(client.get(f"/api/search?id=1&{text}"), 400, 404, 422)
    refused(client.post(f"/api/search?{text}", content=known()), 400, 404, 422)


@pytest.mark.parametrize("box", ["1,2,3", "nan,0,1,1", "5,5,1,1", "9000,9000,9001,9001", "0,0,0.001,0.001"])
def test_every_box_that_is_none_has_one_code(client: Any, box: str) -> None:
    for answer in (
        client.get("/api/search", params={"id": 1, "box": box}),
        client.post("/api/search", params={"box": box}, content=known()),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_box")


def test_a_vector_of_another_length_is_told_the_right_one(client: Any) -> None:
    answer = client.post("/api/search", json={"vector": [1, 2, 3]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_vector")
    assert "3 numbers" in answer.json()["error"]["message"]


def test_a_thousand_requests_that_make_no_sense(client: Any) -> None:
    """Every route of the document, with values that it does not expect: no answer is a 500, and each has the one form."""
    form = client.get("/api/openapi.json").json()
    rng = random.Random(1)
    values = [
        "",
        "0",
        "1",
        "-1",
        "3",
        "a",
        "1.5",
        "null",
        "\u0000",
        "💥",
        "../..",
        "%",
        "1e308",
        "[]",
        "{}",
        "true",
        "x" * 300,
        "320",
        "copies",
    ]
    bodies = [
        b"",
        b"{}",
        b"\0",
        known(),
        b'{"vector": [1]}',
        b'{"vector": [1e308, 1e308]}',
        json.dumps({"vector": [1.0] * 32}).encode(),
    ]
    seen: set[int] = set()
    for _ in range(1000):
        path = rng.choice(sorted(form["paths"]))
        method = rng.choice([*form["paths"][path], "get", "post", "delete"])
        told = form["paths"][path].get(method, {})
        names = [p["name"] for p in told.get("parameters", []) if p["in"] == "query"] or ["id"]
        parameters = {name: rng.choice(values) for name in names if rng.random() < 0.5}
        content = rng.choice(bodies) if method == "post" else None
        kind = {"Content-Type": rng.choice(["application/json", "image/png", "application/octet-stream", "nonsense"])}
        answer = client.request(
            method,
            path.replace("{id}", rng.choice(["1", "3", "77", "x"])),
            params=parameters,
            content=content,
            headers=kind,
        )
        seen.add(answer.status_code)
        if answer.status_code >= 400:
            refused(answer, 400, 404, 405, 413, 415, 422)
    assert {200, 404, 405, 422} <= seen


@pytest.mark.slow
def test_schemathesis_finds_nothing(gallery: Gallery) -> None:
    """Requests that are made of the document. Slow: some hundred of them a route."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings

    with asked([gallery]) as client:
        document = client.get("/api/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        for operation in schema.get_all_operations():
            real = operation.ok()

            @given(case=real.as_strategy())
            @settings(
                max_examples=40,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case: Any) -> None:
                given_ = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
                kept = {
                    k: v
                    for k, v in given_.items()
                    if k in ("method", "url", "params", "headers", "json", "data", "content")
                }
                try:
                    answer = client.request(**kept)
                except (ValueError, TypeError, UnicodeError):  # what no client can send
                    return
                assert answer.status_code < 500 or answer.status_code == 503, answer.text

            ask()


# -- who may ask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "known_here"),
    [
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST:8000", True),
        ("[::1]:8000", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example:8000", False),
        ("localhost:9999", False),
        ("localhost", False),
        ("192.168.0.7:8000", False),
        ("evil.example@127.0.0.1:8000", False),
        ("127.0.0.1:8000/x", False),
        ("", False),
        ("localhost:port", False),
    ],
)
def test_names_that_were_bent_to_this_machine(client: Any, host: str, known_here: bool) -> None:
    answer = client.get("/api/stats", headers={"Host": host})
    if known_here:
        assert answer.status_code == 200
    else:
        told = refused(answer, 421)
        assert told["code"] == "wrong_host"
        assert "--name" in told["message"]


def test_an_address_of_nothing_leads_to_the_list_of_routes(client: Any) -> None:
    for address in ("/search", "/docs", "/api/pictures"):
        told = refused(client.get(address), 404)
        assert (told["code"], "GET /api " in told["message"]) == ("not_found", True)


def test_other_sites(client: Any) -> None:
    fine = {"Origin": "http://127.0.0.1:8000"}
    assert client.post("/api/search", content=known(), headers=fine).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9000", "https://127.0.0.1", ""):
        told = refused(client.post("/api/search", content=known(), headers={"Origin": origin}), 403)
        assert told["code"] == "foreign_origin"
    for site in ("cross-site", "same-site"):
        for mode in ("no-cors", "cors", "websocket"):
            sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
            refused(client.get("/api/thumbnails/1", headers=sent), 403)
        sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert client.get("/?id=1", headers=sent).status_code == 200  # a link that was shared
        refused(client.post("/api/search", content=known(), headers=sent), 403)
    assert "access-control-allow-origin" not in client.get("/api/stats", headers=fine).headers
    refused(client.options("/api/search", headers={**fine, "Access-Control-Request-Method": "POST"}), 405)


@pytest.mark.parametrize(
    "path", ["/", "/api/stats", "/api/images/99", "/static/app.css", "/nothing", "/api/thumbnails/1"]
)
def test_every_answer_carries_the_headers(client: Any, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"


def test_elsewhere_a_token_is_needed(gallery: Gallery) -> None:
    with asked([gallery], host="0.0.0.0", token=TOKEN) as client:
        assert refused(client.get("/api/stats"), 401)["code"] == "token_needed"
        assert client.get("/healthz").status_code == 200
        for wrong in ("", TOKEN[:-1], f"{TOKEN}x", "é", "Bearer"):
            refused(client.get("/api/stats", headers={"Authorization": f"Bearer {wrong}".encode()}), 401)
            refused(client.get("/api/stats", params={"token": wrong}), 401)
        refused(client.get("/metrics"), 401)
        refused(client.get("/api/openapi.json"), 401)
        assert client.get("/api/stats", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
        # In an address it is good for opening the page alone, and leaves the address at once.
        refused(client.get("/api/stats", params={"token": TOKEN}), 401)
        page = {"Accept": "text/html"}
        login = client.get("/", headers=page)
        assert login.status_code == 401
        assert TOKEN not in login.text
        opened = client.get("/", params={"token": TOKEN, "id": "3"}, headers=page, follow_redirects=False)
        assert opened.headers["location"] == "/?id=3"
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        outside = client.get("//evil.example/", params={"token": TOKEN}, headers=page, follow_redirects=False)
        assert not outside.headers.get("location", "").startswith("//")
        assert client.get("/api/stats").status_code == 200  # by the cookie
        client.cookies.clear()
        refused(client.get("/api/stats", headers={"Host": "rebound.example:8000"}), 421)


def test_the_command_asks_for_a_token_by_itself() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert is_loopback("::1")
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))
    assert WebSettings().paths
    assert not WebSettings(host="0.0.0.0", token=TOKEN).paths
    assert not WebSettings(token=TOKEN).paths


def test_messages_tell_no_paths() -> None:
    for text in (
        "cannot open /srv/photos/a.jpg: denied",
        "'/root/x y.jpg' is gone",
        "(/a/b)",
        "in /tmp.",
        "file:/etc/x",
    ):
        assert not re.search(r"/(srv|root|a/b|tmp|etc)", public(text)), text
    assert public("a box of 3/4 and/or 10:20") == "a box of 3/4 and/or 10:20"


def test_a_damaged_gallery_is_no_surprise(tmp_path: Path) -> None:
    with make_album(tmp_path) as gallery, asked([gallery]) as client:
        assert client.get("/api/search", params={"id": 1}).status_code == 200
        for segment in (gallery.folder / "vectors").iterdir():
            segment.write_bytes(b"")
        told = refused(client.get("/api/search", params={"id": 1}), 503)
        assert told["code"] == "gallery_damaged"
        assert client.get("/api/images/1").status_code == 200


def test_a_picture_that_became_something_else(tmp_path: Path) -> None:
    with make_album(tmp_path) as gallery, asked([gallery]) as client:
        first = client.get("/api/images/1").json()
        (tmp_path / "album" / first["name"]).unlink()
        (tmp_path / "album" / first["name"]).symlink_to("/etc/passwd")
        told = refused(client.get("/api/thumbnails/1"), 404)
        assert told["code"] == "unreadable_picture"
        refused(client.get("/api/search", params={"id": 1}), 422)


# -- work --------------------------------------------------------------------------------------------------------------


def test_workers_turn_away_and_forget_who_has_left() -> None:
    import asyncio

    began: list[str] = []
    release = threading.Event()

    def task(name: str) -> str:
        began.append(name)
        release.wait(20)
        return name

    async def scene() -> None:
        workers = Workers("test", 1, 2, 20)
        first = asyncio.create_task(workers.run(lambda: task("first")))
        await asyncio.sleep(0.05)

        async def gone() -> bool:
            return True

        left = asyncio.create_task(workers.run(lambda: task("left"), gone))
        cancelled = asyncio.create_task(workers.run(lambda: task("cancelled")))
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as busy:
            await workers.run(lambda: task("too many"))
        assert busy.value.status == 503
        cancelled.cancel()
        with pytest.raises(ApiError) as away:
            await left
        assert away.value.code == "gone"
        release.set()
        assert await first == "first"
        assert await workers.run(lambda: task("next")) == "next"
        assert workers.working == workers.waiting == 0
        workers.close()

    asyncio.run(scene())
    assert began == ["first", "next"]


def test_what_takes_too_long_keeps_its_place() -> None:
    import asyncio

    release = threading.Event()

    async def scene() -> None:
        workers = Workers("test", 1, 4, 0.2)
        with pytest.raises(ApiError) as late:
            await workers.run(lambda: release.wait(20))
        assert late.value.code == "too_long"
        assert workers.working == 1
        release.set()
        assert await workers.run(lambda: 7) == 7
        workers.close()

    asyncio.run(scene())


def test_many_at_once(gallery: Gallery) -> None:
    """Sixteen threads on a real port: every answer is that of the gallery."""
    import httpx

    own = {n: [m.id for m in gallery.query(known(n), 4).matches] for n in range(4)}
    wrong: list[Any] = []
    with on_a_port([gallery]) as base:

        def work(seed: int) -> None:
            rng = random.Random(seed)
            with httpx.Client(base_url=base, timeout=60) as client:
                for _ in range(12):
                    n = rng.randrange(4)
                    if rng.random() < 0.5:
                        answer = client.post("/api/search", params={"k": 4}, content=known(n))
                        if [r["id"] for r in answer.json().get("results", [])] != own[n]:
                            wrong.append(answer.text)
                    elif client.get(f"/api/thumbnails/{n + 1}").status_code != 200:
                        wrong.append(n)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
