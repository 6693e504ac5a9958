"""The page's API over galleries that PostgreSQL and Milvus keep, beside a gallery in a folder of the same pictures."""

from __future__ import annotations

import itertools
import json
import logging
import random
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the page needs the extra [web]")

import io

from browser import chromium
from engines_served import Milvus
from fakes import DIM, fake_gallery, fake_model, write_pictures
from PIL import Image
from test_web_page import IN_SIGHT, until
from tiny import MODEL, RETRIEVE, knowing_tiny
from web_album import asked, on_a_port

from retrieval import Gallery, load_model
from retrieval.backends.base import Entry, before_id, id_of
from retrieval.backends.indexing import index_folders
from retrieval.backends.served import ServedGallery
from retrieval.cli.main import cli
from retrieval.gallery.answers import Match
from retrieval.pictures.content import read_content
from retrieval.web.connections import Connections
from retrieval.web.errors import ApiError
from retrieval.web.names import ELSEWHERE, Names, local_path
from retrieval.web.uploads import JSON

_number = itertools.count()
SECRET = "s3cret-pass"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote") / "photos"
    write_pictures(folder / "a", 9, seed=1, sizes=((400, 300), (90, 120)))
    write_pictures(folder / "b_x", 5, seed=2)
    (folder / "b_x" / "copy.png").write_bytes((folder / "a" / "0002.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def local(photos: Path) -> Iterator[Gallery]:
    with fake_gallery(photos.parent / ".retrieval") as gallery:
        gallery.index([photos])
        yield gallery


def filled(address: str, folder: Path) -> ServedGallery:
    gallery = ServedGallery.create(address, fake_model())
    index_folders(gallery, [str(folder)])
    return gallery


@pytest.fixture(scope="module", params=["postgres", "milvus"])
def served(request: pytest.FixtureRequest, servers: Any, photos: Path) -> Iterator[ServedGallery]:
    with filled(servers(request.param).address(f"album{next(_number)}"), photos) as gallery:
        yield gallery


@pytest.fixture(scope="module")
def client(served: ServedGallery) -> Iterator[Any]:
    with asked([served]) as made:
        yield made


def pairs(answer: dict[str, Any]) -> list[tuple[str, float]]:
    """Paths and scores, ties by name as either gallery has them."""
    return sorted(((row["path"], round(row["score"], 6)) for row in answer["results"]), key=lambda p: (-p[1], p[0]))


def told(client: Any, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def id_by_path(client: Any, path: str) -> int:
    listed = told(client, "/api/images", limit=500)["pictures"]
    return next(one["id"] for one in listed if one["path"] == path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3},
        {"under": "photos/a"},
        {"under": "photos/b_x", "k": 2},
        {"min_score": 0.2},
        {"box": "10,10,200,200"},
        {"rank": "cosine"},
        {"exclude_self": True, "k": 4},
    ],
)
def test_answers_are_those_of_a_folder(client: Any, local: Gallery, photos: Path, options: dict[str, Any]) -> None:
    body = (photos / "a" / "0004.png").read_bytes()
    with asked([local]) as other:
        expected = other.post("/api/search", params={"rank": "cosine", **options}, content=body)
    found = client.post("/api/search", params=options, content=body)
    assert (found.status_code, expected.status_code) == (200, 200), found.text
    assert pairs(found.json()) == pairs(expected.json())
    assert found.json()["filtered"] == expected.json()["filtered"]
    assert [row["rank"] for row in found.json()["results"]] == list(range(1, len(pairs(found.json())) + 1))
    sizes = {row["path"]: (row["width"], row["height"]) for row in found.json()["results"]}
    assert sizes == {row["path"]: (row["width"], row["height"]) for row in expected.json()["results"]}


def test_ids_and_vectors_ask_too(client: Any, local: Gallery, photos: Path) -> None:
    with asked([local]) as other:
        boxed = {"box": "0,0,150,150"}
        for options in ({}, {"under": "photos/b_x"}, boxed, {"exclude_self": True}, {"exclude_self": True, **boxed}):
            mine, theirs = id_by_path(client, "photos/a/0002.png"), id_by_path(other, "photos/a/0002.png")
            found = told(client, "/api/search", id=mine, **options)
            assert pairs(found) == pairs(told(other, "/api/search", id=theirs, rank="cosine", **options))
            assert found["query"]["id"] == mine
            assert (mine in [row["id"] for row in found["results"]]) == (not options or options == boxed)
        vector = np.random.default_rng(0).normal(size=DIM).tolist()
        found = client.post("/api/search", json={"vector": vector}, params={"k": 4})
        expected = other.post("/api/search", json={"vector": vector}, params={"k": 4})
        assert pairs(found.json()) == pairs(expected.json())
    assert client.post("/api/search", json={"vector": [1.0]}).json()["error"]["code"] == "invalid_vector"


def test_listing_page_by_page(client: Any, local: Gallery) -> None:
    with asked([local]) as other:
        everything = {p["path"] for p in told(other, "/api/images", limit=500)["pictures"]}
    for under, expected in ((None, everything), ("photos/b_x", {p for p in everything if "/b_x/" in p})):
        found: list[dict[str, Any]] = []
        after: int | None = -1
        while after is not None:
            page = told(client, "/api/images", after=after, limit=4, **({"under": under} if under else {}))
            assert page["total"] == len(expected)
            assert len(page["pictures"]) == min(4, len(expected) - len(found))
            found += page["pictures"]
            after = page["next"]
        assert [p["id"] for p in found] == sorted({p["id"] for p in found})
        assert {p["path"] for p in found} == expected
    assert told(client, "/api/images", after=1 << 53)["pictures"] == []
    assert client.get("/api/images", params={"under": "nowhere"}).json()["error"]["code"] == "no_such_folder"


def test_every_id_leads_to_its_picture(client: Any, served: ServedGallery) -> None:
    for name in served.backend.names():
        assert served.backend.page(before_id(id_of(name)), 1) == [name]
        one = told(client, f"/api/images/{id_of(name)}")
        assert one["file"] == name
        assert one["path"].startswith("photos/")
    wrong = client.get(f"/api/images/{id_of('not there')}")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "no_such_picture")


