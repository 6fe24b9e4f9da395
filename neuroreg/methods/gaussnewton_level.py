"""One level of the Gauss-Newton engine: what an iteration computes, in plain tensor operations.

A lattice of field nodes (d, h, w) carries the displacement. Image voxels are grouped in blocks of ``ratio**3`` per
node (``P`` = 1 or 8 phases: block i holds image voxels ratio * i + 0 .. ratio - 1 per axis). Per-voxel work is done
only on the list of the n nodes near the brain; box sums and Gaussians run on the whole lattice.
Every quantity is in field voxels of this lattice; components (d, h, w).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.box import dilate
from neuroreg.methods.gaussnewton_guide import GuideImages, GuideTerm
from neuroreg.methods.gaussnewton_lattice import Smoother, box_sums, clear_rim, shares, split_phases
from neuroreg.parallel import ALONE, Workers

R = TypeVar("R")

_EPS = 1e-4  # added to local variances: about a hundredth of the intensity range, squared
# most nodes worked on at once by one thread: the temporaries then stay in the second-level cache
_CPU_CHUNK = 16384


@dataclass(frozen=True)
class LevelSpec:
    """One entry of the schedule."""

    image_level: int
    """pyramid level of the images: spacing 2**image_level"""
    ratio: int
    """field spacing / image spacing: 1 or 2"""
    iterations: int
    windows: tuple[int, ...]
    """sides of the box windows, odd, in field voxels, growing"""
    damping: float
    """added to the diagonal of the normal equations, per field voxel squared"""
    sigma_update: float
    """Gaussian on the normal equations, field voxels"""
    sigma_field: float
    """Gaussian on the total field after each iteration, field voxels"""

    @property
    def field_level(self) -> int:
        """Pyramid level of the displacement."""
        return self.image_level + (self.ratio == 2)


@dataclass(frozen=True)
class LevelImages:
    """What a level registers, on the cropped lattice."""

    fixed: Tensor
    """(D, H, W) image voxels, sides ``ratio`` times the lattice"""
    moving: Tensor
    """(1, d, h, w), its own grid"""
    to_moving: Tensor
    """(3, 4): node index plus displacement -> voxel of ``moving``"""
    weight: Tensor
    """(d, h, w) lattice, 0..1: how much each node's data count; 0 is outside the region of interest"""
    moving_weight: Tensor | None = None
    """(1, d, h, w) like ``moving``, or None for 1 everywhere"""
    guides: GuideImages | None = None
    """channels that should match as well"""


