"""What `retrieve index`, `query` and `info` say of the local index and of verdicts."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_set import retrieve, use_fake_engine
from fakes import fake_gallery
from PIL import Image
from textures import texture, turned, write_textures

from retrieval.cli.main import cli
from retrieval.cli.rankings import unjudged
from retrieval.errors import UsageError

SIZE = (240, 180)


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery of six textures, in the current folder, and two queries: known.png and unknown.png."""
    monkeypatch.chdir(tmp_path)
    use_fake_engine(monkeypatch)
    write_textures(tmp_path / "album", 6)
    with fake_gallery(tmp_path / ".retrieval") as gallery:
        gallery.index(["album"])
    Image.fromarray(turned(texture(2, SIZE, 60))).save("known.png")
    Image.fromarray(texture(50, SIZE, 60)).save("unknown.png")
    return tmp_path


def status(*arguments: object) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        return cli.main([str(a) for a in arguments], prog_name="retrieve", standalone_mode=False) or 0


def test_json_carries_what_the_verdict_rests_on(album: Path) -> None:
    line = json.loads(retrieve("query", "known.png", "-k", 3, "--format", "json"))
    first, *others = line["results"]
    assert first["path"] == "album/0002.png"
    assert first["verdict"] == "same"
    assert first["probability"] > 0.98
    assert first["inliers"] >= 8
    assert 0 < first["local"] <= 1
    assert [first["fused"], *(r["fused"] for r in others)] == sorted(
        (r["fused"] for r in line["results"]), reverse=True
    )
    assert line["found"] is True
    assert json.loads(retrieve("query", "unknown.png", "-k", 3, "--format", "json"))["found"] is False
    plain = json.loads(retrieve("query", "known.png", "-k", 3, "--format", "json", "--rank", "cosine"))
    assert "found" not in plain
    assert {r["verdict"] for r in plain["results"]} == {None}
    scores = {r["id"]: r["score"] for r in plain["results"]}
    assert all(scores.get(r["id"], r["score"]) == r["score"] for r in line["results"])


def test_the_table_and_csv_say_it_too(album: Path) -> None:
    table = retrieve("query", "known.png", "-k", 2)
    assert table.splitlines()[0].split()[1] == "same"
    rows = list(csv.DictReader(io.StringIO(retrieve("query", "known.png", "-k", 2, "--format", "csv"))))
    assert rows[0]["verdict"] == "same"
    assert float(rows[0]["probability"]) > 0.98
    assert "verdict" not in retrieve("query", "known.png", "--format", "csv", "--rank", "cosine")


def test_down_a_table_neither_words_nor_percentages_rise(album: Path) -> None:
    words = ["-", "similar", "likely", "same"]
    shown = [
        line.split() for line in retrieve("query", "known.png", "unknown.png").splitlines() if line[0] in " 123456"
    ]
    assert len(shown) == 12
    for first, second in itertools.pairwise(shown):
        if second[0] != "1":
            assert words.index(first[1]) >= words.index(second[1])
            assert float(first[2].strip("<>%")) >= float(second[2].strip("<>%"))
    assert {row[1] for row in shown if row[2] == "<1%"} <= {"-"}


