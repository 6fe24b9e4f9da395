"""How rough or folded a displacement is. u (B, 3, D, H, W) voxels of its own grid; losses are scalars."""

import torch
from torch import Tensor

from neuroreg import field


def diffusion(u: Tensor) -> Tensor:
    """Mean squared forward difference, averaged over axes and components. Free of units: voxels per voxel.

    An axis of one voxel has no differences and counts as smooth.
    """
    u = u.float()
    steps = [u.diff(dim=a).square().mean() if u.shape[a] > 1 else u.new_zeros(()) for a in (2, 3, 4)]
    return torch.stack(steps).mean()


def folding(u: Tensor, *, margin: float = 0.1) -> Tensor:
    """Mean of relu(margin - det J), det J by central differences: zero for a safely invertible field."""
    return torch.relu(margin - field.jacobian_determinant(u.float())).mean()
