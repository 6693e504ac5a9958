"""A gallery that another process holds open gives the very answers that it gives here; whoever cannot be trusted is not asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes import fake_gallery
from PIL import Image
from textures import texture, turned, write_textures

from retrieval.cli.main import cli
from retrieval.errors import RetrievalError, UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.resident import place
from retrieval.resident.answer import answering
from retrieval.resident.ask import ResidentGallery, ask_resident

pytestmark = pytest.mark.skipif(not place.available(), reason="this system has no sockets that are files")


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for sockets with a short name, of this test alone."""
    folder = tempfile.mkdtemp(prefix="r-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    monkeypatch.delenv(place.SWITCH, raising=False)
    yield Path(folder) / "retrieval"
    shutil.rmtree(folder)


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gallery]:
    monkeypatch.chdir(tmp_path)
    write_textures(tmp_path / "album", 9)
    Image.fromarray(turned(texture(5, (240, 180), 60))).save(tmp_path / "view.png")
    shutil.copy(tmp_path / "album" / "0003.png", tmp_path / "album" / "copy.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with fake_gallery(tmp_path / "g") as made:
        made.index(["album"])
        made.add("a/key", image=tmp_path / "view.png", metadata={"n": [1, {"ü": None}]})
        yield made


def asked(folder: Path) -> ResidentGallery:
    found = ask_resident(folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "rank": "local"},
        {"rank": "cosine", "min_score": 0.5},
        {"fold": True},
        {"exclude_self": True, "min_probability": 0.3},
    ],
)
def test_the_answers_are_those_of_the_gallery(gallery: Gallery, options: dict[str, Any]) -> None:
    pictures = ["view.png", "broken.png", Path("view.png").read_bytes(), "album/0003.png", "nothing.png"]
    wanted = list(gallery.answers(pictures, **options))
    with answering([gallery]), asked(gallery.folder) as resident:
        found = list(resident.answers(pictures, **options))
        assert (len(resident), resident.fingerprint, resident.judges) == (11, gallery.spec.fingerprint, True)
        assert resident.rank_by(None) == "fused"
    assert [result.matches for result in found] == [result.matches for result in wanted]
    assert [(r.query, r.bbox, r.filtered, r.found) for r in found] == [
        (r.query, r.bbox, r.filtered, r.found) for r in wanted
    ]
    assert [str(r.error) for r in found] == [str(r.error) for r in wanted]


def test_a_box(gallery: Gallery) -> None:
    box = (10.0, 20.0, 120.0, 100.0)
    with answering([gallery]), asked(gallery.folder) as resident:
        assert list(resident.answers(["view.png"], 4, box)) == list(gallery.answers(["view.png"], 4, box))


