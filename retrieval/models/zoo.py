"""How a model's name is read, and which model ``auto`` is. Knows no torch.

A name is ``BACKBONE-POOLING[:key=value,...][@random[:SEED]]``: ``resnet50-gem``, ``efficientnet_lite0-avg``,
``resnet18-gem:p=4``, ``resnet18-gem@random:0`` (untrained weights, for training from scratch and for tests), ``auto``.
With ``tokens=SCHEDULE`` among its parameters a vision transformer pools its tokens on the way
(:mod:`retrieval.pooling.schedules`).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from retrieval.errors import UsageError
from retrieval.messages import say_nothing
from retrieval.models.registry import BACKBONES, EMBEDDED, PREFERRED, BackboneInfo
from retrieval.models.spec import TOKENS, ImageRule, ModelSpec, WeightsRef
from retrieval.models.token_reduction import token_schedule
from retrieval.models.weights import checked_digest, download_weights, weights_file, weights_present

# Poolings that keep the backbone's width: for these a name resolves to a specification without importing torch.
_KEEPS_WIDTH = frozenset({"gem", "avg", "max", "cls", "mean", "token-max", "token-gem"})


@dataclass(frozen=True)
class ParsedName:
    backbone: str
    pooling: dict[str, Any]
    seed: int | None  # not None: untrained weights from this seed


def parse_name(name: str) -> ParsedName:
    """Read a model name (see the module's docstring). Raises UsageError that lists what exists."""
    from retrieval.pooling.registry import pooling_info

    head, _, origin = name.partition("@")
    seed: int | None = None
    if origin:
        kind, _, number = origin.partition(":")
        if kind != "random" or (number and not number.isdigit()):
            raise UsageError(
                f"unknown weights {origin!r} in model name {name!r}", "Use @random or @random:SEED, or none."
            )
        seed = int(number or 0)
    head, _, parameters = head.partition(":")
    backbone = next(
        (b for b in sorted(BACKBONES, key=len, reverse=True) if head == b or head.startswith(b + "-")), None
    )
    if backbone is None:
        raise UsageError(
            f"unknown model {name!r}",
            f"{_guess(head)}A model is BACKBONE-POOLING, such as resnet50-gem, or a checkpoint's path. "
            f"Backbones: {', '.join(BACKBONES)}.",
        )
    pooling: dict[str, Any] = {"name": head[len(backbone) + 1 :] or BACKBONES[backbone].pooling}
    pooling_info(pooling["name"])  # raises where there is none
    for item in filter(None, parameters.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{item!r} in model name {name!r} is not key=value", "Example: resnet50-gem:p=4.")
        pooling[key.strip()] = literal(value.strip())
    return ParsedName(backbone, pooling, seed)


def _guess(head: str) -> str:
    """What a name without a backbone that is known may mean."""
    from retrieval.pooling.registry import list_poolings

    if any(head.lower() in (info.name, *info.aliases) for info in list_poolings()):
        return f"{head} is a pooling, which follows a backbone. "
    plain = {_letters(backbone): backbone for backbone in BACKBONES}
    wanted = _letters(head)
    begun = [name for name in plain if wanted.startswith(name)]
    near = [max(begun, key=len)] if begun else get_close_matches(_letters(head.partition("-")[0]), plain, 1, 0.7)
    return f"Did you mean {plain[near[0]]}? " if near else ""


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def literal(text: str) -> Any:
    """What a parameter's text means in Python, itself where it means nothing: 3, (1, 2), None, avg."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def resolve(name: str, *, say: Callable[[str], None] = say_nothing) -> ModelSpec:
    """From a name to a specification. Weights named explicitly are downloaded once; ``auto`` never uses the network.

    ``say`` gets the one-line messages for the user. Raises UsageError (unknown name), DownloadError, ModelError.
    """
    if name == "auto":
        name = _choose(say)
    parsed = parse_name(name)
    info = BACKBONES[parsed.backbone]
    image = ImageRule(size=info.size, mean=info.weights.mean, std=info.weights.std)
    pooling = canonical_pooling(parsed.pooling)
    if TOKENS in pooling:
        pooling[TOKENS] = str(token_schedule(info, pooling[TOKENS], image.size))
    if parsed.seed is not None:
        weights = WeightsRef(f"random:{parsed.seed}", f"seed-{parsed.seed}")
    else:
        if info.weights.url and not weights_present(info.weights):
            say(f"downloading {info.weights.id} ({info.weights.megabytes:.0f} MB), once")
        path = (
            download_weights(info.weights, progress=sys.stderr.isatty())
            if info.weights.url
            else weights_file(info.weights)
        )
        weights = WeightsRef(info.weights.id, checked_digest(info.weights, path))
    return ModelSpec(parsed.backbone, weights, pooling, output_dim(info, pooling), None, image)


def canonical_pooling(pooling: Mapping[str, Any]) -> dict[str, Any]:
    """One spelling for one meaning: the registry's name, and only the parameters that differ from the defaults."""
    from retrieval.pooling.registry import pooling_info

    known = pooling_info(pooling["name"])
    kept = {
        k: v for k, v in pooling.items() if k != "name" and not (k in known.parameters and known.parameters[k] == v)
    }
    return {"name": known.name, **kept}


def output_dim(info: BackboneInfo, pooling: dict[str, Any]) -> int:
    """Length of the pooled vector. Imports torch only for poolings that change the width or take parameters to check."""
    from retrieval.pooling.registry import pooling_info

    if (
        pooling["name"] in _KEEPS_WIDTH
        and not pooling.keys() - {"name", TOKENS}
        and pooling_info(pooling["name"]).kind == info.layout
    ):
        return info.dim
    from retrieval.models.network import make_pooling

    return int(make_pooling(pooling, info).out_dim(info.dim))


def _choose(say: Callable[[str], None]) -> str:
    """A model whose weights are already here."""
    if weights_present(BACKBONES[PREFERRED].weights):
        say(f"model {PREFERRED}-gem (its weights are on this machine)")
        return f"{PREFERRED}-gem"
    say(f"model {EMBEDDED}-gem (built in); others: retrieve models list")
    return f"{EMBEDDED}-gem"
