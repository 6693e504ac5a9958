"""Read a pickle of plain data (numbers, strings, lists, dicts, numpy arrays) without ever running what is in
it.

Nothing that a file names is imported or called: the few numpy names are answered with stand-ins defined here,
which check sizes before they build an array; every other name is refused. The byte stream is scanned first,
because some instructions allocate memory before any name is looked up.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from typing import Any

import numpy as np

from retrieval.errors import DatasetError
from retrieval.files.careful_pickle import CarefulUnpickler, KeyTooDeep, TooManyParts, check_size

# Plain data and the ways numpy writes arrays need no more than these. Left out on purpose: persistent ids,
# extension codes, sets, classes instantiated by INST/OBJ/NEWOBJ, out-of-band buffers.
_PLAIN = """
    PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT DICT SETITEM
    SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET
    LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_OPCODES = frozenset(_PLAIN.split())
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,6}|O8?)")


class _StandIn:
    """Base of the stand-ins: a file can call one, but cannot set anything on it."""

    __slots__ = ()


class _DType(_StandIn):
    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code.lstrip("<>|="), code[0] if code[0] in "<>|=" else "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise ValueError("unknown byte order")
        self.order = state[1]

    def array(self, raw: Any, shape: Any, fortran: bool) -> np.ndarray:
        """Build the array, after checking that the bytes at hand are exactly what the shape needs."""
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("the shape of an array is not a tuple of sizes")
        count = math.prod(shape)
        if self.code.startswith("O"):
            if not isinstance(raw, list) or len(raw) != count or len(shape) != 1:
                raise ValueError("an object array does not hold what its shape says")
            filled = np.empty(count, dtype=object)
            for i, item in enumerate(raw):
                filled[i] = item
            return filled
        if isinstance(raw, str):  # bytes that Python 2 wrote
            raw = raw.encode("latin-1")
        dtype = np.dtype(self.order + self.code)
        if not isinstance(raw, (bytes, bytearray)) or dtype.itemsize == 0 or len(raw) != count * dtype.itemsize:
            raise ValueError("an array does not hold as many bytes as its shape says")
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Array(_StandIn):
    __slots__ = ("value",)
    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _as_dtype(dtype).array(raw, shape, bool(fortran))


def _as_dtype(value: Any) -> _DType:
    if not isinstance(value, _DType):
        raise ValueError("an array without a type")
    return value


class _MakeDType(_StandIn):
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _DType:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError(f"arrays of type {code!r} are not read")
        return _DType(code)


class _MakeArray(_StandIn):
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:  # the shape given here is a placeholder; the state that follows counts
        return _Array()


class _FromBuffer(_StandIn):
    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array()  # never a real array: its own __setstate__ would be within reach of the file
        made.value = _as_dtype(dtype).array(raw, shape, order == "F")
        return made


class _MakeScalar(_StandIn):
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> Any:
        return _as_dtype(dtype).array(raw, (1,), False).tolist()[0]


class _Encode(_StandIn):
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:  # how protocols 0 to 2 carry bytes
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ValueError("only latin-1 text stands for bytes")
        return text.encode("latin-1")


class _NoBytes(_StandIn):
    __slots__ = ()

    def __call__(self) -> bytes:  # and how they carry none
        return b""


class _Name(_StandIn):
    """The name of a class that is only ever passed along."""

    __slots__ = ()


_NAMES: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _Name(),
    ("numpy", "dtype"): _MakeDType(),
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _NoBytes(),
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[(f"{_core}.multiarray", "_reconstruct")] = _MakeArray()
    _NAMES[(f"{_core}.multiarray", "scalar")] = _MakeScalar()
    _NAMES[(f"{_core}.numeric", "_frombuffer")] = _FromBuffer()


class _Unpickler(CarefulUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[(module, name)]
        except KeyError:
            raise DatasetError(
                f"the pickle asks for {f'{module}.{name}'!r:.120}, which is no plain data: refused, not run",
                "Get the file from its official source, or convert it to JSON",
            ) from None


def _scan(data: bytes) -> None:
    """Walk the instructions without obeying any: none but the known ones, no size beyond the file's own."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise DatasetError(f"the pickle holds the instruction {opcode.name}, which plain data never needs: refused")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "FRAME") and int(argument or 0) > len(data):
            raise DatasetError("the pickle asks for more memory than its data can need: refused")


def most_parts(size: int) -> int:
    """Of how many parts the object in a pickle of so many bytes may be, counted as often as they are referred to."""
    return 1_000_000 + 20 * size


def loads(data: bytes) -> Any:
    """The plain object in ``data``; numpy arrays inside come out as :func:`as_list` understands them.

    Raises DatasetError for anything but plain data, naming what was refused.
    """
    try:
        _scan(data)
        found = _Unpickler(io.BytesIO(data), encoding="latin-1").load()
        check_size(found, most_parts(len(data)), lambda item: getattr(item, "value", None))
        return found
    except DatasetError:
        raise
    except (KeyTooDeep, TooManyParts) as error:
        raise DatasetError(f"the pickle is refused: {error}") from None
    except Exception as error:  # a broken stream can raise nearly anything, and all of it means the same
        raise DatasetError(f"not a readable pickle of plain data ({type(error).__name__}: {error})") from None


def as_list(value: Any) -> list[Any] | None:
    """A list, tuple or array of any shape as a flat list of Python values; None for anything else."""
    if isinstance(value, _Array):
        filled: np.ndarray | None = getattr(value, "value", None)
        return None if filled is None else filled.ravel().tolist()
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, list) else None
