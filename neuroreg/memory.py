"""Results kept by the content of what they were worked out from: in a cohort the same image comes again and again."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Memory(Generic[T]):
    """The last results, the one used longest ago goes first. May be asked by several threads."""

    def __init__(self, most: int) -> None:
        """``most`` results are kept; 0: none."""
        self._most = most
        self._kept: OrderedDict[bytes, T] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, most: int) -> None:
        """Change how many are kept."""
        with self._lock:
            self._most = most
            self._shrink()

    def recall(self, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        """What was made of equal ``parts``, or what ``make`` gives now. Whoever gets it must not change it."""
        if not self._most:
            return make()
        key = content(*parts)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = make()
        with self._lock:
            self._kept[key] = found
            self._shrink()
        return found

    def _shrink(self) -> None:
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


def content(*parts: object) -> bytes:
    """A digest: of tensors by type, shape and values, of anything else by its ``repr``."""
    digest = hashlib.blake2b()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(repr((part.dtype, part.shape)).encode())
            digest.update(part.cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(part).encode() + b"\0")
    return digest.digest()
