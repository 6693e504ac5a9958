"""Nothing leaves the machine: every command, with name look-ups and connections recorded, and no network to reach.

Three witnesses that know nothing of each other: an audit hook in every Python process, the kernel's count of packets that
found no route in a namespace without interfaces (native code too), and what lies in a fresh home folder afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import write_pictures

ROOT = Path(__file__).resolve().parent.parent
MODEL = "efficientnet_lite0-gem"
RECORDER = """
import os, socket, sys

def _record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.connect", "socket.sendto"):
        if event in ("socket.connect", "socket.sendto") and arguments[0].family == getattr(socket, "AF_UNIX", None):
            return  # stays on the machine
        line = f"{event} {arguments[1:] if event in ('socket.connect', 'socket.sendto') else arguments} {sys.argv}"
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(line.replace("\\n", " ") + "\\n")

sys.addaudithook(_record)
with open(os.environ["ATTEMPTS"] + ".seen", "a") as file:
    file.write(f"{os.getpid()}\\n")
"""
COMMANDS = [
    "index photos --size 64 -q",
    "query photos/c0/0000.png -q",
    "query photos/c0/0000.png --rerank qe -q",
    "describe photos --out parts --size 64 -q",
    "index parts --index merged -q",
    "index photos --size 64 --engine torch --index torch -q",
    "query photos/c0/0000.png --index torch --engine torch -q",
    "info",
    "evaluate photos --size 64 --bootstrap 10 -q",
    "whiten --index .retrieval --dim 8 --out whitened -q",
    f"train photos --model {MODEL} --out run --size 32 --queries 3 --pool 20 --negatives 2 --epochs 1 --validate 0.4 "
    "--tensorboard -q",
    "index photos --size 64 --precision int8 --index int8 -q",
    "query photos/c0/0000.png --index int8 -q",
    f"benchmark speed --model {MODEL} --size 64 --images photos --engines openvino --count 4 --rounds 1 -q",
    f"benchmark pooling photos --model {MODEL} --size 64 --methods avg,gem --p 3 --noise 0 --bootstrap 10 --out table -q",
    "benchmark ann --sizes 2000 --dim 64 --queries 10 -q",
    "models list",
    "datasets list",
    "doctor",
]


def surroundings(folder: Path) -> dict[str, str]:
    """A fresh home, and a recorder in every Python process."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(RECORDER)
    (folder / "home").mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RETRIEVE", "XDG_", "MPLCONFIG", "TORCH"))}
    for name in ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "NNCF_CI", "CI"):
        kept.pop(name, None)
    return kept | {
        "HOME": str(folder / "home"),
        "PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{ROOT}",
        "ATTEMPTS": str(folder / "attempts"),
    }


def without_network() -> list[str]:
    """What to put before a command so that it has no network; the test skips where that is not permitted."""
    tool = shutil.which("unshare")
    if tool is None or subprocess.run([tool, "-rn", "true"], capture_output=True, check=False).returncode != 0:
        return []
    return [tool, "-rn"]


def unrouted(text: str) -> int:
    """Packets that found no way out, from /proc/net/snmp and snmp6."""
    lines = [line.split() for line in text.splitlines()]
    names, values = (line for line in lines if line and line[0] == "Ip:")
    six = [int(line[1]) for line in lines if line and line[0] == "Ip6OutNoRoutes"]
    return int(values[names.index("OutNoRoutes")]) + sum(six)


COUNTS = "cat /proc/net/snmp; cat /proc/net/snmp6 2>/dev/null || true"


def attempts(folder: Path) -> str:
    return (folder / "attempts").read_text() if (folder / "attempts").exists() else ""


IN_ONE_PROCESS = """
import contextlib, sys
from retrieval.cli.main import main
for words in sys.stdin.read().splitlines():
    sys.argv = ["retrieve", *words.split()]
    with open("out.txt", "w") as out, contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as left:
            assert not left.code, (words, left.code)
"""


@pytest.mark.slow
def test_no_command_reaches_for_the_network(tmp_path: Path) -> None:
    """Slow: every command once, and each imports what it needs: torch, openvino, nncf, matplotlib."""
    pytest.importorskip("nncf")
    pytest.importorskip("tensorboard")
    for c in range(5):
        write_pictures(tmp_path / "photos" / f"c{c}", 5, seed=c, sizes=((80, 60),))
    environment = surroundings(tmp_path)
    prefix = without_network()
    # The first two as a user has them, the others in one process: what may reach out is the same, and imported once.
    alone = [f"{sys.executable} -m retrieval {words} >out.txt" for words in COMMANDS[:2]]
    script = ["set -e", *alone, f'{sys.executable} -c "$PROGRAM"', COUNTS]
    done = subprocess.run(
        [*prefix, "sh", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment | {"PROGRAM": IN_ONE_PROCESS},
        input="\n".join(COMMANDS[2:]),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    processes = (tmp_path / "attempts.seen").read_text().splitlines()
    assert len(set(processes)) > 3  # those that a benchmark starts too
    assert attempts(tmp_path) == ""
    home = tmp_path / "home"
    left = {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()}
    assert [name for name in sorted(left) if not name.startswith(".cache/retrieval/")] == []
    if prefix:
        assert unrouted(done.stdout) == 0
    else:
        pytest.skip(
            "recorded and clean; a namespace without network is not permitted here, so native code was not watched"
        )


@pytest.mark.parametrize("what", ["import retrieval.engines.openvino.prepared", "import retrieval, openvino"])
def test_openvino_is_imported_without_its_reports(tmp_path: Path, what: str) -> None:
    environment = surroundings(tmp_path)
    program = f"{what}\nimport sys\nassert sys.modules.get('openvino_telemetry') is None\n"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert attempts(tmp_path) == ""
    assert list((tmp_path / "home").iterdir()) == []


def test_a_child_process_inherits_the_settings(tmp_path: Path) -> None:
    program = "import retrieval, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    child = "import os; assert os.environ['HF_HUB_DISABLE_TELEMETRY'] == os.environ['DO_NOT_TRACK'] == '1'"
    subprocess.run([sys.executable, "-c", program, child], env=surroundings(tmp_path), check=True, timeout=60)


def test_the_witnesses_see_an_attempt(tmp_path: Path) -> None:
    program = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), timeout=0.01)\nexcept OSError: pass\n"
    prefix = without_network()
    done = subprocess.run(
        [*prefix, "sh", "-c", f'{sys.executable} -c "$PROGRAM"; {COUNTS}'],
        env=surroundings(tmp_path) | {"PROGRAM": program}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "socket.connect" in attempts(tmp_path)
    if prefix:
        assert unrouted(done.stdout) > 0
