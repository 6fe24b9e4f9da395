"""Overlap of label maps under a displacement."""

import torch
from torch import Tensor

from neuroreg import field

_FIRST_ROI = 2  # 0 is background, 1 unlabelled fluid


def one_hot(labels: Tensor, ids: Tensor) -> Tensor:
    """labels (B, 1, D, H, W) integer, ids (N,) -> (B, N, D, H, W) float32."""
    return (labels == ids.reshape(1, -1, 1, 1, 1)).float()


def soft_dice(fixed: Tensor, moved: Tensor, *, eps: float = 1.0) -> Tensor:
    """1 - mean soft Dice of channel maps (B, N, D, H, W) in 0..1. Channels empty in both count as perfect.

    ``eps`` (voxels) keeps tiny regions from dominating the gradient.
    """
    overlap = (fixed * moved).sum((2, 3, 4))
    total = fixed.sum((2, 3, 4)) + moved.sum((2, 3, 4))
    return 1.0 - ((2 * overlap + eps) / (total + eps)).mean()


def dice_of_rois(
    fixed_labels: Tensor, moving_labels: Tensor, u: Tensor, ids: Tensor, *, affine: Tensor | None = None
) -> Tensor:
    """1 - soft Dice over the regions ``ids`` (N,), the moving ones warped linearly by u on the full grid.

    ``affine`` (B, 3, 4) follows u, as in ``field.warp``. 0 without regions: there is nothing to overlap.
    """
    if len(ids) == 0:
        return 0.0 * u.float().sum()
    moved = field.warp(one_hot(moving_labels, ids), u.float(), affine=affine)
    return soft_dice(one_hot(fixed_labels, ids), moved)


def draw_ids(labels: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` random region ids among those present: 0 is background, 1 unlabelled fluid, neither is drawn."""
    ids: Tensor = torch.unique(labels)
    ids = ids[ids >= _FIRST_ROI]
    order = torch.randperm(len(ids), generator=generator)[:count]
    return ids[order.to(ids.device)]


def mean_dice(fixed: Tensor, moved: Tensor) -> float:
    """Mean Dice over the ROI ids (>= 2) present in ``fixed``. Same shape, ids below 256."""
    counts_fixed = torch.bincount(fixed.flatten().long(), minlength=256).double()
    counts_moved = torch.bincount(moved.flatten().long(), minlength=256).double()
    both = torch.bincount(fixed[fixed == moved].long(), minlength=256).double()
    ids = counts_fixed.nonzero().flatten()
    ids = ids[ids >= _FIRST_ROI]
    return float((2 * both[ids] / (counts_fixed[ids] + counts_moved[ids])).mean())
