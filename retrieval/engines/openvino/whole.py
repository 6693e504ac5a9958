"""OpenVINO's package, of which only a part was imported, made whole by importing this: threads that need it meanwhile wait, and
Python sees where they wait for each other, as with any import."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

_TOOLS = "openvino.tools.ovc"


def later(name: str) -> object:
    """Attributes that the library's package lacks even then (PEP 562)."""
    if name not in ("convert_model", "tools"):
        raise AttributeError(f"module 'openvino' has no attribute {name!r}", name=name)
    tools = import_module(_TOOLS)
    return tools.convert_model if name == "convert_model" else sys.modules["openvino.tools"]


def _complete(package: ModuleType) -> None:
    """Run the package's own code, without the tools."""
    assert package.__spec__ is not None
    assert package.__spec__.loader is not None
    attributes = vars(package)
    before = attributes.get("__getattr__")
    absent = _TOOLS not in sys.modules
    if absent:
        sys.modules[_TOOLS] = None  # type: ignore[assignment]  # importing them fails, and the package goes on without
    try:
        package.__spec__.loader.exec_module(package)
    finally:
        if absent:
            del sys.modules[_TOOLS]
    if attributes.get("__getattr__") is before:  # else another version of the library has one of its own
        attributes["__getattr__"] = later


_complete(sys.modules["openvino"])