def test_no_match_is_said(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = retrieve("query", "unknown.png", "-k", 2)
    assert "no match: nothing here is sure to show what is on unknown.png" in capsys.readouterr().err
    assert len(table.splitlines()) == 2
    assert retrieve("query", "unknown.png", "--min-probability", 0.5) == ""
    retrieve("query", "known.png")
    assert "no match" not in capsys.readouterr().err.splitlines()[-1:]


def test_a_match_that_was_filtered_is_not_denied(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrieve("query", "known.png", "--min-score", 0.9999)
    err = capsys.readouterr().err
    assert "nothing here is sure" not in err
    assert "no match for known.png that --min-score lets through" in err
    retrieve("query", "known.png", "--min-probability", 1)
    assert "no match for known.png that --min-probability lets through" in capsys.readouterr().err
    retrieve("query", "known.png", "--min-score", 0.9999, "--min-probability", 0.5)
    assert "no match for known.png that --min-score and --min-probability let through" in capsys.readouterr().err


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_box_that_goes_beyond_the_picture_is_cut_and_that_is_said(
    orientation: int, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(texture(2, SIZE, 60)).save("known.png", exif=exif)
    width, height = SIZE if orientation == 1 else SIZE[::-1]
    for box, said in (
        (f"0,0,{width},{height}", ""),
        (f"10,20,{width - 1},{height}", ""),
        ("0,0,5000,5000", f"box cut to {width} x {height}: the picture ends there"),
        (f"-5,10,{width - 20},5000", f"box cut to {width - 20} x {height - 10}: the picture ends there"),
    ):
        assert retrieve("query", "known.png", "--bbox", box)
        assert [line for line in capsys.readouterr().err.splitlines() if "box" in line] == ([said] if said else [])
    retrieve("query", "known.png", "--bbox", "0,0,5000,5000", "-q")
    assert capsys.readouterr().err == ""


def test_a_folder_of_which_nothing_is_indexed_is_named(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ((), ("--rank", "cosine")):
        assert retrieve("query", "known.png", "unknown.png", "--under", "album07", *more) == ""
        assert status("query", "known.png", "--under", "album07", *more) == 1
        err = capsys.readouterr().err
        assert err.count("nothing that is indexed lies in album07") == 2  # once for each command
        assert err.count("(seen from the current folder, or from one that was indexed)") == 2
        assert "no match" not in err
    assert status("query", "known.png", "--under", album / "album07") == 1
    assert "seen from" not in capsys.readouterr().err
    retrieve("query", "known.png", "--under", "album", "--min-score", 0.9999)
    assert "nothing that is indexed" not in capsys.readouterr().err


def test_the_exit_status_says_it_on_request(album: Path) -> None:
    assert status("query", "unknown.png", "known.png") == 0
    assert status("query", "known.png", "--require-match") == 0
    assert status("query", "unknown.png", "known.png", "--require-match") == 3


@pytest.mark.parametrize("more", [(), ("--rerank", "alpha-qe")])
def test_what_gives_no_verdicts_cannot_require_them(more: tuple[str, ...], album: Path) -> None:
    with pytest.raises(UsageError, match="verdicts"):
        retrieve("query", "known.png", "--require-match", "--rank", "cosine", *more)
    with pytest.raises(UsageError):
        retrieve("query", "known.png", "--min-probability", 0.5, "--rank", "cosine", *more)


JUDGED = ("local", "fused", "inliers", "probability", "verdict")


@pytest.mark.parametrize("name", ["qe:n=2", "dba:n=2", "k-reciprocal", "diffusion", "verify"])
def test_a_second_look_changes_the_order_and_no_verdict(name: str, album: Path) -> None:
    def answers(*more: str) -> dict[str, dict[str, object]]:
        found = json.loads(retrieve("query", "known.png", "-k", 6, "--format", "json", *more))
        assert found["found"] is True
        return {r["path"]: {key: r[key] for key in JUDGED} for r in found["results"]}

    plain, again = answers(), answers("--rerank", name)
    assert len(again) == 6
    assert again == plain
    assert again["album/0002.png"]["verdict"] == "same"
    below = retrieve("query", "known.png", "--rerank", name, "--under", "album/0002.png").split()
    assert below[:3] == ["1", "same", below[2]]
    assert retrieve("query", "known.png", "--rerank", name, "--min-probability", 0.95, "--format", "paths") == (
        "album/0002.png\n"
    )
    assert status("query", "unknown.png", "--rerank", name, "--require-match") == 3
    assert status("query", "known.png", "--rerank", name, "--require-match") == 0


def test_pictures_beyond_the_candidates_of_a_plain_query_are_weighed_too(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = json.loads(retrieve("query", "known.png", "-k", 6, "--format", "json"))["results"]
    monkeypatch.setattr("retrieval.gallery.weighed.CANDIDATES", 1)
    again = json.loads(retrieve("query", "known.png", "-k", 6, "--format", "json", "--rerank", "dba"))["results"]
    assert {r["id"]: r["probability"] for r in again} == {r["id"]: r["probability"] for r in plain}


def test_verification_names_the_unit_of_its_score(album: Path) -> None:
    first = retrieve("query", "known.png", "-k", 1, "--rerank", "verify").split()
    assert first[1] == "same"
    assert (int(first[4]) >= 10, first[5]) == (True, "inliers")
    assert "inliers" not in retrieve("query", "known.png", "--rerank", "qe")
    assert retrieve("query", "known.png", "--rerank", "qe", "--format", "csv").splitlines()[0].split(",")[5:] == [
        "rerank_score",
        *JUDGED,
    ]


def test_a_second_look_says_why_there_are_no_verdicts(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrieve("query", "known.png", "--rerank", "qe", "--rank", "cosine")
    assert "no verdicts" not in capsys.readouterr().err  # as it was asked for
    retrieve("index", "--no-local")
    capsys.readouterr()
    line = retrieve("query", "known.png", "-k", 1, "--rerank", "qe").split()
    assert len(line) == 4  # rank, cosine, the re-ranker's score, path
    assert (
        "no verdicts: the gallery has no local index. Make it with: retrieve index --local" in capsys.readouterr().err
    )
    assert "on a server keeps no local features" in unjudged("postgresql://me@db/photos/album")


def test_index_without_and_with(album: Path) -> None:
    assert "6 pictures" in next(line for line in retrieve("info").splitlines() if "local index" in line)
    retrieve("index", "--no-local")
    assert "none (retrieve index --local" in retrieve("info")
    assert json.loads(retrieve("info", "--format", "json"))["local"] is None
    with pytest.raises(UsageError, match="no local index"):
        retrieve("query", "known.png", "--rank", "fused")
    assert "looked at for the local index: 6 known pictures" in retrieve("index", "--local")
    local = json.loads(retrieve("info", "--format", "json"))["local"]
    assert local["pictures"] == 6
    assert 0 < local["milliseconds"] < 1000
    assert local["bytes"] > 0
    assert json.loads(retrieve("index", "--format", "json"))["local"] == 0


def test_info_names_a_few_of_many_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_engine(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        write_textures(tmp_path / f"box{i}", 1)
    for count, named, more in ((6, 6, ""), (8, 5, "; 3 more places (--format json lists them)")):
        with fake_gallery(tmp_path / f"g{count}") as gallery:
            gallery.index([f"box{i}" for i in range(count)])
        (line,) = [
            row for row in retrieve("info", "--index", f"g{count}").splitlines() if row.startswith("        from")
        ]
        assert line.count("box") == named
        assert line.endswith(f"box{named - 1}{more}")
        assert len(json.loads(retrieve("info", "--index", f"g{count}", "--format", "json"))["roots"]) == count


def test_info_of_what_was_added_by_a_program_names_no_run_that_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_engine(monkeypatch)
    with fake_gallery(tmp_path / "g") as gallery:
        assert "from  nothing yet" in retrieve("info", "--index", tmp_path / "g")
        gallery.add("key", vector=np.eye(1, gallery.spec.dim)[0])
    told = retrieve("info", "--index", tmp_path / "g")
    assert "from  no folder: imported, or added by a program" in told
    assert "local index  empty: no files to look at" in told
