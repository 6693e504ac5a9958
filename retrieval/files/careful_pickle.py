"""An unpickler that looks at keys before they are hashed, and a check that an object is not far larger than its file.

A tuple that holds another one twice, which holds another one twice, ... is written in a few bytes a level; its hash, its
comparison and its text take twice as long with every level. Nothing that is refused here occurs in data that anyone means.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

_MOST_IN_KEY = 1000


class KeyTooDeep(ValueError):
    """A key that is made of far too many parts, counted as often as they occur."""

    def __init__(self) -> None:
        super().__init__("a key in it is made of more parts than any key needs")


class TooManyParts(ValueError):
    """An object that is far larger than its file, once what it shares is written out."""

    def __init__(self) -> None:
        super().__init__("what it holds is far more than what is written in it")


def check_key(key: Any) -> None:
    """Raises KeyTooDeep for tuples in tuples that are more than a key needs. Hashes nothing."""
    if not isinstance(key, tuple):
        return
    count, waiting = 0, [key]
    while waiting:
        parts = waiting.pop()
        count += len(parts)
        if count > _MOST_IN_KEY:
            raise KeyTooDeep
        waiting.extend(part for part in parts if isinstance(part, tuple))


def check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if type(key) is not str:
            check_key(key)


class CarefulUnpickler(pickle._Unpickler):
    """Python's unpickler that is written in Python, where each instruction that hashes can be met before it does."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        pickle._Unpickler.load_setitem(self)  # type: ignore[attr-defined]

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        check_keys(self.stack[::2])
        pickle._Unpickler.load_setitems(self)  # type: ignore[attr-defined]

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        check_keys(self.stack[::2])
        pickle._Unpickler.load_dict(self)  # type: ignore[attr-defined]

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        check_keys(self.stack)
        pickle._Unpickler.load_additems(self)  # type: ignore[attr-defined]

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        check_keys(self.stack)
        pickle._Unpickler.load_frozenset(self)  # type: ignore[attr-defined]

    dispatch[pickle.FROZENSET[0]] = load_frozenset


def check_size(found: Any, most: int, state: Callable[[Any], Any] = lambda _: None) -> None:
    """Raises TooManyParts where an object has more than ``most`` parts, each counted as often as it is reached.

    ``state``: what an object that is no list, tuple, dict or array holds, None for nothing. A circle counts once.
    """
    parts: dict[int, int] = {}
    waiting: list[tuple[Any, bool]] = [(found, False)]
    while waiting:
        item, looked_into = waiting.pop()
        if looked_into:
            total = 1 + sum(parts.get(id(inner), 1) for inner in _inner(item, state))
            if total > most:
                raise TooManyParts
            parts[id(item)] = total
        elif id(item) not in parts:
            inner = [other for other in _inner(item, state) if not isinstance(other, str | bytes | int | float)]
            if isinstance(item, list | tuple | dict) or inner:
                parts[id(item)] = 1
                waiting.append((item, True))
                waiting.extend((other, False) for other in inner)


def _inner(item: Any, state: Callable[[Any], Any]) -> Iterator[Any]:
    if isinstance(item, list | tuple | set | frozenset):
        yield from item
    elif isinstance(item, dict):
        yield from item.keys()
        yield from item.values()
    elif isinstance(item, np.ndarray):
        if item.dtype == object:
            yield from item.ravel()
    elif (held := state(item)) is not None:
        yield held
