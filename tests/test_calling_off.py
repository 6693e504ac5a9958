"""Work that nobody waits for any more ends, and its place is free again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gallery
from textures import write_textures

from retrieval.errors import CalledOff
from retrieval.gallery import folding
from retrieval.gallery.answers import Match
from retrieval.gallery.folding import Sifter
from retrieval.system.calling_off import go_on, may_be_called_off


def test_only_within_the_block_and_in_its_thread() -> None:
    go_on()
    with may_be_called_off(lambda: False):
        go_on()
        with may_be_called_off(lambda: True), pytest.raises(CalledOff):
            go_on()
        go_on()
    raised: list[Exception] = []
    with may_be_called_off(lambda: True):
        other = threading.Thread(target=lambda: raised.append(RuntimeError("never")) if go_on() else None)
        other.start()
        other.join()
    assert raised == []
    go_on()


@pytest.mark.parametrize("why", ["time", "gone"])
def test_a_task_that_has_begun_ends_and_frees_its_place(why: str) -> None:
    pytest.importorskip("fastapi")
    from retrieval.web.errors import ApiError
    from retrieval.web.work import Workers

    ended = threading.Event()

    def endless() -> None:
        try:
            while True:
                go_on()
                time.sleep(0.005)
        finally:
            ended.set()

    async def left() -> bool:
        return why == "gone"

    async def ask() -> None:
        workers = Workers("test", 1, 4, 0.3 if why == "time" else 60)
        try:
            with pytest.raises(ApiError) as raised:
                await workers.run(endless, left)
            assert raised.value.code == ("too_long" if why == "time" else "gone")
            assert await workers.run(lambda: 7) == 7  # with one place alone, which is free again
            assert workers.working == 0
        finally:
            workers.close()

    asyncio.run(ask())
    assert ended.is_set()


def test_folding_thousands_compares_each_with_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures that are all alike by descriptor and no copies, each was once compared with each."""
    write_textures(tmp_path / "album", 40)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "album"])
        sifter = Sifter(gallery, "", True, False)
        asked: Counter[tuple[int, int]] = Counter()

        def judge(pairs: Any) -> list[str]:
            asked.update(pairs)
            return ["none"] * len(pairs)

        monkeypatch.setattr(sifter._verifier, "judge", judge)
        monkeypatch.setattr(folding, "NEAR", -1.0)
        ids = [match.id for match in gallery.search(np.ones((1, gallery.spec.dim), np.float32), 40)[0]]
        found = [Match(rank, 0.5, i, str(i)) for rank, i in enumerate(ids, 1)]
        assert [match.id for match in sifter.first(40, lambda count: found[:count])] == ids
        assert len(asked) == sum(min(4, before) for before in range(40))

        monkeypatch.undo()
        monkeypatch.setattr(folding, "NEAR", -1.0)
        again = Sifter(gallery, "", True, False)
        with may_be_called_off(lambda: True), pytest.raises(CalledOff):
            again.first(40, lambda count: found[:count])
