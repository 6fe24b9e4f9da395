"""The part of a volume where something is. Network frame."""

from torch import Tensor

Box = tuple[slice, slice, slice]


def bounding_box(mask: Tensor, *, before: int, after: int, multiple: int = 1) -> Box | None:
    """The box of mask (..., D, H, W) bool, so many voxels more at either end, all corners on multiples.

    Cut at the last multiple inside the volume. None when the mask is empty.
    """
    shape = mask.shape[-3:]
    solid = mask.reshape(-1, *shape).any(dim=0)
    sides = []
    for axis, size in enumerate(shape):
        hit = solid.movedim(axis, 0).flatten(1).any(dim=1).nonzero()[:, 0]
        if not len(hit):
            return None
        low = (int(hit[0]) - before) // multiple * multiple
        high = -(-(int(hit[-1]) + 1 + after) // multiple) * multiple
        sides.append(slice(max(0, low), min(size // multiple * multiple, high)))
    return sides[0], sides[1], sides[2]
