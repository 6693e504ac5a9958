"""Products on one core: as many threads as before, whoever ends first, and none that waits busily."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import numpy  # noqa: F401  # its library is to be limited
import threadpoolctl
from vector_gallery import VectorGallery, clustered

from retrieval.gallery.gallery import Gallery
from retrieval.system import products
from retrieval.system.products import products_on_one_core


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def test_the_number_of_threads_is_as_before_whoever_ends_first() -> None:
    products._controller.cache_clear()  # other tests may have loaded further libraries since it looked
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = threads()
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with products_on_one_core():
                entered.set()
                leave.wait()

        thread = threading.Thread(target=other)
        with products_on_one_core():
            with products_on_one_core():
                assert threads() == {1}
            assert threads() == {1}
            thread.start()
            entered.wait()
        leave.set()
        thread.join()
        assert threads() == before
        with contextlib.suppress(KeyError), products_on_one_core():
            raise KeyError
        assert threads() == before


def test_no_core_waits_busily_once_a_query_is_answered(tmp_path: Path) -> None:
    """What follows, such as the next picture's description, needs all cores."""
    products._controller.cache_clear()
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        gallery = VectorGallery(tmp_path, dim=512)
        vectors = clustered(1000, dim=512)
        gallery.add(vectors)
        with Gallery.open(tmp_path) as opened:
            spent = []
            for vector in vectors[:5]:
                opened.search(vector[None], 10)
                before = time.process_time()
                time.sleep(0.02)
                spent.append(time.process_time() - before)
    assert min(spent) < 0.005
