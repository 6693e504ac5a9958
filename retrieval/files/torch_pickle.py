"""Read the pickle inside a torch file without running it: every name that it mentions is answered with a stand-in.

Tensors and arrays come out as descriptions that are read after their sizes have been checked against the file's, objects
of other classes as inert :class:`PickledObject`; a call of anything but the few functions that write plain data is refused.
"""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import ModelError
from retrieval.files import plain_pickle
from retrieval.files.careful_pickle import CarefulUnpickler, KeyTooDeep, TooManyParts, check_keys, check_size

if TYPE_CHECKING:
    from torch import Tensor

_OPCODES = plain_pickle._OPCODES | {"NEWOBJ", "NEWOBJ_EX", "BINPERSID", "EMPTY_SET", "ADDITEMS", "FROZENSET"}
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2}
ITEM_BYTES |= {"int8": 1, "uint8": 1, "bool": 1}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class Refused(Exception):
    """The file asks for what no checkpoint needs."""


class PickledObject:
    """An object of a class that is not known here, kept as what the file says of it: its ``state`` (attributes).

    The class of a record is made up for it and has its full name, ``type(record).__name__``; it has no behaviour.
    """

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> PickledObject:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None:
        """Items of list-like objects are dropped."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Items of dict-like objects are dropped."""


class _Uncallable(type):
    """Makes records from NEWOBJ (an object of the class), but refuses REDUCE (a call of the name)."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise Refused(f"it asks to call {cls.__name__[:100]!r}")


class _Fixed:
    """Base of what a file may refer to but not change: BUILD, which sets attributes, is refused."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        raise Refused("it asks to change what is none of its own")


class _Dict(dict[Any, Any]):
    """Stands for OrderedDict and its kin; attributes set on it are dropped."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        pass


class _StorageKind(_Fixed):
    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _Storage(_Fixed):
    __slots__ = ("count", "dtype", "key", "source")

    def __init__(self, source: Source, key: str, dtype: str, count: int) -> None:
        self.source, self.key, self.dtype, self.count = source, key, dtype, count


class StoredTensor(_Fixed):
    """A tensor in the file: ``shape`` and ``dtype`` are known, :meth:`load` reads it."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    @property
    def dtype(self) -> str:
        return self.storage.dtype

    def load(self) -> Tensor:
        """The tensor, contiguous, on the CPU. Raises ModelError when it does not lie within its storage."""
        import torch

        count = int(np.prod(self.shape, dtype=object)) if self.shape else 1
        dtype = getattr(torch, self.dtype)
        if count == 0:
            return torch.empty(self.shape, dtype=dtype)
        reach = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if self.offset + reach > self.storage.count or count > self.storage.count:
            raise ModelError(f"{self.storage.source.path} is damaged: a tensor reaches beyond its storage")
        item = ITEM_BYTES[self.dtype]
        raw = self.storage.source.read(self.storage.key, self.offset * item, reach * item, self.storage.count * item)
        return torch.frombuffer(bytearray(raw), dtype=dtype).as_strided(self.shape, self.stride).clone()


def _whole(*values: Any) -> None:
    if not all(type(value) is int and 0 <= value < 1 << 60 for value in values):
        raise Refused("a tensor in it has sizes that are no numbers")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise Refused("a tensor in it is malformed")
    _whole(offset, *shape, *stride)
    if len(shape) != len(stride) or len(shape) > 16:
        raise Refused("a tensor in it is malformed")
    return StoredTensor(storage, offset, shape, stride)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _reconstructor(cls: Any, *_: Any) -> Any:
    """How protocols 0 and 1 make an object of a class."""
    if not (isinstance(cls, type) and issubclass(cls, PickledObject)):
        raise Refused("an object in it is malformed")
    return cls.__new__(cls)


def _dict(*args: Any) -> _Dict:
    if not args or not isinstance(args[0], (list, dict)):
        return _Dict()
    if isinstance(args[0], list):
        check_keys(pair[0] for pair in args[0] if isinstance(pair, (list, tuple)) and pair)
    return _Dict(args[0])


def _ignored(*_: Any) -> PickledObject:
    """Dates, paths, devices and the like: nothing that a model needs."""
    return PickledObject()


