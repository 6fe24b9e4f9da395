"""A pair onto the network grid, and what a method found back to the world.

The network grids: isotropic, axes along LPS world axes, one box for each image, centred on its brain, just large
enough for it plus a margin. Where the image is itself axis-aligned the grid's voxels fall on its voxel centres, so
that a 1 mm image is re-ordered and cropped, not blurred.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, UsageError
from neuroreg.parallel import workers
from neuroreg.preprocess import brain, masks
from neuroreg.preprocess.recall import recalled
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import Geometry, Volume

_CLOSE_MM = 4.0  # clefts in the brain mask up to this width are closed
_ALIGNED = (
    1e-5  # largest deviation of a direction cosine from 0 or 1 that counts as axis-aligned: 2 um in 200 mm
)
_SNAP = 1e-3  # voxel positions this close to a voxel centre are read there
_STEPS = 2.0**20  # of a voxel: the other way round the weights are the same to the last bit
_UNFOLD_ROUNDS = 8
_MAX_SIDE = 768  # voxels; a larger box is a wrong header or a spacing far too fine


@dataclass(frozen=True)
class Conformed:
    """A pair on its network grids; the intensities 0..1.275, every mask bool."""

    fixed: Tensor
    """(1, 1, D, H, W) float32"""
    moving: Tensor
    """(1, 1, d, h, w) float32"""
    fixed_grid: Geometry
    moving_grid: Geometry
    fixed_mask: Tensor
    """(1, 1, D, H, W) bool: the given mask, else the brain (stripped images) or the head"""
    moving_mask: Tensor
    """(1, 1, d, h, w) bool"""
    fixed_counts: Tensor | None = None
    """(1, 1, D, H, W) bool: False where data must not count, as the given mask has it; None without a mask"""
    moving_counts: Tensor | None = None
    """(1, 1, d, h, w) bool, likewise"""
    fixed_rest: Tensor | None = None
    """(1, 1, D, H, W) bool: left out by the mask and yet to be seen in the image; None: nothing is"""
    moving_rest: Tensor | None = None
    """(1, 1, d, h, w) bool, likewise"""

    def blanked(self) -> "Conformed":
        """The same pair with 0 in whatever a mask leaves out, for methods that cannot weigh."""
        return replace(
            self,
            fixed=self.fixed if self.fixed_rest is None else self.fixed * ~self.fixed_rest,
            moving=self.moving if self.moving_rest is None else self.moving * ~self.moving_rest,
        )


def conform(
    fixed: Volume,
    moving: Volume,
    *,
    spacing_mm: float,
    divisor: int,
    margin_mm: float = 10.0,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
) -> Conformed:
    """Both images, each on its own network grid; no affine is applied.

    Sides are multiples of ``divisor``. Images finer than ``spacing_mm`` are smoothed first. A mask says which data
    count; it sets the intensity scale and, of a whole head, the box. A lesion it leaves out is filled in from
    around it (zeros would pull harder than the lesion did); the skull goes when the other image has none either.
    Raises DataError for images that are empty or not finite, UsageError for impossible options.
    """
    if spacing_mm <= 0 or divisor < 1 or margin_mm < 0:
        raise UsageError(f"no grid has spacing {spacing_mm} mm, divisor {divisor} and margin {margin_mm} mm")
    rule = (spacing_mm, divisor, margin_mm)
    with workers(fixed.data.device) as team:
        one, two = team.both(
            lambda: recalled(fixed, fixed_mask, rule, lambda: _conform_one(fixed, fixed_mask, rule)),
            lambda: _conform_one(moving, moving_mask, rule),
        )
    # Skulls are taken away on both sides or on neither: a brain fits no head.
    bare = one.bare and two.bare
    fixed_image, fixed_counts, fixed_rest = one.leave_out(bare=bare)
    moving_image, moving_counts, moving_rest = two.leave_out(bare=bare)
    return Conformed(
        fixed=fixed_image, moving=moving_image, fixed_grid=one.grid, moving_grid=two.grid,
        fixed_mask=one.inside, moving_mask=two.inside, fixed_counts=fixed_counts, moving_counts=moving_counts,
        fixed_rest=fixed_rest, moving_rest=moving_rest,
    )  # fmt: skip


def grid_around(
    volume: Volume, mask: Volume | None, *, spacing_mm: float, divisor: int, margin_mm: float = 10.0
) -> Geometry:
    """The network grid that ``conform`` puts one image on, without reading the image there. Raises DataError."""
    boxed, where = _boxed(volume, brain.foreground(volume), mask)
    return network_grid(boxed, where, spacing_mm, divisor, margin_mm, aligned_with=volume.geometry)


def _conform_one(volume: Volume, mask: Volume | None, rule: tuple[float, int, float]) -> masks.Side:
    if volume.data.shape[0] != 1:
        raise DataError(f"expected one channel, got {volume.data.shape[0]}")
    data = volume.data.to(torch.float32)
    if not torch.isfinite(data.sum(dtype=torch.float64)):
        raise DataError("the image holds NaN or infinite voxels", remedy="replace them first")
    volume = Volume(data, volume.geometry)
    front = brain.foreground(volume)
    if data.min() < 0:  # z-scores or CT: lift to 0 and up, the background stays the darkest
        data = torch.where(front, data - data[front].min(), torch.zeros(()))
        volume = Volume(data, volume.geometry)
    boxed, where = _boxed(volume, front, mask)
    grid = network_grid(boxed, where, *rule, aligned_with=volume.geometry)
    radius = max(1, round(_CLOSE_MM / 2 / rule[0]))
    inside = brain.close_and_fill(_onto(front, volume.geometry, grid) > 0.5, radius=radius)
    image = _onto(data, volume.geometry, grid, smooth=True)
    counts = None if mask is None else _onto(mask.data > 0, mask.geometry, grid) >= 0.5
    return masks.side(image, inside, counts, grid, stripped=brain.looks_stripped(volume), radius=radius)


def _boxed(volume: Volume, front: Tensor, mask: Volume | None) -> tuple[Tensor, Geometry]:
    """What the box is put around, and its grid: the head or brain, of a whole head what its mask holds of it."""
    if mask is None or brain.looks_stripped(volume):
        return front, volume.geometry
    inside = mask.data > 0
    return inside & front if mask.geometry.same_grid(volume.geometry) else inside, mask.geometry


def network_grid(
    front: Tensor,
    geometry: Geometry,
    spacing_mm: float,
    divisor: int,
    margin_mm: float,
    *,
    aligned_with: Geometry,
) -> Geometry:
    """The isotropic LPS grid around ``front`` (1, Z, Y, X) bool on ``geometry``, ``margin_mm`` free on every side.

    Sides are multiples of ``divisor``, none shorter than 16 voxels; voxels fall on the centres of ``aligned_with``
    where its axes run along the world's and ``spacing_mm`` is a multiple of its spacing. Raises DataError.
    """
    low, high = _extent_mm(front, geometry)
    size, origin = [], []
    for axis in range(3):
        length = float(high[axis] - low[axis]) + 2 * margin_mm
        count = -(-max(int(length / spacing_mm - 1e-6) + 2, 16) // divisor) * divisor
        if count > _MAX_SIDE:
            raise DataError(
                f"the image spans {length:.0f} mm, {count} voxels", remedy="check its spacing and units"
            )
        start = float(low[axis] + high[axis]) / 2 - (count - 1) * spacing_mm / 2
        size.append(count)
        origin.append(_snap(start, axis, spacing_mm, aligned_with))
    return Geometry((size[0], size[1], size[2]), (spacing_mm,) * 3, (origin[0], origin[1], origin[2]))


def _extent_mm(front: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The world box, two (3,) corners in LPS mm, of the voxels set in front (1, Z, Y, X)."""
    rows = front[0].any(dim=2).nonzero()  # (N, 2) z, y of every row that holds something
    if len(rows) == 0:
        raise DataError("the mask is empty", remedy="give a mask with voxels above 0")
    lines = front[0][rows[:, 0], rows[:, 1]].to(torch.uint8)
    first, last = lines.argmax(dim=1), lines.shape[1] - 1 - lines.flip(1).argmax(dim=1)
    # A linear map is extreme at the ends of rows, so the ends are all it takes, oblique or not.
    ends = [torch.stack((x, rows[:, 1], rows[:, 0]), dim=1) for x in (first, last)]
    index = torch.cat(ends).to(torch.float64)
    matrix = geometry.voxel_to_world
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    return points.amin(dim=0), points.amax(dim=0)


