"""Re-rankers by name: ``"qe"``, ``"alpha-qe:n=20,alpha=3"``, ``"diffusion"``, ``"verify:n=50"`` ... over arrays.

Each works without labels on the queries' and the gallery's descriptors; "verify" and "xfeat" ask for local features as well. What
can be done before a query comes is done by :meth:`Reranker.prepare`, so the cost of a query is that of the rest.

Methods that follow the neighbours of a query take as many as their papers do, but of these only such as are more similar than
unrelated pictures of this gallery are by chance (:mod:`retrieval.ranking.chance`). Where the number is named, it is obeyed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import UsageError
from retrieval.ranking.chance import chance_level, neighbourhood_size
from retrieval.ranking.method import Context, Method, Online, Parameters
from retrieval.ranking.methods import LEAST, METHODS
from retrieval.ranking.neighbours import Floats


@dataclass(frozen=True)
class Reranker:
    """A method with its parameters, and which of them were ``named``; made by :func:`parse_reranker`."""

    method: Method
    parameters: Parameters = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """As ``--rerank`` takes it: the method, and the parameters that are not the usual ones or make it another."""
        changed = [
            f"{k}={v:g}"
            for k, v in self.parameters.items()
            if v != self.method.defaults[k] or (k in self.named and k in self.method.sizes)
        ]
        return self.method.name + (":" + ",".join(changed) if changed else "")

    def prepare(self, gallery: Floats, context: Context | None = None) -> Online:
        """Do once what needs the gallery (N, D) alone; returns the function from queries (Q, D) to the outcome.

        Descriptors are float rows of unit length; the gallery may be memory-mapped. Raises UsageError, DatasetError.
        """
        parameters = dict(self.parameters)
        if self.method.sizes:
            parameters[LEAST] = chance_level(gallery) if self.adapts else -math.inf
        return self.method.prepare(gallery, parameters, context or Context())

    @property
    def adapts(self) -> bool:
        """Whether links that may be chance in a gallery are left out: it follows neighbours, and no number is named."""
        return bool(self.method.sizes) and not self.named & set(self.method.sizes)

    def caution(self, gallery: Floats) -> str | None:
        """A line for the user where a named number of neighbours is far more than a gallery (N, D) has; else None."""
        named = [key for key in self.method.sizes if key in self.named]
        if not named:
            return None
        asked = max(named, key=lambda key: self.parameters[key])
        has = neighbourhood_size(gallery, chance_level(gallery))
        if self.parameters[asked] <= 2 * has + 1:
            return None
        return (
            f"{self.name}: a picture of this gallery has about {has:.1f} close neighbours, and {asked} takes "
            f"{self.parameters[asked]:g}: the others are wrong answers, which can ruin a ranking. Leave out {asked}"
        )


def parse_reranker(text: str) -> Reranker:
    """Read ``NAME[:key=value,...]``. Raises UsageError that lists what exists."""
    name, _, rest = text.partition(":")
    method = METHODS.get(name.strip())
    if method is None:
        raise UsageError(f"unknown re-ranker {name.strip()!r}", f"There are: {', '.join(METHODS)}.")
    parameters, named = dict(method.defaults), set[str]()
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = item.partition("=")
        if not equals or key.strip() not in parameters:
            known = ",".join(f"{k}={v:g}" for k, v in method.defaults.items())
            raise UsageError(f"{method.name} has no parameter {item!r}", f"Its parameters: {method.name}:{known}.")
        parameters[key.strip()] = _number(method, key.strip(), value.strip())
        named.add(key.strip())
    return Reranker(method, parameters, frozenset(named))


def _number(method: Method, key: str, value: str) -> int | float:
    kind = type(method.defaults[key])
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not np.isfinite(number) or number < 0 or (kind is int and number < 1):
        expected = "a whole number from 1" if kind is int else "a number, not negative"
        raise UsageError(f"{method.name}: {key}={value} is not {expected}")
    return number


# ---------------------------------------------------------------- the methods
