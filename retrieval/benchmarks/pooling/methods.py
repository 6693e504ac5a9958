"""Which poolings are compared: from what a user asks for to modules that fit the backbone."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrieval.errors import UsageError
from retrieval.models.zoo import literal

if TYPE_CHECKING:
    from torch import nn

    from retrieval.models.registry import BackboneInfo

DEFAULT_PS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, float("inf"))

_SWEPT = {"map": "gem", "tokens": "token-gem"}
SWEPT = tuple(_SWEPT.values())
"""The poolings whose exponent is varied."""
_USUAL = {
    "map": ("gem", "avg", "max", "grid-avg", "grid-max", "spp", "rmac", "rgem", "local-max", "local-avg"),
    "tokens": (
        "token-gem",
        "token-gem:p=3,negative=shift",
        "token-gem:p=3,negative=signed",
        "mean",
        "token-max",
        "cls",
        "last",
        "cls-mean",
        "cls-gem",
    ),
}
_BASELINES = {"map": "avg", "tokens": "mean"}


@dataclass(frozen=True)
class Method:
    """A pooling to be compared: its ``label``, the ``pooling`` of a model specification that means the same, the
    ``module`` itself, and the exponent ``p`` where one exponent is what decides (infinity for the maximum)."""

    label: str
    pooling: Mapping[str, Any]
    module: nn.Module
    p: float | None = None

    @property
    def name(self) -> str:
        """The registry's name of the pooling."""
        return str(self.pooling["name"])


def choose_methods(
    info: BackboneInfo, ps: Sequence[float] | None = None, names: Sequence[str] = ("all",)
) -> tuple[list[Method], list[str]]:
    """The methods that ``names`` ask for, each once, and notes on what was left out.

    A name is one of the registry, with parameters as in a model's name (``spp:mode=avg``); the generalised mean
    (``gem``, for tokens ``token-gem``) without a p stands for all of ``ps`` (default: :data:`DEFAULT_PS`), and ``all`` for every
    pooling that fits the backbone and means something untrained. Raises UsageError for what does not exist or fit, for
    exponents that cannot be, and for such as no method takes.
    """
    from retrieval.pooling.power import parse_p
    from retrieval.pooling.registry import list_poolings, pooling_info

    for p in ps or ():
        parse_p(p)
    chosen: dict[str, Method] = {}
    notes: list[str] = []
    taken = False
    for name in names:
        if name == "all":
            expanded: Sequence[str] = _USUAL[info.layout]
            left = [i for i in list_poolings(info.layout) if i.untrained]
            left = [i for i in left if not any(other.split(":")[0] == i.name for other in names)]
            if left:
                reasons = "; ".join(f"{i.name}: untrained it is {i.untrained}" for i in left)
                notes.append(f"left out unless named, since their weights have to be learned: {reasons}")
        else:
            expanded = (name,)
        for one in expanded:
            base = one.partition(":")[0]
            swept = pooling_info(base).name == _SWEPT[info.layout] and ":" not in one
            taken |= swept
            for wanted in [f"{base}:p={p:g}" for p in ps or DEFAULT_PS] if swept else [one]:
                method = make_method(wanted, info)
                chosen.setdefault(method.label, method)
    if not chosen:
        raise UsageError("no pooling to compare", "Example: --methods avg,max,gem.")
    if ps and not taken:
        swept_here = _SWEPT[info.layout]
        raise UsageError(
            f"none of these methods takes exponents: {', '.join(names)}",
            f"Add {swept_here}, or leave the exponents (--p) out.",
        )
    return list(chosen.values()), notes


def make_method(name: str, info: BackboneInfo) -> Method:
    """One method by name and parameters, such as ``gem:p=3``. Raises UsageError where it does not exist or fit."""
    from retrieval.models.network import make_pooling
    from retrieval.pooling.registry import pooling_info

    base, _, text = name.partition(":")
    known = pooling_info(base)
    parameters: dict[str, Any] = {}
    for item in split_names(text, keep_parameters=False):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{item!r} in {name!r} is not key=value", "Example: spp:mode=avg.")
        parameters[key.strip()] = literal(value.strip())
    pooling = {"name": known.name, **parameters}
    module = make_pooling(pooling, info).eval()
    label = known.name + (":" + ",".join(f"{k}={_show(v)}" for k, v in parameters.items()) if parameters else "")
    return Method(label, pooling, module, _exponent(module))


def trained_method(pooling: Mapping[str, Any], module: nn.Module) -> Method:
    """The pooling of a trained checkpoint, with what it has learned."""
    own = copy.deepcopy(module).cpu().eval()
    return Method(f"{pooling['name']} (trained)", pooling, own, _exponent(own))


def default_baseline(info: BackboneInfo) -> str:
    """The average: ``avg`` for feature maps, ``mean`` for tokens."""
    return _BASELINES[info.layout]


def split_names(text: str, *, keep_parameters: bool = True) -> list[str]:
    """``"avg,spp:mode=avg,levels=(1,2),max"`` -> ``["avg", "spp:mode=avg,levels=(1,2)", "max"]``.

    Commas inside brackets do not separate. With ``keep_parameters``, a part ``key=value`` belongs to the name before it.
    """
    parts: list[str] = []
    for part in re.split(r",(?![^(\[]*[)\]])", text):
        part = part.strip()
        if keep_parameters and parts and re.match(r"\w+=", part):
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    return parts


def _exponent(module: nn.Module) -> float | None:
    """The one exponent of a power mean; None for other poolings and for an exponent a channel."""
    p = getattr(module, "p", None)
    return float(p.detach()) if p is not None and p.numel() == 1 else None


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
