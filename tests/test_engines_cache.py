"""The cache of prepared models: whole or not there, whatever happens to it; and what a cached query does not import."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import MODEL, knowing_tiny

from retrieval.describe.model import load_model
from retrieval.engines.base import EngineUnavailable
from retrieval.engines.choose import create_engine
from retrieval.engines.openvino import cache
from retrieval.system.installed import versions_of

BUILT_IN = "lite0_instance-gem"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)


def describe(said: list[str] | None = None, size: int | None = None) -> np.ndarray:
    spec = load_model(MODEL, size=size).spec
    return create_engine(spec, "openvino", say=(said if said is not None else []).append).describe(IMAGES)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A cache with one model in it, and what the model gives."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRIEVE_CACHE", str(folder))
        return folder, describe()


@pytest.fixture
def copied(
    prepared: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, np.ndarray]:
    """A copy of that cache, to be damaged."""
    import shutil

    shutil.copytree(prepared[0], tmp_path / "cache")
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache", prepared[1]


def entry_with(folder: Path, name: str) -> Path:
    (found,) = (path.parent for path in (folder / "engines").glob(f"*/{name}"))
    return found


def never(*_: object) -> None:
    raise AssertionError("converted again")


def test_the_second_start_converts_nothing_for_any_size(
    copied: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.engines.openvino.prepared._convert", never)
    said: list[str] = []
    np.testing.assert_array_equal(describe(said), copied[1])
    np.testing.assert_array_equal(describe(said, size=600), copied[1])
    np.testing.assert_allclose(describe(said, size=300), copied[1], atol=1e-6)  # convolutions may go another way
    assert said == []
    with pytest.raises(AssertionError):  # other scales are another graph
        create_engine(load_model(MODEL, scales=(1, 0.5)).spec, "openvino")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "unreadable contents"])
def test_a_damaged_compiled_model_is_made_again_from_the_prepared_one(
    damage: str, copied: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.engines.openvino.prepared._convert", never)
    blob = entry_with(copied[0], "model.blob") / "model.blob"
    spoil(blob, damage)
    said: list[str] = []
    np.testing.assert_allclose(describe(said), copied[1], atol=1e-6)
    assert len(said) == 1
    assert "damaged" in said[0]
    said.clear()
    describe(said)
    assert said == []


def spoil(file: Path, damage: str) -> None:
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 16
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "gone":
        file.unlink()
    else:
        (file.parent / cache.CONTENTS).write_text("{")


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_prepared_model_is_converted_again(damage: str, copied: tuple[Path, np.ndarray]) -> None:
    import shutil

    shutil.rmtree(entry_with(copied[0], "model.blob"))
    spoil(entry_with(copied[0], "model.xml") / "model.bin", damage)
    said: list[str] = []
    np.testing.assert_allclose(describe(said), copied[1], atol=1e-6)
    assert "damaged" in said[0]
    assert len(said) == 2  # the other: that it is being prepared
    assert cache.find(entry_with(copied[0], "model.xml").name) is not None


@pytest.mark.parametrize("where", ["/dev/null/cache", "a file"])
def test_a_cache_that_cannot_be_written_costs_time_alone(
    where: str, prepared: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "a file":
        (tmp_path / "file").write_text("in the way")
        where = str(tmp_path / "file")
    monkeypatch.setenv("RETRIEVE_CACHE", where)
    said: list[str] = []
    np.testing.assert_allclose(describe(said), prepared[1], atol=1e-6)
    assert sum("cannot be written" in line for line in said) == 1


def test_a_cache_that_cannot_be_looked_into_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that another user left."""
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))

    def refused(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refused)
    for look in (lambda: cache.load("key", "model.blob"), lambda: cache.find("key")):
        with pytest.raises(cache.Damaged):
            look()


