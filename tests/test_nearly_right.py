"""What is nearly right is told so, before anything is loaded."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fakes import fake_gallery, write_pictures

from retrieval import UsageError
from retrieval.cli.common import Probability
from retrieval.cli.expand import expand_pictures
from retrieval.cli.main import COMMANDS, cli, main
from retrieval.cli.words import COMMANDS as WORDS
from retrieval.cli.words import OPTIONS


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["retrieve", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (1, 2)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("indx", "index"),
        ("search", "query"),
        ("duplicate", "duplicates"),
        ("rm", "remove"),
        ("list", "info"),
        ("web", "serve"),
        ("update", "index"),
        ("watch", "index"),
        ("explain", "query --explain"),
        ("compare", "benchmark pooling, or retrieve evaluate --compare"),
        ("benchmark pool", "benchmark pooling"),
    ],
)
def test_a_command_that_is_meant_is_named(words, meant, monkeypatch, capsys):
    assert f"(did you mean retrieve {meant}?)" in refused([*words.split(), "x"], monkeypatch, capsys)


def test_every_word_leads_to_a_command_and_is_none():
    assert {meant.split()[0] for meant in WORDS.values()} <= set(COMMANDS)
    assert not set(WORDS) & set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("query x.jpg --gallery g", " --gallery (did you mean --index?)"),
        ("query x.jpg --top_k 5", " --top_k (did you mean -k?)"),
        ("query x.jpg --json", " --json (did you mean --format json?)"),
        ("info --json", " --json (did you mean --format json?)"),
        ("duplicates -o out", " -o (did you mean --out?)"),
        ("index x --modle y", " --modle (did you mean --model?)"),
        ("index -r x", " -r (a folder always means its subfolders too)"),
        ("query x.jpg --db g --zebra", " --db (did you mean --index?)"),
        ("query x.jpg --k 5", " --k (did you mean -k?)"),
        ("query x.jpg --output y", " --output (what is printed goes into a file by > FILE)"),
        ("evaluate x --output y", " --output (did you mean --save?)"),
        ("evaluate x --pooling max", " --pooling (did you mean --model lite0_instance-max?)"),
        ("evaluate x --p 4", " --p (did you mean --model lite0_instance-gem:p=4?)"),
        ("benchmark pooling x --pooling max", " --pooling (did you mean --methods?)"),
        ("serve -p 80", " -p (did you mean --port?)"),
        ("query --text x", " --text (pictures are found by pictures, not by words)"),
        ("query x.jpg --zebra", " --zebra"),
        ("info --csv", " --csv"),  # its --format has no such value
        ("index x --top 5", " --top"),  # what has no results has no number of them
        ("--index g query x.jpg", " --index before a command; a command's options follow it"),
    ],
)
def test_an_option_that_is_meant_is_named(words, advice, monkeypatch, capsys):
    assert f"there is no option{advice}. See: " in refused(words.split(), monkeypatch, capsys)


@pytest.mark.parametrize(
    ("text", "number"), [("0.5", 0.5), ("50%", 0.5), ("100%", 1.0), ("0", 0.0), ("0.5%", 0.005), ("1", 1.0)]
)
def test_a_probability_is_read_as_it_is_printed(text, number):
    assert Probability().convert(text, None, None) == number


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("50", " (did you mean 50%?)"),
        ("101", ""),
        ("-0.1", ""),
        ("101%", ""),
        ("nan", ""),
        ("half", ""),
        ("5%%", ""),
        ("", ""),
    ],
)
def test_what_is_no_probability_is_told(text, meant, monkeypatch, capsys):
    said = refused(["query", "x.jpg", "--min-probability", text], monkeypatch, capsys)
    assert f"{text!r} is no probability: from 0 to 1, or such as 50%{meant}. See" in said


def _options() -> dict[str, set[str]]:
    """Command -> its options, as click knows them."""

    def below(group: click.Group, name: str) -> dict[str, set[str]]:
        held: dict[str, set[str]] = {}
        for part in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), part)
            inner = below(command, f"{name}{part} ") if isinstance(command, click.Group) else {}
            own = {
                f"{name}{part}": {
                    opt for param in command.params for opt in (*param.opts, *param.secondary_opts) if opt[0] == "-"
                }
            }
            held |= inner or own
        return held

    return below(cli, "")


def test_every_other_word_for_an_option_leads_to_one():
    options = _options()
    everywhere = set().union(*options.values())
    assert {meant.split()[0] for words in OPTIONS.values() for meant in words} <= everywhere


def test_a_value_that_is_advised_is_taken(monkeypatch, capsys):
    words = {word for word, meant in OPTIONS.items() if any(" " in one for one in meant)}
    advised = set()
    for name in _options():
        command: click.Command = cli
        for part in name.split():
            command = command.get_command(click.Context(command), part)  # type: ignore[attr-defined]
        for word in words:
            said = refused([*name.split(), f"--{word}"], monkeypatch, capsys)
            if found := re.search(r"did you mean (--\S+) (\S+)\?", said):
                (param,) = (param for param in command.params if found[1] in param.opts)
                param.type.convert(found[2], param, click.Context(command))  # else click.BadParameter
                advised.add(word)
    assert advised == words


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("benchmark poling", "benchmark"),
        ("query --fold=x y", "query"),
        ("query x --index", "query"),
        ("models list --format", "models list"),
        ("qurey x", ""),
    ],
)
def test_the_help_that_is_named_is_the_commands_own(words, page, monkeypatch, capsys):
    assert f"See: retrieve {page}{' ' * bool(page)}--help" in refused(words.split(), monkeypatch, capsys)


def test_every_command_tells_what_is_nearly_right(monkeypatch, capsys):
    for command, options in _options().items():
        option = max(options, key=len, default="--help")
        said = refused([*command.split(), f"{option}{option[-1]}"], monkeypatch, capsys)
        assert f" (did you mean {option}?)" in said, command


@pytest.mark.parametrize(
    ("asked", "words"), [("help", ""), ("help query", "query"), ("models help list", "models list")]
)
def test_help_is_a_word_too(asked, words):
    pages = [CliRunner().invoke(cli, line) for line in (asked.split(), [*words.split(), "--help"])]
    assert pages[0].exit_code == 0
    assert pages[0].output == pages[1].output


def test_a_picture_or_folder_without_a_command_names_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "photo.jpg").touch()
    assert "(did you mean retrieve query photo.jpg?). See" in refused(["photo.jpg"], monkeypatch, capsys)
    assert "(did you mean retrieve index holiday?)" in refused(["holiday"], monkeypatch, capsys)
    for name in ("pictures", "exports", "my photos"):  # nearer than the commands whose letters are like theirs
        (tmp_path / name).mkdir()
        assert f"(did you mean retrieve index {shlex.quote(name)}?)" in refused([name], monkeypatch, capsys)
    assert "there are: index, query" in refused(["away.jpg"], monkeypatch, capsys)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (("a red car",), "called a red car. Pictures are found by pictures, not by words."),
        (("red", "car"), "called red, car. Pictures are found by pictures, not by words."),
        (("https://example.com/a.jpg",), "https://example.com/a.jpg is not on this machine. Fetch it first"),
        (
            ("https://example.com/a.jpg?w=640",),
            "https://example.com/a.jpg?w=640 is not on this machine. Fetch it first",
        ),
    ],
)
def test_words_and_addresses_are_no_pictures(named, told, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        expand_pictures(named)
    assert told in str(raised.value)
    (tmp_path / "car").touch()  # a picture may be called so
    assert expand_pictures(("red", "car")) == ["red", "car"]
    assert expand_pictures(("scan1", "red.jpg")) == ["scan1", "red.jpg"]  # each is told of by itself
    assert expand_pictures(("photo",)) == ["photo"]
    assert expand_pictures(()) == []


def test_a_file_that_looks_like_options_is_named(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-zoo.jpg").touch()
    assert "the file -zoo.jpg is named by ./-zoo.jpg" in refused(["query", "-zoo.jpg"], monkeypatch, capsys)
    assert "the file" not in refused(["query", "-zebra.jpg"], monkeypatch, capsys)


def test_a_word_for_another_groups_command_is_not_offered(monkeypatch, capsys):
    assert "did you mean" not in refused(["benchmark", "ui"], monkeypatch, capsys)


def test_a_question_ends_with_its_mark_alone(monkeypatch, capsys):
    said = refused(["query", "--zebra", "x.jpg"], monkeypatch, capsys)
    assert ". See: retrieve query --help" in said
    said = refused(["query", "--bbx", "1,2,3,4", "x.jpg"], monkeypatch, capsys)
    assert "--bbox" in said
    assert "?." not in said
    assert "See: retrieve query --help" in said


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


def test_the_folder_of_a_gallery_names_it_and_a_model_of_tomorrow_is_told(tmp_path: Path, monkeypatch, capsys):
    (photo,) = write_pictures(tmp_path, 1)
    with fake_gallery(tmp_path / ".retrieval") as gallery:
        gallery.index([photo])
    told = refused(["query", str(photo), "--index", str(tmp_path)], monkeypatch, capsys)
    assert "this version of retrieval knows no backbone 'fake'" in told
