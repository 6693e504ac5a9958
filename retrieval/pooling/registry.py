"""The poolings by name: what exists, with which parameters, and how to make one.

The table below is data, so listing the poolings loads nothing heavy; :func:`create_pooling` imports the module
that holds the one asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from retrieval.errors import UsageError

if TYPE_CHECKING:
    from retrieval.pooling.base import Pooling


@dataclass(frozen=True)
class PoolingInfo:
    """One entry of the registry.

    Attributes:
        name: what :func:`create_pooling` calls it.
        kind: ``"map"`` takes ``(B, C, H, W)``, ``"tokens"`` takes ``(B, T, D)`` and a mask ``(B, T)`` or None.
        summary: one line.
        target: module and class that implement it, ``"spatial:GeM"``.
        parameters: every parameter with its default, apart from ``dim``.
        needs_dim: whether the module has to know the number of channels (``dim``) when it is made.
        untrained: for one whose weights have to be learned, what it is before that; "" for all others.
        aliases: other names for it.
    """

    name: str
    kind: Literal["map", "tokens"]
    summary: str
    target: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs_dim: bool = False
    untrained: str = ""
    aliases: tuple[str, ...] = ()


_P: dict[str, Any] = {"p": 3.0, "learn_p": True, "eps": 1e-6}
_LOCAL = {"window": 2, "stride": None, "then": "gem", **_P}
_PREFIX = {"prefix": 0}

_TABLE = (
    PoolingInfo("gem", "map", "generalised mean, between average and maximum by one exponent p", "spatial:GeM", _P),
    PoolingInfo(
        "gem-channel",
        "map",
        "generalised mean with an exponent for each channel",
        "spatial:GeMChannel",
        _P,
        True,
        "gem",
    ),
    PoolingInfo("avg", "map", "average over all cells", "spatial:GlobalAvg", aliases=("gap", "spoc")),
    PoolingInfo("max", "map", "strongest cell of each channel", "spatial:GlobalMax", aliases=("mac",)),
    PoolingInfo("rmac", "map", "maxima of overlapping regions, normalised and added", "regions:RMAC", {"levels": 3}),
    PoolingInfo(
        "rgem", "map", "generalised means of the R-MAC regions, added", "regions:RegionalGeM", {"levels": 3, **_P}
    ),
    PoolingInfo("grid-avg", "map", "average of each cell of a fixed grid", "regions:GridAvg", {"size": 2}),
    PoolingInfo("grid-max", "map", "maximum of each cell of a fixed grid", "regions:GridMax", {"size": 2}),
    PoolingInfo(
        "spp",
        "map",
        "spatial pyramid: grids of several sizes",
        "regions:SpatialPyramid",
        {"levels": (1, 2, 4), "mode": "max", **_P},
    ),
    PoolingInfo("local-max", "map", "maximum of small windows, then a global pooling", "local:local_max", _LOCAL),
    PoolingInfo("local-avg", "map", "average of small windows, then a global pooling", "local:local_avg", _LOCAL),
    PoolingInfo(
        "strided-conv",
        "map",
        "learned down-sampling, then a global pooling",
        "local:strided_conv",
        _LOCAL,
        True,
        "local-avg",
    ),
    PoolingInfo("cls", "tokens", "the class token", "tokens:ClsPool", _PREFIX),
    PoolingInfo("mean", "tokens", "mean of the content tokens", "tokens:MeanPool", _PREFIX),
    PoolingInfo("token-max", "tokens", "maximum of each dimension over the tokens", "tokens:MaxPool", _PREFIX),
    PoolingInfo("last", "tokens", "the last real token", "tokens:LastPool", _PREFIX),
    PoolingInfo(
        "token-gem",
        "tokens",
        "generalised mean of the tokens, with a rule for negative values",
        "tokens:TokenGeM",
        {**_P, "negative": "clamp", **_PREFIX},
    ),
    PoolingInfo("attention", "tokens", "one learned query", "attention:AttentionPool", _PREFIX, True, "the mean"),
    PoolingInfo(
        "pma",
        "tokens",
        "several learned seeds, multi-head attention",
        "attention:PMA",
        {"seeds": 1, "heads": 4, "merge": "concat", "feed_forward": True, "norm": True, **_PREFIX},
        True,
        "a random projection",
    ),
    PoolingInfo("gated", "tokens", "a learned gate for each token", "attention:GatedPool", _PREFIX, True, "the mean"),
    PoolingInfo("cls-mean", "tokens", "class token and mean", "hybrids:ClsMean", {"merge": "concat", "prefix": 1}),
    PoolingInfo(
        "cls-gem",
        "tokens",
        "class token and generalised mean",
        "hybrids:ClsGeM",
        {**_P, "p": 4.0, "negative": "clamp", "merge": "concat", "prefix": 1},
    ),
)

_BY_NAME = {name: info for info in _TABLE for name in (info.name, *info.aliases)}


def list_poolings(kind: str | None = None) -> list[PoolingInfo]:
    """All poolings, or those of a ``kind`` ("map", "tokens"); feature maps first, in the order of the documentation."""
    return [entry for entry in _TABLE if kind in (None, entry.kind)]


def pooling_info(name: str) -> PoolingInfo:
    """The entry called ``name`` (or one of its aliases).

    Raises:
        UsageError: there is none; the message lists those that exist.
    """
    try:
        return _BY_NAME[name]
    except (KeyError, TypeError):
        pass
    close = get_close_matches(str(name).lower(), _BY_NAME, n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    raise UsageError(f"no pooling is called {name!r}", f"{guess}There are: {', '.join(i.name for i in _TABLE)}.")


def create_pooling(name: str, *, dim: int | None = None, **params: Any) -> Pooling:
    """A pooling module by name.

    Args:
        name: see :func:`list_poolings`.
        dim: number of channels or token dimensions. Needed where ``pooling_info(name).needs_dim``; ignored
            elsewhere, so that a caller who knows it can always pass it.
        params: the parameters of that pooling, see ``pooling_info(name).parameters``.

    Raises:
        UsageError: unknown name or parameter, a value out of range, or ``dim`` missing.
    """
    info = pooling_info(name)
    unknown = [key for key in params if key not in info.parameters]
    if unknown:
        known = ", ".join(f"{key}={value!r}" for key, value in info.parameters.items()) or "none"
        raise UsageError(f"pooling {info.name} has no parameter {unknown[0]!r}", f"Its parameters: {known}.")
    if info.needs_dim:
        if dim is None:
            raise UsageError(f"pooling {info.name} has to know the number of channels", "Pass dim=.")
        params["dim"] = dim
    module, _, attribute = info.target.partition(":")
    pooling: Pooling = getattr(import_module(f".{module}", __package__), attribute)(**params)
    return pooling
