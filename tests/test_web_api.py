"""The JSON API: its answers against the gallery's own, and its forms."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gallery
from PIL import Image
from textures import texture, write_textures

pytest.importorskip("fastapi", reason="the page needs the extra [web]")
pytest.importorskip("httpx", reason="the page is tested with httpx")

from web_album import SIZE, asked, known, make_album, png

from retrieval import Gallery, load_model
from retrieval.gallery.duplicates.keep import superfluous
from retrieval.gallery.explaining import Explaining
from retrieval.web import maps, state
from retrieval.web.settings import WebLimits


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    with make_album(tmp_path_factory.mktemp("web")) as made:
        yield made


@pytest.fixture
def client(gallery: Gallery) -> Iterator[Any]:
    with asked([gallery]) as made:
        yield made


def rows(answer: Any) -> list[tuple[int, float, str | None]]:
    assert answer.status_code == 200, answer.text
    return [(r["id"], r["score"], r["verdict"]) for r in answer.json()["results"]]


@pytest.mark.parametrize(
    "options", [{}, {"rank": "cosine"}, {"rank": "local"}, {"rerank": "qe"}, {"min_score": 0.2}, {"fold": True}]
)
def test_an_upload_is_answered_as_the_gallery_answers(client: Any, gallery: Gallery, options: dict) -> None:
    picture = known()
    own = [(m.id, m.score, m.verdict) for m in gallery.query(picture, 5, **options).matches]
    assert rows(client.post("/api/search", params={"k": 5, **options}, content=picture)) == own


def test_a_box_is_the_same_box(client: Any, gallery: Gallery) -> None:
    picture, box = known(), (40, 30, 200, 150)
    own = [(m.id, m.score, m.verdict) for m in gallery.query(picture, 4, box).matches]
    answer = client.post("/api/search", params={"k": 4, "box": "40,30,200,150"}, content=picture)
    assert rows(answer) == own
    assert answer.json()["query"]["box"] == [40, 30, 200, 150]


@pytest.mark.parametrize(
    ("route", "name", "hint"),
    [
        ("/api/search", "bbox", "Did you mean box?"),
        ("/api/search", "min_prob", "Did you mean min_probability?"),
        ("/api/stats", "gallery", ""),
        ("/api/images", "xyzzy", "Known: "),
    ],
)
def test_a_parameter_that_nothing_knows_is_refused(client: Any, route: str, name: str, hint: str) -> None:
    ask = client.post if route == "/api/search" else client.get
    body = {"content": known()} if route == "/api/search" else {}
    answer = ask(route, params={name: "1,2,30,40"}, **body)
    assert answer.status_code == 422
    assert f"Unknown parameter '{name}'." in answer.json()["error"]["message"]
    assert hint in answer.json()["error"]["message"]


def test_an_indexed_picture_asks_too(client: Any, gallery: Gallery) -> None:
    answer = client.get("/api/search", params={"id": 3, "k": 3})
    assert rows(answer)[0][0] == 3
    first = answer.json()["results"][0]
    assert first["score"] == pytest.approx(1)
    assert answer.json()["found"] is True
    assert first["path"] == f"{first['folder']}/{first['name']}"
    assert not first["path"].startswith("/")
    others = rows(client.get("/api/search", params={"id": 3, "k": 3, "exclude_self": True}))
    assert 3 not in [i for i, _, _ in others]
    assert len(others) == 3


def test_a_vector_asks_too(client: Any, gallery: Gallery) -> None:
    vector = gallery.vectors()[2]
    own = [(m.id, m.score) for m in gallery.search(vector[None], 4)[0]]
    answer = client.post("/api/search", params={"k": 4}, json={"vector": (7 * vector).tolist()})
    assert [(i, pytest.approx(s, abs=1e-6)) for i, s, _ in rows(answer)] == own
    for wrong in ({"vector": [1.0]}, {"vector": []}, {"vector": "a"}, [], {"vector": [0.0] * 48}):
        assert client.post("/api/search", json=wrong).status_code in (400, 422)
    nothing = client.post("/api/search", content=b'{"vector": [NaN]}', headers={"Content-Type": "application/json"})
    assert nothing.json()["error"]["code"] == "invalid_vector"


def test_only_in_a_folder(client: Any, gallery: Gallery) -> None:
    found = client.post("/api/search", params={"under": "album/deep"}, content=known()).json()["results"]
    assert {r["folder"] for r in found} == {"album/deep"}
    assert len(found) == 2
    for wrong in ("album/../..", "/etc", "..", "deep", "album\0"):
        answer = client.post("/api/search", params={"under": wrong}, content=known())
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "no_such_folder"


def test_listing_page_by_page(client: Any, gallery: Gallery) -> None:
    seen, after = [], -1
    while after is not None:
        page = client.get("/api/images", params={"after": after, "limit": 4}).json()
        seen += [p["id"] for p in page["pictures"]]
        after = page["next"]
    assert len(seen) == len(set(seen)) == page["total"] == len(gallery)
    assert seen == sorted(seen)
    deep = client.get("/api/images", params={"under": "album/deep"}).json()
    assert deep["total"] == 2
    assert deep["next"] is None


def test_thumbnails_are_turned_small_and_kept(client: Any, gallery: Gallery, tmp_path: Path) -> None:
    first = client.get("/api/images/3").json()
    answer = client.get(first["thumbnail"])
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).size == SIZE
    digest = gallery.catalog.by_ids([3])[3].hash
    assert (gallery.folder / "thumbnails" / "320" / digest[:2] / digest).read_bytes() == answer.content
    assert client.get("/api/thumbnails/3", params={"side": "17"}).status_code == 422
    with make_turned(tmp_path) as turned, asked([turned]) as other:
        shown = Image.open(io.BytesIO(other.get("/api/thumbnails/1").content))
        assert shown.size == (213, 320)
        assert not shown.getexif()
        assert shown.getpixel((100, 10))[0] > 200  # what was at the left is above
        # Whatever the orientation, the catalog's size is the one that is seen.
        told = other.get("/api/images/1").json()
        assert (told["width"], told["height"]) == (400, 600)


def make_turned(folder: Path) -> Gallery:
    """A picture that is to be turned, with a place in its metadata."""
    from fakes import fake_gallery

    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[:, :60] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "secret place"
    (folder / "turned").mkdir()
    Image.fromarray(pixels).save(folder / "turned" / "a.jpg", exif=exif)
    gallery = fake_gallery(folder / "turned" / ".retrieval")
    gallery.index([folder / "turned"])
    return gallery


def test_pages_by_their_place(client: Any, gallery: Gallery) -> None:
    everything = client.get("/api/images", params={"limit": 500}).json()["pictures"]
    for offset, limit in ((0, 3), (2, 4), (len(everything) - 1, 5), (len(everything), 5), (1 << 53, 5)):
        page = client.get("/api/images", params={"offset": offset, "limit": limit}).json()
        assert page["pictures"] == everything[offset : offset + limit]
        assert page["total"] == len(everything)
        assert (page["next"] is None) == (offset + limit >= len(everything))


def test_thumbnails_while_indexing(tmp_path: Path) -> None:
    """Those of `index --thumbnails` look as those made from the file; too few pixels and a full cache make none."""
    from retrieval.gallery.thumbnails import ThumbnailCache

    write_textures(tmp_path / "album", 3, size=(900, 600))
    model = load_model("tiny-gem@random:0", size=480, engine="torch")
    with Gallery.create(tmp_path / "gallery", model) as gallery:
        gallery.index([tmp_path / "album"], thumbnails=True)
        kept = {p.name: p.read_bytes() for p in (tmp_path / "gallery" / "thumbnails").rglob("*") if p.is_file()}
        digests = {r.hash for r in gallery.catalog.records()}
        assert set(kept) == digests
        with asked([gallery]) as client:
            one = client.get("/api/images").json()["pictures"][0]
            assert client.get(one["thumbnail"]).content in kept.values()
        for record in gallery.catalog.records():
            at_view = ThumbnailCache(tmp_path / "other").load(gallery.namer()(record), record.hash or "")
            ours, theirs = (
                np.asarray(Image.open(io.BytesIO(d)).convert("RGB"), float) for d in (kept[record.hash], at_view)
            )
            assert ours.shape == theirs.shape == (213, 320, 3)
            assert np.abs(ours - theirs).mean() < 6
    with fake_gallery(tmp_path / "small") as gallery:  # describes at 64 pixels
        gallery.index([tmp_path / "album"], thumbnails=True)
        assert not (tmp_path / "small" / "thumbnails").exists()
    full = ThumbnailCache(tmp_path / "gallery", most_bytes=10)
    full.put("ab" * 16, np.zeros((320, 320, 3), np.uint8), (320, 320))
    assert not (tmp_path / "gallery" / "thumbnails" / "320" / "ab").exists()


def test_the_cache_of_thumbnails_is_bounded(tmp_path: Path) -> None:
    from retrieval.files.digest import content_hash
    from retrieval.gallery.thumbnails import ThumbnailCache

    cache = ThumbnailCache(tmp_path, most_bytes=60_000)
    for path in write_textures(tmp_path / "photos", 24):
        assert cache.load(str(path), content_hash(path))[:4] == b"RIFF"
        kept = [p for p in cache.folder.rglob("*") if p.is_file()]
        assert sum(p.stat().st_size for p in kept) <= 60_000
    assert kept
    # A content that is another by now is shown, and not kept under the old name.
    path = tmp_path / "photos" / "0000.png"
    old = "0" * 64
    cache.load(str(path), old)
    assert not (cache.folder / "00" / old).exists()


def test_counts_folders_and_reasons(client: Any, gallery: Gallery) -> None:
    [told] = client.get("/api/stats").json()["galleries"]
    assert told["pictures"] == len(gallery)
    assert {f["folder"]: f["pictures"] for f in told["folders"]} == {"album": 7, "album/deep": 2}
    [broken] = told["unreadable_pictures"]
    assert broken["path"] == "album/broken.jpg"
    assert broken["reason"]
    assert told["unreadable"] == 1


def test_growth_is_seen(tmp_path: Path) -> None:
    with make_album(tmp_path) as gallery, asked([gallery]) as client:
        before = client.get("/api/stats").json()["galleries"][0]
        write_textures(tmp_path / "album", 2, first=90)
        with Gallery.open(gallery.folder) as writer:
            writer.model._engine = gallery.model._engine
            writer.index()
        after = client.get("/api/stats").json()["galleries"][0]
        assert after["pictures"] == before["pictures"] + 2
        assert after["version"] > before["version"]
        assert client.get("/api/images").json()["total"] == after["pictures"]


def test_duplicates_come_in_the_background(client: Any, gallery: Gallery) -> None:
    import time

    for _ in range(600):
        told = client.get("/api/duplicates").json()
        if told["state"] != "running" and not told["judging"]:
            break
        # While it is looked at, nothing is given away.
        assert all(m["best"] or m["kept"] for group in told["groups"] for m in group["members"])
        time.sleep(0.05)
    assert told["state"] == "done"
    found = gallery.duplicates("copies")
    assert [{m["id"] for m in g["members"]} for g in told["groups"]] == [
        {m.id for m in g.members} for g in found.groups
    ]
    # What the page leaves for the list is what the command lists.
    left = {m["id"] for g in told["groups"] for m in g["members"] if not m["best"] and m["kept"] is None}
    paths = superfluous(found)
    assert left == {m.id for g in found.groups for m in g.members if m.path in paths}
    assert told["groups"][0]["members"][0]["best"] is True
    assert client.get("/api/duplicates", params={"first": 1}).json()["groups"] == []


def test_added_pictures_have_no_file(tmp_path: Path) -> None:
    with make_album(tmp_path) as gallery, asked([gallery]) as client:
        number = gallery.add("a/key/../of mine", image=known(1), metadata={"shelf": 3})
        told = client.get(f"/api/images/{number}").json()
        assert told["thumbnail"] is None
        assert told["name"] == "a/key/../of mine"
        assert client.get(f"/api/thumbnails/{number}").json()["error"]["code"] == "no_file"
        answer = client.get("/api/search", params={"id": number})
        assert rows(answer)[0][0] == number
        assert answer.json()["results"][0]["metadata"] == {"shelf": 3}
        assert client.get("/api/heatmap", params={"id": number, "query": 1}).status_code == 404


def test_several_galleries(tmp_path: Path, gallery: Gallery) -> None:
    with make_album(tmp_path / "second") as other, asked([gallery, other]) as client:
        names = [g["gallery"] for g in client.get("/api/stats").json()["galleries"]]
        assert names[1] == "second"
        assert client.get("/api/search", params={"id": 1, "gallery": "second"}).json()["gallery"] == "second"
        assert client.get("/api/search", params={"id": 1, "gallery": "third"}).status_code == 404


def test_the_page_has_what_explains_loaded_before_anybody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_PAGE_FIRST", 0.0)
    loaded: list[str] = []
    again = threading.Event()

    def prepare(self: Explaining) -> None:
        loaded.append(threading.current_thread().name)
        again.set()
        raise RuntimeError("as of a model that cannot be explained")

    monkeypatch.setattr(Explaining, "prepare", prepare)
    with make_album(tmp_path, 4) as gallery, asked([gallery]) as client:
        assert client.get("/api/stats").status_code == 200
        assert loaded == []  # a program need not pay for it
        assert client.get("/").status_code == 200
        assert client.get("/gallery").status_code == 200
        assert again.wait(20)
        assert client.get("/?gallery=none").status_code == 200
    assert len(loaded) == 1


def test_why_through_the_api(tmp_path: Path) -> None:
    """With a network: the terms sum to the score of the same answer."""
    from retrieval import load_model

    write_textures(tmp_path / "album", 4)
    with Gallery.create(tmp_path / ".retrieval", load_model("tiny-gem@random:0", size=128, engine="torch")) as gallery:
        gallery.index([tmp_path / "album"])
        with asked([gallery]) as client:
            first = client.post("/api/search", content=known()).json()["results"][0]
            told = client.post("/api/heatmap", params={"id": first["id"]}, content=known()).json()
            for side in ("query", "picture"):
                terms = np.array(told[side]["terms"])
                assert terms.shape == (told[side]["rows"], told[side]["columns"])
                assert terms.sum() == pytest.approx(first["score"], abs=1e-5)
            assert len(told["points"]) >= first["inliers"] >= 8
            by_id = client.get("/api/heatmap", params={"id": 1, "query": 2, "box": "0,0,100,100"}).json()
            assert by_id["cosine"] < 1


def test_map_of_a_gallery(client: Any, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    told = client.get("/api/map").json()
    assert len(told["pictures"]) == told["total"] == len(gallery)
    assert 0 <= told["neighbours"] <= 1
    monkeypatch.setattr(maps, "laid_out", lambda _: pytest.fail("laid out again"))
    assert client.get("/api/map").json() == told


def test_the_root_tells_every_route_and_where_they_are_told_in_detail(client: Any) -> None:
    told = client.get("/api").json()
    form = client.get(told["details"]).json()
    expected = {(method.upper(), path) for path, methods in form["paths"].items() for method in methods}
    assert {(e["method"], e["path"]) for e in told["endpoints"]} == expected
    assert {
        ("GET", "/api/search"),
        ("POST", "/api/search"),
        ("GET", "/api/images/{id}"),
        ("GET", "/healthz"),
    } < expected
    assert all(e["summary"] for e in told["endpoints"])
    assert client.get("/api", params={"id": 3}).status_code == 422


def test_openapi_tells_every_route(client: Any) -> None:
    form = client.get("/api/openapi.json").json()
    assert {"/api/search", "/api/images/{id}", "/api/thumbnails/{id}", "/api/heatmap", "/api/stats"} < set(
        form["paths"]
    )
    for path, methods in form["paths"].items():
        for told in methods.values():
            assert told["summary"], path
            assert "404" in told["responses"]
    assert json.dumps(form).count("examples") > 20


def test_health_and_metrics(client: Any, gallery: Gallery) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    client.get("/api/images/1")
    client.get("/api/images/999999")
    client.get("/no/such/page?a=1")
    text = client.get("/metrics").text
    assert 'retrieve_requests_total{route="/api/images/{id}",status="200"} 1' in text
    assert 'retrieve_requests_total{route="/api/images/{id}",status="404"} 1' in text
    assert "no/such" not in text
    assert (
        f'retrieve_pictures{{gallery="{client.get("/api/stats").json()["galleries"][0]["gallery"]}"}} {len(gallery)}'
        in text
    )


def test_k_has_a_limit(gallery: Gallery) -> None:
    with asked([gallery], limits=WebLimits(results=3)) as client:
        assert len(rows(client.get("/api/search", params={"id": 1, "k": 100}))) == 3


def test_paths_are_told_on_the_machine_alone(gallery: Gallery) -> None:
    with asked([gallery]) as client:
        assert Path(client.get("/api/images/1").json()["file"]).is_file()
    with asked([gallery], host="0.0.0.0", token="t" * 20) as client:
        told = client.get("/api/images/1", headers={"Authorization": f"Bearer {'t' * 20}"})
        assert told.json()["file"] is None


def test_pictures_of_every_size_are_answered(client: Any) -> None:
    for size in ((1, 1), (2000, 3), (3, 900)):
        assert client.post("/api/search", content=png(texture(0, size, 3))).status_code in (200, 422)
