"""Voxel-frame calculus: sampling, warping, composing, resizing, inverting and measuring displacement fields.

Everything here is in the network frame: images (B, C, D, H, W); displacements u (B, 3, D, H, W) in voxels of
their own grid, components in tensor-axis order (d, h, w), pull-back: warped(i) = moving(i + u(i)).
Voxel i of pyramid level l lies on full-resolution voxel i * 2**l.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["linear", "nearest"]


def identity(
    shape: tuple[int, ...], *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The voxel indices of a grid: (1, 3, D, H, W), components (d, h, w)."""
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def affine_index(affine: Tensor, index: Tensor) -> Tensor:
    """Apply affine (B, 3, 4), voxel frame, to index (B, 3, ...) voxels."""
    rest = (1,) * (index.ndim - 2)
    moved = torch.einsum("bij,bj...->bi...", affine[:, :, :3].to(index.dtype), index)
    return moved + affine[:, :, 3].to(index.dtype).reshape(-1, 3, *rest)


def sample(
    image: Tensor, index: Tensor, *, mode: Interpolation = "linear", fill: float | None = None
) -> Tensor:
    """Read image (B, C, D, H, W) at index (B, 3, d, h, w) voxels of that image; returns (B, C, d, h, w).

    ``fill=None`` repeats the border. A number is used where the index lies outside [-1/2, n - 1/2], which is
    ITK's rule: half a voxel beyond the outermost centres still counts as inside and is clamped.
    Nearest rounds halves up as ITK does and keeps any dtype exact.
    """
    values = _linear(image, index) if mode == "linear" else _nearest(image, index)
    return values if fill is None else torch.where(inside(index, image.shape[2:]), values, fill)


def inside(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Whether index (B, 3, ...) lies inside [-1/2, n - 1/2] on every axis: (B, 1, ...) bool."""
    ok = [(index[:, a] >= -0.5) & (index[:, a] <= n - 0.5) for a, n in enumerate(shape)]
    return (ok[0] & ok[1] & ok[2])[:, None]


def _linear(image: Tensor, index: Tensor) -> Tensor:
    # The one place with normalised coordinates: component order (w, h, d), -1 and 1 on the outermost centres.
    scale = [2.0 / max(n - 1, 1) for n in image.shape[2:]]
    grid = torch.stack([index[:, a] * scale[a] - 1.0 for a in (2, 1, 0)], dim=-1).to(image.dtype)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _nearest(image: Tensor, index: Tensor) -> Tensor:
    batch, channels, depth, height, width = image.shape
    d, h, w = (
        torch.floor(index[:, a] + 0.5).long().clamp_(0, n - 1)
        for a, n in enumerate((depth, height, width))
    )
    flat = ((d * height + h) * width + w).reshape(batch, 1, -1).expand(-1, channels, -1)
    return image.reshape(batch, channels, -1).gather(2, flat).reshape(batch, channels, *index.shape[2:])


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


def invert(u: Tensor, *, iterations: int = 20) -> Tensor:
    """The v with v(i) = -u(i + v(i)), by fixed-point iteration from v = -u. (B, 3, D, H, W) voxels."""
    v = -u
    for _ in range(iterations):
        v = -warp(u, v)
    return v


def exponential(velocity: Tensor, *, steps: int = 7) -> Tensor:
    """The displacement of exp(velocity) by scaling and squaring. (B, 3, D, H, W) voxels."""
    u = velocity / 2**steps
    for _ in range(steps):
        u = compose(u, u)
    return u


def upsample(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """From one pyramid level to the next finer: out voxel j reads in at j / 2, border repeated.

    x (B, C, D, H, W); ``shape`` is the finer grid, with sides 2n or 2n - 1. Values are not rescaled.
    """
    for axis, size in zip((2, 3, 4), shape, strict=True):
        following = torch.cat((x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, x.shape[axis] - 1, 1)), axis)
        pairs = torch.stack((x, (x + following) * 0.5), dim=axis + 1)
        x = pairs.flatten(axis, axis + 1).narrow(axis, 0, size)
    return x


def upsample_field(u: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``upsample`` for displacements: values become voxels of the finer grid, hence exactly twice as large."""
    return 2.0 * upsample(u, shape)


def smooth(x: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of x (B, C, D, H, W), sigma in voxels, cut at 3 sigma, border repeated."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    batch, channels = x.shape[:2]
    x = x.reshape(batch * channels, 1, *x.shape[2:])
    for axis in range(3):
        pad = [0] * 6
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = 2 * radius + 1
        x = F.conv3d(F.pad(x, pad, mode="replicate"), kernel.reshape(shape))
    return x.reshape(batch, channels, *x.shape[2:])


def downsample(image: Tensor) -> Tensor:
    """The next coarser pyramid level of an image (B, C, D, H, W): smoothed by one voxel, every second one kept."""
    return smooth(image, 1.0)[:, :, ::2, ::2, ::2]


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
