"""What the pages of ``--help`` promise: every option once and explained, under headings where there are many."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fakes import fake_gallery, write_pictures

from retrieval.cli.grouped import GroupedCommand
from retrieval.cli.main import cli

MANY = 12  # options that are still found in one list


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


ALL = dict(commands())


def page(words: tuple[str, ...], width: int = 80) -> str:
    if words in ALL:
        vars(ALL[words])["_help_option"] = None  # click keeps that of who asked first, be it without our names for it
    shown = CliRunner().invoke(cli, [*words, "--help"], env={"COLUMNS": str(width)}, terminal_width=width)
    assert shown.exit_code == 0, shown.output
    return shown.output


def options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_lists_each_option_once_and_fits_80_columns(words: tuple[str, ...]) -> None:
    assert max(map(len, page(words).splitlines())) <= 80
    below = re.split(r"^\w.*:$", page(words), maxsplit=1, flags=re.MULTILINE)[1]
    rows = re.findall(r"^  ([^\s,]+(?:(?:,| /) -[^\s,]+)*)", below, re.MULTILINE)
    listed = [name for row in rows for name in re.split(", | / ", row)]
    own = [name for option in options(ALL[words]) for name in option.opts + option.secondary_opts]
    assert sorted(listed) == sorted([*own, "-h", "--help"])


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_many_options_stand_under_headings(words: tuple[str, ...]) -> None:
    headings = re.findall(r"^(\w.*):$", page(words), re.MULTILINE)
    if len(options(ALL[words])) >= MANY:
        assert len(headings) >= 3
        assert "Options" not in headings
        assert headings[-1] == "Messages"
        assert page(words).index("Messages:") < page(words).index("--help  ")
        columns = {len(row) for row in re.findall(r"^  -\S.*? {2,}(?=\S)", page(words), re.MULTILINE)}
        assert len(columns) == 1  # of texts, below all headings


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_options_are_explained_with_their_defaults(words: tuple[str, ...]) -> None:
    taken = ALL[words].make_context("x", [], resilient_parsing=True).params
    for option in options(ALL[words]):
        assert option.help, option.name
        default = taken.get(str(option.name))
        if default not in (None, ()) and not option.is_flag and not option.count:
            assert option.show_default or "default" in option.help, option.name


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_has_words_for_numbers(words: tuple[str, ...]) -> None:
    assert not re.search(r"INTEGER|FLOAT|RANGE", page(words))


def test_an_option_in_no_group_or_in_two_is_refused() -> None:
    one = click.Option(["--one"])
    with pytest.raises(TypeError, match="one stands in 0 groups"):
        GroupedCommand("x", params=[one], groups={})
    with pytest.raises(TypeError, match="one stands in 2 groups"):
        GroupedCommand("x", params=[one], groups={"A": "one", "B": "one"})
    shared = click.Option(["--size"])
    assert GroupedCommand("x", params=[one, shared], groups={"A": "one size"}).groups["Model"].count("size") == 0


def test_a_wrong_number_is_told_in_words() -> None:
    wrong = CliRunner().invoke(cli, ["query", "x.jpg", "--min-probability", "5"])
    assert "'5' is no probability" in wrong.output


def test_the_list_of_models_says_which_one_auto_is() -> None:
    from retrieval.models.zoo import resolve

    assert f" {resolve('auto').name} here." in CliRunner().invoke(cli, ["models", "list"]).output


def test_an_export_says_where_the_names_are_and_its_own_gallery_is_told_of_them(tmp_path: Path) -> None:
    def told(*words: object) -> str:
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    file, own = tmp_path / "v.npy", tmp_path / "g"
    with fake_gallery(own) as gallery:
        gallery.index([write_pictures(tmp_path / "album", 3)[0].parent])
    assert Path(told("export", file, "--index", own).rpartition("names: ")[2].strip()).is_file()
    fake_gallery(tmp_path / "other").close()
    assert "warning" not in told("import", file, "--index", tmp_path / "other")
    assert "3 names stand for" in told("import", file, "--index", own)
    told("remove", "*", "--index", own)
    told("index", "--restore", "--index", own)
    assert len(fake_gallery(own)) == 3