def test_too_little_memory_says_nothing_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was kept as "OpenVINO cannot run this", and every later start took torch, which is slower."""
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))

    def short(*_: object) -> None:
        raise ImportError("libopenvino_pytorch_frontend.so: failed to map segment from shared object")

    with monkeypatch.context() as patch:
        patch.setattr("retrieval.engines.openvino.export.traced", short)
        with pytest.raises(EngineUnavailable, match="failed to map segment"):
            describe()
    assert not list((tmp_path / "engines").glob("*/unsupported.txt"))
    assert describe().shape[0] == len(IMAGES)


def test_too_little_memory_does_not_make_a_cached_model_a_damaged_one(
    copied: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    blob = entry_with(copied[0], "model.blob") / "model.blob"
    with monkeypatch.context() as patch:
        patch.setattr(np, "fromfile", short)
        with pytest.raises(EngineUnavailable, match=os.strerror(errno.ENOMEM)):
            describe()
    assert blob.is_file()
    np.testing.assert_array_equal(describe(), copied[1])


def test_a_full_disk_leaves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))

    def write(folder: Path) -> None:
        (folder / "half").write_bytes(b"1234")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cache.store("key", write)
    assert cache.find("key") is None
    assert list((tmp_path / "engines").iterdir()) == []


KILLED = """
import os, signal, sys
import openvino
import tiny
from retrieval.engines.choose import create_engine
from retrieval.describe.model import load_model
save = openvino.save_model
def half(model, path, **options):
    save(model, path, **options)
    with open(path.with_suffix(".bin"), "r+b") as file:
        file.truncate(1000)
    os.kill(os.getpid(), signal.SIGKILL)
