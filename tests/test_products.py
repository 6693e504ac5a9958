"""Products on one core: as many threads as before, whoever ends first."""

from __future__ import annotations

import contextlib
import threading

import numpy  # noqa: F401  # its library is to be limited
import threadpoolctl

from retrieval.system.products import products_on_one_core


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def test_the_number_of_threads_is_as_before_whoever_ends_first() -> None:
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
