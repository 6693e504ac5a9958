"""OpenVINO's runtime, without its tools that convert models of other frameworks.

The library's package imports these tools too, and they take longer than all of the runtime. Nothing here uses them: torch
networks go through the front end, which is part of the runtime. A program that asks the library for them gets them then.
"""

from __future__ import annotations

import sys
from importlib import import_module

_TOOLS = "openvino.tools.ovc"


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
    try:
        import openvino
    finally:
        del sys.modules[_TOOLS]
    vars(openvino).setdefault("__getattr__", _later)

from openvino import opset8  # noqa: E402  # the package has to be there

__all__ = ["openvino", "opset8"]
