"""What is nearly right is told so, before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fakes import fake_gallery, write_pictures

from retrieval.cli.main import main


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["retrieve", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize(("word", "meant"), [("indx", "index"), ("search", "query"), ("duplicate", "duplicates")])
def test_a_command_that_is_meant_is_named(word, meant, monkeypatch, capsys):
    assert f"did you mean {meant}?" in refused([word, "x"], monkeypatch, capsys)


def test_another_models_name_is_refused_before_its_weights_are_fetched(tmp_path, monkeypatch, capsys):
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr("retrieval.models.zoo.download_weights", fetched)
    monkeypatch.setenv("RETRIEVE_NO_SERVER", "1")
    (photo,) = write_pictures(tmp_path, 1)
    fake_gallery(tmp_path / "g").close()
    words = ["query", str(photo), "--index", str(tmp_path / "g"), "--model", "resnet50-gem"]
    told = refused(words, monkeypatch, capsys)
    assert "was made with" in told
    assert "not with resnet50-gem" in told


def test_a_folder_beside_its_gallery_is_told_where_that_is(tmp_path: Path, monkeypatch, capsys):
    (photo,) = write_pictures(tmp_path, 1)
    fake_gallery(tmp_path / ".retrieval").close()
    told = refused(["query", str(photo), "--index", str(tmp_path)], monkeypatch, capsys)
    assert f"{tmp_path / '.retrieval'} does" in told
