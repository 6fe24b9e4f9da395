"""Scaling intensities to the range every method expects."""

import math

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError

CEILING = 1.275  # 255 / 200: training data are kept as uint8 = 200 x intensity
_FILL_MM = (2.0, 4.0, 8.0)  # widths of the Gaussians that fill in
_FILL_SHARE = 0.05  # of a Gaussian's weight must be known


def percentile(values: Tensor, percent: float) -> float:
    """The smallest of ``values`` (any shape, not empty) that at least ``percent`` % of them do not exceed."""
    flat = values.reshape(-1)
    rank = min(max(round(percent / 100 * flat.numel()), 1), flat.numel())
    return float(flat.kthvalue(rank).values)


def scale(data: Tensor, mask: Tensor | None = None) -> Tensor:
    """data of any shape divided by the 99th percentile of its voxels above 0, clamped to 0..1.275; float32.

    ``mask`` (bool, broadcastable to data) limits the voxels the percentile is taken from, not the output.
    Raises DataError when no voxel is above 0.
    """
    positive = data > 0 if mask is None else (data > 0) & mask
    values = data[positive]
    if values.numel() == 0:
        raise DataError(
            "the image has no voxel above 0", remedy="check that it is the right file and not empty"
        )
    return (data / percentile(values, 99.0)).clamp(0.0, CEILING).to(torch.float32)


def fill_in(image: Tensor, unknown: Tensor, known: Tensor, *, spacing_mm: float) -> Tensor:
    """image (1, 1, D, H, W) with every voxel of ``unknown`` (bool, same shape) made up from the ``known`` around it.

    The Gaussian mean of the known voxels, of the least width (2, 4, 8 mm) that reaches enough of them; deep inside,
    the mean of all.
    """
    if not bool(unknown.any()) or not bool(known.any()):
        return image
    rim = math.ceil(3 * _FILL_MM[-1] / spacing_mm)
    box = tuple(
        slice(max(0, int(hit[0]) - rim), int(hit[-1]) + 1 + rim)
        for hit in (unknown[0, 0].movedim(axis, 0).flatten(1).any(dim=1).nonzero()[:, 0] for axis in range(3))
    )
    part, share = image[:, :, *box], known[:, :, *box].to(image.dtype)
    out, left = part.clone(), unknown[:, :, *box]
    for width in _FILL_MM:
        reach = field.smooth(share, width / spacing_mm)
        now = left & (reach > _FILL_SHARE)
        out = torch.where(
            now, field.smooth(part * share, width / spacing_mm) / reach.clamp_min(_FILL_SHARE), out
        )
        left = left & ~now
    filled = image.clone()
    filled[:, :, *box] = torch.where(left, image[known].mean(), out)
    return filled
