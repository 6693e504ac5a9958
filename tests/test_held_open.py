"""A gallery that a program holds: closed and used again, carried into a forked process, asked with paths that are objects."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from fakes import DIM, fake_gallery, fake_model, write_pictures

from retrieval.cli.main import cli
from retrieval.errors import GalleryMismatch, UsageError
from retrieval.gallery.gallery import Gallery


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "album", 8)
    made = fake_gallery(tmp_path / "g")
    made.index(["album"])
    return made


def best(gallery: Gallery) -> list[int]:
    return [match.id for match in gallery.query("album/0003.png", k=3).matches]


def in_a_fork(work: Callable[[], object]) -> str:
    """What ``work`` gives in a forked process, as text; "" where it does not end within ten seconds."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(10)
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        told = answer.read().decode()
    os.waitpid(child, 0)
    return told


def test_one_that_was_closed_opens_again_when_it_is_asked(gallery: Gallery) -> None:
    """Candidates that it kept belonged to the connection that was closed."""
    wanted = best(gallery)
    for _ in range(2):
        with gallery:
            assert best(gallery) == wanted
        assert best(gallery) == wanted
        gallery.close()
        gallery.close()
    assert len(gallery) == 8


def test_a_fork_of_a_process_with_a_network_is_told_instead_of_left_waiting() -> None:
    """Threads of the libraries do not come along. Without a network in the parent the child has one of its own."""
    program = """if True:
        import os, sys
        import numpy as np
        from retrieval import ModelError, load_model
        def described(model):
            try:
                return model.describe(np.full((96, 96, 3), 90, np.uint8)).tobytes()
            except ModelError as error:
                return str(error).encode()
        def forked(model):
            read, write = os.pipe()
            if not os.fork():
                os.write(write, described(model))
                os._exit(0)
            os.close(write)
            with open(read, "rb") as told:
                return told.read()
        model = load_model("auto", size=96, engine=sys.argv[1])
        before = forked(model)
        here = described(model)
        told = [forked(model), forked(load_model("auto", size=96, engine=sys.argv[1]))]
        if sys.argv[1] == "openvino":  # asked by several threads it runs streams, which are threads too
            engine = model.engine()
            engine.streams = 2
            for request in [engine._take(), engine._take()]:
                engine._give(*request)
            assert described(model) == here
            told.append(forked(model))
        print(before == here, *("spawn" if b'get_context("spawn")' in t else t == here for t in told))
    """
    for engine, wanted in (("torch", "True spawn spawn"), ("openvino", "True True spawn spawn")):
        done = subprocess.run([sys.executable, "-c", program, engine], capture_output=True, text=True, timeout=120)
        assert (done.stdout.strip(), done.stderr) == (wanted, "")


def test_a_fork_asks_by_itself_whatever_a_thread_held_at_that_moment(gallery: Gallery) -> None:
    wanted = best(gallery)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with gallery.catalog.reading():
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(20)
    told = in_a_fork(lambda: (best(gallery), len(gallery), gallery.close()))
    go_on.set()
    thread.join()
    assert told == str((wanted, 8, None))
    assert best(gallery) == wanted
    gallery.close()


def test_a_folder_may_be_named_by_an_object(gallery: Gallery) -> None:
    matches = gallery.query("album/0003.png", under=Path("album")).matches
    assert [m.id for m in matches] == [m.id for m in gallery.query("album/0003.png", under="album").matches]
    vectors = gallery.vectors(["album/0003.png"])
    assert len(gallery.search(vectors, under=Path("album"))[0]) == 8
    gallery.close()


def test_a_gallery_of_another_model_in_its_place_is_refused_in_words(gallery: Gallery, tmp_path: Path) -> None:
    assert best(gallery)
    with Gallery.create(tmp_path / "other", fake_model(weights="b")) as other:
        other.add("k", vector=[1.0] + [0.0] * 47)
    shutil.rmtree(tmp_path / "g")
    (tmp_path / "other").rename(tmp_path / "g")
    for _ in range(2):
        with pytest.raises(GalleryMismatch, match="another gallery than the one that was opened"):
            best(gallery)
    gallery.close()


def test_an_empty_name_takes_nothing_out(gallery: Gallery) -> None:
    """`retrieve remove "$ALBUM"`, and the variable is not set: it would mean the current folder, all of it."""
    with pytest.raises(UsageError, match="the name is empty"):
        gallery.remove_matching("")
    for words in (
        ["remove", ""],
        ["remove", "--root", ""],
        ["index", ""],
        ["query", ""],
        ["query", "x", "--under", ""],
    ):
        told = CliRunner().invoke(cli, [*words, "--index", "g"], standalone_mode=False)
        assert isinstance(told.exception, click.UsageError)
        assert "the name is empty" in told.exception.format_message()
    assert len(gallery) == 8
    gallery.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_copy_goes_with_a_command_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    """The folder of a copy is deleted by what its gallery leaves to the end of Python, which a signal alone would not reach."""
    program = """
import shutil, signal, sys, time, weakref
from pathlib import Path
from retrieval.cli.copied import end_by_signals
class Copy: pass
copy, folder = Copy(), Path(sys.argv[1])
folder.mkdir()
weakref.finalize(copy, shutil.rmtree, folder)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored where the tests run under nohup
end_by_signals()
print("made", flush=True)
time.sleep(60)
"""
    folder = tmp_path / "copy"
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        assert ended.stdout.readline() == b"made\n"
        ended.send_signal(number)
    assert ended.returncode == 128 + number
    assert not folder.exists()


@pytest.mark.parametrize("read", [list, Gallery.vectors, Gallery.records])
def test_what_is_added_while_all_are_read_is_no_damage(
    read: Callable[[Gallery], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures and their number are those of one state."""
    with fake_gallery(tmp_path / "g") as gallery, fake_gallery(tmp_path / "g") as other:
        other.add("a", vector=np.ones(DIM))
        check = type(gallery.catalog).check_complete

        def late(*values: Any, **options: Any) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(type(gallery.catalog), "check_complete", check)
                other.add("b", vector=np.ones(DIM))
            check(*values, **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(gallery.catalog), "check_complete", late)
            assert len(read(gallery)) == 1
        assert len(read(gallery)) == 2
