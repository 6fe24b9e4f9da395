"""Telling head from background: foreground and brain masks by simple, quick rules (no network)."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from neuroreg.box import bounding_box
from neuroreg.errors import DataError
from neuroreg.preprocess.intensity import percentile
from neuroreg.volume import Volume

BRAIN_LITRES = (0.3, 2.3)  # a child's to a large adult's brain with its CSF; whole heads start near 3 L
_EMPTY_SHARE = 0.2  # a stripped image has at least this share of exactly constant background


def background_value(data: Tensor) -> float:
    """The median of the eight corner voxels of data (..., Z, Y, X)."""
    corners = data[
        ..., [0, 0, 0, 0, -1, -1, -1, -1], [0, 0, -1, -1, 0, 0, -1, -1], [0, -1, 0, -1, 0, -1, 0, -1]
    ]
    return float(corners.to(torch.float32).median())


def looks_stripped(volume: Volume) -> bool:
    """Whether the skull is gone: a constant background, and no more than a brain's volume in front of it."""
    front = volume.data != background_value(volume.data)
    litres = int(front.count_nonzero()) * volume.geometry.voxel_volume_mm3 / 1e6
    return _has_background(front) and BRAIN_LITRES[0] <= litres <= BRAIN_LITRES[1]


def exceeds_brain(volume: Volume, counts: Tensor | None = None) -> bool:
    """Whether a skull, a face or a neck is left: more than a brain's volume, or no constant background to tell.

    ``counts`` (bool, the shape of volume.data) limits it to the voxels that count.
    """
    front = volume.data != background_value(volume.data)
    front = front if counts is None else front & counts
    litres = int(front.count_nonzero()) * volume.geometry.voxel_volume_mm3 / 1e6
    return litres > BRAIN_LITRES[1] or (counts is None and not _has_background(front))


def _has_background(front: Tensor) -> bool:
    return 1.0 - int(front.count_nonzero()) / front.numel() >= _EMPTY_SHARE


def foreground(volume: Volume) -> Tensor:
    """Brain (stripped images) or head (others) without holes being closed: bool, the shape of volume.data.

    Stripped: whatever differs from the background. Others: above a tenth of the 99th percentile, which keeps
    scanner noise out. Raises DataError when nothing is found.
    """
    data = volume.data
    zero = background_value(data)
    if looks_stripped(volume):
        return data != zero
    sparse = data[..., ::2, ::2, ::2] - zero
    positive = sparse[sparse > 0]
    if positive.numel() == 0:
        raise DataError("the image has nothing above its background", remedy="check that it is not empty")
    return data - zero > 0.1 * percentile(positive, 99.0)


def close_and_fill(mask: Tensor, *, radius: int) -> Tensor:
    """A mask (..., D, H, W) bool without clefts up to 2 x ``radius`` voxels wide and without enclosed holes."""
    whole = mask.reshape(mask.shape[-3:])
    box = bounding_box(whole, before=0, after=0)
    if box is None:
        return mask.clone()
    # Nothing that is closed or filled lies outside the box: a field of view full of air costs nothing.
    x = F.pad(whole[box], [2 * radius] * 6)
    solid = ~_dilate(~_dilate(x, radius), radius)
    out = torch.zeros_like(whole)
    out[box] = solid | _holes(solid)
    return out.reshape(mask.shape)


def grow(mask: Tensor, *, voxels: int) -> Tensor:
    """A mask (..., D, H, W) bool and whatever is at most so many steps between face neighbours away from it."""
    grown = ndimage.binary_dilation(mask.reshape(mask.shape[-3:]).numpy(), iterations=voxels)
    return torch.from_numpy(grown).reshape(mask.shape)


def _dilate(x: Tensor, radius: int) -> Tensor:
    """x (D, H, W) bool grown by a box of 2 radius + 1 voxels; its sides shrink by 2 radius."""
    for axis in range(3):
        count = x.shape[axis] - 2 * radius
        grown = x.narrow(axis, 0, count)
        for shift in range(1, 2 * radius + 1):
            grown = grown | x.narrow(axis, shift, count)
        x = grown
    return x


def _holes(mask: Tensor) -> Tensor:
    """Background of mask (D, H, W) bool that no path of face neighbours joins to the rim."""
    outside = np.pad(~mask.numpy(), 1, constant_values=True)
    parts, _ = ndimage.label(outside)
    holes = outside & (parts != parts[0, 0, 0])
    return torch.from_numpy(holes[1:-1, 1:-1, 1:-1])


def brain_mask(volume: Volume, *, close_mm: float = 4.0) -> Volume:
    """The brain of a stripped image, or the head of another: uint8 label map of 0 and 1 on the same grid.

    The foreground with clefts up to ``close_mm`` closed and enclosed holes filled. Raises DataError when empty.
    """
    radius = max(1, round(close_mm / 2 / float(np.mean(volume.geometry.spacing))))
    mask = close_and_fill(foreground(volume).any(dim=0, keepdim=True), radius=radius)
    return Volume(mask.to(torch.uint8), volume.geometry, is_label=True)
