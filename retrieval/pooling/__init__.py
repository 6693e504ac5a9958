"""Pooling: how many vectors become one.

``create_pooling("gem", p=3)`` makes a module by name, ``list_poolings()`` says which there are. The classes can be
imported from here too; they are loaded when first asked for, so that listing the poolings stays instant.

To read in this order:

- ``spatial``: average, maximum and GeM over a whole feature map, and what each cell contributes;
- ``power``: the arithmetic under GeM, safe at every p and in half precision;
- ``local``: windows, and the strided convolution that learns to do their work;
- ``regions``: grids, the spatial pyramid, R-MAC and regional GeM;
- ``tokens``: class token, mean, maximum, last token and power mean, with masks; ``hybrids``: the class token beside one of them;
- ``attention``: one query, several seeds, gates;
- ``reduction`` and ``vit``: Token Pooling, from N tokens to K inside a vision transformer;
- ``registry``: all of them by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from retrieval.pooling.registry import PoolingInfo, create_pooling, list_poolings, pooling_info

if TYPE_CHECKING:
    from retrieval.pooling.attention import PMA, AttentionPool, GatedPool
    from retrieval.pooling.base import Pooling
    from retrieval.pooling.hybrids import ClsGeM, ClsMean
    from retrieval.pooling.local import LocalAvgPool, LocalMaxPool, LocalThenGlobal, StridedConvPool
    from retrieval.pooling.reduction import Reduced, reduce_tokens
    from retrieval.pooling.regions import RMAC, GridAvg, GridMax, RegionalGeM, SpatialPyramid
    from retrieval.pooling.spatial import GeM, GeMChannel, GlobalAvg, GlobalMax, GlobalPooling
    from retrieval.pooling.tokens import ClsPool, LastPool, MaxPool, MeanPool, TokenGeM, TokenPooling
    from retrieval.pooling.vit import TokenPooledViT

_HOME = {
    "attention": (
        "PMA",
        "AttentionPool",
        "GatedPool",
    ),
    "base": ("Pooling",),
    "hybrids": (
        "ClsGeM",
        "ClsMean",
    ),
    "local": (
        "LocalAvgPool",
        "LocalMaxPool",
        "LocalThenGlobal",
        "StridedConvPool",
    ),
    "reduction": (
        "Reduced",
        "reduce_tokens",
    ),
    "regions": (
        "RMAC",
        "GridAvg",
        "GridMax",
        "RegionalGeM",
        "SpatialPyramid",
    ),
    "spatial": (
        "GeM",
        "GeMChannel",
        "GlobalAvg",
        "GlobalMax",
        "GlobalPooling",
    ),
    "tokens": (
        "ClsPool",
        "LastPool",
        "MaxPool",
        "MeanPool",
        "TokenGeM",
        "TokenPooling",
    ),
    "vit": ("TokenPooledViT",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "PMA",
    "RMAC",
    "AttentionPool",
    "ClsGeM",
    "ClsMean",
    "ClsPool",
    "GatedPool",
    "GeM",
    "GeMChannel",
    "GlobalAvg",
    "GlobalMax",
    "GlobalPooling",
    "GridAvg",
    "GridMax",
    "LastPool",
    "LocalAvgPool",
    "LocalMaxPool",
    "LocalThenGlobal",
    "MaxPool",
    "MeanPool",
    "Pooling",
    "PoolingInfo",
    "Reduced",
    "RegionalGeM",
    "SpatialPyramid",
    "StridedConvPool",
    "TokenGeM",
    "TokenPooledViT",
    "TokenPooling",
    "create_pooling",
    "list_poolings",
    "pooling_info",
    "reduce_tokens",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