def _tuple(*args: Any) -> tuple[Any, ...]:
    return tuple(args[0]) if args and isinstance(args[0], (list, tuple)) else ()


class _Function(_Fixed):
    """A stand-in that a file may call."""

    __slots__ = ("_run",)

    def __init__(self, run: Any) -> None:
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)


_CALLS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _tuple,
    ("torch", "device"): _ignored,
    ("collections", "OrderedDict"): _dict,
    ("collections", "Counter"): _dict,
    ("collections", "defaultdict"): lambda *_: _Dict(),
    ("pathlib", "PosixPath"): _ignored,
    ("pathlib", "WindowsPath"): _ignored,
    ("datetime", "datetime"): _ignored,
    ("datetime", "timedelta"): _ignored,
    ("numpy.random._pickle", "__randomstate_ctor"): _ignored,
    ("numpy.random._pickle", "__bit_generator_ctor"): _ignored,
    ("numpy.random", "__RandomState_ctor"): _ignored,
}
for _module in ("builtins", "__builtin__"):
    _CALLS[(_module, "set")] = _CALLS[(_module, "frozenset")] = _tuple
for _module in ("copyreg", "copy_reg"):
    _CALLS[(_module, "_reconstructor")] = _reconstructor
_STAND_INS = {name: _Function(run) for name, run in _CALLS.items()}


class _Unpickler(CarefulUnpickler):
    """Answers every name with a stand-in."""

    def __init__(self, data: bytes, source: Source) -> None:
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in plain_pickle._NAMES:
            return plain_pickle._NAMES[(module, name)]
        if (module, name) in _STAND_INS:
            return _STAND_INS[(module, name)]
        if module == "torch" and name in _STORAGES:
            return _StorageKind(_STORAGES[name])
        return _Uncallable(f"{module}.{name}", (PickledObject,), {})

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage" and pid[5:] in ((), (None,)):
            _, kind, key, _, count = pid[:5]
            if isinstance(kind, _StorageKind) and isinstance(key, str):
                _whole(count)
                if self._source.kinds.setdefault(key, kind.dtype) != kind.dtype:
                    raise Refused("it reads one storage as two kinds of number")
                return _Storage(self._source, key, kind.dtype, count)
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # old files keep the source text of pickled classes; it is not looked at
        raise Refused("it refers to data in a way that torch does not")


class Source:
    """Where the bytes of tensors are; ``kinds`` gets the dtype of each storage that the pickle refers to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kinds: dict[str, str] = {}

    def read(self, key: str, start: int, length: int, whole: int) -> bytes:
        """``length`` bytes from ``start`` of the storage ``key``, which must have ``whole`` bytes. Raises ModelError."""
        raise NotImplementedError


def as_array(value: Any) -> np.ndarray | None:
    """A numpy array or tensor from a file as float64, None for anything else (and for what is not of numbers)."""
    if isinstance(value, StoredTensor):
        return value.load().double().numpy()
    if isinstance(value, plain_pickle._Array):
        found = getattr(value, "value", None)
        if found is not None and found.dtype.kind in "fiub":
            result: np.ndarray | None = found.astype(np.float64)
            return result
    return None


def unpickle(stream: IO[bytes], source: Source) -> Any:
    """The object whose pickle begins where ``stream`` is, which is left where it ends. Raises Refused, and whatever a
    broken stream may raise."""
    begin = stream.tell()
    stream.seek(0, io.SEEK_END)
    size = stream.tell()
    stream.seek(begin)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise Refused(f"it holds the instruction {opcode.name}, which checkpoints never need")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "FRAME") and int(argument or 0) > size:
            raise Refused("it asks for more memory than its data can need")
    end = stream.tell()
    stream.seek(begin)
    try:
        found = _Unpickler(stream.read(end - begin), source).load()
        check_size(found, plain_pickle.most_parts(end - begin), _held)
    except (KeyTooDeep, TooManyParts) as error:
        raise Refused(str(error)) from None
    return found


def _held(item: Any) -> Any:
    return item.state if isinstance(item, PickledObject) else getattr(item, "value", None)
