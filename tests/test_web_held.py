"""Thumbnails in memory: the last looked at, up to so many bytes."""

from retrieval.web.held import HeldThumbnails


def test_the_last_looked_at_are_held() -> None:
    held = HeldThumbnails(most=10)
    for name in "abc":
        held.keep(name, name.encode() * 3)
    assert held.get("a") == b"aaa"
    held.keep("d", b"dddd")  # 13 bytes: the one that was looked at longest ago goes
    assert held.get("b") is None
    assert [held.get(name) for name in "acd"] == [b"aaa", b"ccc", b"dddd"]
    held.keep("a", b"other")
    assert held.get("a") == b"aaa"
    held.keep("e", b"e" * 11)  # more than there is room for
    assert [held.get(name) for name in "acde"] == [None] * 4
