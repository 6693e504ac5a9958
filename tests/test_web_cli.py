"""``retrieve serve`` as a process: it starts, says where, answers as `retrieve query` does, and ends when it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from evaluation_set import retrieve
from textures import write_textures
from tiny import MODEL, RETRIEVE, knowing_tiny

pytest.importorskip("fastapi", reason="the page needs the extra [web]")

import web_client
from web_album import known

from retrieval import Gallery, UsageError, load_model
from retrieval.cli.main import main
from retrieval.web.settings import given_token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_textures(folder / "album", 5)
    with Gallery.create(folder / ".retrieval", load_model(MODEL, size=128, engine="torch")) as gallery:
        gallery.index([folder / "album"])
    (folder / "query.png").write_bytes(known())
    return folder


@contextmanager
def serving(folder: Path, *words: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [*RETRIEVE, "serve", "--port", "0", "--engine", "torch", *words],
        cwd=folder,
        env={k: v for k, v in knowing_tiny().items() if k != "RETRIEVE_TOKEN"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def here(folder: Path) -> Iterator[str]:
    """One server for all that ask from this machine. In the end it is told to end as by Ctrl-C."""
    with serving(folder) as (address, process):
        yield address
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130)
        assert "Traceback" not in err
        assert f"JSON API: {address}api" in err


@pytest.mark.slow
def test_it_answers_as_the_command_line_does(folder: Path, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: the first to ask for the server, a process that imports torch."""
    monkeypatch.chdir(folder)
    line = retrieve("query", "query.png", "-k", 5, "--format", "json", "--engine", "torch")
    expected = json.loads(line)["results"]
    assert here.startswith("http://127.0.0.1:")
    found = web_client.Client(here).search(folder / "query.png", k=5)
    for mine, own in zip(found, expected, strict=True):
        assert mine["id"] == own["id"]
        assert mine["verdict"] == own["verdict"]
        for name in ("score", "local", "fused", "probability"):
            assert mine[name] == pytest.approx(own[name], abs=1e-6)


def test_the_client_of_the_documents(folder: Path, here: str) -> None:
    text = Path(web_client.__file__).read_text().split('"""\n', 1)[1].strip()
    assert text in (Path(__file__).parent.parent / "docs" / "web.md").read_text()
    client = web_client.Client(here)
    found = client.search(folder / "query.png", k=3)
    assert len(found) == 3
    assert found[0]["name"] == "0002.png"
    assert client.search(found[0]["id"], k=1, exclude_self=True)[0]["name"] != "0002.png"
    assert client.thumbnail(found[0]["id"])[8:12] == b"WEBP"
    with pytest.raises(RuntimeError, match="no_such_picture: "):
        client.search(99)
    with pytest.raises(RuntimeError, match="unreadable_picture: "):
        client.search(Path(__file__))


@pytest.mark.slow
def test_elsewhere_than_here_it_makes_a_token_and_ends_without_a_socket(folder: Path) -> None:
    """For others too; and SIGTERM is how services are ended. Slow: another process that imports torch."""
    with tempfile.TemporaryDirectory(prefix="r-") as sockets:  # the name of a socket must be short
        with serving(folder, "--host", "0.0.0.0", XDG_RUNTIME_DIR=sockets) as (address, process):
            base, token = address.split("?token=")
            assert len(token) >= 30
            with pytest.raises(RuntimeError, match="token_needed: "):
                web_client.Client(base).search(1)
            with pytest.raises(RuntimeError, match="token_needed: "):
                web_client.Client(base, token[:-1]).search(1)
            assert web_client.Client(base, token).search(1)
            assert len(list(Path(sockets).glob("retrieval/*.sock"))) == 1
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert "in place of localhost" in err
        assert process.returncode in (143, -signal.SIGTERM)
        assert "Traceback" not in err
        assert list(Path(sockets).glob("retrieval/*")) == []


def test_tokens_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRIEVE_TOKEN", raising=False)
    assert given_token() is None
    monkeypatch.setenv("RETRIEVE_TOKEN", "a-token-of-mine")
    assert given_token() == "a-token-of-mine"
    for wrong in ("short", "with a space", "with;semicolon", "größer-als-acht", "line\nline-line"):
        monkeypatch.setenv("RETRIEVE_TOKEN", wrong)
        with pytest.raises(UsageError, match="RETRIEVE_TOKEN"):
            given_token()


def test_what_it_cannot_do_is_one_line(
    folder: Path, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, where: Path = folder) -> tuple[int, str]:
        monkeypatch.chdir(where)
        monkeypatch.setattr(sys, "argv", ["retrieve", "serve", *words])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert isinstance(left.value.code, int)
        return left.value.code, said

    status, said = run(where=tmp_path)
    assert status == 1
    assert "there is no gallery" in said
    status, said = run("--index", "postgresql://me:hidden@localhost/none")
    assert status == 2
    assert "names no gallery" in said
    assert "hidden" not in said
    port = here.rstrip("/").rpartition(":")[2]
    status, said = run("--port", port)
    assert status == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in said
    monkeypatch.setitem(sys.modules, "fastapi", None)
    status, said = run()
    assert status == 2
    assert "pip install 'retrieval[web]'" in said


def test_help_needs_no_extra() -> None:
    program = "import sys; sys.modules['fastapi'] = sys.modules['uvicorn'] = None\nfrom retrieval.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--help"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--open" in done.stdout
