"""``retrieve benchmark``."""

from __future__ import annotations

import click

from retrieval.cli.lazy import LazyGroup

_COMMANDS = {
    "pooling": ("retrieval.cli.benchmarks.pooling", "GeM over p, average, maximum and the others, on a labelled set."),
    "ann": ("retrieval.cli.benchmarks.ann", "Approximate search with exact search: recall, time, memory."),
    "local": ("retrieval.cli.benchmarks.local", "Local features: points, bytes and time against mAP."),
    "tokens": ("retrieval.cli.benchmarks.tokens", "Token Pooling: what is saved and what is lost."),
    "speed": ("retrieval.cli.benchmarks.speed", "Engines with the usual loop, and indexing end to end."),
}


@click.group("benchmark", cls=LazyGroup, lazy=_COMMANDS)
def command() -> None:
    """Measure and compare."""
