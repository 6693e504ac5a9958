"""OpenVINO's runtime, without what its package imports beside it.

That is lists of operations, front ends, and tools that convert models of other frameworks: a network that was compiled before
needs none of them, and they take longer than all of the runtime. As soon as anything is asked for that is not here, the package
is made whole, but for the tools: nothing here uses them, and a program that asks for them gets them then.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from typing import Any

# What a compiled network is read and run with, by modules. No more: what the library's inner module has may be something else
# than what the package has under the same name, as its frontend is.
_PART = {
    "openvino._pyopenvino": ("PartialShape", "Shape", "Tensor", "TensorVector", "Type", "get_version"),
    "openvino._op_base": ("Op",),
    "openvino._ov_api": ("Core", "Model", "CompiledModel", "InferRequest"),
}


def _package() -> None:
    """Put into ``sys.modules`` what ``import openvino`` gives, as far as a compiled network needs it. Raises ImportError."""
    spec = importlib.util.find_spec("openvino")
    if spec is None:
        raise ImportError("No module named 'openvino'", name="openvino")
    package = importlib.util.module_from_spec(spec)
    attributes = vars(package)

    def missing(name: str) -> object:
        import_module(__name__)  # where another thread is at it, the part comes first
        if name in attributes:
            return attributes[name]
        whole = import_module("retrieval.engines.openvino.whole")
        return attributes[name] if name in attributes else whole.later(name)

    attributes["__getattr__"] = missing  # PEP 562; at once, for threads that import the package meanwhile
    sys.modules["openvino"] = package
    try:
        if sys.platform == "win32":  # where the package's own code first finds the libraries
            raise ImportError
        for module, names in _PART.items():
            found = import_module(module)
            attributes.update((name, getattr(found, name)) for name in names)
    except (ImportError, AttributeError):  # another version of the library, made in another way
        try:
            import_module("retrieval.engines.openvino.whole")
        except BaseException:
            del sys.modules["openvino"]
            raise


class _Operations:
    def __getattr__(self, name: str) -> Any:
        return getattr(openvino.opset8, name)


if "openvino" not in sys.modules:  # else a program has imported it, whole
    _package()
import openvino  # noqa: E402

opset8 = _Operations()

__all__ = ["openvino", "opset8"]