def test_counts_and_folders(client: Any, local: Gallery) -> None:
    with asked([local]) as other:
        expected = told(other, "/api/stats")["galleries"][0]
    found = told(client, "/api/stats")["galleries"][0]
    for name in ("pictures", "folders", "fingerprint", "model"):
        assert found[name] == expected[name]
    assert (found["unreadable"], found["pending"], found["offers"]) == (None, None, ["exclude_self", "map", "why"])
    assert f'retrieve_pictures{{gallery="{found["gallery"]}"}} 15' in client.get("/metrics").text


def test_the_map(client: Any) -> None:
    found = told(client, "/api/map", count=100)
    assert found["total"] == len(found["pictures"]) == 15
    assert all(-1 <= one[axis] <= 1 for one in found["pictures"] for axis in "xy")


REFUSED = [
    ("/api/duplicates", {}),
    ("/api/search", {"rerank": "qe"}),
    ("/api/search", {"fold": True}),
    ("/api/search", {"rank": "fused"}),
    ("/api/search", {"rank": "local"}),
    ("/api/search", {"min_probability": 0.5}),
]


@pytest.mark.parametrize(("path", "parameters"), REFUSED)
def test_what_is_not_offered_is_told(client: Any, path: str, parameters: dict[str, Any]) -> None:
    asking = {"id": id_by_path(client, "photos/a/0000.png")} if path == "/api/search" else {}
    answer = client.get(path, params={**asking, **parameters})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "not_offered"
    assert "kept by a server and offers no" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["postgres", "milvus"])
