"""The part of a volume where something is. Network frame."""

import torch.nn.functional as F
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


def dilate(mask: Tensor, radius: int) -> Tensor:
    """The largest value of mask (B, C, D, H, W) in the cube of ``radius`` voxels around each voxel."""
    for axis in range(3):  # one axis at a time: 3 (2 r + 1) comparisons, not their cube
        side, padding = [1, 1, 1], [0, 0, 0]
        side[axis], padding[axis] = 2 * radius + 1, radius
        mask = F.max_pool3d(mask, side, stride=1, padding=padding)
    return mask
