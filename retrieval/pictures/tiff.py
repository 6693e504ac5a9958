"""The first directory of a TIFF file: which tags there are, of how many values; read without taking any of them at its word."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def tags_of(stream: BinaryIO) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """Tag, type, number of values and the first of them (whole numbers only), of the first directory."""
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    (place,) = struct.unpack(f"{order}Q", head[8:16]) if big else struct.unpack(f"{order}L", head[4:8])
    stream.seek(place)
    (count,) = struct.unpack(f"{order}Q", stream.read(8)) if big else struct.unpack(f"{order}H", stream.read(2))
    size = 20 if big else 12
    table = stream.read(min(count, 65535) * size)
    for at in range(0, len(table) - size + 1, size):
        tag, kind = struct.unpack(f"{order}HH", table[at : at + 4])
        (number,) = struct.unpack(f"{order}{'Q' if big else 'L'}", table[at + 4 : at + (12 if big else 8)])
        room = table[at + (12 if big else 8) : at + size]
        code = {1: "B", 3: "H", 4: "L", 16: "Q"}.get(kind)
        values: tuple[int, ...] = ()
        if code is not None:
            each = _SIZES[kind]
            if number * each <= len(room):
                values = struct.unpack(f"{order}{number}{code}", room[: number * each])
            elif number <= 64:
                (where,) = struct.unpack(f"{order}{'Q' if big else 'L'}", room)
                stream.seek(where)
                data = stream.read(number * each)
                values = struct.unpack(f"{order}{len(data) // each}{code}", data[: len(data) // each * each])
        yield tag, kind, number, values
