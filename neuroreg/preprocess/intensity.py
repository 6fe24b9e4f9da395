"""Scaling intensities to the range every method expects."""

import torch
from torch import Tensor

from neuroreg.errors import DataError

CEILING = 1.275  # 255 / 200: training data are kept as uint8 = 200 x intensity


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