def test_only_listed_files_with_the_listed_content_are_shown(servers: Any, tmp_path: Path, kind: str) -> None:
    write_pictures(tmp_path / "in", 4, sizes=((400, 300),))
    write_pictures(tmp_path / "private", 1, seed=9)
    private = str(tmp_path / "private" / "0000.png")
    link = tmp_path / "in" / "link.png"
    with filled(servers(kind).address(f"safe{next(_number)}"), tmp_path / "in") as gallery, asked([gallery]) as client:
        vector = np.eye(1, DIM, dtype=np.float32)[0]
        link.symlink_to(private)
        digest = read_content(tmp_path / "in" / "0000.png")[1]
        others = {  # what somebody who can write into the gallery lists, not knowing what the files hold
            private: "0" * 64,
            str(link): digest,
            "/etc/passwd": digest,
            f"{tmp_path}/in/../private/0000.png": digest,
            "s3://bucket/x.png": digest,
            f"file://elsewhere{private}": digest,
            "key of a program": digest,
            str(tmp_path): digest,
        }
        gallery.backend.upsert([Entry(name, text, 1, 1, 4, 3, vector) for name, text in others.items()])
        told_of: set[str] = set()
        for name in others:
            for side in ("320", "1280"):
                answer = client.get(f"/api/thumbnails/{id_of(name)}", params={"side": side})
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "picture_not_reachable"), name
                assert str(tmp_path) not in answer.text
                told_of.add(answer.text)
            one = told(client, f"/api/images/{id_of(name)}")
            assert (one["thumbnail"] is None) == (local_path(name) is None)
        assert len(told_of) == 1  # whether a file is there, and what it is, cannot be asked
        # Its descriptor asks all the same, a box of it cannot.
        assert told(client, "/api/search", id=id_of(private))["results"][0]["score"] > 0.99
        boxed = client.get("/api/search", params={"id": id_of(private), "box": "0,0,2,2"})
        assert boxed.json()["error"]["code"] == "picture_not_reachable"
        # What is there and unchanged is shown, small and without metadata.
        place = str(tmp_path / "in" / "0001.png")
        for _ in range(2):  # the second time from memory
            data = client.get(f"/api/thumbnails/{id_of(place)}").content
            small = Image.open(io.BytesIO(data)).convert("RGB")
            whole = Image.open(place).convert("RGB").resize(small.size, Image.Resampling.BOX)
            assert small.size == (320, 240)
            assert np.abs(np.asarray(small, float) - np.asarray(whole, float)).mean() < 6
        (tmp_path / "in" / "0002.png").write_bytes(Path(private).read_bytes())
        (tmp_path / "in" / "0003.png").unlink()
        for name in ("0002.png", "0003.png"):
            answer = client.get(f"/api/thumbnails/{id_of(str(tmp_path / 'in' / name))}")
            assert answer.json()["error"]["code"] == "picture_not_reachable"


def end_connections(address: str) -> None:
    """As a server that restarts does."""
    import psycopg

    parts = urllib.parse.urlsplit(address)
    with psycopg.connect(parts._replace(path=parts.path.rpartition("/")[0]).geturl(), autocommit=True) as own:
        own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def test_no_credential_is_ever_told(
    servers: Any, photos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL on its own socket lets anybody in: the password is in the address, and need not be right."""
    psycopg = pytest.importorskip("psycopg")
    server = servers("postgres")
    address = server.address(f"secret{next(_number)}").replace("postgres:@", f"postgres:{SECRET}@")
    assert SECRET in address
    caplog.set_level(logging.DEBUG)
    with filled(address, photos) as gallery, asked([gallery]) as client:
        number = id_by_path(client, "photos/a/0001.png")
        body = (photos / "a" / "0001.png").read_bytes()
        texts = [
            client.get(path, params={"id": number}).text
            for path in ("/", "/api/stats", "/api/search", "/api/images", "/api/map", "/metrics", "/api/openapi.json")
        ]
        texts.append(client.post("/api/search", content=body).text)

        def fail(*_: Any) -> Any:
            raise RuntimeError(f"cannot connect to {address}")

        monkeypatch.setattr(type(gallery.backend), "count", fail)
        texts.append(client.get("/api/stats").text)
        monkeypatch.undo()
        end_connections(address)
        assert told(client, "/api/search", id=number)["results"][0]["id"] == number  # on a new one
        end_connections(address)

        def refuse(*_: Any, **__: Any) -> Any:
            raise psycopg.OperationalError(f"connection to {address} failed")

        monkeypatch.setattr(psycopg, "connect", refuse)
        monkeypatch.setattr("retrieval.backends.lasting._WAITS", (0.0, 0.25))
        down = client.get("/api/search", params={"id": number})
        assert (down.status_code, down.json()["error"]["code"]) == (503, "gallery_unavailable")
        monkeypatch.undo()
        assert told(client, "/api/search", id=number)["results"][0]["id"] == number  # and it is there again
        texts += [down.text, client.get("/api/search", params={"id": number, "fold": True}).text]
        assert all(SECRET not in text and "postgresql:" not in text for text in texts)
    ours = [r for r in caplog.records if r.name.startswith("retrieval") and r.exc_info is None]
    assert all(SECRET not in record.getMessage() for record in ours)


def test_a_milvus_that_restarts(tmp_path: Path, photos: Path) -> None:
    """Gone it is 503, and it answers again when it is back. A server of its own: other tests' connections stay whole."""
    server = Milvus(tmp_path)
    try:
        with filled(server.address("album"), photos) as gallery, asked([gallery]) as client:
            number = id_by_path(client, "photos/a/0001.png")
            before = told(client, "/api/search", id=number)
            server.kill()
            down = client.get("/api/search", params={"id": number})
            assert (down.status_code, down.json()["error"]["code"]) == (503, "gallery_unavailable")
            server.start()
            for _ in range(300):  # its client waits a little before it tries again
                if client.get("/api/stats").status_code == 200:
                    break
                time.sleep(0.1)
            assert told(client, "/api/search", id=number) == before
    finally:
        server.stop()


def test_many_at_once_on_connections_of_their_own(client: Any, photos: Path) -> None:
    bodies = [(photos / "a" / f"000{i}.png").read_bytes() for i in range(4)]
    expected = [pairs(client.post("/api/search", content=body).json()) for body in bodies]

    def ask(i: int) -> bool:
        if i % 3 == 0:
            return bool(told(client, "/api/images", under="photos/a")["total"] == 9)
        return pairs(client.post("/api/search", content=bodies[i % 4]).json()) == expected[i % 4]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))


