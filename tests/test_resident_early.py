"""A picture named to the process that will be asked before the question is there: the same answers, no harm in a wrong guess."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_gallery
from own_sockets import own_sockets
from PIL import Image
from textures import texture, turned, write_textures

from retrieval.describe.begun import Begun
from retrieval.gallery.gallery import Gallery
from retrieval.resident import answer, early, place
from retrieval.resident.answer import answering
from retrieval.resident.ask import ask_resident

pytestmark = pytest.mark.skipif(not place.available(), reason="this system has no sockets that are files")


@pytest.fixture(autouse=True)
def _sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RETRIEVE_INDEX", raising=False)
    with own_sockets(monkeypatch):
        yield
    for _, connection in early._begun:
        os.close(connection)
    early._begun.clear()


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gallery]:
    monkeypatch.chdir(tmp_path)
    write_textures(tmp_path / "album", 9)
    Image.fromarray(turned(texture(5, (240, 180), 60))).save(tmp_path / "view.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with fake_gallery(tmp_path / ".retrieval") as made:
        made.index(["album"])
        yield made


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pictures that the serving process began."""
    seen: list[str] = []

    class Told(Begun):
        def __init__(self, model: Any, image: str) -> None:
            seen.append(image)
            super().__init__(model, image)

    monkeypatch.setattr(answer, "Begun", Told)
    return seen


def soon(told: list[str]) -> list[str]:
    for _ in range(200):
        if told:
            break
        time.sleep(0.01)
    return told


