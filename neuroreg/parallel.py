"""Independent pieces of one computation, side by side on the processor's cores.

torch splits every single operation among its threads and waits for all of them before the next. Chains of short
operations on small pieces lose more by that than they gain; here each thread runs whole pieces on its own instead.
A piece computes the same whoever runs it, so results do not depend on the number of threads.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, cast

import torch

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")

_MOST_THREADS = 8  # more of them would mostly wait for the interpreter's lock


class Workers:
    """A few threads; ``map`` shares pieces of work among them. Without helpers the caller does everything."""

    def __init__(self, pool: ThreadPoolExecutor | None = None, helpers: int = 0) -> None:
        self._pool, self._helpers = pool, helpers

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``function`` of every item, in the order of the items. The first error of a piece is raised again.

        Pieces run without gradients and must not write to the same memory.
        """
        if self._pool is None:
            return [function(item) for item in items]
        waiting = enumerate(list(items))  # next() of a built-in iterator is atomic
        done: dict[int, R] = {}

        def work() -> None:
            for index, item in waiting:
                done[index] = function(item)

        inference = torch.is_inference_mode_enabled()

        def help_out() -> None:
            with torch.inference_mode(inference), torch.set_grad_enabled(False):
                work()

        helpers = [self._pool.submit(help_out) for _ in range(self._helpers)]
        try:
            work()
        finally:
            for helper in helpers:
                helper.result()
        return [done[index] for index in sorted(done)]

    def both(self, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        """What two unlike pieces return."""
        pieces: tuple[Callable[[], A | B], Callable[[], A | B]] = (first, second)
        one, two = self.map(lambda piece: piece(), pieces)
        return cast("A", one), cast("B", two)


ALONE = Workers()
"""Everything in the calling thread."""


@contextmanager
def workers(device: torch.device, *, flush_denormal: bool = False) -> Iterator[Workers]:
    """As many threads as torch has on the CPU, each with single-threaded operations; ALONE for other devices.

    ``flush_denormal``: the helpers count tiny numbers as zero, as their caller does.
    """
    before = torch.get_num_threads()
    threads = min(before, _MOST_THREADS)
    if device.type != "cpu" or threads < 2:
        yield ALONE
        return

    def prepare() -> None:
        torch.set_num_threads(1)
        torch.set_flush_denormal(flush_denormal)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads - 1, thread_name_prefix="neuroreg", initializer=prepare) as pool:
            yield Workers(pool, threads - 1)
    finally:
        torch.set_num_threads(before)