def test_connections_are_kept_renewed_and_closed(served: ServedGallery, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(served)
    itself: Callable[[ServedGallery], ServedGallery] = lambda one: one  # noqa: E731  # kept, so that none has another's id
    assert all(connections.ask(itself) is served for _ in range(3))
    inner = connections.ask(lambda one: (one, connections.ask(itself)))
    assert inner[0] is not inner[1]
    monkeypatch.setattr("retrieval.web.connections._FRESH", -1.0)
    assert not any(connections.ask(itself) is one for one in inner)  # those that were idle had grown old
    connections.close()
    assert connections.ask(len) == len(served)


def test_names_as_they_are_shown() -> None:
    names = Names(["/data/photos", "/more/photos", "/data/photos/inner", "s3://bucket/tars", "/"])
    assert [label for _, label in names.roots] == ["photos", "photos-2", "inner", "tars", "files"]
    assert names.place("/data/photos/a/x.png") == ("photos/a", "x.png")
    assert names.place("/data/photos/x?y.png") == ("photos", "x?y.png")
    assert names.place("/data/photos/inner/x.png") == ("inner", "x.png")
    assert names.place("/more/photos/x.png") == ("photos-2", "x.png")
    assert names.place("/data/photos2/x.png") == ("files/data/photos2", "x.png")
    assert names.place("s3://bucket/tars/b/x.png?sign=abc") == ("tars/b", "x.png")
    assert names.place("https://me:pw@host/x.png?sign=abc") == (ELSEWHERE, "x.png")
    assert names.place("file:///data/photos/%FF.png") == ("photos", "\ufffd.png")
    assert names.whole("https://me:pw@host/x.png?token=abc") == "https://me@host/x.png?token=***"
    assert names.below("photos-2/a/b") == "/more/photos/a/b"
    for wrong in ("", "nowhere", "photos/../../etc", "../photos", "photos\0"):
        with pytest.raises(ApiError):
            names.below(wrong)
    here = str(Path.cwd() / "x" / "y.png")
    assert Names.stored(Match(1, 1.0, id_of(here), "x/y.png")) == here
    assert Names.stored(Match(1, 1.0, id_of("key"), "key")) == "key"
    assert (local_path("file://host/x.png"), local_path("file:///a%20b.png")) == (None, "/a b.png")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "milvus"])