def test_the_answer_is_the_same_and_the_picture_described_once(
    gallery: Gallery, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    load = type(gallery.model).load

    def counted(model: Any, source: Any, bbox: Any = None, **options: Any) -> Any:
        loaded.append(source)
        return load(model, source, bbox, **options)

    monkeypatch.setattr(type(gallery.model), "load", counted)
    wanted = gallery.query("view.png", k=5)
    alone, loaded[:] = len(loaded), []
    with answering([gallery]):
        early.begin(["query", "-k", "5", "view.png", "--index", ".retrieval"])
        assert soon(begun) == [os.path.abspath("view.png")]
        resident = ask_resident(gallery.folder)
        assert resident is not None
        with resident:
            assert not early._begun, "the connection is taken"
            (found,) = resident.answers(["view.png"], 5)
            assert len(loaded) == alone
            again = list(resident.answers(["view.png", "album/0001.png"], 5))
    assert found.matches == wanted.matches == again[0].matches


def test_another_question_than_was_guessed_is_answered_as_asked(gallery: Gallery, begun: list[str]) -> None:
    box = (10, 10, 150, 120)
    wanted = gallery.query("view.png", bbox=box), gallery.query("album/0004.png")
    with answering([gallery]):
        for question, bbox, expected in (("view.png", box, wanted[0]), ("album/0004.png", None, wanted[1])):
            early.begin(["query", "view.png"])
            resident = ask_resident(gallery.folder)
            assert resident is not None
            with resident:
                (found,) = resident.answers([question], bbox=bbox)
            assert (found.matches, found.bbox) == (expected.matches, expected.bbox)
    assert len(begun) == 2


def test_a_picture_that_cannot_be_read_is_told_as_ever(gallery: Gallery, begun: list[str]) -> None:
    (wanted,) = gallery.answers(["broken.png"])
    with answering([gallery]):
        early.begin(["query", "broken.png"])
        assert soon(begun)
        resident = ask_resident(gallery.folder)
        assert resident is not None
        with resident:
            (found,) = resident.answers(["broken.png"])
    assert str(found.error) == str(wanted.error)


def test_whoever_goes_or_stays_silent_takes_nobodys_turn(gallery: Gallery, begun: list[str]) -> None:
    with answering([gallery]):
        for _ in range(9):
            early.begin(["query", "view.png"])  # more than are worked at at once, and none of them asks
        resident = ask_resident(gallery.folder)
        assert resident is not None
        with resident:
            resident._connection.settimeout(20)
            (found,) = resident.answers(["view.png"])
        assert found.matches
        for _, connection in early._begun:
            os.close(connection)
        early._begun.clear()
        second = ask_resident(gallery.folder)
        assert second is not None
        with second:
            assert next(second.answers(["view.png"])).matches == found.matches
    assert 1 <= len(begun) <= 9


def test_more_than_can_be_worked_at_are_not_begun(gallery: Gallery, begun: list[str]) -> None:
    """Those that ask come first: where all turns are taken, a hint is passed over."""
    held, free = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        held.set()
        free.wait(20)
        return iter(())

    with pytest.MonkeyPatch.context() as patch, answering([gallery]):
        patch.setattr(answer, "_answers", slow)
        visitors = [ask_resident(gallery.folder) for _ in range(4)]
        threads = [
            threading.Thread(target=lambda v=v: list(v._asked("answers", images=[]))) for v in visitors if v is not None
        ]
        for thread in threads:
            thread.start()
        assert held.wait(20)
        time.sleep(0.2)
        early.begin(["query", "view.png"])
        time.sleep(0.2)
        assert begun == []
        free.set()
        for thread in threads:
            thread.join(20)


def test_what_cannot_be_begun_is_answered_all_the_same(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """More often than there are turns: none is lost, and nothing is said before the question."""
    failed: list[str] = []

    class Exhausted:
        def __init__(self, model: Any, image: str) -> None:
            failed.append(image)
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(answer, "Begun", Exhausted)
    wanted = gallery.query("view.png", k=5).matches
    with answering([gallery]):
        for count in range(1, 7):
            early.begin(["query", "view.png"])
            found: list[Any] = []

            def ask(into: list[Any] = found) -> None:
                resident = ask_resident(gallery.folder)
                assert resident is not None
                with resident:
                    into.extend(resident.answers(["view.png"], 5))

            thread = threading.Thread(target=ask, daemon=True)
            thread.start()
            thread.join(20)
            assert [result.matches for result in found] == [wanted]
            assert len(failed) == count


def test_a_server_that_knows_no_hints_is_not_asked(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the same version, from an earlier working copy: it replies to the hint, which would pass for a reply to the
    question."""
    with answering([gallery]), monkeypatch.context() as patch:
        patch.setattr(answer, "LANGUAGE", None)
        early.begin(["query", "view.png"])
        assert ask_resident(gallery.folder) is None


def test_no_connection_is_left_open_where_nobody_can_be_told(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place.sockets_folder(create=True)
    assert folder is not None
    path = os.path.join(folder, place.socket_name(gallery.folder))
    files = set(os.listdir("/dev/fd"))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)  # nobody listens
        early.begin(["query", "view.png"])
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        early.begin(["query", str(tmp_path / "view.png"), "--index", str(gallery.folder)])
        monkeypatch.chdir(tmp_path)
    assert early._begun == []
    assert set(os.listdir("/dev/fd")) == files


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["index", "view.png"],
        ["query"],
        ["query", "nothing.png"],
        ["query", "view.png", "broken.png"],
        ["query", "album"],
        ["query", "view.png", "--bbox", "1,2,3,4"],
        ["query", "view.png", "--bbox=1,2,3,4"],
        ["query", "--index", "elsewhere", "view.png"],
        ["query", "view.png", "--index=milvus://nobody@nowhere"],
        ["query", "--no-server", "view.png"],
        ["query", "view.png", "--sheet", "out.jpg"],
        ["query", "view.png", "--under", "album"],
    ],
)
def test_where_there_is_doubt_nothing_is_begun(gallery: Gallery, begun: list[str], arguments: list[str]) -> None:
    with answering([gallery]):
        early.begin(arguments)
        assert early._begun == []
    assert begun == []


def test_without_a_server_or_with_another_gallery_nothing_happens(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early.begin(["query", "view.png"])
    assert early._begun == []
    with answering([gallery]):
        early.begin(["query", "view.png"])
        path = place.socket_of(gallery.folder)
        assert path is not None
        assert early.taken(str(tmp_path / "other.sock")) is None
        assert early.taken(path) is None, "it was closed"
        monkeypatch.setenv(place.SWITCH, "1")
        early.begin(["query", "view.png"])
        monkeypatch.delenv(place.SWITCH)
        monkeypatch.setenv("RETRIEVE_INDEX", "postgresql://nobody@nowhere/x")
        early.begin(["query", "view.png"])
        assert early._begun == []


def test_it_is_begun_before_the_command_line_is_imported() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "from retrieval.resident import early\n"
        "heavy = {'click', 'numpy', 'socket', 'typing', 'pathlib', 're', 'json', '_hashlib'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy\n"
        "import retrieval.cli.start; assert 'click' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
