"""What people try on a command line, and what does it here. Imported only where something was not found."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from difflib import get_close_matches

# Another word -> a command; where it is an option or a part of one, the words to say.
COMMANDS = {
    "search": "query",
    "find": "query",
    "ask": "query",
    "match": "query",
    "similar": "query",
    "explain": "query --explain",
    "add": "index",
    "build": "index",
    "init": "index",
    "create": "index",
    "reindex": "index",
    "update": "index",
    "refresh": "index",
    "sync": "index",
    "scan": "index",
    "watch": "index",
    "restore": "index --restore",
    "repair": "index --repair",
    "dedup": "duplicates",
    "dedupe": "duplicates",
    "delete": "remove",
    "rm": "remove",
    "list": "info",
    "ls": "info",
    "status": "info",
    "stats": "info",
    "check": "doctor",
    "server": "serve",
    "web": "serve",
    "ui": "serve",
    "gui": "serve",
    "open": "serve",
    "start": "serve",
    "finetune": "train",
    "embed": "describe",
    "encode": "describe",
    "download": "models download",
    "test": "evaluate",
    "compare": "benchmark pooling, or retrieve evaluate --compare",
}

# Another option, without its dashes -> options, the first that the command has being meant, with a value where one belongs.
OPTIONS = {
    "gallery": ("--index",),
    "database": ("--index",),
    "db": ("--index",),
    "g": ("--index",),
    "i": ("--index",),
    "k": ("-k",),
    "top": ("-k",),
    "top-k": ("-k",),
    "topk": ("-k",),
    "n": ("-k",),
    "num": ("-k",),
    "limit": ("-k",),
    "results": ("-k",),
    "max-results": ("-k",),
    "json": ("--format json",),
    "csv": ("--format csv",),
    "paths": ("--format paths",),
    "html": ("--explain", "--sheet"),
    "montage": ("--sheet",),
    "collage": ("--sheet",),
    "show": ("--sheet", "--open"),
    "browser": ("--open",),
    "output": ("--out", "--save"),
    "o": ("--out", "--save"),
    "out": ("--save",),
    "save": ("--out",),
    "threshold": ("--min-probability", "--level"),
    "confidence": ("--min-probability",),
    "min-prob": ("--min-probability",),
    "cutoff": ("--min-probability",),
    "min-similarity": ("--min-score",),
    "crop": ("--bbox",),
    "box": ("--bbox",),
    "roi": ("--bbox",),
    "dedup": ("--fold",),
    "heatmap": ("--heat",),
    "verify": ("--rerank verify",),
    "qe": ("--rerank qe",),
    "alpha-qe": ("--rerank alpha-qe",),
    "diffusion": ("--rerank diffusion",),
    "folder": ("--under", "--images"),
    "ignore": ("--exclude",),
    "skip": ("--exclude",),
    "glob": ("--include",),
    "pattern": ("--include",),
    "dry-run": ("--status", "--preview"),
    "check": ("--status",),
    "checksum": ("--rehash",),
    "device": ("--engine",),
    "backend": ("--engine",),
    "network": ("--model",),
    "net": ("--model",),
    "backbone": ("--model",),
    "arch": ("--model",),
    "weights": ("--model",),
    "checkpoint": ("--model", "--resume"),
    "image-size": ("--size",),
    "img-size": ("--size",),
    "imsize": ("--size",),
    "max-size": ("--size",),
    "resolution": ("--size",),
    "multiscale": ("--scales 1,0.7071,0.5",),
    "ms": ("--scales 1,0.7071,0.5",),
    "fp16": ("--dtype float16",),
    "float16": ("--dtype float16",),
    "half": ("--precision bf16",),
    "bf16": ("--precision bf16",),
    "int8": ("--precision int8",),
    "pool": ("--pooling", "--methods", "--model lite0_instance-max"),
    "pooling": ("--methods", "--model lite0_instance-max"),
    "p": ("--port", "--model lite0_instance-gem:p=4"),
    "learning-rate": ("--lr",),
    "dataset": ("--data",),
    "images-dir": ("--images",),
    "bind": ("--host",),
    "address": ("--host",),
    "listen": ("--host",),
    "silent": ("--quiet",),
    "debug": ("--verbose",),
}

# Another option -> why none is needed, where no other one is meant.
_SUBFOLDERS = "a folder always means its subfolders too"
_CORES = "all cores are used"
_SPARED = "no command deletes or moves a picture; a list of files: retrieve duplicates --keep best --out FILE"
_PRINTED = "what is printed goes into a file by > FILE"
_WORDS = "pictures are found by pictures, not by words"
NEEDLESS = {
    "recursive": _SUBFOLDERS,
    "r": _SUBFOLDERS,
    "jobs": _CORES,
    "j": _CORES,
    "workers": _CORES,
    "num-workers": _CORES,
    "threads": _CORES,
    "output": _PRINTED,
    "o": _PRINTED,
    "out": _PRINTED,
    "save": _PRINTED,
    "delete": _SPARED,
    "remove": _SPARED,
    "move": _SPARED,
    "text": _WORDS,
    "prompt": _WORDS,
    "watch": "run it whenever pictures have changed: what is there already takes no time",
}


def command_meant(word: str, known: Collection[str], first: bool) -> str | None:
    """The words of a command that ``word`` may mean, one of ``known``. ``first``: it is the first word of all, before which a
    command may have been left out."""
    meant = COMMANDS.get(word)
    if meant is not None and meant.split()[0] in known:
        return meant
    if first and os.path.isdir(word):
        return f"index {shlex.quote(word)}"
    if first and os.path.isfile(word):
        return f"query {shlex.quote(word)}"
    return next(iter(get_close_matches(word, known, 1)), None)


def option_advice(option: str, known: Mapping[str, Collection[str] | None]) -> str | None:
    """What to say of an option that a command does not have: which of ``known`` it may mean, or why none is needed. ``known``:
    option (with its dashes) -> the values that it takes, None where any."""
    name = option.lstrip("-").replace("_", "-").lower()
    for meant in OPTIONS.get(name, ()):
        there, _, value = meant.partition(" ")
        values = known.get(there)
        if there in known and (not value or values is None or value in values):
            return f"did you mean {meant}?"
    bare = {other.lstrip("-"): other for other in known if other.startswith("--")}
    near = get_close_matches(name, bare, 1, 0.7)
    return f"did you mean {bare[near[0]]}?" if near else NEEDLESS.get(name)
