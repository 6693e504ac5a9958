"""OpenVINO's runtime, without its tools that convert models of other frameworks.

The library's package imports these tools too, and they take longer than all of the runtime. Nothing here uses them: torch
networks go through the front end, which is part of the runtime. A program that asks the library for them gets them then; so it
is with the lists of operations (``openvino.opset1`` and on), which a compiled network needs none of.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

_TOOLS = "openvino.tools.ovc"
_OPERATIONS = "openvino.opset"


class _Lazily:
    """Finds the lists of operations, to be read when they are first used."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_OPERATIONS) or not name[len(_OPERATIONS) :].isdigit():
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def _later(name: str) -> object:
    """Attributes that the library's package now lacks (PEP 562)."""
    if name not in ("convert_model", "tools"):
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    tools = import_module(_TOOLS)
    return tools.convert_model if name == "convert_model" else sys.modules["openvino.tools"]


if "openvino" in sys.modules:  # a program has imported it, whole
    import openvino
else:
    sys.modules[_TOOLS] = None  # type: ignore[assignment]  # importing them fails, and the package goes on without
    sys.meta_path.insert(0, _Lazily)
    try:
        import openvino
    finally:
        sys.meta_path.remove(_Lazily)
        del sys.modules[_TOOLS]
    vars(openvino).setdefault("__getattr__", _later)

from openvino import opset8  # noqa: E402  # the package has to be there

__all__ = ["openvino", "opset8"]