def _snap(start: float, axis: int, spacing_mm: float, geometry: Geometry) -> float:
    """``start`` moved by less than a voxel onto the voxel centres of an aligned image, where that helps."""
    order = _world_axes(geometry)
    if order is None:
        return start
    step = geometry.spacing[order[axis][0]]
    ratio = spacing_mm / step
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-4:
        return start
    # Ties fall the same way wherever the image's first voxel is, so that re-oriented files get the same grid.
    return geometry.origin[axis] + math.floor((start - geometry.origin[axis]) / step + 0.5 - 1e-6) * step


def _world_axes(geometry: Geometry) -> tuple[tuple[int, int], ...] | None:
    """For each world axis x, y, z the voxel axis along it and its sign; None for an oblique image."""
    direction = torch.tensor(geometry.direction, dtype=torch.float64).reshape(3, 3)
    nearest = direction.abs().argmax(dim=1)
    clean = torch.zeros(3, 3, dtype=torch.float64)
    clean[torch.arange(3), nearest] = direction[torch.arange(3), nearest].sign()
    if len(set(nearest.tolist())) < 3 or (direction - clean).abs().max() > _ALIGNED:
        return None
    return tuple((int(axis), int(clean[row, axis])) for row, axis in enumerate(nearest))


def _onto(data: Tensor, geometry: Geometry, grid: Geometry, *, smooth: bool = False) -> Tensor:
    """data (1, Z, Y, X) on ``geometry`` read linearly on ``grid``, 0 outside: (1, 1, D, H, W) float32.

    With ``smooth``, axes finer than the grid are blurred first, so that nothing aliases.
    """
    x = data[0].to(torch.float32)
    blurs = [
        _blur(n, h, grid.spacing[0]) if smooth else None
        for n, h in zip(geometry.size, geometry.spacing, strict=True)
    ]
    order = _world_axes(geometry)
    if order is None:
        for axis, blur in enumerate(blurs):
            x = x if blur is None else _along(x, blur, 2 - axis)
        return _oblique(x, geometry, grid)
    x = x.permute([2 - order[axis][0] for axis in (2, 1, 0)])  # (z, y, x) of the world, and rising:
    # however a file is stored, the same numbers go the same way from here.
    x = x.flip([2 - axis for axis, (_, sign) in enumerate(order) if sign < 0])
    for axis, (voxel_axis, sign) in enumerate(order):
        step, count = geometry.spacing[voxel_axis], geometry.size[voxel_axis]
        first = geometry.origin[axis] - (step * (count - 1) if sign < 0 else 0.0)
        offset = (grid.origin[axis] - first) / step
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


