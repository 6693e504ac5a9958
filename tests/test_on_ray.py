"""Parts on Ray, one on this machine: kills of worker and driver, and a gallery that equals the undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from fakes import fake_model
from textures import write_textures

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from ray_attack.families import Family

from retrieval import load_model
from retrieval.errors import UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.parts import on_ray
from retrieval.parts.manifest import read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.on_ray import describe_on_ray
from retrieval.parts.run import describe_parts, status_of
from retrieval.system.threads import one_thread

HERE = Path(__file__).parent


class Driver:
    """A driver in a process of its own, with the Ray that it starts."""

    def __init__(self, folder, parts, shard_size, **environment):
        paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "ray_driver.py"), str(folder), str(parts), str(shard_size)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"} | environment,
        )
        self.lines = []

    def until(self, found):
        """Read lines until one fits."""
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if found(line):
                return line
        return ""

    def workers(self):
        """Processes of Ray that are at work on a shard."""
        for _ in range(2000):
            found = []
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if "ray::_described" in " ".join(process.cmdline()):
                        found.append(process)
            if found:
                return found
            time.sleep(0.005)
        return []

    def end(self):
        """Kill it, and see all end that it started."""
        with Family(self.process.pid) if self.process.poll() is None else nullcontext() as family:
            self.process.kill()
            self.process.wait()
        assert family is None or family.left_after(60) == []
        self.process.stdout.close()


@pytest.mark.slow
def test_worker_and_driver_are_killed(tmp_path):
    """A cluster that the environment names, and that is none any more, is not asked; nothing is left of a killed driver; the next
    one goes on. Slow: Ray starts twice, and its workers load a network."""
    pytest.importorskip("ray")
    write_textures(tmp_path / "photos", 24)
    with tempfile.TemporaryDirectory(prefix="r") as short:  # Ray's sockets lie below it
        own = {"RAY_TMPDIR": short, "RAY_ADDRESS": "127.0.0.1:1"}
        driver = Driver(tmp_path / "photos", tmp_path / "parts", 4, **own)
        try:
            with Family(driver.process.pid) as family:
                assert driver.until(lambda line: line.startswith("1 6"))
                victims = driver.workers()
                assert victims
                for victim in victims:
                    victim.kill()
                assert driver.until(lambda line: "(try 1 of 3)" in line)
                assert driver.until(lambda line: line.startswith("3 6"))
                assert len(family.alive()) > 3
                driver.process.kill()
                driver.process.wait()
                assert family.left_after(60) == []
        finally:
            driver.end()
        assert os.listdir(short) == []
    manifest = read_manifest(tmp_path / "parts")
    before = {shard: manifest.part(shard).stat().st_mtime_ns for shard in status_of(manifest).done}
    assert len(before) >= 3
    driver = Driver(tmp_path / "photos", tmp_path / "parts", 4)
    try:
        last = driver.until(lambda line: line.startswith("described"))
        driver.process.wait(60)
    finally:
        driver.end()
    assert last.split(maxsplit=2) == ["described", str(6 - len(before)), "{}\n"]
    assert all(manifest.part(shard).stat().st_mtime_ns == time for shard, time in before.items())
    model = load_model("efficientnet_lite0-gem", size=32, engine="torch")
    with one_thread():  # as in Ray's workers: the last bits of a sum depend on how many threads share it
        describe_parts(str(tmp_path / "photos"), tmp_path / "calm", model, shard_size=4)
    with Gallery.create(tmp_path / "a", model) as a, Gallery.create(tmp_path / "b", model) as b:
        merge_parts(a, manifest)
        merge_parts(b, read_manifest(tmp_path / "calm"))
        assert list(a) == list(b)
        assert np.array_equal(a.vectors(), b.vectors())
        assert a.search(a.vectors()[:3], 5) == b.search(b.vectors()[:3], 5)


def test_the_reaper_ends_who_holds_the_folder(tmp_path):
    """Not its parent, though that holds it too, and nobody else."""
    code = "import sys, time; file = open(sys.argv[1], 'w'); print('open', flush=True); time.sleep(600)"
    (tmp_path / "ray").mkdir()
    (tmp_path / "other").mkdir()
    held = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name / "log")], stdout=subprocess.PIPE)
        for name in ("ray", "other")
    ]
    try:
        for process in held:
            process.stdout.readline()
        command = [sys.executable, "-c", "import reaper; reaper._PATIENCE = 0.1; reaper.main()", str(tmp_path / "ray")]
        with open(tmp_path / "ray" / "own", "w"):
            path = os.pathsep.join([str(Path(on_ray.__file__).parent)])
            subprocess.run(
                command, stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": path}, check=True, timeout=60
            )
        assert held[0].wait(10) == -9
        assert held[1].poll() is None
        assert not (tmp_path / "ray").exists()
    finally:
        for process in held:
            process.kill()
            process.wait()
            process.stdout.close()


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"retrieval\[ray\]"):
        describe_on_ray(str(tmp_path), tmp_path / "parts", fake_model())


def test_another_engine_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--on spark is unknown"):
        describe_on_ray(str(tmp_path), tmp_path / "parts", fake_model(), where="spark")
