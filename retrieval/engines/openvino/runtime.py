"""OpenVINO's runtime, without what its package imports beside it.

That is lists of operations, front ends, and tools that convert models of other frameworks: a network that was compiled before
needs none of them, and they take longer than all of the runtime. As soon as anything is asked for that is not here, the package
is made whole, but for the tools: nothing here uses them, and a program that asks for them gets them then.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from importlib import import_module
from types import ModuleType
from typing import Any

_TOOLS = "openvino.tools.ovc"
_completing = threading.RLock()


def _package() -> ModuleType:
    """What ``import openvino`` gives, as far as a compiled network needs it. Raises ImportError."""
    spec = importlib.util.find_spec("openvino")
    if spec is None:
        raise ImportError("No module named 'openvino'", name="openvino")
    package = importlib.util.module_from_spec(spec)
    attributes = vars(package)
    sys.modules["openvino"] = package
    try:
        if sys.platform == "win32":  # where the package's own code first finds the libraries
            raise ImportError
        compiled = import_module("openvino._pyopenvino")
        attributes.update((name, thing) for name, thing in vars(compiled).items() if not name.startswith("_"))
        attributes["Op"] = import_module("openvino._op_base").Op
        api = import_module("openvino._ov_api")
        attributes.update((name, getattr(api, name)) for name in ("Core", "Model", "CompiledModel", "InferRequest"))
    except (ImportError, AttributeError):  # another version of the library, made in another way
        try:
            _complete(package)
        except BaseException:
            del sys.modules["openvino"]
            raise
        return package

    def missing(name: str) -> object:
        with _completing:
            if attributes.get("__getattr__") is missing:
                del attributes["__getattr__"]
                _complete(package)
        return getattr(package, name)

    attributes["__getattr__"] = missing  # PEP 562
    return package


def _complete(package: ModuleType) -> None:
    """Run the package's own code, without the tools."""
    assert package.__spec__ is not None
    assert package.__spec__.loader is not None
    absent = _TOOLS not in sys.modules
    if absent:
        sys.modules[_TOOLS] = None  # type: ignore[assignment]  # importing them fails, and the package goes on without
    try:
        package.__spec__.loader.exec_module(package)
    finally:
        if absent:
            del sys.modules[_TOOLS]
    vars(package).setdefault("__getattr__", _later)


def _later(name: str) -> object:
    """Attributes that the library's package now lacks (PEP 562)."""
    if name not in ("convert_model", "tools"):
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    tools = import_module(_TOOLS)
    return tools.convert_model if name == "convert_model" else sys.modules["openvino.tools"]


class _Operations:
    def __getattr__(self, name: str) -> Any:
        return getattr(openvino.opset8, name)


if "openvino" not in sys.modules:  # else a program has imported it, whole
    _package()
import openvino  # noqa: E402

opset8 = _Operations()

__all__ = ["openvino", "opset8"]
