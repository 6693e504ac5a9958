"""What a command writes and reads: help, awkward names, outputs that are closed, full or gone, a picture piped in."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from retrieval.cli.main import cli
from retrieval.datasets.groundtruth import GroundTruth, Query
from retrieval.errors import DatasetError
from retrieval.evaluation.rankings import read_rankings

RETRIEVE = f"{sys.executable} -m retrieval"
NAMES = ["é.jpg", "北京.jpg", "plain.jpg", "line\nbreak.jpg"]


def sh(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RETRIEVE_INDEX", "LC_", "LANG", "PYTHONIO"))}
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, env=kept | environment, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of four small pictures whose names are awkward."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    (folder / "p").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / "p" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # as the first command of a user would
        assert CliRunner().invoke(cli, ["index", "p", "--size", "32", "-q"], standalone_mode=False).return_value == 0
    return folder


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("words", ["", "models", "datasets", "benchmark"])
def test_a_group_alone_prints_its_help_as_it_stands(words: str, tmp_path: Path) -> None:
    alone, asked = sh(f"{RETRIEVE} {words}", tmp_path), sh(f"{RETRIEVE} {words} --help", tmp_path)
    assert (alone.returncode, alone.stdout, asked.returncode) == (2, b"", 0)
    assert alone.stderr == asked.stdout
    assert len(asked.stdout.splitlines()) > 5


# ---------------------------------------------------------------- encodings

ENCODINGS: list[dict[str, str]] = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX"},
]


# A process for each encoding; its standard output is another file for each form.
FORMS = """
import os, sys
from retrieval.cli.main import main
folder = sys.argv[1]
for form in ("table", "csv", "json", "paths"):
    os.dup2(os.open(folder + "/" + form, os.O_WRONLY | os.O_CREAT), 1)
    sys.argv = ["retrieve", "query", "p/plain.jpg", os.fsdecode(b"p/\\xc3\\xa9.jpg"), "--format", form]
    try:
        main()
    except SystemExit as left:
        assert not left.code, (form, left.code)