class Level:
    """The state and buffers of one level; ``step`` is one iteration, ``score`` the metric alone."""

    def __init__(self, spec: LevelSpec, images: LevelImages, workers: Workers = ALONE) -> None:
        self.spec = spec
        self.images = images
        self._workers = workers
        weight = clear_rim(images.weight)
        self.shape: tuple[int, int, int] = (weight.shape[0], weight.shape[1], weight.shape[2])
        self._strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        ring = clear_rim(dilate(weight[None, None], 1)[0, 0])
        self._nodes = ring.reshape(-1).nonzero()[:, 0].to(torch.int32)
        self._long = self._nodes.long()
        self._weight = weight.reshape(-1)[self._long]
        self._weight_now = self._weight
        self._total_weight = self._weight.sum().clamp(min=1.0)
        self._allocate(images.fixed)

    def _allocate(self, fixed: Tensor) -> None:
        n, phases, volume = (
            len(self._nodes),
            self.spec.ratio**3,
            self.shape[0] * self.shape[1] * self.shape[2],
        )
        empty = fixed.new_empty
        self._index = field.identity(self.shape, device=fixed.device)[0].reshape(3, -1)
        matrix = self.images.to_moving
        self._origin = matrix[:, :3] @ self._index + matrix[:, 3:]
        self._matrix = matrix[:, :3].contiguous()
        self._node_index = self._index.index_select(1, self._nodes)
        self._fixed = split_phases(fixed, self.spec.ratio).index_select(1, self._nodes)
        self._moved = empty((phases, n))
        self._moved_dense = fixed.new_zeros((phases, volume))
        self._sums = empty((3, n))
        self._sums_dense = fixed.new_zeros((3, volume))
        self._equations = empty((9, n))
        self._scratch = empty((9, volume))
        self._scratch_2 = empty((9, volume))
        self._points = empty((3, volume))
        self._chunk = _even_chunk(n) if fixed.device.type == "cpu" else max(n, 1)
        shift = 0.25 if self.spec.ratio == 2 else 0.0  # a block's centre lies a quarter node after its node
        self._smooth_update = Smoother(self.shape, self.spec.sigma_update, shift, fixed)
        self._smooth_field = Smoother(self.shape, self.spec.sigma_field, 0.0, fixed)
        self._count = [float(phases * window**3) for window in self.spec.windows]
        self._fixed_statistics = self._prepare_fixed()
        guides = self.images.guides
        self._guide = None if guides is None else GuideTerm(guides, self._nodes)

    def _prepare_fixed(self) -> list[tuple[Tensor, Tensor]]:
        self._sums_dense[0].index_copy_(0, self._long, self._fixed.sum(0))
        self._sums_dense[1].index_copy_(0, self._long, (self._fixed**2).sum(0))
        statistics = []
        boxes = box_sums(self._sums_dense[:2].view(2, *self.shape), self.spec.windows, self._workers)
        for box, count in zip(boxes, self._count, strict=True):
            mean, square = (box.view(2, -1).index_select(1, self._nodes) / count).unbind(0)
            statistics.append((mean, square - mean**2 + _EPS))
        return statistics

    def _each_chunk(self, work: Callable[[slice], R]) -> list[R]:
        """``work`` for every part of the node list, shared among the workers."""
        starts = range(0, max(1, len(self._nodes)), self._chunk)  # one empty part when there is none
        return self._workers.map(work, [slice(start, start + self._chunk) for start in starts])

    def _warp(self, u: Tensor) -> None:
        """Read the moving image at every voxel of every listed block; u (3, V)."""
        points = torch.addmm(self._origin, self._matrix, u, out=self._points)
        if self.images.moving_weight is not None:
            here = points.index_select(1, self._nodes)
            self._weight_now = self._weight * field.sample_points(self.images.moving_weight, here)[0]

        def warp(part: slice) -> None:
            at = self._block_points(points, self._nodes[part])
            moved = field.sample_points(self.images.moving, at.reshape(3, -1)).view(at.shape[1:])
            sums = torch.stack((moved.sum(0), (moved * moved).sum(0), (moved * self._fixed[:, part]).sum(0)))
            self._moved[:, part] = moved
            self._moved_dense.index_copy_(1, self._long[part], moved)
            self._sums_dense.index_copy_(1, self._long[part], sums)

        self._each_chunk(warp)

    def _block_points(self, points: Tensor, nodes: Tensor) -> Tensor:
        """Moving voxels of the image voxels of the blocks at ``nodes``: (3, P, n), linear between nodes."""
        if self.spec.ratio == 1:
            return points.index_select(1, nodes)[:, None]
        corners = points.new_empty((3, 2, 2, 2, len(nodes)))
        for a in (0, 1):
            for b in (0, 1):
                for c in (0, 1):
                    offset = a * self._strides[0] + b * self._strides[1] + c
                    corners[:, a, b, c] = points.index_select(1, nodes + offset)
        corners[:, :, :, 1].add_(corners[:, :, :, 0]).mul_(0.5)
        corners[:, :, 1].add_(corners[:, :, 0]).mul_(0.5)
        corners[:, 1].add_(corners[:, 0]).mul_(0.5)
        return corners.view(3, 8, -1)

    def _terms(self, boxes: list[Tensor], part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over windows of a, w, w mean J - a mean I and the squared correlation, at the nodes of ``part``."""
        nodes = self._nodes[part]
        terms: list[Tensor] = []
        for box, count, (mean_f, var_f) in zip(boxes, self._count, self._fixed_statistics, strict=True):
            mean, square, product = (box.index_select(1, nodes) / count).unbind(0)
            variance = square.addcmul_(mean, mean, value=-1.0).clamp_(min=0.0).add_(_EPS)
            covariance = product.addcmul_(mean, mean_f[part], value=-1.0)
            a = 2.0 * covariance / (var_f[part] * variance)
            w = a * covariance / variance
            new = [a, w, w * mean - a * mean_f[part], w * variance]
            terms = new if not terms else [old.add_(x) for old, x in zip(terms, new, strict=True)]
        weight = self._weight_now[part]
        a, w, c, score = (term.mul_(weight) for term in terms)
        return a, w, c, score

    def _gradient(self, part: slice) -> Tensor:
        """Central differences of the moved image per field voxel: (3, P, n)."""
        nodes = self._nodes[part]
        if self.spec.ratio == 1:
            flat = self._moved_dense[0]
            rows = [
                flat.index_select(0, nodes + s).sub_(flat.index_select(0, nodes - s)) for s in self._strides
            ]
            return torch.stack(rows)[:, None].mul_(0.5)
        moved = self._moved[:, part].reshape(2, 2, 2, -1)
        dense = self._moved_dense.view(2, 2, 2, -1)
        out = moved.new_empty((3, 2, 2, 2, len(nodes)))
        for axis, stride in enumerate(self._strides):
            low, high = moved.unbind(axis)
            dense_low, dense_high = dense.unbind(axis)
            out_low, out_high = out[axis].unbind(axis)
            for i in (0, 1):
                for j in (0, 1):
                    torch.sub(high[i, j], dense_high[i, j].index_select(0, nodes - stride), out=out_low[i, j])
                    torch.sub(dense_low[i, j].index_select(0, nodes + stride), low[i, j], out=out_high[i, j])
        return out.view(3, 8, -1)

    def score(self, u: Tensor) -> Tensor:
        """Mean squared local correlation, summed over windows, of the field u (3, d, h, w), less the guides' loss."""
        self._warp(u.reshape(3, -1))
        boxes = self._boxes()
        total = torch.stack(self._each_chunk(lambda part: self._terms(boxes, part)[3].sum())).sum() / 2.0
        if self._guide is not None:
            difference = self._differences(u.reshape(3, -1))
            assert difference is not None
            total = total - self._guide.loss(difference, self._weight_now)
        return total / self._total_weight

    def _boxes(self) -> list[Tensor]:
        dense = self._sums_dense.view(3, *self.shape)
        return [box.view(3, -1) for box in box_sums(dense, self.spec.windows, self._workers)]

    def _assemble(self, boxes: list[Tensor], difference: Tensor | None) -> Tensor:
        """Fill ``_equations`` with the block means of h dJ dJ' (six) and g dJ (three), and what the guides add;
        returns the score without theirs."""
        phases = self.spec.ratio**3

        def assemble(part: slice) -> Tensor:
            a, w, c, score = self._terms(boxes, part)
            gradient = self._gradient(part)
            force = torch.addcmul(c, self._fixed[:, part], a).addcmul_(self._moved[:, part], w, value=-1.0)
            w = w / phases
            rows = self._equations[:, part]
            for row, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
                torch.mul((gradient[i] * gradient[j]).sum(0), w, out=rows[row])
            for k in range(3):
                torch.mul((gradient[k] * force).sum(0), 1.0 / phases, out=rows[6 + k])
            if self._guide is not None and difference is not None:
                self._guide.add(part, difference, self._weight_now, rows)
            return score.sum()

        return torch.stack(self._each_chunk(assemble)).sum() / (2.0 * self._total_weight)

    def _differences(self, u: Tensor) -> Tensor | None:
        """Fixed minus moved guide channels under u (3, V)."""
        guide = self._guide
        if guide is None:
            return None
        return torch.cat(self._each_chunk(lambda part: guide.warp(u, part)), dim=1)

    def step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration from u (3, d, h, w): the next field, and the score of the one given. u is overwritten."""
        flat = u.view(3, -1)
        self._warp(flat)
        score = self._assemble(self._boxes(), self._differences(flat))
        self._workers.map(self._smooth_equations, shares(9, u.device))
        smooth = self._scratch_2

        def move(part: slice) -> None:
            nodes = self._nodes[part]
            update = self._solve(smooth.index_select(1, nodes))
            points = self._node_index[:, part] + update
            torch.add(update, field.sample_points(u, points), out=self._sums[:, part])

        self._each_chunk(move)
        flat.index_copy_(1, self._long, self._sums)
        spare = self._scratch[:3].view(u.shape)
        self._workers.map(lambda share: self._smooth_field(u[share], spare[share]), shares(3, u.device))
        return u.copy_(spare), score

    def _smooth_equations(self, rows: slice) -> None:
        """Some of the nine on the whole lattice, smoothed, into ``_scratch_2``."""
        dense = self._scratch[rows].zero_().index_copy_(1, self._long, self._equations[rows])
        shape = (-1, *self.shape)
        self._smooth_update(dense.view(shape), self._scratch_2[rows].view(shape))

    def _solve(self, equations: Tensor) -> Tensor:
        """(H + damping) du = b by Cholesky (LDL'), clamped to half a voxel. equations (9, n) -> (3, n)."""
        h00, h01, h02, h11, h12, h22, b0, b1, b2 = equations.unbind(0)
        damping = self.spec.damping
        h00.add_(damping)
        l10, l20 = h01 / h00, h02 / h00
        h11.add_(damping).addcmul_(l10, h01, value=-1.0)
        h12.addcmul_(l20, h01, value=-1.0)
        l21 = h12 / h11
        h22.add_(damping).addcmul_(l20, h02, value=-1.0).addcmul_(l21, h12, value=-1.0)
        b1.addcmul_(l10, b0, value=-1.0)
        b2.addcmul_(l20, b0, value=-1.0).addcmul_(l21, b1, value=-1.0)
        b2.div_(h22)
        b1.div_(h11).addcmul_(l21, b2, value=-1.0)
        b0.div_(h00).addcmul_(l10, b1, value=-1.0).addcmul_(l20, b2, value=-1.0)
        update = equations[6:]
        length = update.square().sum(0).sqrt_().clamp_(min=0.5)
        return update.mul_(0.5 / length)


def _even_chunk(nodes: int) -> int:
    """The size of parts of equal size, a multiple of four of them, so that two or four threads end together."""
    parts = 4 * max(1, -(-nodes // (4 * _CPU_CHUNK)))
    return max(1, -(-nodes // parts))
