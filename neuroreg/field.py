"""Voxel-frame calculus: sampling, warping, composing, resizing, inverting and measuring displacement fields.

Everything here is in the network frame: images (B, C, D, H, W); displacements u (B, 3, D, H, W) in voxels of
their own grid, components in tensor-axis order (d, h, w), pull-back: warped(i) = moving(i + u(i)).
Voxel i of pyramid level l lies on full-resolution voxel i * 2**l.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, ParamSpec, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["linear", "nearest"]
P = ParamSpec("P")


def _kept(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Matrices made once. Never as inference tensors: what a registration keeps, a training may need gradients of."""
    kept = lru_cache(maxsize=256)(torch.inference_mode(False)(make))
    return cast("Callable[P, Tensor]", kept)


def identity(
    shape: tuple[int, ...], *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The voxel indices of a grid: (1, 3, D, H, W), components (d, h, w)."""
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def affine_index(affine: Tensor, index: Tensor) -> Tensor:
    """Apply affine (B, 3, 4), voxel frame, to index (B, 3, ...) voxels."""
    rest = (1,) * (index.ndim - 2)
    with torch.autocast(index.device.type, enabled=False):
        moved = torch.einsum("bij,bj...->bi...", affine[:, :, :3].to(index.dtype), index)
    return moved + affine[:, :, 3].to(index.dtype).reshape(-1, 3, *rest)


def sample(
    image: Tensor, index: Tensor, *, mode: Interpolation = "linear", fill: float | None = None
) -> Tensor:
    """Read image (B, C, D, H, W) at index (B, 3, d, h, w) voxels of that image; returns (B, C, d, h, w).

    ``fill=None`` repeats the border. A number is used where the index lies outside [-1/2, n - 1/2), which is
    ITK's rule: half a voxel beyond the outermost centres still counts as inside and is clamped.
    Nearest rounds halves up as ITK does and keeps any dtype exact.
    """
    values = _linear(image, index) if mode == "linear" else _nearest(image, index)
    return values if fill is None else torch.where(inside(index, image.shape[2:]), values, fill)


def inside(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Whether index (B, 3, ...) lies inside [-1/2, n - 1/2) on every axis: (B, 1, ...) bool."""
    ok = [(index[:, a] >= -0.5) & (index[:, a] < n - 0.5) for a, n in enumerate(shape)]
    return (ok[0] & ok[1] & ok[2])[:, None]


def _linear(image: Tensor, index: Tensor) -> Tensor:
    # The one place with normalised coordinates: component order (w, h, d), -1 and 1 on the outermost centres.
    scale = [2.0 / max(n - 1, 1) for n in image.shape[2:]]
    grid = torch.stack([index[:, a] * scale[a] - 1.0 for a in (2, 1, 0)], dim=-1).to(image.dtype)
    # grid_sample shares a batch among threads, not a volume: one volume goes in as a batch of slabs.
    alone = len(grid) == len(image) == 1 and image.device.type == "cpu" and not torch.is_grad_enabled()
    if slabs := math.gcd(grid.shape[1], 8) if alone else 0:
        image, grid = image.expand(slabs, -1, -1, -1, -1), grid.reshape(slabs, -1, *grid.shape[2:])
    out = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return out.movedim(0, 1).reshape(1, out.shape[1], -1, *out.shape[3:]) if slabs else out


def _nearest(image: Tensor, index: Tensor) -> Tensor:
    batch, channels, depth, height, width = image.shape
    d, h, w = (
        torch.floor(index[:, a] + 0.5).long().clamp_(0, n - 1) for a, n in enumerate((depth, height, width))
    )
    flat = ((d * height + h) * width + w).reshape(batch, 1, -1).expand(-1, channels, -1)
    return image.reshape(batch, channels, -1).gather(2, flat).reshape(batch, channels, *index.shape[2:])


def sample_points(image: Tensor, points: Tensor) -> Tensor:
    """Read image (C, D, H, W) linearly at a list of points (3, N) voxels of it, border repeated: (C, N).

    The same values as ``sample``, by eight gathers instead of ``grid_sample``, which on a CPU works 3-D volumes
    one scalar at a time: half the time for one channel, and it uses all threads. ``points`` is overwritten; they
    may be float64 over a float32 image, which keeps the positions exact at no cost.
    Every side of the image must be at least 2.
    """
    depth, height, width = image.shape[1:]
    corner, weight = [], []
    for axis, size in enumerate((depth, height, width)):
        lower = points[axis].clamp_(0, size - 1).floor().clamp_(max=size - 2)
        weight.append(points[axis].sub_(lower).to(image.dtype))
        corner.append(lower.to(torch.int32))
    base = corner[0].mul_(height).add_(corner[1]).mul_(width).add_(corner[2])
    plane = height * width
    out = torch.empty(image.shape[0], points.shape[1], dtype=image.dtype, device=image.device)
    for channel, flat in enumerate(image.reshape(image.shape[0], -1)):
        edges = []
        for offset in (0, width, plane, plane + width):
            left = flat[offset:].index_select(0, base)
            edges.append(left.lerp_(flat[offset + 1 :].index_select(0, base), weight[2]))
        near, far = edges[0].lerp_(edges[1], weight[1]), edges[2].lerp_(edges[3], weight[1])
        torch.lerp(near, far, weight[0], out=out[channel])
    return out


def warp(
    image: Tensor,
    u: Tensor,
    *,
    affine: Tensor | None = None,
    mode: Interpolation = "linear",
    fill: float | None = None,
) -> Tensor:
    """Warp image (B, C, ...) by u (B, 3, D, H, W) voxels: out(i) = image(affine(i + u(i))). (B, C, D, H, W).

    The image may lie on another grid than u when ``affine`` (B, 3, 4) leads from u's grid to the image's.
    """
    index = identity(u.shape[2:], device=u.device, dtype=u.dtype) + u
    return sample(image, index if affine is None else affine_index(affine, index), mode=mode, fill=fill)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement of (id + outer) o (id + inner): inner(i) + outer(i + inner(i)). All (B, 3, D, H, W).

    For images this is "warp by outer, then warp the result by inner", with one interpolation.
    """
    return inner + warp(outer, inner)


def exponential(velocity: Tensor, *, steps: int = 7) -> Tensor:
    """The displacement of exp(velocity) by scaling and squaring. (B, 3, D, H, W) voxels."""
    u = velocity / 2.0**steps
    for _ in range(steps):
        u = compose(u, u)
    return u


def separable(x: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Apply one (out, in) matrix along each axis of x (B, C, D, H, W): (B, C, d, h, w).

    Every resampling, smoothing and averaging here is separable; as dense matrices of at most a few hundred
    rows they are plain matrix products, several times faster on a CPU than depthwise convolutions.
    """
    batch, channels = x.shape[:2]
    depth, height, width = (m.to(x.device, x.dtype) for m in matrices)
    with torch.autocast(x.device.type, enabled=False):  # fields and local statistics never in half precision
        x = torch.matmul(height, torch.matmul(x, width.T))
        rows = x.shape[3:]
        x = torch.matmul(depth, x.reshape(batch, channels, x.shape[2], -1))
    out: Tensor = x.reshape(batch, channels, depth.shape[0], *rows)
    return out


def upsample(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """From one pyramid level to the next finer: out voxel j reads in at j / 2, border repeated.

    x (B, C, D, H, W); ``shape`` is the finer grid, with sides 2n or 2n - 1. Values are not rescaled.
    """
    d, h, w = (_doubling(n, size) for n, size in zip(x.shape[2:], shape, strict=True))
    return separable(x, (d, h, w))


@_kept
def _doubling(size: int, finer: int) -> Tensor:
    """(finer, size): linear reading at j / 2, clamped."""
    fine = torch.arange(finer)
    low = fine // 2
    high = torch.where(fine % 2 == 0, low, (low + 1).clamp(max=size - 1))
    matrix = torch.zeros(finer, size)
    matrix[fine, low] = 0.5
    matrix[fine, high] += 0.5
    return matrix


def upsample_field(u: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``upsample`` for displacements: values become voxels of the finer grid, hence exactly twice as large."""
    return 2.0 * upsample(u, shape)


def smooth(x: Tensor, sigma: float, *, stride: int = 1) -> Tensor:
    """Gaussian smoothing of x (B, C, D, H, W), sigma in voxels, cut at 3 sigma, border repeated.

    With ``stride`` only every stride-th voxel, from voxel 0 on, is computed.
    """
    d, h, w = (_gaussian(n, sigma, stride) for n in x.shape[2:])
    return separable(x, (d, h, w))


@_kept
def _gaussian(size: int, sigma: float, stride: int) -> Tensor:
    """(ceil(size / stride), size): normalised Gaussian rows; weights beyond the border fall on its voxel."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return _banded(size, (kernel / kernel.sum()).tolist(), stride, clamp=True)


def _banded(size: int, kernel: list[float], stride: int, *, clamp: bool) -> Tensor:
    """Rows of a centred kernel; what lies beyond the border is repeated (clamp) or taken as zero."""
    radius = len(kernel) // 2
    rows = torch.arange(0, size, stride)
    columns = rows[:, None] + torch.arange(-radius, radius + 1)
    weights = torch.tensor(kernel, dtype=torch.float64).expand(columns.shape)
    if not clamp:
        weights = weights * ((columns >= 0) & (columns < size))
    matrix = torch.zeros(len(rows), size, dtype=torch.float64)
    matrix.scatter_add_(1, columns.clamp(0, size - 1), weights)
    return matrix.to(torch.float32)


def downsample(image: Tensor) -> Tensor:
    """The next coarser pyramid level of an image (B, C, D, H, W): smoothed by one voxel, every second one kept."""
    return smooth(image, 1.0, stride=2)


def box_mean(x: Tensor, window: int, *, stride: int = 1) -> Tensor:
    """Mean of x (B, C, D, H, W) float32 over a cube of odd side ``window``, zeros outside.

    With ``stride`` only every stride-th voxel, from voxel 0 on, is computed.
    """
    d, h, w = (_box(n, window, stride) for n in x.shape[2:])
    return separable(x, (d, h, w))


@_kept
def _box(size: int, window: int, stride: int) -> Tensor:
    return _banded(size, [1.0 / window] * window, stride, clamp=False)


def jacobian(u: Tensor) -> Tensor:
    """d(i + u)/di by central differences (one-sided at the border): (B, 3, 3, D, H, W), rows are components."""
    columns = torch.gradient(u, dim=(2, 3, 4))
    matrix = torch.stack(columns, dim=2)
    eye = torch.eye(3, device=u.device, dtype=u.dtype).reshape(1, 3, 3, 1, 1, 1)
    return matrix + eye


def jacobian_determinant(u: Tensor) -> Tensor:
    """det d(i + u)/di: (B, D, H, W). Values <= 0 mark folds. The same in voxels and in mm."""
    return determinant(jacobian(u))


def determinant(m: Tensor) -> Tensor:
    """Determinants of (B, 3, 3, ...): (B, ...), written out because a batched LU is far slower."""
    return (
        m[:, 0, 0] * (m[:, 1, 1] * m[:, 2, 2] - m[:, 1, 2] * m[:, 2, 1])
        - m[:, 0, 1] * (m[:, 1, 0] * m[:, 2, 2] - m[:, 1, 2] * m[:, 2, 0])
        + m[:, 0, 2] * (m[:, 1, 0] * m[:, 2, 1] - m[:, 1, 1] * m[:, 2, 0])
    )


def smallest_determinant(u: Tensor) -> Tensor:
    """The least of the eight determinants of d(i + u)/di made of one-sided differences: (B, D, H, W).

    Positive everywhere means the map is one-to-one however its grid cells are differenced, so also by central
    differences at this spacing or a finer one ("digital diffeomorphism"). Outside the grid u repeats its border.
    """
    nodes = torch.arange(u[0, 0].numel(), device=u.device)
    return torch.stack([_smallest_at(one, nodes).reshape(one.shape[1:]) for one in u])


def _smallest_at(u: Tensor, nodes: Tensor, *, chunk: int = 16384) -> Tensor:
    """``smallest_determinant`` of u (3, D, H, W) at a list of flat indices (N,): (N,)."""
    parts = []
    for part in torch.split(nodes, chunk):  # what is computed from a part stays in the processor's cache
        along_d, along_h, along_w = _one_sided(u, part)
        values = []
        for b in along_h:
            for c in along_w:
                cross = (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0])
                values += [a[0] * cross[0] + a[1] * cross[1] + a[2] * cross[2] for a in along_d]
        parts.append(torch.stack(values).amin(0))
    return torch.cat(parts) if parts else u.new_zeros(0)


def _one_sided(u: Tensor, nodes: Tensor) -> list[tuple[Tensor, Tensor]]:
    # per axis: the column (3, N) of I + grad u, by backward and by forward differences
    flat = u.reshape(3, -1)
    here = flat.index_select(1, nodes)
    sides = []
    for axis, (before, after) in enumerate(_neighbours(u.shape[1:], nodes)):
        sides.append((here - flat.index_select(1, before), flat.index_select(1, after) - here))
        for column in sides[-1]:
            column[axis] += 1.0
    return sides


def _neighbours(shape: tuple[int, ...], nodes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Per axis, the flat indices before and after each of ``nodes``, border repeated."""
    pairs, stride = [], 1
    for size in reversed(shape):
        place = torch.div(nodes, stride, rounding_mode="floor") % size
        pairs.append((nodes - stride * (place > 0), nodes + stride * (place < size - 1)))
        stride *= size
    return pairs[::-1]


def unfold(u: Tensor, *, floor: float = 0.02, rounds: int = 150) -> Tensor:
    """u (B, 3, D, H, W) voxels, relaxed towards the mean of its neighbours where it folds or nearly does.

    Only neighbourhoods with ``smallest_determinant`` below ``floor`` change, a little at a time; they grow slowly
    until no such voxel is left, so the result has none. A field that has none comes back unchanged.
    """
    fields = list(u.clone())
    for index in range(len(fields)):
        sigma = 1.0
        while not relax_folds(fields[index], floor=floor, rounds=rounds):
            fields[index] = smooth(fields[index][None], sigma)[0] if sigma < 64.0 else torch.zeros_like(u[0])
            sigma *= 2.0
    return torch.stack(fields)


def relax_folds(u: Tensor, *, floor: float, rounds: int) -> bool:
    """Relax u (3, D, H, W) IN PLACE where ``smallest_determinant`` < ``floor``, in ``rounds`` sweeps; none left?"""
    shape, flat = u.shape[1:], u.view(3, -1)
    suspects = _steep(u, (1.0 - floor ** (1 / 3)) / 3)
    for turn in range(rounds):
        bad = suspects[_smallest_at(u, suspects) < floor]
        if not len(bad):
            return True
        around = _grow(shape, bad, 1 + turn // 12)
        neighbours = torch.cat([index for pair in _neighbours(shape, around) for index in pair])
        mean = flat.index_select(1, neighbours).view(3, 6, -1).mean(1)
        flat[:, around] = torch.lerp(flat.index_select(1, around), mean, 0.5)
        suspects = _grow(shape, around, 1)
    return False


def _steep(u: Tensor, bound: float) -> Tensor:
    """Flat indices of the voxels of u (3, D, H, W) with a one-sided difference above ``bound`` in size."""
    # elsewhere rows of grad u sum to at most 3 bound, so det >= (1 - 3 bound)**3: no need to look at most voxels
    steep = torch.zeros(u.shape[1:], dtype=torch.bool, device=u.device)
    for axis in range(3):
        step = (torch.diff(u, dim=axis + 1).abs() > bound).any(0)
        steep.narrow(axis, 0, step.shape[axis]).logical_or_(step)
        steep.narrow(axis, 1, step.shape[axis]).logical_or_(step)
    return steep.view(-1).nonzero()[:, 0]


def _grow(shape: tuple[int, ...], nodes: Tensor, steps: int) -> Tensor:
    """The nodes and their 6-neighbours, ``steps`` times: sorted flat indices."""
    for _ in range(steps):
        around = (index for pair in _neighbours(shape, nodes) for index in pair)
        nodes = torch.unique(torch.cat([nodes, *around]))
    return nodes