"""


@pytest.mark.parametrize("environment", ENCODINGS)
def test_any_name_can_be_printed_in_any_encoding(environment: dict[str, str], world: Path, tmp_path: Path) -> None:
    done = sh(f"{sys.executable} -c '{FORMS}' {tmp_path}", world, **environment)
    assert done.returncode == 0, done.stderr
    assert b"unexpected" not in done.stderr
    for form in ("table", "csv", "json", "paths"):
        assert b"plain.jpg" in (tmp_path / form).read_bytes(), form
    found = set((tmp_path / "paths").read_bytes().split(b"\n"))
    assert {os.fsencode(f"p/{name}") for name in NAMES[:3]} <= found


def test_paths_end_with_a_zero_byte_where_asked(world: Path) -> None:
    done = sh(f"{RETRIEVE} query p/plain.jpg --format paths -0 | xargs -0 ls -1 -b", world)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(NAMES)
    done = sh(f"{RETRIEVE} query p/plain.jpg --format paths -0", world, PYTHONIOENCODING="ascii")
    assert sorted(done.stdout.split(b"\0")) == sorted([b"", *(os.fsencode(f"p/{name}") for name in NAMES)])
    done = sh(f"{RETRIEVE} query p/plain.jpg -0", world)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--format paths" in done.stderr


# ---------------------------------------------------------------- closed, full and gone


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode()
    assert text.count("\n") == 1, text
    assert text.startswith("retrieve: ")
    assert "unexpected" not in text
    return text


@pytest.mark.parametrize("words", ["--version", "--help", "info", "models list", "datasets list --format json"])
def test_a_full_output_is_an_error_and_a_closed_one_too(words: str, world: Path) -> None:
    if Path("/dev/full").exists():
        done = sh(f"{RETRIEVE} {words} >/dev/full", world)
        assert done.returncode == 1
        assert "standard output: No space left on device" in one_line(done)
    done = sh(f"{RETRIEVE} {words} >&-", world)
    assert done.returncode == 1
    assert "standard output: it is closed" in one_line(done)


@pytest.mark.parametrize("words", ["--help", "datasets list --format json", "info"])
def test_a_reader_that_has_gone_is_no_fault(words: str, world: Path) -> None:
    done = sh(f"set -o pipefail; {RETRIEVE} {words} | true", world)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_query_whose_output_fails(world: Path) -> None:
    for form in ("table", "paths", "csv", "json"):
        done = sh(f"{RETRIEVE} query p/plain.jpg p/é.jpg --format {form} >&-", world)
        assert done.returncode == 1
        assert "closed" in one_line(done)
    done = sh(f"set -o pipefail; {RETRIEVE} query p p p --format paths | head -1", world)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1


def test_closed_standard_descriptors_never_become_the_catalog(world: Path, tmp_path: Path) -> None:
    """What had number 1 or 2 before is not given to a file that is opened later."""
    done = sh(f"{RETRIEVE} index {world}/p --size 32 --index g -q <&- >&- 2>&-", tmp_path)
    assert done.returncode in (0, 1)  # 1: the summary could not be written; what was described is kept
    assert json.loads(sh(f"{RETRIEVE} info --index g --format json", tmp_path).stdout)["images"] == 4


def test_messages_that_cannot_be_written_stop_nothing(world: Path) -> None:
    done = sh(f"{RETRIEVE} info 2>&-", world)
    assert done.returncode == 0
    assert done.stdout
    done = sh(f"{RETRIEVE} info --index nowhere 2>&-", world)
    assert (done.returncode, done.stdout) == (1, b"")  # and not on standard output instead


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "words",
    [["info", "--index", "a\x1b[31mb"], ["evaluate", "a\x1b]0;title\x07b"], ["\x1b[2J"], ["models", "show", "\x1b[2J"]],
)  # fmt: skip
def test_errors_carry_no_control_characters(words: list[str], tmp_path: Path) -> None:
    for extra in ([], ["-vv"]) if len(words) == 2 and words[0] != "models" else ([],):
        done = subprocess.run(
            [sys.executable, "-m", "retrieval", *words, *extra],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (1, 2)
        assert b"\x1b" not in done.stderr + done.stdout
        assert b"\\x1b" in done.stderr


# ---------------------------------------------------------------- a picture on standard input


def test_a_query_from_standard_input_is_the_file_itself(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    data = (world / "p" / "é.jpg").read_bytes()

    def ask(*words: str, data: bytes = b"") -> Any:
        return CliRunner().invoke(cli, ["query", *words], input=data, standalone_mode=False)

    named = json.loads(ask("p/é.jpg", "--format", "json").stdout)
    piped = json.loads(ask("-", "--format", "json", data=data).stdout)
    assert piped["query"] == "-"
    assert piped["results"] == named["results"]
    boxed = json.loads(ask("-", "--bbox", "0,0,20,20", "--format", "json", data=data).stdout)
    assert boxed["bbox"] == [0, 0, 20, 20]
    sheet = ask("-", "p/plain.jpg", "--sheet", "sheet.png", "-q", data=data)
    assert sheet.return_value == 0
    assert sheet.stdout.startswith("-:")
    assert Image.open(world / "sheet.png").size[0] > 100
    empty = ask("-", data=b"")
    assert "standard input is empty" in str(empty.exception)
    listed = ask("-", data="p/é.jpg\np/plain.jpg\n".encode())
    assert "standard input names files" in str(listed.exception)
    broken = ask("-", "p/plain.jpg", data=b"no picture")
    assert broken.return_value == 1
    assert "-: " in broken.stderr


# ---------------------------------------------------------------- rankings of other programs


ODD = [
    {"query": "q.jpg", "results": [{"path": "a\0b"}]},
    {"query": "q\0.jpg", "results": []},
    {"query": "q.jpg", "results": [{"path": "\ud800"}]},
    {"query": "\ud800/x", "results": [{"path": "a.jpg"}]},
    {"query": "q.jpg", "results": [{"path": "/\0"}]},
    {"query": "q.jpg", "results": 3},
    {"query": "q.jpg", "results": {"path": "a.jpg"}},
    {"query": "q.jpg", "results": ["a.jpg"]},
    {"query": "q.jpg", "results": [None]},
    {"query": ["q.jpg"], "results": []},
    {"query": "q.jpg", "results": [{"path": 10**30}]},
    {"query": "q.jpg", "bbox": [10**400, 0, 1, 1], "results": [{"path": "a.jpg"}]},
    {"query": "q.jpg", "bbox": {"x": 1}, "results": [{"path": "a.jpg"}]},
    {"query": "q.jpg", "bbox": "none", "results": [{"path": "a.jpg"}]},
    {"query": "q.jpg", "bbox": 5, "results": [{"path": "a.jpg"}]},
    {"query": "", "results": [{"path": ""}]},
    {"query": "q.jpg"},
    {},
]


@pytest.mark.parametrize("form", ODD, ids=str)
def test_odd_json_rankings_are_refused_by_name(form: object, tmp_path: Path) -> None:
    truth = GroundTruth("t", tmp_path, ("a.jpg", "b.jpg"), (Query("q.jpg", None, ("a.jpg",), (), ()),))
    file = tmp_path / "ranks.jsonl"
    file.write_text(json.dumps(form))
    with pytest.raises(DatasetError, match=r"ranks\.jsonl"):
        read_rankings(file, truth)


@pytest.mark.parametrize(
    "text",
    ["\t", "\t\t\t", "''", "{", "{}", "[]", "null", '{"a":' * 3000, '{"query": 1' + "0" * 5000 + "}", "\0", "a\0\tb", "\ufeff"],
    ids=range(12),
)  # fmt: skip
def test_odd_text_rankings_are_refused_by_name(text: str, tmp_path: Path) -> None:
    truth = GroundTruth("t", tmp_path, ("a.jpg", "b.jpg"), (Query("q.jpg", None, ("a.jpg",), (), ()),))
    (tmp_path / "ranks.txt").write_text(text)
    with pytest.raises(DatasetError, match=r"ranks\.txt"):
        read_rankings(tmp_path / "ranks.txt", truth)


@pytest.mark.parametrize("seed", range(40))
def test_mutated_arrays_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    truth = GroundTruth("t", tmp_path, ("a.jpg", "b.jpg"), (Query("q.jpg", None, ("a.jpg",), (), ()),))
    stream = io.BytesIO()
    np.save(stream, np.array([[0, 1]]))
    data, rng = bytearray(stream.getvalue()), np.random.default_rng(seed)
    for _ in range(int(rng.integers(1, 4))):
        data[rng.integers(0, 100)] = rng.integers(0, 256)
    (tmp_path / "ranks.npy").write_bytes(data[: None if seed % 3 else int(rng.integers(0, len(data)))])
    try:
        read_rankings(tmp_path / "ranks.npy", truth)
    except DatasetError as error:
        assert "ranks.npy" in str(error)  # noqa: PT017


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are files elsewhere")
@pytest.mark.parametrize("size", [(24, 80), (0, 0), (0, 70)])
def test_progress_is_drawn_on_terminals_that_do_not_tell_their_size(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl
    import pty
    import select
    import struct
    import termios

    from retrieval.messages import progress_bar

    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    with os.fdopen(terminal, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress_bar("index", quiet=False) as update:
            update(1, 2)
        drawn = ""
        while "1/2" not in drawn and select.select([reader], [], [], 5)[0]:  # it comes in parts
            drawn += os.read(reader, 1 << 16).decode(errors="replace")
    os.close(reader)
    assert "index" in drawn
    assert "1/2" in drawn


def test_a_log_file_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from retrieval import messages

    now = 1000.0
    monkeypatch.setattr(messages.time, "monotonic", lambda: now)
    for quiet in (True, False):
        with messages.progress_bar("index", quiet) as update:
            for done in range(1, 13):  # one in 20 seconds
                now += 20
                update(100 * done, 1200)
    assert capsys.readouterr().err.splitlines() == [
        "index: 300 of 1,200 img, 5.0 a second, about 3 min left",
        "index: 600 of 1,200 img, 5.0 a second, about 2 min left",
        "index: 900 of 1,200 img, 5.0 a second, about 60 s left",
    ]
    assert messages.human_time(12_000) == "3 h 20 min"
