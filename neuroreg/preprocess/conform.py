"""A pair onto the network grid, and what a method found back to the world.

The network grids: isotropic, each along the axes of its own image in the order and with the signs nearest to LPS
(``preprocess/onto.py``), one box for each image, centred on its brain, just large enough for it plus a margin. The
grid's voxels fall on the image's voxel centres where the spacings allow, so that a 1 mm image is re-ordered and
cropped, not blurred. For an image along the world's axes the grid is along them, too.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, UsageError
from neuroreg.parallel import workers
from neuroreg.preprocess import brain, masks
from neuroreg.preprocess.onto import along, axes_along, onto, own_axes
from neuroreg.preprocess.recall import recalled
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import IDENTITY_DIRECTION, Geometry, Volume

_CLOSE_MM = 4.0  # clefts in the brain mask up to this width are closed
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
    """Both images, each on its own network grid, along its own axes; no affine is applied.

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
    rule = (spacing_mm, divisor, margin_mm)
    return network_grid(
        boxed, where, *rule, aligned_with=volume.geometry, direction=own_axes(volume.geometry)
    )


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
    own = own_axes(volume.geometry)
    grid = network_grid(boxed, where, *rule, aligned_with=volume.geometry, direction=own)
    radius = max(1, round(_CLOSE_MM / 2 / rule[0]))
    inside = brain.close_and_fill(onto(front, volume.geometry, grid) > 0.5, radius=radius)
    image = onto(data, volume.geometry, grid, smooth=True)
    counts = None if mask is None else onto(mask.data > 0, mask.geometry, grid) >= 0.5
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
    direction: tuple[float, ...] = IDENTITY_DIRECTION,
) -> Geometry:
    """The isotropic grid around ``front`` (1, Z, Y, X) bool on ``geometry``, ``margin_mm`` free on every side.

    Its axes run along ``direction``, by default the world's, LPS. Sides are multiples of ``divisor``, none shorter than
    16 voxels; voxels fall on the centres of ``aligned_with`` where its axes run along the grid's and ``spacing_mm`` is
    a multiple of its spacing. Raises DataError.
    """
    low, high = _extent_mm(front, geometry, direction)
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
        origin.append(_snap(start, axis, spacing_mm, aligned_with, direction))
    turn = torch.tensor(direction, dtype=torch.float64).reshape(3, 3)
    x, y, z = (turn @ torch.tensor(origin, dtype=torch.float64)).tolist()
    return Geometry((size[0], size[1], size[2]), (spacing_mm,) * 3, (x, y, z), direction)


def _extent_mm(front: Tensor, geometry: Geometry, direction: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The box along ``direction``, two (3,) corners in mm along its axes, of the voxels set in front (1, Z, Y, X)."""
    rows = front[0].any(dim=2).nonzero()  # (N, 2) z, y of every row that holds something
    if len(rows) == 0:
        raise DataError("the mask is empty", remedy="give a mask with voxels above 0")
    lines = front[0][rows[:, 0], rows[:, 1]].to(torch.uint8)
    first, last = lines.argmax(dim=1), lines.shape[1] - 1 - lines.flip(1).argmax(dim=1)
    # A linear map is extreme at the ends of rows, so the ends are all it takes, oblique or not.
    ends = [torch.stack((x, rows[:, 1], rows[:, 0]), dim=1) for x in (first, last)]
    index = torch.cat(ends).to(torch.float64)
    turn = torch.tensor(direction, dtype=torch.float64).reshape(3, 3)
    matrix = turn.T @ geometry.voxel_to_world[:3]
    points = index @ matrix[:, :3].T + matrix[:, 3]
    return points.amin(dim=0), points.amax(dim=0)


def _snap(
    start: float, axis: int, spacing_mm: float, geometry: Geometry, direction: tuple[float, ...]
) -> float:
    """``start`` moved by less than a voxel onto the voxel centres of an aligned image, where that helps."""
    order = axes_along(geometry, direction)
    if order is None:
        return start
    step = geometry.spacing[order[axis][0]]
    ratio = spacing_mm / step
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-4:
        return start
    # Ties fall the same way wherever the image's first voxel is, so that re-oriented files get the same grid.
    corner = along(geometry.origin, direction)[axis]
    return corner + math.floor((start - corner) / step + 0.5 - 1e-6) * step


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