def test_the_page_over_a_served_gallery(servers: Any, browser: Any, local: Gallery, tmp_path: Path, kind: str) -> None:
    """Slow: a browser."""
    write_pictures(tmp_path / "in", 6, sizes=((400, 300),))
    address = servers(kind).address(f"page{next(_number)}")
    with filled(address, tmp_path / "in") as gallery:
        (tmp_path / "in" / "0005.png").unlink()
        gone = id_of(str(tmp_path / "in" / "0005.png"))
        with on_a_port([gallery, local]) as base:
            page = browser.new_page(base_url=base)
            page.set_default_timeout(20_000)
            page.goto("/")
            page.wait_for_selector(".card .lost")
            assert page.locator(".card").count() == 6
            assert page.locator(".card .lost").all_text_contents() == ["picture not reachable"]
            assert page.locator("nav a:visible").all_text_contents() == ["Search", "Gallery", "Map"]
            page.set_input_files("#file", str(tmp_path / "in" / "0002.png"))
            page.wait_for_selector("#grid[aria-busy=false] .card .line")
            assert page.locator(".card .name").first.text_content() == "0002.png"
            shown = page.locator("#filters label:visible").all_inner_texts()
            assert [text.split()[0] for text in shown] == ["Folder", "Least", "Results"]
            page.goto(f"/?id={gone}")
            page.wait_for_selector("#grid[aria-busy=false] .card .line")
            page.wait_for_selector("#unseen:visible")
            assert "not reachable" in (page.locator("#unseen").text_content() or "")
            page.goto("/duplicates")
            page.wait_for_selector("#duplicates .note")
            assert "offers no search for duplicates" in (page.locator("#duplicates .note").text_content() or "")
            page.goto("/gallery")
            page.wait_for_selector(".tile")
            assert page.locator(".tile").count() == 2
            page.select_option("#which", index=1)  # the gallery in a folder has all of it
            page.wait_for_selector("nav a[href='/duplicates']:visible")
            page.close()


@pytest.mark.slow
def test_a_long_list_of_a_served_gallery(servers: Any, browser: Any) -> None:
    """One page after the other, as one scrolls; no page is asked for twice. Slow: a browser."""
    rng = np.random.default_rng(0)
    names = [f"/nowhere/{i:04d}.png" for i in range(230)]
    with ServedGallery.create(servers("postgres").address(f"long{next(_number)}"), fake_model()) as gallery:
        vectors = rng.normal(size=(len(names), DIM)).astype(np.float32)
        gallery.backend.upsert([Entry(n, "0" * 64, 1, 1, 4, 3, v) for n, v in zip(names, vectors, strict=True)])
        with on_a_port([gallery]) as base:
            page = browser.new_page(base_url=base)
            page.set_default_timeout(20_000)
            wanted: list[str] = []
            page.on("request", lambda one: wanted.append(one.url) if "/api/images" in one.url else None)
            page.goto("/")
            page.wait_for_selector(".card .name")
            met: set[str] = set()
            for _ in range(200):
                met |= set(page.locator("#grid .name").all_text_contents())
                if len(met) == len(names):
                    break
                page.evaluate("scrollBy(0, 500)")
                page.wait_for_timeout(40)
                until(page, f"({IN_SIGHT})()")
            assert met == {Path(name).name for name in names}
            assert len(wanted) == len(set(wanted)) == 3
            page.close()


def test_query_explains_answers_of_a_served_gallery(servers: Any, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 3, sizes=((120, 90),))
    address = servers("postgres").address(f"why{next(_number)}")
    with ServedGallery.create(address, load_model(MODEL, size=64, engine="torch")) as gallery:
        index_folders(gallery, [str(tmp_path / "in")])
    (tmp_path / "in" / "0002.png").unlink()
    page, sheet = tmp_path / "why.html", tmp_path / "sheet.png"
    words = [
        "query",
        str(tmp_path / "in" / "0000.png"),
        "--index",
        address,
        "--engine",
        "torch",
        "--explain",
        str(page),
    ]
    assert cli.main([*words, "--sheet", str(sheet), "--heat"], standalone_mode=False) in (0, None)
    assert page.read_text().count("<article>") == 2  # that whose file is gone is left out
    assert "cosine 1.0000" in page.read_text()
    assert Image.open(sheet).size[0] > 300


