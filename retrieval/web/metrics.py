"""Counters for Prometheus, in its text format."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable

_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """How many requests came, by route and status, and how long they took."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._requests: dict[tuple[str, int], int] = defaultdict(int)
        self._seconds: dict[str, list[float]] = {}  # a route: a count for each bound, for all, the sum

    def count(self, route: str, status: int, seconds: float) -> None:
        """``route`` is a template such as "/api/images/{id}", never what a client sent."""
        with self._turn:
            self._requests[route, status] += 1
            row = self._seconds.setdefault(route, [0.0] * (len(_BOUNDS) + 2))
            for i, bound in enumerate(_BOUNDS):
                row[i] += seconds <= bound
            row[-2] += 1
            row[-1] += seconds

    def text(self, gauges: Iterable[tuple[str, str, list[tuple[dict[str, str], float]]]]) -> str:
        """``gauges``: name, what it is, and values by labels."""
        lines = [
            "# HELP retrieve_requests_total Requests by route and status.",
            "# TYPE retrieve_requests_total counter",
        ]
        with self._turn:
            for (route, status), number in sorted(self._requests.items()):
                lines.append(f"retrieve_requests_total{_labels(route=route, status=str(status))} {number}")
            name = "retrieve_request_seconds"
            lines += [f"# HELP {name} Seconds until a request was answered.", f"# TYPE {name} histogram"]
            for route, row in sorted(self._seconds.items()):
                for bound, seen in zip((*map(str, _BOUNDS), "+Inf"), row, strict=False):
                    lines.append(f"{name}_bucket{_labels(route=route, le=bound)} {seen:g}")
                lines.append(f"{name}_sum{_labels(route=route)} {row[-1]:.6f}")
                lines.append(f"{name}_count{_labels(route=route)} {row[-2]:g}")
        for name, what, values in gauges:
            lines += [f"# HELP {name} {what}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(**labels)} {value:g}" for labels, value in values]
        return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    if not labels:
        return ""
    quoted = (
        f'{name}="{value.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34)).replace(chr(10), " ")}"'
        for name, value in labels.items()
    )
    return "{" + ",".join(quoted) + "}"
