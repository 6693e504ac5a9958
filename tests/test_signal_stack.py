"""Signals reach Python whatever OpenVINO did to the stack that they are handled on; each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from fakes import fake_gallery

from retrieval import Gallery
from retrieval.cli.main import main

pytest.importorskip("openvino")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's signal stacks")

# Models come and go in a thread of their own, as when an engine is compiled again for more streams.
PROGRAM = """
import ctypes, gc, os, signal, sys, threading
import numpy as np
import tiny
from retrieval import load_model

class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def state():
    now = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now)) == 0
    return now.address, now.flags, now.size

if "faulthandler" in sys.argv:
    import faulthandler
    faulthandler.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)
before = state()
picture = np.zeros((1, 64, 64, 3), np.uint8)
engine = load_model(tiny.MODEL, engine="openvino").engine()
engine.describe(picture)
assert state() == before, (before, state())
threads = [threading.Thread(target=engine.describe, args=(picture.repeat(200, 0),)) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
drop = threading.Thread(target=lambda held=[engine]: (held.clear(), gc.collect()))
del engine
drop.start()
drop.join()
assert state() == before
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(5)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("words", [[], ["faulthandler"]])
def test_a_signal_is_handled_once_models_have_come_and_gone(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=tiny.knowing_tiny(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_an_interrupted_index_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_gallery(tmp_path / "g").close()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Gallery, "index", interrupted)
    monkeypatch.setattr(sys, "argv", ["retrieve", "index", str(tmp_path), "--index", str(tmp_path / "g")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert capsys.readouterr().err.strip() == (
        "retrieve: interrupted; what is described stays, and the same command goes on"
    )
