"""Pickles of a few hundred bytes whose keys or contents would take for ever to hash, compare or walk are refused at once."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import DatasetError, ModelError
from retrieval.files import plain_pickle
from retrieval.files.careful_pickle import TooManyParts, check_size
from retrieval.files.torch_file import read_torch_file

LEVELS = 60  # 2^60 parts, in three bytes a level
# The memo is used, for DUP is not among the instructions that are let through.
SHARED = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(LEVELS))
DEEP = b")" + b"\x85" * 200_000  # ((((...)))): a hash that would leave the C stack

KEYS = {
    "setitem": lambda key: b"\x80\x02}" + key + b"K\x01s.",
    "setitems": lambda key: b"\x80\x02}(" + key + b"K\x01X\x01\0\0\0aK\x02u.",
    "dict": lambda key: b"\x80\x02(" + key + b"K\x01d.",
}
SETS = {
    "additems": lambda key: b"\x80\x04\x8f(" + key + b"\x90.",
    "frozenset": lambda key: b"\x80\x04(" + key + b"\x91.",
    "ordered dict": lambda key: b"\x80\x02ccollections\nOrderedDict\n](" + key + b"K\x01\x86e\x85R.",
}


def torch_zip(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("archive/data.pkl", pickled)
        bundle.writestr("archive/version", b"3\n")
    return path


@pytest.mark.parametrize("key", [SHARED, DEEP], ids=["shared", "deep"])
@pytest.mark.parametrize("how", ["setitem", "setitems", "dict"])
def test_keys_that_cannot_be_hashed_are_refused_in_plain_pickles(how: str, key: bytes) -> None:
    """Had it been hashed, SHARED would not end within years and DEEP would have ended the process."""
    with pytest.raises(DatasetError, match="key in it is made of more parts"):
        plain_pickle.loads(KEYS[how](key))


@pytest.mark.parametrize("key", [SHARED, DEEP], ids=["shared", "deep"])
@pytest.mark.parametrize("how", ["setitem", "setitems", "dict", *SETS])
def test_and_in_torch_files_of_both_layouts(how: str, key: bytes, tmp_path: Path) -> None:
    pickled = (KEYS | SETS)[how](key)
    with pytest.raises(ModelError, match="key in it is made of more parts"):
        read_torch_file(torch_zip(tmp_path / "a.pth", pickled))
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "b.pth").write_bytes(magic + pickled)
    with pytest.raises(ModelError, match="key in it is made of more parts"):
        read_torch_file(tmp_path / "b.pth")


@pytest.mark.parametrize("kind", ["lists", "tuples"])
def test_values_that_could_not_be_walked_are_refused(kind: str, tmp_path: Path) -> None:
    """Lists of lists, and tuples of tuples, each of which holds the one before twice."""
    value = SHARED
    if kind == "lists":
        value = b"]" + b"".join(
            b"q" + bytes([i]) + b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(LEVELS)
        )
    pickled = b"\x80\x02}X\x01\0\0\0a" + value + b"s."
    with pytest.raises(DatasetError, match="far more than what is written"):
        plain_pickle.loads(pickled)
    with pytest.raises(ModelError, match="far more than what is written"):
        read_torch_file(torch_zip(tmp_path / "a.pth", pickled))


def test_ordinary_keys_and_shared_values_are_read() -> None:
    shared = ["x.jpg"] * 10
    data: dict[Any, Any] = {
        ("a", 1, (2.5, "b")): shared,
        3: [shared, shared],
        "empty": (),
        ("t",): {"in": {("u", "v"): 1}},
    }
    for protocol in range(5):
        assert plain_pickle.loads(pickle.dumps(data, protocol)) == data


def test_sizes_are_counted_with_repetitions_and_circles_once() -> None:
    inner = [0, 1, 2]
    outer = [inner, inner]  # 1 + 2 * (1 + 3) parts
    check_size(outer, 9)
    with pytest.raises(TooManyParts):
        check_size(outer, 8)
    circle: list[Any] = [1]
    circle.append(circle)
    check_size(circle, 10)


def test_the_unpickler_reads_what_pythons_own_reads() -> None:
    """Every instruction that plain data use, against the interpreter's unpickler."""
    values = [
        None,
        True,
        1,
        -1,
        2**40,
        2**200,
        1.5,
        "é\n",
        b"\0\xff",
        [],
        [1, [2]],
        {},
        {"a": {1: (2, 3, 4, 5)}},
        (),
        (1,),
    ]
    for protocol in range(5):
        data = pickle.dumps(values, protocol)
        assert plain_pickle.loads(data) == pickle.Unpickler(io.BytesIO(data), encoding="latin-1").load()
