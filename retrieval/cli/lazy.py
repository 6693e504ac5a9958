"""Groups whose commands are imported when they are called, so that help costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from retrieval.cli.grouped import PlainGroup


class LazyGroup(PlainGroup):
    """``lazy``: name -> (module whose ``command`` it is, one-line help, which is repeated here so that no module is
    imported for it)."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return None
        return import_module(self.lazy[name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            from retrieval.cli.words import command_meant

            likely = command_meant(args[0], self.lazy, ctx.parent is None)
            meant = (
                f" (did you mean {ctx.command_path} {likely}?)" if likely else f"; there are: {', '.join(self.lazy)}"
            )
            raise click.UsageError(f"there is no command {args[0]!r}{meant}", ctx)
        return super().resolve_command(ctx, args)