@pytest.mark.slow
def test_the_command_serves_it_and_tells_no_password(servers: Any, tmp_path: Path) -> None:
    """Slow: a process that imports torch."""
    write_pictures(tmp_path / "in", 3)
    address = servers("postgres").address(f"cli{next(_number)}").replace("postgres:@", f"postgres:{SECRET}@")
    with ServedGallery.create(address, load_model(MODEL, size=64, engine="torch")) as gallery:
        index_folders(gallery, [str(tmp_path / "in")])
    process = subprocess.Popen(
        [*RETRIEVE, "serve", "--port", "0", "--engine", "torch", "--index", address],
        cwd=tmp_path,
        env=knowing_tiny(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        page = process.stdout.readline().strip()
        wanted = urllib.request.Request(page + "api/search", (tmp_path / "in" / "0001.png").read_bytes())
        wanted.add_header("Content-Type", "image/png")
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            found = json.load(answer)["results"]
        assert (found[0]["path"], round(found[0]["score"], 4)) == ("in/0001.png", 1.0)
    finally:
        process.send_signal(signal.SIGINT)
        said = "".join(process.communicate(timeout=60))
    assert SECRET not in said + page
    assert process.returncode in (
        0,
        130,
    )  # 0 where the tests were started with SIGINT ignored, as in the background of a shell


def test_requests_that_make_no_sense(client: Any, photos: Path) -> None:
    """Values that no route expects, those that engines have words for among them: no answer is a 500 or a 503."""
    rng = random.Random(1)
    number = str(id_by_path(client, "photos/a/0001.png"))
    last = str((1 << 53) - 1)
    ids = [number, "0", "-1", "1", last, str(1 << 53), str(1 << 70), "x", "1.5", ""]
    folders = [
        "photos",
        "photos/a",
        "photos/%",
        "photos/_",
        'photos/"a',
        "photos/a' OR 1=1 --",
        "photos/\u0000",
        "photos/💥",
        "",
        "/",
    ]
    folders += [
        "photos/b_x",
        "photos/b%5Fx",
        "photos//a",
        "photos/./a",
        "photos/../..",
        "p" * 3000,
        "photos/" + "ü" * 2000,
        "photos/\\",
    ]
    values = {
        "id": ids,
        "query": ids,
        "after": ids,
        "under": folders,
        "k": ["1", "3", "0", "2000", "100000", "-1"],
        "box": ["", "0,0,9,9", "1,1,1,1", "-5,-5,5,5", "nan,0,1,1"],
        "limit": ["1", "500", "501"],
        "offset": ["0", "1"],
        "min_score": ["0", "1", "-1", "2"],
        "count": ["1", "3", "5000", "0"],
        "side": ["320", "1280", "5"],
        "heads": ["true", "x"],
        "gallery": ["", "nowhere", "a" * 201],
    }
    vector = json.dumps({"vector": [1.0] * DIM}).encode()
    bodies = [b"", b"\0", vector, b'{"vector": [1]}', (photos / "a" / "0001.png").read_bytes()]
    routes = [
        "/api/search",
        "/api/images",
        f"/api/images/{number}",
        "/api/thumbnails/{id}",
        "/api/images/{id}",
        "/api/map",
    ]
    seen: set[int] = set()
    for _ in range(400):
        path = rng.choice([*routes, "/api/duplicates", "/api/stats"]).replace("{id}", rng.choice(ids[:-1]))
        parameters = {name: rng.choice(some) for name, some in values.items() if rng.random() < 0.35}
        if "gallery" in parameters and rng.random() < 0.7:
            del parameters["gallery"]
        if path == "/api/search" and rng.random() < 0.5:
            body = rng.choice(bodies)
            answer = client.post(
                path, params=parameters, content=body, headers={"Content-Type": rng.choice([JSON, "image/png"])}
            )
        else:
            answer = client.get(path, params=parameters)
        seen.add(answer.status_code)
        assert answer.status_code in (200, 404, 405, 413, 415, 422, 400), (path, parameters, answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"code", "message"}
    assert {200, 404, 422} <= seen


def test_the_api_keeps_its_form(client: Any) -> None:
    """Every route of the OpenAPI document that is a GET answers a served gallery in one of the told forms."""
    document = told(client, "/api/openapi.json")
    number = id_by_path(client, "photos/a/0000.png")
    for path, methods in document["paths"].items():
        if "get" in methods:
            answer = client.get(path.replace("{id}", str(number)), params={"id": number, "query": number})
            assert str(answer.status_code) in methods["get"]["responses"], path
            if answer.status_code != 200:
                assert set(json.loads(answer.text)["error"]) == {"code", "message"}
