"""``retrieve serve`` as a process: it starts, says where, answers as `retrieve query` does, and ends when it is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from textures import write_textures
from tiny import MODEL, RETRIEVE, knowing_tiny

pytest.importorskip("fastapi", reason="the page needs the extra [web]")

from web_album import known

from retrieval import Gallery, load_model


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


@pytest.mark.slow  # Two processes that import torch
def test_it_answers_as_the_command_line_does_and_ends_at_once(folder: Path) -> None:
    words = ["query", "query.png", "-k", "5", "--format", "json", "--engine", "torch"]
    done = subprocess.run(
        [*RETRIEVE, *words], cwd=folder, env=knowing_tiny(), capture_output=True, text=True, check=True
    )
    expected = json.loads(done.stdout)["results"]
    with serving(folder) as (address, process):
        assert address.startswith("http://127.0.0.1:")
        asked = urllib.request.Request(f"{address}api/search?k=5", (folder / "query.png").read_bytes())
        asked.add_header("Content-Type", "image/png")
        found = json.load(urllib.request.urlopen(asked, timeout=60))["results"]
        for mine, own in zip(found, expected, strict=True):
            assert mine["id"] == own["id"]
            assert mine["verdict"] == own["verdict"]
            for name in ("score", "local", "fused", "probability"):
                assert mine[name] == pytest.approx(own[name], abs=1e-6)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130)
        assert "Traceback" not in err


@pytest.mark.slow  # Two processes that import torch
def test_elsewhere_than_here_it_makes_a_token(folder: Path) -> None:
    with serving(folder, "--host", "0.0.0.0") as (address, _):
        base, token = address.split("?token=")
        assert len(token) >= 30
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}api/stats", timeout=60)
        assert refused.value.code == 401
        asked = urllib.request.Request(f"{base}api/stats", headers={"Authorization": f"Bearer {token}"})
        assert json.load(urllib.request.urlopen(asked, timeout=60))["galleries"][0]["pictures"] == 5
    with serving(folder, RETRIEVE_TOKEN="a-token-of-mine") as (address, _):
        assert address.endswith("?token=a-token-of-mine")


@pytest.mark.slow  # Four processes
def test_what_it_cannot_do_is_one_line(folder: Path, tmp_path: Path) -> None:
    def run(*words: str, where: Path = folder, program: str | None = None) -> tuple[int, str]:
        command = RETRIEVE if program is None else [sys.executable, "-c", program]
        done = subprocess.run(
            [*command, "serve", *words], cwd=where, env=knowing_tiny(), capture_output=True, text=True, timeout=120
        )
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        return done.returncode, done.stderr

    status, said = run(where=tmp_path)
    assert status == 1
    assert "there is no gallery" in said
    with serving(folder) as (address, _):
        port = address.rstrip("/").rpartition(":")[2]
        status, said = run("--port", port, "--engine", "torch")
        assert status == 1
        assert f"cannot listen on 127.0.0.1 port {port}" in said
    without = "import sys; sys.modules['fastapi'] = None; from retrieval.cli.main import main; main()"
    status, said = run(program=without)
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


@pytest.mark.slow  # Two processes that import torch
def test_the_client_of_the_documents(folder: Path) -> None:
    import web_client

    text = Path(web_client.__file__).read_text().split('"""\n', 1)[1].strip()
    assert text in (Path(__file__).parent.parent / "docs" / "web.md").read_text()
    with serving(folder) as (address, _):
        client = web_client.Client(address)
        found = client.search(folder / "query.png", k=3)
        assert len(found) == 3
        assert found[0]["name"] == "0002.png"
        assert client.search(found[0]["id"], k=1, exclude_self=True)[0]["name"] != "0002.png"
        assert client.thumbnail(found[0]["id"])[8:12] == b"WEBP"
        with pytest.raises(RuntimeError, match="no_such_picture: "):
            client.search(99)
        with pytest.raises(RuntimeError, match="unreadable_picture: "):
            client.search(Path(__file__))
    with serving(folder, RETRIEVE_TOKEN="a-token-of-mine") as (address, _):
        base = address.split("?")[0]
        with pytest.raises(RuntimeError, match="token_needed: "):
            web_client.Client(base).search(1)
        assert web_client.Client(base, "a-token-of-mine").search(1)
