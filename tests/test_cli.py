"""The command line as a user meets it: what it prints and how it ends, the embedded model, a small synthetic set."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import pytest
from PIL import Image

from retrieval import Gallery
from retrieval.cli.common import NumberList
from retrieval.cli.main import main
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth
from retrieval.datasets.synthetic.make import make_synthetic
from retrieval.files.paths import nearly


def words_of(arguments: tuple[object, ...]) -> list[str]:
    return [os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments]


def run(
    *arguments: object, cwd: Path | None = None, status: int = 0, env: dict[str, str] | None = None
) -> tuple[str, str]:
    """(stdout, stderr) of ``retrieve ARGUMENTS`` in this process; the exit status must be as said."""
    out, err = io.StringIO(), io.StringIO()
    surroundings = {k: v for k, v in os.environ.items() if k != "RETRIEVE_INDEX"} | (env or {})
    with (
        patch.dict(os.environ, surroundings, clear=True),  # some options are passed on by a variable
        patch.object(sys, "argv", ["retrieve", *words_of(arguments)]),
        pytest.MonkeyPatch.context() as monkey,
        warnings.catch_warnings(),
    ):
        monkey.chdir(cwd or Path.cwd())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
    assert (left.value.code or 0) == status, f"exit status {left.value.code}\n{out.getvalue()}\n{err.getvalue()}"
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def run_process(*arguments: object, cwd: Path, status: int = 0) -> tuple[str, str]:
    """The same in a process of its own, as a shell has it."""
    command = [sys.executable, "-m", "retrieval", *words_of(arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "RETRIEVE_INDEX"}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="surrogateescape", env=environment, timeout=300
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def error(*arguments: object, status: int = 2, cwd: Path | None = None) -> str:
    """The one line on stderr that a failing command prints; nothing on stdout."""
    out, err = run(*arguments, status=status, cwd=cwd)
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("retrieve: ")
    return err


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GroundTruth]:
    """A small synthetic set and its gallery in ``.retrieval`` beside it."""
    folder = tmp_path_factory.mktemp("world")
    make_synthetic(folder / "set", objects=6, distractors=8, seed=0, train_objects=0, size=320)
    out, err = run_process("index", "set/gallery", "--size", "320", cwd=folder)
    truth = load_groundtruth(folder / "set" / "groundtruth.json")
    assert f"{len(truth.gallery)} pictures" in out
    assert "model lite0_instance-gem" in err or "resnet50-gem" in err
    return folder, truth


def medium_map(truth: GroundTruth, rankings: list[list[str]]) -> float:
    """Trapezoid AP of the Medium protocol, written down once more."""
    values = []
    for query, ranking in zip(truth.queries, rankings, strict=True):
        positives, junk = {*query.easy, *query.hard}, set(query.junk)
        ranked = [os.path.relpath(p, truth.root) for p in ranking]
        ranked = [p for p in ranked if p not in junk]
        hits = [i for i, p in enumerate(ranked) if p in positives]
        ap = sum(((j / r if r else 1.0) + (j + 1) / (r + 1)) / 2 for j, r in enumerate(hits)) / len(positives)
        values.append(ap)
    return float(np.mean(values))


def test_index_query_and_score(world: tuple[Path, GroundTruth]) -> None:
    folder, truth = world
    rankings = []
    with Gallery.open(folder / ".retrieval") as gallery:
        for query in truth.queries:
            rankings.append(
                [
                    m.path
                    for m in gallery.query(truth.root / query.image, k=10_000, bbox=query.bbox, rank="cosine").matches
                ]
            )
    assert all(len(ranking) == len(truth.gallery) for ranking in rankings)
    score = medium_map(truth, rankings)
    chance = medium_map(
        truth, [sorted(ranking, key=lambda p: hashlib.md5(p.encode()).digest()) for ranking in rankings]
    )
    assert chance + 0.25 < score < 0.99

    box = ",".join(map(str, truth.queries[0].bbox or ()))
    image = truth.root / truth.queries[0].image
    asked = ("query", image, "--bbox", box, "-k", 10_000, "--format", "json", "--rank", "cosine")
    out, _ = run(*asked, cwd=folder)
    assert run_process(*asked, cwd=folder)[0] == out
    line = json.loads(out)
    assert set(line) == {"query", "bbox", "index", "model", "results"}
    judged = {"local", "fused", "inliers", "probability", "verdict"}
    assert set(line["results"][0]) == {"rank", "score", "id", "path"} | judged
    assert {line["results"][0][name] for name in judged} == {None}
    assert line["bbox"] == list(truth.queries[0].bbox or ())
    assert [os.path.abspath(folder / r["path"]) for r in line["results"]] == [os.path.abspath(p) for p in rankings[0]]
    scores = [r["score"] for r in line["results"]]
    assert scores == sorted(scores, reverse=True)


def test_the_four_formats_agree(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    folder, truth = world
    image = truth.root / truth.gallery[3]
    forms = {f: run("query", image, "-k", 4, "--format", f, cwd=folder)[0] for f in ("table", "json", "csv", "paths")}
    results = json.loads(forms["json"])["results"]
    assert results[0]["score"] == pytest.approx(1, abs=1e-5)
    assert os.path.samefile(folder / results[0]["path"], image)
    paths = [r["path"] for r in results]
    assert forms["paths"].splitlines() == paths
    rows = list(csv.DictReader(io.StringIO(forms["csv"])))
    assert [r["path"] for r in rows] == paths
    assert [float(r["score"]) for r in rows] == [r["score"] for r in results]
    assert all(path in line for path, line in zip(paths, forms["table"].splitlines(), strict=True))


def test_folders_globs_and_bad_queries(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    folder, truth = world
    out, _ = run("query", "set/queries", "-k", 1, "--format", "json", cwd=folder)
    assert len(out.splitlines()) == len(truth.queries)
    out, _ = run("query", "set/queries/*0*.jpg", "-k", 1, "--format", "json", cwd=folder)
    asked = [json.loads(line)["query"] for line in out.splitlines()]
    assert asked == sorted(asked)
    (tmp_path / "bad.jpg").write_text("no picture")
    good = truth.root / truth.gallery[0]
    out, err = run("query", tmp_path / "bad.jpg", good, "-k", 1, "--format", "json", cwd=folder, status=1)
    assert "bad.jpg" in err
    assert [len(json.loads(line)["results"]) for line in out.splitlines()] == [0, 1]
    assert "bad.jpg" in error("query", tmp_path / "bad.jpg", cwd=folder, status=1)
    assert "no picture" not in error("query", "missing.jpg", cwd=folder, status=1)
    assert "nothing matches" in error("query", "no*.jpg", cwd=folder)
    assert "missing.jpg" in run_process("query", "missing.jpg", cwd=folder, status=1)[1]


def test_sheet(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    folder, _ = world
    run("query", "set/queries", "-k", 6, "--sheet", tmp_path / "sheet.jpg", cwd=folder)
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > 600
        assert sheet.height > 600
    err = error("query", "set/queries", "--sheet", tmp_path / "sheet.doc", cwd=folder)
    assert ".doc" in err or "sheet.doc" in err


def test_info_and_a_run_without_changes_import_no_torch(world: tuple[Path, GroundTruth]) -> None:
    folder, truth = world
    for command in (
        ["info"],
        ["info", "--format", "json"],
        ["index"],
        ["models", "list"],
        ["models", "show", "auto"],
        ["--help"],
    ):
        code = (
            "import sys; sys.argv = ['retrieve', *sys.argv[1:]]\n"
            "from retrieval.cli.main import main\n"
            "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
            "heavy = {'torch', 'torchvision', 'timm', 'matplotlib', 'scipy', 'cv2'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code, *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
    out, _ = run("info", "--format", "json", cwd=folder)
    info = json.loads(out)
    assert info["images"] == len(truth.gallery)
    assert info["unreadable"] == []
    assert (folder / info["ann"]).is_file()


@pytest.mark.parametrize(
    ("words", "most"), [("--help", 120), ("--version", 120), ("index --help", 140), ("query --help", 400)]
)
def test_help_is_instant(words: str, most: int) -> None:
    """What takes time is importing: click, numpy at most, and a few files of our own; torch alone has more than a thousand."""
    code = (
        "import sys\nbefore = set(sys.modules)\nsys.argv = ['retrieve', *sys.argv[1:]]\n"
        "from retrieval.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*(name for name, module in sys.modules.items() if module and name not in before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True)
    modules = done.stderr.split()
    assert {name.split(".")[0] for name in modules} - sys.stdlib_module_names <= {"retrieval", "click", "numpy"}
    assert len(modules) < most


def test_mistakes_are_told_in_one_line(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    folder, truth = world
    query = truth.root / truth.queries[0].image
    assert "no gallery" in error("query", query, cwd=tmp_path, status=1)
    assert "no gallery here yet" in error("index", cwd=tmp_path)
    assert "there is no" in error("index", "nowhere", cwd=tmp_path)
    assert "unknown model" in error("index", folder / "set", "--model", "resnet51-gem", cwd=tmp_path)
    assert "made with" in error("query", query, "--model", "efficientnet_lite0-avg", cwd=folder, status=1)
    assert "made with" in error("query", query, "--size", "640", cwd=folder, status=1)
    assert "made with" in error("index", "--model", "efficientnet_lite0-avg", cwd=folder, status=1)
    assert "no command" in error("inedx", "x")
    assert "--bbox" in error("query", query, "--bbox", "1,2,3", cwd=folder)
    assert "bbox" in error("query", query, query, "--bbox", "1,2,3,4", cwd=folder)
    assert "-k" in error("query", query, "-k", "0", cwd=folder)
    assert not (tmp_path / ".retrieval").exists()
    _, err = run("query", query, "--bbox", "9000,9000,9100,9100", cwd=folder, status=2)
    assert "box" in err


def test_strict_remove_repair_and_float16(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    _, truth = world
    images = tmp_path / "images"
    images.mkdir()
    for name in truth.gallery[:4]:
        (images / Path(name).name).write_bytes((truth.root / name).read_bytes())
    (images / "bad.jpg").write_text("no picture")
    out, _ = run("index", "images", "--size", 224, "--dtype", "float16", cwd=tmp_path)
    assert "1 could not be read" in out
    out, _ = run("index", "--strict", cwd=tmp_path, status=1)
    out, _ = run("info", cwd=tmp_path)
    assert "bad.jpg: " in out
    assert "float16" in out
    (images / "bad.jpg").unlink()
    run("index", "--strict", cwd=tmp_path)
    (images / "phone.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    out, _ = run("index", cwd=tmp_path)
    assert ("of these 1: HEIC pictures need pillow-heif: pip install" in out) == (find_spec("pillow_heif") is None)
    (images / "phone.heic").unlink()
    images.rename(tmp_path / "away")
    _, err = run("index", "--strict", "--quiet", cwd=tmp_path, status=1)
    assert "images is not there any more" in err  # a disk that is away is no message to be kept back
    (tmp_path / "away").rename(images)
    assert "nothing matches" in error("remove", "zebra*", cwd=tmp_path, status=1)
    out, _ = run("remove", f"images/{Path(truth.gallery[0]).name}", cwd=tmp_path)
    assert out.startswith("1 picture")
    (tmp_path / ".retrieval" / "gallery.json").write_text("{")
    assert "gallery.json is damaged" in error("query", images, cwd=tmp_path, status=1)
    out, err = run("index", "--repair", "--restore", cwd=tmp_path)
    assert "repair:" in err
    assert "4 pictures" in out


def test_the_gallery_is_named_by_option_or_environment(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    folder, truth = world
    image = truth.root / truth.gallery[0]
    by_option, _ = run("query", image, "-k", 2, "--index", folder / ".retrieval", cwd=tmp_path)
    by_environment, _ = run("query", image, "-k", 2, cwd=tmp_path, env={"RETRIEVE_INDEX": str(folder / ".retrieval")})
    below, _ = run("query", image, "-k", 2, "--format", "json", cwd=folder / "set" / "gallery")
    assert by_option == by_environment
    assert (folder / "set" / "gallery" / json.loads(below)["results"][0]["path"]).is_file()


def test_a_checkpoint_s_gallery_outlives_the_checkpoint(world: tuple[Path, GroundTruth], tmp_path: Path) -> None:
    from retrieval import load_model
    from retrieval.models.checkpoint import save_checkpoint
    from retrieval.models.loading import build_network

    _, truth = world
    spec = load_model("tiny-gem@random:0", size=96).spec
    save_checkpoint(build_network(spec), spec, tmp_path / "run" / "model.safetensors")
    (tmp_path / "images").mkdir()
    for name in truth.gallery[:3]:
        (tmp_path / "images" / Path(name).name).write_bytes((truth.root / name).read_bytes())
    run("index", "images", "--model", "run", cwd=tmp_path)
    os.rename(tmp_path / "run", tmp_path / "elsewhere")
    out, _ = run("query", "images", "-k", 1, "--format", "json", cwd=tmp_path)
    for line in map(json.loads, out.splitlines()):
        assert line["results"][0]["path"] == line["query"]
    run("index", "--model", tmp_path / "elsewhere", cwd=tmp_path)


def test_every_command_is_there_and_says_what_it_does() -> None:
    from click.testing import CliRunner

    from retrieval.cli.main import COMMANDS, cli

    overview = CliRunner().invoke(cli, ["--help"]).output
    for name, (_, text) in COMMANDS.items():
        assert text in overview
        own = CliRunner().invoke(cli, [name, "--help"])
        assert own.exit_code == 0, own.output
        assert name in own.output


def test_a_folder_of_foreign_files_is_told_by_kind(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("a.dng", "b.CR2", "c.jxl", "notes.txt"):
        (folder / name).write_bytes(b"x")
    out, _ = run("index", "raw", "--size", 64, cwd=tmp_path)
    assert "no pictures among 4 files" in out
    assert "passed over: 2 camera raw files (.cr2 1, .dng 1); export them" in out
    assert "passed over: 1 JPEG XL picture (.jxl)" in out
    out, _ = run("index", "--format", "json", cwd=tmp_path)
    assert json.loads(out)["foreign"] == {".cr2": 1, ".dng": 1, ".jxl": 1}


def test_the_memory_of_a_picture_is_an_option(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (800, 600)).save(tmp_path / "a" / "x.png")
    out, _ = run("index", "a", "--size", 64, "--picture-memory", 1, cwd=tmp_path)
    assert "1 could not be read" in out
    out, _ = run("info", cwd=tmp_path)
    assert "more than the limit of 1 MB" in out
    out, _ = run("index", cwd=tmp_path)  # tried again, though the file is the same
    assert "1 added" in out
    _, err = run("query", "a/x.png", cwd=tmp_path, env={"RETRIEVE_PICTURE_MEMORY": "lots"}, status=2)
    assert "RETRIEVE_PICTURE_MEMORY must be a positive number" in err


@pytest.mark.parametrize(
    ("ending", "status"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('a text')", 1), ("1 / 0", 1)]
)
def test_the_process_ends_as_any_other(ending: str, status: int, tmp_path: Path) -> None:
    """Without taking libraries apart: with its status, all output, what was registered for the end, and threads seen through."""
    code = f"""
