"""Help of commands with many options: under headings, in one column, numbers called N and X."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

# Options that commands share, where a command says nothing else; these headings come last.
_LAST = "Messages"
_SHARED = {"Model": "model size scales picture_memory tokens engine", _LAST: "quiet verbose"}
_WIDEST = 30  # characters of the column of names; what is longer has its text below
_NUMBERS = {"integer": "N", "float": "X"}  # by click's names of types


class GroupedCommand(click.Command):
    """``groups``: heading -> names of its parameters, in the order in which help lists them. Each option stands in one; those
    that commands share have headings of their own unless they are named. Without ``groups`` all are listed as Options."""

    def __init__(self, *args: Any, groups: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        own = [param for param in self.params if isinstance(param, click.Option)]
        for option in own:
            if isinstance(option.type, click.IntRange | click.FloatRange):  # else: "is not a valid float range"
                option.type.name = option.type.name.removesuffix(" range")
            option.metavar = option.metavar or _NUMBERS.get(option.type.name)
        self.groups = {heading: names.split() for heading, names in (groups or {}).items()}
        if groups is None:
            return
        named = {name for names in self.groups.values() for name in names}
        for heading, names in _SHARED.items():
            self.groups.setdefault(heading, []).extend(name for name in names.split() if name not in named)
        held = [name for names in self.groups.values() for name in names]
        for option in own:
            if held.count(str(option.name)) != 1:
                raise TypeError(f"{self.name}: option {option.name} stands in {held.count(str(option.name))} groups")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from retrieval.cli.words import option_advice

            known = {
                name: getattr(param.type, "choices", None)
                for param in self.get_params(ctx)
                for name in (*param.opts, *param.secondary_opts)
            }
            advice = option_advice(error.option_name, known)
            said = f"there is no option {error.option_name}{f' ({advice})' if advice else ''}"
            raise click.NoSuchOption(error.option_name, said, ctx=ctx) from None
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # else the help of another command is named
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.groups:
            super().format_options(ctx, formatter)
            return
        shown = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {option.name: option.get_help_record(ctx) for option in shown}
        told = {name: record for name, record in records.items() if record is not None}
        width = min(_WIDEST, max(len(names) for names, _ in told.values()))
        listed = {heading: [name for name in names if name in told] for heading, names in self.groups.items()}
        held = {name for names in listed.values() for name in names}
        listed[_LAST] += [name for name in told if name not in held]  # --help, which click adds by itself
        for heading, names in listed.items():
            if names:
                with formatter.section(heading):
                    formatter.write_dl([(told[name][0].ljust(width), told[name][1]) for name in names])


class PlainGroup(click.Group):
    """Commands whose numbers are called N and X too; ``retrieve help query`` is ``retrieve query --help``."""

    command_class = GroupedCommand

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)
        except click.NoSuchOption as error:
            said = f"there is no option {error.option_name} before a command; a command's options follow it"
            raise click.NoSuchOption(error.option_name, said, ctx=ctx) from None
