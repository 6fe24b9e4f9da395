"""Which way the axes of a network grid run, and an image read on it.

A grid runs along its image's own axes, in the order and with the signs that come nearest to the world's. So the image
is read one axis at a time, never between rows, and a motion that is told by the header alone moves the grid with it.
"""

import itertools

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.volume import IDENTITY_DIRECTION, Geometry

_ALIGNED = 1e-5  # largest deviation of a direction cosine from 0 or 1 that counts as aligned: 2 um in 200 mm
_SNAP = 1e-3  # voxel positions this close to a voxel centre are read there
_STEPS = 2.0**20  # of a voxel: the other way round the weights are the same to the last bit


def own_axes(geometry: Geometry) -> tuple[float, ...]:
    """The direction, nine cosines, of a grid along the axes of ``geometry``: the proper rotation that turns least.

    However a file stores its axes it is the same; left stays left. Axes along the world's give the identity exactly,
    axes that are sheared a little the nearest ones at right angles; of two that turn as little, always the same one.
    """
    if axes_along(geometry, IDENTITY_DIRECTION) is not None:
        return IDENTITY_DIRECTION
    left, _, right = torch.linalg.svd(_matrix(geometry.direction))
    signs = torch.cartesian_prod(*([torch.tensor([1.0, -1.0], dtype=torch.float64)] * 3))
    orders = [list(order) for order in itertools.permutations(range(3))]
    ways = torch.cat([(left @ right)[:, order] * signs[:, None, :] for order in orders])
    proper = ways[torch.linalg.det(ways) > 0].reshape(-1, 9).tolist()
    nearest = max(proper, key=lambda way: [round(x, 6) for x in (way[0] + way[4] + way[8], *way)])
    return tuple(nearest)


def axes_along(geometry: Geometry, direction: tuple[float, ...]) -> tuple[tuple[int, int], ...] | None:
    """For each axis x, y, z of ``direction`` the voxel axis along it and its sign; None where they are oblique."""
    cosines = _matrix(direction).T @ _matrix(geometry.direction)
    nearest = cosines.abs().argmax(dim=1)
    clean = torch.zeros(3, 3, dtype=torch.float64)
    clean[torch.arange(3), nearest] = cosines[torch.arange(3), nearest].sign()
    if len(set(nearest.tolist())) < 3 or (cosines - clean).abs().max() > _ALIGNED:
        return None
    return tuple((int(axis), int(clean[row, axis])) for row, axis in enumerate(nearest))


def along(point: tuple[float, float, float], direction: tuple[float, ...]) -> tuple[float, float, float]:
    """LPS mm (x, y, z) measured along the axes of ``direction``, mm."""
    x, y, z = (_matrix(direction).T @ torch.tensor(point, dtype=torch.float64)).tolist()
    return (x, y, z)


def _matrix(direction: tuple[float, ...]) -> Tensor:
    """(3, 3) float64."""
    return torch.tensor(direction, dtype=torch.float64).reshape(3, 3)


def onto(data: Tensor, geometry: Geometry, grid: Geometry, *, smooth: bool = False) -> Tensor:
    """data (1, Z, Y, X) on ``geometry`` read linearly on ``grid``, 0 outside: (1, 1, D, H, W) float32.

    With ``smooth``, axes finer than the grid are blurred first, so that nothing aliases.
    """
    x = data[0].to(torch.float32)
    blurs = [
        _blur(n, h, grid.spacing[0]) if smooth else None
        for n, h in zip(geometry.size, geometry.spacing, strict=True)
    ]
    order = axes_along(geometry, grid.direction)
    if order is None:
        for axis, blur in enumerate(blurs):
            x = x if blur is None else _along(x, blur, 2 - axis)
        return _oblique(x, geometry, grid)
    x = x.permute([2 - order[axis][0] for axis in (2, 1, 0)])  # (z, y, x) of the grid, and rising:
    # however a file is stored, the same numbers go the same way from here.
    x = x.flip([2 - axis for axis, (_, sign) in enumerate(order) if sign < 0])
    start, corner = along(grid.origin, grid.direction), along(geometry.origin, grid.direction)
    for axis, (voxel_axis, sign) in enumerate(order):
        step, count = geometry.spacing[voxel_axis], geometry.size[voxel_axis]
        first = corner[axis] - (step * (count - 1) if sign < 0 else 0.0)
        offset = (start[axis] - first) / step
        reader = _reader(count, grid.size[axis], offset, grid.spacing[axis] / step)
        blur = blurs[voxel_axis]
        x = _along(x, reader if blur is None else reader @ blur, 2 - axis)
    return x[None, None].contiguous()


def _oblique(x: Tensor, geometry: Geometry, grid: Geometry) -> Tensor:
    matrix = geometry.world_to_voxel @ grid.voxel_to_world
    flipped = torch.cat((matrix[:3, :3].flip(0, 1), matrix[:3, 3:].flip(0)), dim=1)[None]
    index = field.affine_index(flipped, field.identity(grid.shape))
    return field.sample(x[None, None], index, fill=0.0)


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """matrix (m, n) applied along one axis of x (., ., .) with n voxels there."""
    used = matrix.any(dim=0).nonzero()
    if len(used) == 0:
        return x.new_zeros([len(matrix) if a == axis else n for a, n in enumerate(x.shape)])
    if bool(((matrix == 0) | (matrix == 1)).all()):
        # re-ordering and cropping: exact, and quicker than a product
        picked = x.index_select(axis, matrix.argmax(dim=1))
        return picked.index_fill_(axis, (~matrix.any(dim=1)).nonzero()[:, 0], 0)
    low, high = int(used[0]), int(used[-1]) + 1
    part = x.narrow(axis, low, high - low)
    out: Tensor = torch.tensordot(matrix[:, low:high].to(x.dtype), part, dims=([1], [axis]))
    return out.movedim(0, axis)


def _reader(n_in: int, n_out: int, offset: float, step: float) -> Tensor:
    """(n_out, n_in) float64: linear interpolation at offset + j step; nothing outside [-1/2, n_in - 1/2]."""
    position = offset + step * torch.arange(n_out, dtype=torch.float64)
    position = (position * _STEPS).round() / _STEPS
    centre = position.round()
    position = torch.where((position - centre).abs() < _SNAP, centre, position)
    inside = (position >= -0.5) & (position <= n_in - 0.5)
    position = position.clamp(0, n_in - 1)
    distance = (position[:, None] - torch.arange(n_in, dtype=torch.float64)).abs()
    return (1 - distance).clamp_min(0) * inside[:, None]


def _blur(count: int, spacing_mm: float, onto_mm: float) -> Tensor | None:
    """(n, n) float64 Gaussian that takes ``spacing_mm`` to the resolution of ``onto_mm``; None if that is finer.

    Its variance is that of a Gaussian of half a voxel at the new spacing less that at the old one.
    """
    if onto_mm <= spacing_mm * (1 + 1e-4):
        return None
    sigma = 0.5 * (onto_mm**2 - spacing_mm**2) ** 0.5 / spacing_mm
    index = torch.arange(count, dtype=torch.float64)
    distance = (index[:, None] - index).abs()
    weight: Tensor = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= max(1.0, 3 * sigma))
    return weight / weight.sum(dim=1, keepdim=True)