def affine_to_world(affine: Tensor, fixed_grid: Geometry, moving_grid: Geometry) -> Affine:
    """An affine (1, 3, 4) from fixed to moving network voxels (d, h, w) as a map of LPS mm."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = affine[0].to("cpu", torch.float64)
    flip = _axis_flip()
    return Affine(moving_grid.voxel_to_world @ flip @ matrix @ flip @ fixed_grid.world_to_voxel)


def affine_to_voxels(affine: Affine, fixed_grid: Geometry, moving_grid: Geometry) -> Tensor:
    """A map of LPS mm as (1, 3, 4) float64 from fixed to moving network voxels (d, h, w)."""
    flip = _axis_flip()
    matrix = flip @ moving_grid.world_to_voxel @ affine.matrix @ fixed_grid.voxel_to_world @ flip
    return matrix[None, :3]


def _axis_flip() -> Tensor:
    """(4, 4): components (x, y, z, 1) <-> (d, h, w, 1)."""
    flip = torch.zeros(4, 4, dtype=torch.float64)
    flip[0, 2] = flip[1, 1] = flip[2, 0] = flip[3, 3] = 1.0
    return flip


def residual_to_world(
    u: Tensor, level: int, fixed_grid: Geometry, *, taper_mm: float = 8.0
) -> DisplacementField:
    """A residual u (1, 3, D, H, W), voxels of pyramid level ``level``, as a field on ``fixed_grid.level(level)``.

    ITK takes u = 0 outside a field's grid, so u is led to 0 over the outermost ``taper_mm``, which the brain does
    not reach when the margin is at least as wide. Raises DataError when u is on another grid.
    """
    grid = fixed_grid.level(level)
    if tuple(u.shape) != (1, 3, *grid.shape):
        raise DataError(f"expected a residual (1, 3, *{grid.shape}) on level {level}, got {tuple(u.shape)}")
    led = taper(u.to("cpu"), taper_mm / grid.spacing[0])
    for _ in range(_UNFOLD_ROUNDS):  # rarely needed: a wild field that leaves the grid near an edge
        if bool(field.jacobian_determinant(led).min() > 0):
            break
        led = field.unfold(led, floor=0.05) * _within(led)
    return DisplacementField.from_voxels(led, grid)


def _within(u: Tensor) -> Tensor:
    """0 on the outermost voxels of u's grid, 1 elsewhere: (1, 1, D, H, W)."""
    ones = torch.ones([max(n - 2, 0) for n in u.shape[2:]], dtype=u.dtype)
    return torch.nn.functional.pad(ones, [1] * 6)[None, None]


def taper(u: Tensor, width: float) -> Tensor:
    """u (1, 3, D, H, W) voxels led to 0 at the rim; where it is already small there it is left alone.

    Across a face it is cut to 0.9 of the distance left to that face, wherever that is: order along that axis is
    kept (1 + du/dx >= 0.1), so cutting makes no fold. Along a face it fades as a smooth step of ``width`` voxels,
    which only shears.
    """
    distances = []
    for axis, count in enumerate(u.shape[2:]):
        index = torch.arange(count, dtype=u.dtype)
        shape = [count if a == axis else 1 for a in range(3)]
        distances.append(torch.minimum(index, count - 1 - index).reshape(shape))
    fades = [_smooth_step(d / max(width, 1.0)) for d in distances]
    parts = []
    for axis, limit in enumerate(distances):
        across = torch.minimum(torch.maximum(u[:, axis], -0.9 * limit), 0.9 * limit)
        parts.append(across * fades[axis - 1] * fades[axis - 2])
    return torch.stack(parts, dim=1)


def _smooth_step(x: Tensor) -> Tensor:
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)
