"""What guide channels add to the normal equations of the Gauss-Newton engine: their squared differences.

Guides are channels that should match wherever the images do (soft segmentations, codes). They live on the field's
own lattice, so no blocks are needed. Quantities as in ``gaussnewton_level``: field voxels, node lists, (d, h, w).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg import field


@dataclass(frozen=True)
class GuideImages:
    """The guide channels at one level."""

    fixed: Tensor
    """(K, d, h, w) on the cropped lattice"""
    moving: Tensor
    """(K, d', h', w') after the affine, on the whole lattice"""
    corner: tuple[int, ...]
    """the whole lattice's index of the cropped lattice's node 0"""
    weight: float
    """of the squared differences against the squared correlation"""


class GuideTerm:
    """Slopes and curvatures of weight / 2 * sum over channels of (fixed - moved)**2, at a list of nodes."""

    def __init__(self, images: GuideImages, nodes: Tensor) -> None:
        self._images = images
        shape = images.fixed.shape[1:]
        self._nodes, self._long = nodes, nodes.long()
        self._strides = (shape[1] * shape[2], shape[2], 1)
        grid = field.identity(tuple(shape), device=nodes.device)[0].reshape(3, -1)
        corner = torch.tensor(images.corner, dtype=grid.dtype, device=nodes.device)
        self._origin = grid.index_select(1, nodes) + corner[:, None]
        self._fixed = images.fixed.reshape(len(images.fixed), -1).index_select(1, nodes)
        self._moved_dense = torch.zeros_like(images.fixed).reshape(len(images.fixed), -1)

    def warp(self, u: Tensor, part: slice) -> Tensor:
        """Fixed minus moved channels (K, n) under the field u (3, V) at a part of the nodes; keeps the moved ones
        for ``add``."""
        points = self._origin[:, part] + u.index_select(1, self._nodes[part])
        moved = field.sample_points(self._images.moving, points)
        self._moved_dense.index_copy_(1, self._long[part], moved)
        return torch.sub(self._fixed[:, part], moved, out=moved)

    def loss(self, difference: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum of squares of ``difference`` (K, n) over nodes, times half the guides' weight."""
        return 0.5 * self._images.weight * (difference.square().sum(0) * weight).sum()

    def add(self, part: slice, difference: Tensor, weight: Tensor, rows: Tensor) -> None:
        """Add to a part of the equations, rows (9, n): six products of slopes, three forces. ``difference`` (K, N) and
        ``weight`` (N,) of all nodes, every part of which must have been warped."""
        nodes, scale = self._nodes[part], weight[part] * self._images.weight
        slopes = [
            (self._moved_dense.index_select(1, nodes + s) - self._moved_dense.index_select(1, nodes - s))
            for s in self._strides
        ]
        for row, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
            rows[row].addcmul_((slopes[i] * slopes[j]).sum(0), scale, value=0.25)
        for k in range(3):
            rows[6 + k].addcmul_((slopes[k] * difference[:, part]).sum(0), scale, value=0.5)