openvino.save_model = half
create_engine(load_model(sys.argv[1]).spec, "openvino")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_export_leaves_nothing_that_is_used(
    prepared: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", KILLED, MODEL], env=knowing_tiny(), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = list((tmp_path / "engines").iterdir())
    assert left  # it was killed in the middle of writing
    assert all(path.name.startswith(".") for path in left)
    said: list[str] = []
    np.testing.assert_allclose(describe(said), prepared[1], atol=1e-6)
    assert not any("damaged" in line for line in said)
    old = time.time() - 7200
    os.utime(left[0], (old, old))
    cache.store("another", lambda folder: None)
    assert not left[0].exists()


def test_entries_are_replaced_whole_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "LIMIT", 2500)
    for i, key in enumerate("abc"):
        entry = cache.store(key, lambda folder: (folder / "data").write_bytes(bytes(1000)) and None)
        os.utime(entry, (i, i))
    assert [cache.find(key) is not None for key in "abc"] == [False, True, True]
    os.utime(tmp_path / "engines" / "c", (1, 1))
    assert cache.find("b") is not None  # looking at it makes it young
    cache.store("d", lambda folder: (folder / "data").write_bytes(bytes(1000)) and None)
    assert [cache.find(key) is not None for key in "bcd"] == [True, False, True]
    entry = cache.store("b", lambda folder: (folder / "data").write_bytes(b"new") and None)
    assert (entry / "data").read_bytes() == b"new"
    assert json.loads((entry / cache.CONTENTS).read_text())["data"]


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("RETRIEVE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_folder() == Path("/home/somebody/.cache/retrieval")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_folder() == Path("/x/retrieval")
    monkeypatch.setenv("RETRIEVE_CACHE", "~/y")
    assert cache.cache_folder() == Path("/home/somebody/y")


QUERY = """
import sys
from retrieval.cli.main import cli
cli.main(sys.argv[1:], standalone_mode=False)
heavy = {"torch", "torchvision", "timm", "matplotlib", "scipy", "nncf"}
slow = {"faiss", "openvino.tools.ovc", "numpy.ma", "importlib.metadata", "email"}  # of libraries: ten milliseconds and more each
ours = {"adding", "creating", "describing", "duplicates", "exchange", "facts", "folding", "planning", "removing", "second_look"}
ours |= {"selection", "sync", "search.index", "search.making", "search.recall"}
ours = {"retrieval.gallery." + name for name in ours} | {"retrieval.models.zoo", "retrieval.ranking.rerank"}
loaded = (heavy | slow | ours) & set(sys.modules)
assert not loaded, loaded
assert "openvino" in sys.modules
"""


@pytest.mark.slow
def test_a_cached_query_imports_what_it_needs(tmp_path: Path) -> None:
    """No torch, and nothing that fills a gallery, looks twice or converts models. With the built-in model, which other tests of
    the run have prepared.
    Slow: it may be the one that prepares the built-in model, and starts two processes."""
    from fakes import write_pictures

    from retrieval.gallery.gallery import Gallery

    paths = write_pictures(tmp_path / "pictures", 3, sizes=((90, 70),))
    with Gallery.create(tmp_path / "gallery", load_model(BUILT_IN, size=64)) as gallery:
        gallery.index([tmp_path / "pictures"])
    arguments = ["query", str(paths[1]), "--index", str(tmp_path / "gallery"), "--format", "json"]
    done = subprocess.run([sys.executable, "-c", QUERY, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)["results"][0]
    assert first["path"].endswith(paths[1].name)
    assert first["score"] > 0.99999
    # The other engine gives the same scores in the same gallery.
    arguments += ["--engine", "torch", "--model", BUILT_IN]
    other = subprocess.run(
        [sys.executable, "-m", "retrieval", *arguments], capture_output=True, text=True, check=True
    ).stdout
    scores = [[r["score"] for r in json.loads(text)["results"]] for text in (done.stdout, other)]
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-6)


def test_openvino_keeps_what_the_engine_does_not_load() -> None:
    """A program that uses both finds the library's converter where it always was, and no attribute that it has not."""
    code = """
import retrieval.engines.openvino.runtime, sys
assert "openvino.tools.ovc" not in sys.modules
assert "openvino.opset1" not in sys.modules, "what a compiled network does not need is read when it is used"
import openvino
from openvino import convert_model
assert convert_model is openvino.convert_model is openvino.tools.ovc.convert_model
assert openvino.opset1.relu([-1.0, 2.0]).get_type_name() == "Relu"
from openvino.opset8 import relu
assert relu is openvino.opset8.relu
try:
    openvino.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_openvino_has_twice_is_the_packages_own() -> None:
    """Its inner module has things of the same names, which are not what a program means."""
    code = """
import retrieval.engines.openvino.runtime
from openvino import frontend, op, properties
import openvino
assert openvino.frontend is frontend and frontend.FrontEndManager().get_available_front_ends() is not None
assert [m.__name__ for m in (frontend, op, properties)] == ["openvino.frontend", "openvino.op", "openvino.properties"]
assert openvino.AsyncInferQueue.__module__ == "openvino._ov_api"
assert not hasattr(openvino, "FrontEnd")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_that_ask_for_more_of_openvino_wait_for_it() -> None:
    code = """
import retrieval.engines.openvino.runtime, openvino, sys
from concurrent.futures import ThreadPoolExecutor
sys.setswitchinterval(1e-5)
names = ["opset8", "opset13", "helpers", "compile_model", "convert_model", "__version__"]
with ThreadPoolExecutor(len(names)) as pool:
    found = list(pool.map(lambda name: getattr(openvino, name), names))
assert found == [getattr(openvino, name) for name in names]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_make_of_openvino_is_imported_whole() -> None:
    code = """
import importlib
found = importlib.import_module
def import_module(name):
    if name == "openvino._op_base":
        raise ImportError
    return found(name)
importlib.import_module = import_module
from retrieval.engines.openvino.runtime import openvino, opset8
assert openvino.opset8.relu([1.0]).get_type_name() == opset8.relu([1.0]).get_type_name() == "Relu"
assert openvino.Core().available_devices
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_openvino_that_is_there_already_is_used_as_it_is() -> None:
    code = (
        "import openvino\nbefore = openvino.convert_model\nfrom retrieval.engines.openvino import runtime\n"
        "assert runtime.openvino is openvino and openvino.convert_model is before\nassert '__getattr__' not in vars(openvino)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_versions_are_those_of_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every package here, of one that hides another behind it, and of one that is installed in another way."""
    names = sorted({found.metadata["Name"] for found in importlib.metadata.distributions()})
    assert versions_of(names) == [importlib.metadata.version(name) for name in names]
    assert versions_of(["no-such-package"]) == [None]
    for folder, version in (("first", "2.0+cpu"), ("second", "1.0")):
        entry = tmp_path / folder / f"Some_Thing-{version}.dist-info"
        entry.mkdir(parents=True)
        (entry / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Some-Thing\nVersion: {version}\n")
    egg = tmp_path / "first" / "older.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: older\nVersion: 0.9\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "gone"), str(tmp_path / "first"), str(tmp_path / "second")])
    assert (
        versions_of(["some.thing", "older"])
        == ["2.0+cpu", "0.9"]
        == [importlib.metadata.version(n) for n in ("some-thing", "older")]
    )
