"""One level of the Gauss-Newton engine: what an iteration computes, in plain tensor operations.

A lattice of field nodes (d, h, w) carries the displacement. Image voxels are grouped in blocks of ``ratio**3`` per
node (``P`` = 1 or 8 phases: block i holds image voxels ratio * i + 0 .. ratio - 1 per axis). Per-voxel work is done
only on the list of the n nodes near the brain; box sums and Gaussians run on the whole lattice.
Every quantity is in field voxels of this lattice; components (d, h, w).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroreg import field
from neuroreg.methods.gaussnewton_guide import GuideImages, GuideTerm

_EPS = 1e-4  # added to local variances: about a hundredth of the intensity range, squared
_CPU_CHUNK = 8192  # nodes worked on at once: the temporaries then stay in the second-level cache


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


def gaussian_matrix(size: int, sigma: float, shift: float, like: Tensor) -> Tensor:
    """(size, size): row i is the Gaussian around i of samples that lie at j + shift, cut at 3.5 sigma, sum 1."""
    index = torch.arange(size, device=like.device, dtype=torch.float64)
    distance = (index[:, None] - index[None] - shift) / sigma
    kernel = torch.exp(-0.5 * distance**2) * (distance.abs() <= 3.5)
    return (kernel / kernel.sum(1, keepdim=True)).to(like.dtype)


class Smoother:
    """Separable Gaussian on (C, d, h, w) as one small dense matrix per axis: faster than short convolutions."""

    def __init__(self, shape: tuple[int, ...], sigma: float, shift: float, like: Tensor) -> None:
        self._matrices = [gaussian_matrix(n, sigma, shift, like) for n in shape]

    def __call__(self, x: Tensor, spare: Tensor) -> Tensor:
        """Smooth x, both overwritten; returns whichever of the two buffers holds the result."""
        channels, depth, height, width = x.shape
        along_d, along_h, along_w = self._matrices
        torch.matmul(along_d, x.view(channels, depth, -1), out=spare.view(channels, depth, -1))
        torch.matmul(along_h, spare.view(-1, height, width), out=x.view(-1, height, width))
        torch.mm(x.view(-1, width), along_w.T, out=spare.view(-1, width))
        return spare


def box_sums(x: Tensor, windows: tuple[int, ...]) -> list[Tensor]:
    """Sums of x (C, d, h, w) over centred boxes of the given odd sides; zero outside the lattice."""
    return [_box(x, window) for window in windows]


def _box(x: Tensor, window: int) -> Tensor:
    # Doubling: a run of 15 is 1 + 2 + 4 + 8, so four additions per axis in place of fourteen.
    radius = window // 2
    for axis in (1, 2, 3):
        size = x.shape[axis]
        shape = list(x.shape)
        shape[axis] = size + 2 * radius
        run = x.new_zeros(shape)
        run.narrow(axis, radius, size).copy_(x)
        total, done, length = None, 0, 1
        while True:
            if window & length:
                part = run.narrow(axis, done, size)
                total = part.clone() if total is None else total.add_(part)
                done += length
            if 2 * length > window:
                break
            run = run.narrow(axis, 0, run.shape[axis] - length) + run.narrow(
                axis, length, run.shape[axis] - length
            )
            length *= 2
        assert total is not None
        x = total
    return x


class Level:
    """The state and buffers of one level; ``step`` is one iteration, ``score`` the metric alone."""

    def __init__(self, spec: LevelSpec, images: LevelImages) -> None:
        self.spec = spec
        self.images = images
        weight = _clear_rim(images.weight)
        self.shape: tuple[int, int, int] = (weight.shape[0], weight.shape[1], weight.shape[2])
        self._strides = (self.shape[1] * self.shape[2], self.shape[2], 1)
        ring = _clear_rim(F.max_pool3d(weight[None, None], 3, stride=1, padding=1)[0, 0])
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
        self._equations_dense = fixed.new_zeros((9, volume))
        self._scratch = empty((9, volume))
        self._scratch_2 = empty((9, volume))
        self._points = empty((3, volume))
        self._chunk = _CPU_CHUNK if fixed.device.type == "cpu" else max(n, 1)
        shift = 0.25 if self.spec.ratio == 2 else 0.0  # a block's centre lies a quarter node after its node
        self._smooth_update = Smoother(self.shape, self.spec.sigma_update, shift, fixed)
        self._smooth_field = Smoother(self.shape, self.spec.sigma_field, 0.0, fixed)
        self._count = [float(phases * window**3) for window in self.spec.windows]
        self._fixed_statistics = self._prepare_fixed()
        guides = self.images.guides
        self._guide = None if guides is None else GuideTerm(guides, self._nodes, self._chunk)

    def _prepare_fixed(self) -> list[tuple[Tensor, Tensor]]:
        self._sums_dense[0].index_copy_(0, self._long, self._fixed.sum(0))
        self._sums_dense[1].index_copy_(0, self._long, (self._fixed**2).sum(0))
        statistics = []
        boxes = box_sums(self._sums_dense[:2].view(2, *self.shape), self.spec.windows)
        for box, count in zip(boxes, self._count, strict=True):
            mean, square = (box.view(2, -1).index_select(1, self._nodes) / count).unbind(0)
            statistics.append((mean, square - mean**2 + _EPS))
        return statistics

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, len(self._nodes), self._chunk):
            yield slice(start, start + self._chunk)

    def _warp(self, u: Tensor) -> None:
        """Read the moving image at every voxel of every listed block; u (3, V)."""
        points = torch.addmm(self._origin, self._matrix, u, out=self._points)
        if self.images.moving_weight is not None:
            here = points.index_select(1, self._nodes)
            self._weight_now = self._weight * field.sample_points(self.images.moving_weight, here)[0]
        for part in self._chunks():
            at = self._block_points(points, self._nodes[part])
            moved = field.sample_points(self.images.moving, at.reshape(3, -1)).view(at.shape[1:])
            self._moved[:, part] = moved
            torch.sum(moved, 0, out=self._sums[0, part])
            torch.sum(moved * moved, 0, out=self._sums[1, part])
            torch.sum(moved * self._fixed[:, part], 0, out=self._sums[2, part])
        self._moved_dense.index_copy_(1, self._long, self._moved)
        self._sums_dense.index_copy_(1, self._long, self._sums)

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
        total = u.new_zeros(())
        for part in self._chunks():
            total += self._terms(boxes, part)[3].sum()
        total = total / 2.0
        if self._guide is not None:
            total -= self._guide.loss(self._guide.warp(u.reshape(3, -1)), self._weight_now)
        return total / self._total_weight

    def _boxes(self) -> list[Tensor]:
        dense = self._sums_dense.view(3, *self.shape)
        return [box.view(3, -1) for box in box_sums(dense, self.spec.windows)]

    def _assemble(self, boxes: list[Tensor]) -> Tensor:
        """Fill ``_equations`` with the block means of h dJ dJ' (six) and g dJ (three); returns the score."""
        total = boxes[0].new_zeros(())
        phases = self.spec.ratio**3
        for part in self._chunks():
            a, w, c, score = self._terms(boxes, part)
            total += score.sum()
            gradient = self._gradient(part)
            force = torch.addcmul(c, self._fixed[:, part], a).addcmul_(self._moved[:, part], w, value=-1.0)
            w = w / phases
            rows = self._equations[:, part]
            for row, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
                torch.mul((gradient[i] * gradient[j]).sum(0), w, out=rows[row])
            for k in range(3):
                torch.mul((gradient[k] * force).sum(0), 1.0 / phases, out=rows[6 + k])
        return total / (2.0 * self._total_weight)

    def step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration from u (3, d, h, w): the next field, and the score of the one given. u is overwritten."""
        flat = u.view(3, -1)
        self._warp(flat)
        score = self._assemble(self._boxes())
        if self._guide is not None:
            self._guide.add(self._guide.warp(flat), self._weight_now, self._equations)
        self._equations_dense.index_copy_(1, self._long, self._equations)
        dense = self._scratch.copy_(self._equations_dense).view(9, *self.shape)
        dense = self._smooth_update(dense, self._scratch_2.view(9, *self.shape)).view(9, -1)
        moved = self._sums  # (3, n), free until the next warp
        volume = u.view(3, *self.shape)
        for part in self._chunks():
            update = self._solve(dense.index_select(1, self._nodes[part]))
            points = self._node_index[:, part] + update
            torch.add(update, field.sample_points(volume, points), out=moved[:, part])
        flat.index_copy_(1, self._long, moved)
        spare = self._scratch[:3].view(3, *self.shape)
        return u.copy_(self._smooth_field(u, spare)), score

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


def _clear_rim(x: Tensor) -> Tensor:
    """x (d, h, w) with its outermost nodes set to 0: neighbours are read without asking whether they exist."""
    return F.pad(x[1:-1, 1:-1, 1:-1], (1,) * 6)


def split_phases(image: Tensor, ratio: int) -> Tensor:
    """(D, H, W) -> (ratio**3, V): phase p holds voxel ratio * i + p of every block i."""
    if ratio == 1:
        return image.reshape(1, -1)
    parts = [image[a::2, b::2, c::2] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    return torch.stack(parts).reshape(8, -1)
