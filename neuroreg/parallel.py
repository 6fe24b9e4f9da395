"""Independent pieces of one computation, side by side on the processor's cores.

torch splits every single operation among its threads and waits for all of them before the next. Chains of short
operations on small pieces lose more by that than they gain; here each thread runs whole pieces on its own instead.
A piece computes the same whoever runs it, so what is cut into the same pieces does not depend on the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
        """``function`` of every item, in the order of the items; pieces must not write to the same memory.

        Helpers work in the caller's gradient, inference and autocast mode. When pieces fail, those not begun are left
        out and the error of the first of them in the order of the items is raised.
        """
        pieces = list(items)
        if self._pool is None or len(pieces) < 2:
            return [function(piece) for piece in pieces]
        waiting = deque(enumerate(pieces))
        done: dict[int, R] = {}
        failed: dict[int, BaseException] = {}

        def work() -> None:
            while waiting:
                try:
                    index, piece = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                try:
                    done[index] = function(piece)
                except BaseException as error:  # noqa: BLE001  # raised below, in the caller's thread
                    failed[index] = error
                    waiting.clear()

        modes = _modes_of_the_caller()

        def help_out() -> None:
            with modes():
                work()

        helpers = [self._pool.submit(help_out) for _ in range(min(self._helpers, len(pieces) - 1))]
        work()
        for helper in helpers:
            if not helper.cancel():  # one that never began has nothing left to do
                helper.result()
        if failed:
            raise failed[min(failed)]
        return [done[index] for index in range(len(pieces))]

    def both(self, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
        """What two unlike pieces return."""
        pieces: tuple[Callable[[], A | B], Callable[[], A | B]] = (first, second)
        one, two = self.map(lambda piece: piece(), pieces)
        return cast("A", one), cast("B", two)


def _modes_of_the_caller() -> Callable[[], AbstractContextManager[object]]:
    """What torch keeps for each thread, to be entered in another one."""
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    half, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def modes() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(torch.autocast("cpu", dtype=dtype, enabled=half))
        return stack

    return modes


ALONE = Workers()
"""Everything in the calling thread."""


@contextmanager
def workers(device: torch.device, *, flush_denormal: bool = False) -> Iterator[Workers]:
    """As many threads as torch has on the CPU (at most 8), with single-threaded operations; ALONE for other devices.

    ``flush_denormal``: the helpers count tiny numbers as zero, as their caller does. Inside, a second team is ALONE.
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