def test_names_are_as_seen_from_where_one_asks(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering([gallery]), asked(gallery.folder) as resident:
        monkeypatch.chdir(tmp_path / "album")
        (from_album,) = resident.answers(["../view.png"])
        assert from_album.query == "../view.png"
        assert {m.path for m in from_album.matches} > {"0005.png", "a/key"}
        assert all(m.path == "a/key" or Path(m.path).is_file() for m in from_album.matches)


@pytest.mark.parametrize("form", ["table", "json", "csv", "paths"])
def test_the_command_prints_the_same(gallery: Gallery, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["query", "view.png", "album/0003.png", "--index", str(gallery.folder), "--format", form, "--fold"]
    monkeypatch.setattr(Gallery, "open", classmethod(lambda *_, **__: gallery))
    gallery.close, close = lambda: None, gallery.close  # type: ignore[method-assign]
    wanted = CliRunner().invoke(cli, [*arguments, "--no-server"], standalone_mode=False)
    assert wanted.exception is None
    with monkeypatch.context() as patch, answering([gallery]):
        patch.setattr(Gallery, "open", classmethod(lambda *_, **__: pytest.fail("the server was not asked")))
        found = CliRunner().invoke(cli, arguments, standalone_mode=False)
    close()
    assert found.exception is None
    assert (found.stdout, found.stderr) == (wanted.stdout, wanted.stderr)
    assert "0005.png" in found.stdout


def test_asking_takes_no_array_library(gallery: Gallery, tmp_path: Path) -> None:
    """The saved time is that of its imports."""
    code = (
        "import sys; from retrieval.cli.main import cli\n"
        "cli.main(['query', 'view.png', '--index', 'g'], standalone_mode=False)\n"
        "print([name for name in ('numpy', 'faiss', 'cv2', 'PIL', 'openvino', 'torch') if name in sys.modules])"
    )
    with answering([gallery]):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "0005.png" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_cannot_be_had_is_said_as_by_the_gallery(gallery: Gallery) -> None:
    with answering([gallery]), asked(gallery.folder) as resident:
        with pytest.raises(UsageError, match="the cosine alone gives no probability"):
            resident.rank_by("cosine", judged=True)
        with pytest.raises(UsageError, match="a box goes with one picture"):
            list(resident.answers(["view.png", "view.png"], 3, (0, 0, 5, 5)))
        assert len(list(resident.answers(["view.png"]))) == 1  # and it goes on


def test_many_at_a_time(gallery: Gallery) -> None:
    (wanted,) = gallery.answers(["view.png"])
    found: list[bool] = []

    def visit() -> None:
        with asked(gallery.folder) as resident:
            found.extend(result.matches == wanted.matches for result in resident.answers(["view.png"] * 5))

    with answering([gallery]):
        visitors = [threading.Thread(target=visit) for _ in range(6)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
    assert found == [True] * 30


def test_a_gallery_that_was_made_anew_is_not_asked_for(gallery: Gallery, tmp_path: Path) -> None:
    with answering([gallery]):
        assert ask_resident(tmp_path / "g") is not None
        (tmp_path / "g").rename(tmp_path / "old")
        assert ask_resident(tmp_path / "g") is None
        with fake_gallery(tmp_path / "g") as other:
            other.description["created"] = "another day"
            (tmp_path / "g" / "gallery.json").write_text('{"created": "another day", "fingerprint": "x"}')
            assert ask_resident(tmp_path / "g") is None


def test_a_folder_that_others_can_enter_is_not_trusted(gallery: Gallery, sockets: Path) -> None:
    with answering([gallery]):
        assert ask_resident(gallery.folder) is not None
        sockets.chmod(0o755)
        assert ask_resident(gallery.folder) is None
        with answering([gallery]):  # nor used
            pass
        sockets.chmod(0o700)
        assert ask_resident(gallery.folder) is not None


def test_one_answers_and_what_was_left_behind_gives_way(gallery: Gallery, sockets: Path) -> None:
    path = sockets / place.socket_name(gallery.folder)
    with answering([gallery]):
        inode = path.stat().st_ino
        with answering([gallery]):
            assert path.stat().st_ino == inode
        assert ask_resident(gallery.folder) is not None
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(os.fspath(path))
    assert ask_resident(gallery.folder) is None
    with answering([gallery]):
        assert ask_resident(gallery.folder) is not None


def test_who_says_nothing_or_nonsense_is_left(gallery: Gallery, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.resident.ask._PATIENCE", 0.2)
    sockets.mkdir(mode=0o700)
    for said in (b"", b"nonsense\n", b"[]\n", b'{"version": "0.0"}\n'):
        with socket.socket(socket.AF_UNIX) as odd:
            path = sockets / place.socket_name(gallery.folder)
            path.unlink(missing_ok=True)
            odd.bind(os.fspath(path))
            odd.listen()

            def answer(server: socket.socket = odd, words: bytes = said) -> None:
                visitor, _ = server.accept()
                visitor.sendall(words)
                visitor.recv(1)  # until it leaves

            thread = threading.Thread(target=answer)
            thread.start()
            assert ask_resident(gallery.folder) is None
            thread.join()


def test_an_end_in_between_is_one_line(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        yield {"matches": [], "bbox": None, "error": None, "filtered": 0}
        raise ConnectionError

    monkeypatch.setattr("retrieval.resident.answer._answers", broken)
    with answering([gallery]), asked(gallery.folder) as resident:
        answers = resident.answers(["view.png", "view.png"])
        next(answers)
        with pytest.raises(RetrievalError, match="ended in between"):
            next(answers)


def test_it_can_be_switched_off(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering([gallery]):
        monkeypatch.setenv(place.SWITCH, "1")
        assert ask_resident(gallery.folder) is None


def test_a_changed_gallery_is_asked_as_it_is_now(gallery: Gallery, tmp_path: Path) -> None:
    with fake_gallery(gallery.folder) as reader, answering([reader]):
        with asked(gallery.folder) as resident:
            assert len(resident) == 11
        gallery.remove("album/0005.png")
        with asked(gallery.folder) as resident:
            assert len(resident) == 10
            (result,) = resident.answers(["view.png"])
    assert "album/0005.png" not in [m.path for m in result.matches]
