"""The sides of pairs that come again: in a cohort the fixed image is the same for many cases.

Nothing is kept unless a program asks for it (``SIDES.keep``); a side takes about 5 bytes for a voxel of its grid.
"""

from collections.abc import Callable

from neuroreg.memory import Memory
from neuroreg.preprocess.masks import Side
from neuroreg.volume import Volume

SIDES: Memory[Side] = Memory(0)


def recalled(
    volume: Volume, mask: Volume | None, rule: tuple[float, int, float], make: Callable[[], Side]
) -> Side:
    """What ``make`` gives for an image, its mask and its grid's rule, or a copy of what it gave for the same."""
    seen = [part for one in (volume, mask) for part in ((None,) if one is None else (one.geometry, one.data))]
    return _copy(SIDES.recall((rule, *seen), make))


def _copy(side: Side) -> Side:
    """With tensors of its own."""
    lesion, outer = (None if one is None else one.clone() for one in (side.lesion, side.outer))
    return Side(side.image.clone(), side.inside.clone(), side.grid, side.stripped, lesion, outer)
