"""Read a file that ``torch.save`` wrote (``.pth``, ``.pt``, ``.pth.tar``) without running anything in it.

Such a file is a pickle, and a pickle is a program. ``torch.load(weights_only=True)`` runs a safe subset, but refuses
files that hold anything beside tensors, such as the numpy arrays and scikit-learn objects of published retrieval
models. Here nothing is run at all (:mod:`retrieval.files.torch_pickle`), and such things can still be taken out.

Both layouts are read: the zip archive of torch 1.6 and later, and the sequence of pickles before it.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, cast

from retrieval.errors import DatasetError, ModelError
from retrieval.files.torch_pickle import ITEM_BYTES, Refused, Source, unpickle
from retrieval.messages import first_line

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


class _ZipSource(Source):
    def __init__(self, path: Path, prefix: str) -> None:
        super().__init__(path)
        self._prefix = prefix
        self._bundle: zipfile.ZipFile | None = None

    def read(self, key: str, start: int, length: int, whole: int) -> bytes:
        try:
            if self._bundle is None:
                self._bundle = zipfile.ZipFile(self.path)  # stays open: hundreds of tensors will be read
            return _stored(self._bundle, f"{self._prefix}data/{key}", whole, start, length)
        except Exception as error:  # a damaged archive can raise nearly anything
            raise ModelError(f"{self.path} is damaged: {first_line(error)}") from error


class _FlatSource(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.places: dict[str, tuple[int, int]] = {}  # key -> where its bytes begin, how many

    def read(self, key: str, start: int, length: int, whole: int) -> bytes:
        begin, size = self.places.get(key, (0, -1))
        if size != whole:
            raise ModelError(f"{self.path} is damaged: a storage is missing or of another size")
        try:
            with open(self.path, "rb") as file:
                file.seek(begin + start)
                return file.read(length)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read ({error.strerror})") from error


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` was given: dicts, lists, numbers and strings, with tensors, arrays and objects as
    :mod:`retrieval.files.torch_pickle` has them. Raises ModelError for any other file; nothing in it is ever run."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if head[:4] == b"PK\x03\x04":
            return _read_zip(path)
        if head[8:9] == b"{":
            raise Refused("it looks like a safetensors file, which needs no import or has another origin")
        return _read_flat(path)
    except Refused as error:
        raise ModelError(f"{path} is refused: {error}", "Nothing in it was run.") from None
    except ModelError:
        raise
    except DatasetError as error:  # from the stand-ins for numpy's arrays
        raise ModelError(f"{path}: {error.message}") from None
    except FileNotFoundError:
        raise ModelError(f"no file at {path}") from None
    except Exception as error:  # a broken stream can raise nearly anything, and all of it means the same
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise ModelError(
            f"{path} is no readable torch file ({type(error).__name__}{': ' if reason else ''}{reason})"
        ) from None


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as bundle:
        names = bundle.namelist()
        found = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise Refused("it is a zip archive, but none of torch's")
        prefix = found[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in names or any(name.startswith(f"{prefix}code/") for name in names):
            raise Refused("it is a TorchScript program, not a checkpoint")
        if f"{prefix}byteorder" in names and _stored(bundle, f"{prefix}byteorder") != b"little":
            raise Refused("it was written on a big-endian machine")
        return unpickle(io.BytesIO(_stored(bundle, found[0])), _ZipSource(path, prefix))


def _stored(bundle: zipfile.ZipFile, name: str, whole: int | None = None, start: int = 0, length: int = -1) -> bytes:
    """Bytes of an uncompressed entry (torch compresses none, so a bomb cannot hide), which must have ``whole`` bytes."""
    entry = bundle.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise zipfile.BadZipFile(f"{name} is compressed, which torch never does")
    if whole is not None and entry.file_size != whole:
        raise zipfile.BadZipFile(f"{name} has {entry.file_size} bytes where {whole} were expected")
    with bundle.open(entry) as stream:
        if start:
            stream.seek(start)
        raw = stream.read(length)
    if len(raw) != (entry.file_size if length < 0 else length):
        raise zipfile.BadZipFile(f"{name} ends too early")
    return raw


def _read_flat(path: Path) -> Any:
    source = _FlatSource(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        data = cast(IO[bytes], mapped)  # reads what is there and no more, whatever length a pickle asks for
        if unpickle(data, source) != _MAGIC or unpickle(data, source) != _PROTOCOL:
            raise Refused("it is a pickle, but none of torch's")
        if not unpickle(data, source).get("little_endian", True):
            raise Refused("it was written on a big-endian machine")
        found = unpickle(data, source)
        for key in unpickle(data, source):
            (count,) = struct.unpack("<q", data.read(8))
            size = count * ITEM_BYTES[source.kinds[key]]
            if not 0 <= size <= len(mapped) - data.tell():
                raise EOFError("it ends too early")
            source.places[key] = (data.tell(), size)
            data.seek(size, os.SEEK_CUR)
    return found
