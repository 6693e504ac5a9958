"""Describing a source in parts on Ray: a task a shard, on as many workers as there are CPUs but one.

The parts are the state: what dies, a worker, a node or this driver, costs the shards that were in its hands, and the next run
goes on from what is there. Workers reach the source and the folder of the parts by the same names.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.describe.model import Model
from retrieval.errors import GalleryError, UsageError
from retrieval.messages import Say, Update, first_line, no_update, say_nothing
from retrieval.parts.manifest import prepare, read_manifest
from retrieval.parts.part import check_pyarrow
from retrieval.parts.run import SHARD_PICTURES, TRIES, PartsReport, is_done
from retrieval.parts.shards import describe_shard

_LOCAL = "ray"
_LONGEST_BASE = 30  # characters
_PATIENCE = 5.0  # seconds until the number of workers is looked at again

_models: dict[tuple[str, str], Model] = {}  # in a worker: kept from shard to shard


def check_ray(where: str) -> None:
    """Raises UsageError where Ray is missing, or ``where`` is neither "ray" nor "ray://HOST:PORT"."""
    if where != _LOCAL and not where.startswith("ray://"):
        raise UsageError(f"--on {where} is unknown", "It is ray, for this machine, or ray://HOST:PORT.")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UsageError("--on ray takes Ray", "Run: pip install 'retrieval[ray]'.") from None


def describe_on_ray(
    source: str,
    folder: str | os.PathLike[str],
    model: Model,
    *,
    where: str = _LOCAL,
    workers: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    shard_size: int = SHARD_PICTURES,
    local: bool = True,
    timeout: float = 20.0,
    progress: Update = no_update,
    say: Say = say_nothing,
) -> PartsReport:
    """What :func:`retrieval.parts.run.describe_parts` does, on Ray.

    ``where``: "ray" starts one on this machine and picks up no other that may be running; "ray://HOST:PORT" is a cluster.
    ``workers``: at most so many (default: as many as the cluster's CPUs admit, one CPU left free, looked at again and again);
    ``cpus`` and ``gpus`` of each. A shard that fails three times, or takes its worker with it three times, is reported.
    """
    check_ray(where)
    check_pyarrow()
    import ray

    manifest = prepare(source, folder, model, shard_size=shard_size, multiple=1, local=local)
    report = PartsReport(len(manifest.shards))
    waiting = [shard for shard in range(len(manifest.shards)) if not is_done(manifest, shard)]
    done = len(manifest.shards) - len(waiting)
    progress(done, len(manifest.shards))
    if not waiting:
        return report
    with _joined(ray, where):
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_described)
        tries = dict.fromkeys(waiting, 0)
        running: dict[Any, int] = {}
        place = os.path.abspath(folder)
        while waiting or running:
            while waiting and len(running) < _room(ray, workers, cpus, gpus):
                shard = waiting.pop(0)
                running[task.remote(place, shard, model.engine_name, timeout)] = shard
            ready, _ = ray.wait(list(running), timeout=_PATIENCE)
            for reference in ready:
                shard = running.pop(reference)
                try:
                    report.pictures += ray.get(reference)
                    report.described += 1
                    done += 1
                except ray.exceptions.RayError as error:
                    trouble = _reason(error)
                    tries[shard] += 1
                    say(f"shard {shard}: {trouble} (try {tries[shard]} of {TRIES})")
                    if tries[shard] < TRIES:
                        waiting.append(shard)
                    else:
                        report.failed[shard] = trouble
                        done += 1
                progress(done, len(manifest.shards))
    return report


@contextmanager
def _joined(ray: Any, where: str) -> Iterator[None]:
    """Ray, started or joined for as long as the block runs; a program that has done so keeps its own."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if where != _LOCAL:
        with _shut_down(ray, where, options):
            yield
        return
    with (
        _own_folder() as folder,
        _shut_down(ray, "local", {**options, "include_dashboard": False, "_temp_dir": folder}),
    ):
        yield


@contextmanager
def _shut_down(ray: Any, address: str, options: dict[str, Any]) -> Iterator[None]:
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise GalleryError(f"{'ray' if address == 'local' else address} cannot be had: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_folder() -> Iterator[str]:
    """A folder for one Ray's sockets and logs, and a process that ends what is left of it, however this one ends."""
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    # A socket's whole path has at most 107 bytes, of which Ray takes some 60.
    folder = os.path.realpath(tempfile.mkdtemp(prefix="ray-", dir=base if len(base) < _LONGEST_BASE else "/tmp"))
    command = [sys.executable, "-I", str(Path(__file__).with_name("reaper.py")), folder]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # out of Ctrl-C's reach
    try:
        yield folder
    finally:
        assert reaper.stdin is not None
        reaper.stdin.close()
        reaper.wait()


def _room(ray: Any, workers: int | None, cpus: float, gpus: float) -> int:
    """How many shards may be described at a time: the scheduler keeps a CPU."""
    there = ray.cluster_resources()
    room = int((there.get("CPU", 1) - 1) // cpus) if cpus else (workers or 1)
    if gpus:
        room = min(room, int(there.get("GPU", 0) // gpus))
    return max(1, room if workers is None else min(workers, room))


def _described(folder: str, shard: int, engine: str, timeout: float) -> int:
    """In a worker."""
    manifest = read_manifest(folder)
    if is_done(manifest, shard):  # by a worker of a driver that died
        return 0
    known = (manifest.fingerprint, engine)
    if known not in _models:
        _models[known] = manifest.model(engine)
    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
    return describe_shard(manifest, shard, _models[known], timeout=timeout, workers=max(2, threads))


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return first_line(cause) if cause is not None else f"its worker is gone ({type(error).__name__})"
