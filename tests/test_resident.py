"""A gallery that another process holds open gives the very answers that it gives here; whoever cannot be trusted is not asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes import fake_gallery
from own_sockets import own_sockets
from PIL import Image
from textures import texture, turned, write_textures

from retrieval.cli.main import cli
from retrieval.errors import GalleryDamaged, RetrievalError, UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.resident import place, talk
from retrieval.resident.answer import answering
from retrieval.resident.ask import ResidentGallery, ask_resident

pytestmark = pytest.mark.skipif(not place.available(), reason="this system has no sockets that are files")


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with own_sockets(monkeypatch) as folder:
        yield folder


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
    monkeypatch.setattr("retrieval.gallery.ahead.open_ahead", lambda *_, **__: gallery)
    gallery.close, close = lambda: None, gallery.close  # type: ignore[method-assign]
    wanted = CliRunner().invoke(cli, [*arguments, "--no-server"], standalone_mode=False)
    assert wanted.exception is None
    with monkeypatch.context() as patch, answering([gallery]):
        patch.setattr("retrieval.gallery.ahead.open_ahead", lambda *_, **__: pytest.fail("the server was not asked"))
        found = CliRunner().invoke(cli, arguments, standalone_mode=False)
    close()
    assert found.exception is None
    assert (found.stdout, found.stderr) == (wanted.stdout, wanted.stderr)
    assert "0005.png" in found.stdout


def test_asking_imports_next_to_nothing(gallery: Gallery, tmp_path: Path) -> None:
    """The saved time is that of its imports."""
    code = (
        "import sys; from retrieval.cli.main import cli\n"
        "cli.main(['query', 'view.png', '--index', 'g'], standalone_mode=False)\n"
        "slow = {'numpy', 'faiss', 'cv2', 'PIL', 'openvino', 'torch', 'logging', '_hashlib'}\n"
        "print(sorted(slow & set(sys.modules)))"
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


def test_a_failure_of_the_server_is_no_end(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the visitor is told to come again, for ever."""

    def broken(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        raise MemoryError("no room\nat all")

    with answering([gallery]), asked(gallery.folder) as resident:
        with monkeypatch.context() as patch:
            patch.setattr("retrieval.resident.answer._answers", broken)
            with pytest.raises(RetrievalError, match=r"failed: no room\. With --no-server"):
                next(resident.answers(["view.png"]))
        assert len(list(resident.answers(["view.png"]))) == 1


def test_whoever_does_not_read_keeps_nobody_waiting(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as work at once let their answers lie, which are more than a socket holds."""

    def long(*_: Any, images: list[Any], **__: Any) -> Iterator[dict[str, Any]]:
        for _ in images:
            yield {"matches": [], "bbox": None, "error": None, "filtered": 7, "long": "x" * 4_000_000}

    monkeypatch.setattr("retrieval.resident.answer._answers", long)
    with answering([gallery]), ExitStack() as idle:
        for _ in range(4):
            visitor = idle.enter_context(asked(gallery.folder))
            talk.send(
                visitor._stream, {"ask": "answers", "here": os.getcwd(), "images": [{"name": "view.png"}], "k": 1}
            )
        time.sleep(0.2)  # they come first
        with asked(gallery.folder) as resident:
            resident._connection.settimeout(20)
            assert [result.filtered for result in resident.answers(["view.png"] * 20)] == [7] * 20


def test_a_stopped_server_keeps_its_socket(gallery: Gallery, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose queue is full lets nobody in; a second must neither wait for it nor take its place."""
    monkeypatch.setattr("retrieval.resident.answer._PATIENCE", 0.1)
    monkeypatch.setattr("retrieval.resident.ask._PATIENCE", 0.1)
    sockets.mkdir(mode=0o700)
    path = sockets / place.socket_name(gallery.folder)
    with ExitStack() as stack:
        stopped = stack.enter_context(socket.socket(socket.AF_UNIX))
        stopped.bind(os.fspath(path))
        stopped.listen(1)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(os.fspath(path))
        inode = path.stat().st_ino
        with answering([gallery]):
            assert path.stat().st_ino == inode
            assert ask_resident(gallery.folder) is None
        assert path.stat().st_ino == inode


def test_two_that_start_at_once(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other takes the socket for one that was left behind, between its making and the first look at it."""
    from retrieval.resident import answer

    class Robbed(answer._Server):
        def __init__(self, gallery: Gallery, path: Path) -> None:
            super().__init__(gallery, path)
            path.unlink()

    monkeypatch.setattr(answer, "_Server", Robbed)
    with answering([gallery]):
        assert ask_resident(gallery.folder) is None


def test_from_a_folder_that_is_gone_the_gallery_answers_by_itself(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    with answering([gallery]):
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert ask_resident(tmp_path / "g") is None


def test_a_pipe_and_odd_names(gallery: Gallery, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    odd = ["a\nb.png", os.fsdecode(b"\xff.png"), "x" * 200 + ".png"]
    for name in odd:
        shutil.copy(tmp_path / "view.png", tmp_path / name)
    names = ["pipe.png", *odd, "album", "\0.png", "y" * 5000]
    wanted = list(gallery.answers(names))
    with answering([gallery]), asked(gallery.folder) as resident:
        resident._connection.settimeout(30)
        found = list(resident.answers(names))
    assert [(r.query, r.matches, str(r.error)) for r in found] == [(r.query, r.matches, str(r.error)) for r in wanted]
    assert [r.error is None for r in found] == [False, True, True, True, False, False, False]


def test_who_is_asked_while_it_ends_calls_nothing_damaged(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gallery may be closed while a thread of it still searches."""
    begun, ended = threading.Event(), threading.Event()

    def closed(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        begun.set()
        ended.wait(20)
        raise GalleryDamaged("Cannot operate on a closed database")

    monkeypatch.setattr("retrieval.resident.answer._answers", closed)
    told: list[str] = []

    def visit() -> None:
        with asked(gallery.folder) as resident:
            try:
                next(resident.answers(["view.png"]))
            except RetrievalError as error:
                told.append(str(error))

    visitor = threading.Thread(target=visit)
    with answering([gallery]):
        visitor.start()
        assert begun.wait(20)
    ended.set()
    visitor.join()
    assert "ended in between" in told[0]


def test_where_it_ends_in_between_the_rest_is_answered_here(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first of two answers; each is told once, in order."""
    wanted = list(gallery.answers(["view.png", "album/0004.png"]))
    from retrieval.resident import answer

    told = answer._answers

    def broken(
        asked_for: Gallery, here: str, begun: object, images: list[dict[str, str]], **options: Any
    ) -> Iterator[dict[str, Any]]:
        yield from told(asked_for, here, None, images[:1], **options)
        raise ConnectionError

    monkeypatch.setattr("retrieval.resident.answer._answers", broken)
    with answering([gallery]):
        resident = ask_resident(gallery.folder, lambda: fake_gallery(gallery.folder))
        assert resident is not None
        with resident:
            found = list(resident.answers(["view.png", "album/0004.png"]))
            assert len(resident) == 11
            assert resident.rank_by(None) == gallery.rank_by(None)
    assert [(r.query, r.matches) for r in found] == [(r.query, r.matches) for r in wanted]


def test_one_that_falls_silent_is_given_up_and_one_that_works_is_not(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sign of life starts the clock anew; without any, as of a stopped process, the gallery is asked here."""
    from retrieval.resident import answer

    told, gone_on = answer._answers, threading.Event()

    def slow(*values: Any, **options: Any) -> Iterator[dict[str, Any]]:
        gone_on.wait(2)
        yield from told(*values, **options)

    monkeypatch.setattr("retrieval.resident.answer._answers", slow)
    monkeypatch.setattr("retrieval.resident.ask._SILENCE", 1.0)
    opened: list[Gallery] = []

    def alone() -> Gallery:
        opened.append(fake_gallery(gallery.folder))
        return opened[-1]

    wanted = next(gallery.answers(["view.png"])).matches
    for every, here in ((0.05, 0), (600.0, 1)):
        monkeypatch.setattr("retrieval.resident.answer.SIGN_EVERY", every)
        with answering([gallery]):
            resident = ask_resident(gallery.folder, alone)
            assert resident is not None
            with resident:
                assert next(resident.answers(["view.png"])).matches == wanted
        assert len(opened) == here
    gone_on.set()


def test_with_other_limits_or_another_engine_it_is_not_asked(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """They decide what can be read, and the last digits."""
    with answering([gallery]):
        assert ask_resident(gallery.folder) is not None
        gallery.model.engine_name = "torch"
        assert ask_resident(gallery.folder) is None
        gallery.model.engine_name = "auto"
    from retrieval.resident import ask

    monkeypatch.setattr(ask, "circumstances", lambda: ["2000", ""])  # the visitor's alone
    with answering([gallery]):
        assert ask_resident(gallery.folder) is None


def test_a_copy_that_was_put_back_is_what_answers(gallery: Gallery, tmp_path: Path) -> None:
    """A backup has the day and the fingerprint of what it replaces, and other pictures; the rows of its vectors differ too."""
    shutil.copytree(gallery.folder, tmp_path / "backup")
    gallery.remove(["album/0003.png", "album/copy.png", "album/0001.png"])
    with fake_gallery(gallery.folder) as reader, answering([reader]):
        with asked(gallery.folder) as resident:
            before = next(resident.answers(["view.png"])).matches
        shutil.rmtree(gallery.folder)
        shutil.copytree(tmp_path / "backup", gallery.folder)
        with fake_gallery(gallery.folder) as own:
            wanted = next(own.answers(["album/0003.png"])).matches
        with asked(gallery.folder) as resident:
            assert len(resident) == 11
            assert next(resident.answers(["album/0003.png"])).matches == wanted
    assert before