import atexit, sys, tempfile, threading, time
from retrieval.cli import main
kept = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
def late():
    time.sleep(0.2)
    print("thread")
def made():
    atexit.register(lambda: print("registered"))
    if "thread" in sys.argv:
        threading.Thread(target=late).start()
    sys.stdout.write("output")
    {ending}
main.main = made
main.run()
"""
    for words in ([], ["thread"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == status
        assert done.stdout.startswith("output")
        assert "registered" in done.stdout
        assert ("thread" in done.stdout) == bool(words)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["1,2,3,4", "1 2 3 4", " 1, 2,3  4 ", "1\t2 3,4"])
def test_numbers_are_separated_by_commas_or_spaces(text: str) -> None:
    assert NumberList(4).convert(text, None, None) == (1, 2, 3, 4)


@pytest.mark.parametrize("text", ["", "1,2,,4", "1;2;3;4", "1,2,3"])
def test_what_are_no_four_numbers_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"numbers"):
        NumberList(4).convert(text, None, None)


def test_a_folder_that_is_not_there_is_told_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "messy").mkdir()
    for name, meant in (("mesy", "messy"), ("mesy/", "messy"), ("pictures", None)):
        hint = nearly(f"{tmp_path}/{name}")
        assert hint == (f" (did you mean {tmp_path}/{meant}?)" if meant else "")
    assert nearly(f"{tmp_path}/nowhere/at/all") == ""


def test_learned_poolings_without_training_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.describe.choice import ModelChoice

    for name, told in (("efficientnet_lite0-strided-conv", 1), ("efficientnet_lite0-gem", 0)):
        said: list[str] = []
        ModelChoice(name).load(say=said.append)
        warned = [line for line in said if line.startswith("warning:")]
        assert len(warned) == told
        assert all("strided-conv were never trained, so it is local-avg" in line for line in warned)


@pytest.mark.parametrize("command", ["info", "doctor", "query x.jpg", "index", "remove x", "export x.npy"])
def test_a_folder_that_is_gone_is_told(command: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f"rmdir ../gone; exec {sys.executable} -m retrieval {command}"
    done = subprocess.run(script, shell=True, cwd=tmp_path / "gone", capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]
    assert line == "retrieve: the current folder is gone: it was deleted, or moved. Change to one that is there (cd)."


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (PermissionError(13, "Permission denied", "g/ann"), "retrieve: g/ann: Permission denied (-vv shows where)"),
        (MemoryError(), "retrieve: out of memory"),
        (
            ImportError("libtorch.so: failed to map segment from shared object"),
            "retrieve: too little memory, or too many open files or threads: libtorch.so: failed to map segment from shared "
            "object (-vv shows where)",
        ),
        (KeyError("x"), "retrieve: unexpected KeyError: 'x' (-vv shows where)"),
    ],
)
def test_what_the_machine_refuses_is_told_in_its_words(
    raised: Exception, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("retrieval.cli.doctor.look_at_python", failing)
    assert error("doctor", status=1, cwd=tmp_path).strip() == told
