"""World-frame maps. Points are (..., 3) LPS mm, components (x, y, z); T(p_fixed) = p_moving (pull-back).

A transform never resamples and never touches a file; ``resample`` is the only verb that makes a new image.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.inverse import invert
from neuroreg.volume import Geometry, Volume

_SLAB_POINTS = 250_000  # points resampled at once: 6 MB per array of float64 coordinates
_INDEX_STEPS = 2.0**26


class Transform(Protocol):
    """A map from fixed to moving world points."""

    def __call__(self, points: Tensor) -> Tensor:
        """(..., 3) LPS mm -> (..., 3) LPS mm, float64."""
        ...

    def inverse(self) -> "Transform":
        """The map from moving to fixed points."""
        ...


@dataclass(frozen=True)
class Affine:
    """p -> matrix[:3, :3] p + matrix[:3, 3]."""

    matrix: Tensor
    """(4, 4) float64, LPS mm"""

    def __post_init__(self) -> None:
        if self.matrix.shape != (4, 4) or self.matrix.dtype != torch.float64:
            raise DataError(
                f"an affine is (4, 4) float64, got {tuple(self.matrix.shape)} {self.matrix.dtype}"
            )

    def __call__(self, points: Tensor) -> Tensor:
        """(..., 3) LPS mm -> (..., 3) LPS mm."""
        return points.to(torch.float64) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def inverse(self) -> "Affine":
        """The inverse affine. Raises DataError when the matrix is singular."""
        if abs(float(torch.linalg.det(self.matrix))) < 1e-12:
            raise DataError("the affine is singular and has no inverse")
        return Affine(torch.linalg.inv(self.matrix))


@dataclass(frozen=True)
class DisplacementField:
    """p -> p + u(p), u linear between voxels and zero outside the grid, as in ITK."""

    data: Tensor
    """(3, Z, Y, X) float32, LPS mm, components (x, y, z)"""
    geometry: Geometry

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != (3, *self.geometry.shape):
            raise DataError(
                f"expected a field (3, Z, Y, X) on {self.geometry.shape}, got {tuple(self.data.shape)}"
            )

    def __call__(self, points: Tensor) -> Tensor:
        """(..., 3) LPS mm -> (..., 3) LPS mm."""
        points = points.to(torch.float64)
        index = world_to_index(points, self.geometry)
        u = field.sample(self.data[None].to(torch.float64), index, fill=0.0)
        return points + u[0].movedim(0, -1).reshape(points.shape)

    def inverse(self) -> "DisplacementField":
        """The inverse on the same grid, by fixed-point iteration in the voxel frame."""
        return DisplacementField.from_voxels(invert(self.to_voxels()), self.geometry)

    @staticmethod
    def from_voxels(u: Tensor, geometry: Geometry) -> "DisplacementField":
        """The gate from the network frame: u (1, 3, D, H, W) voxels (d, h, w) of ``geometry`` -> LPS mm."""
        matrix = geometry.voxel_to_world[:3, :3].to(torch.float64)
        data = torch.einsum("ij,jzyx->izyx", matrix, u[0].flip(0).to("cpu", torch.float64))
        return DisplacementField(data.to(torch.float32), geometry)

    def to_voxels(self) -> Tensor:
        """The gate to the network frame: (1, 3, D, H, W) float32 voxels of the field's own grid, (d, h, w)."""
        matrix = self.geometry.world_to_voxel[:3, :3]
        u = torch.einsum("ij,jzyx->izyx", matrix, self.data.to(torch.float64))
        return u.flip(0)[None].to(torch.float32)


@dataclass(frozen=True)
class Chain:
    """Maps applied to the point one after the other, first to last."""

    parts: tuple[Transform, ...]

    def __call__(self, points: Tensor) -> Tensor:
        """(..., 3) LPS mm -> (..., 3) LPS mm."""
        for part in self.parts:
            points = part(points)
        return points

    def then(self, part: Transform) -> "Chain":
        """A longer chain; this one is unchanged."""
        return Chain((*self.parts, part))

    def inverse(self) -> "Chain":
        """The inverses, in reverse order."""
        return Chain(tuple(part.inverse() for part in reversed(self.parts)))


def world_to_index(points: Tensor, geometry: Geometry) -> Tensor:
    """LPS mm points (..., 3) -> voxel index of ``geometry`` for field.sample: (1, 3, 1, 1, N) or (1, 3, a, b, c)."""
    matrix = geometry.world_to_voxel
    index = points @ matrix[:3, :3].T + matrix[:3, 3]
    shape = points.shape[:-1] if points.ndim == 4 else (1, 1, points.numel() // 3)
    return index.reshape(*shape, 3).movedim(-1, 0).flip(0)[None]


def resample(
    moving: Volume,
    transform: Transform,
    onto: Geometry,
    *,
    fill: float = 0.0,
    mode: field.Interpolation = "linear",
) -> Volume:
    """The moving volume on the grid ``onto``: out(p) = moving(transform(p)), interpolated once.

    Label maps are always read by nearest neighbour, whatever ``mode`` says. Outside the moving image: ``fill``.
    """
    labels = moving.is_label
    data = moving.data if labels else moving.data.to(torch.float32)
    out = torch.empty((data.shape[0], *onto.shape), dtype=data.dtype)
    to_index, parts = moving.geometry.world_to_voxel, _leaves(transform)
    for rows in _slabs(onto):
        matrix, moved = _follow(parts, onto, rows)
        index = _affine_points(to_index @ matrix, onto, rows)
        if moved is not None:
            index += to_index[:3, :3] @ moved
        values = _read(data, index, fill=fill, nearest=labels or mode == "nearest")
        out[:, rows.start : rows.stop] = values.reshape(-1, len(rows), *onto.shape[1:])
    return Volume(out, onto, is_label=labels)


def total_field(transform: Transform, onto: Geometry) -> DisplacementField:
    """Any map written out as one displacement field on the grid ``onto``: u(p) = transform(p) - p."""
    data, parts = torch.empty((3, *onto.shape), dtype=torch.float32), _leaves(transform)
    for rows in _slabs(onto):
        matrix, moved = _follow(parts, onto, rows)
        u = _affine_points(matrix - onto.voxel_to_world, onto, rows)
        if moved is not None:
            u += moved
        data[:, rows.start : rows.stop] = u.reshape(3, len(rows), *onto.shape[1:])
    return DisplacementField(data, onto)


def _slabs(onto: Geometry) -> list[range]:
    """Ranges of slices small enough that what is made of them stays in the cache."""
    x, y, z = onto.size
    rows = max(1, _SLAB_POINTS // (x * y))
    return [range(start, min(start + rows, z)) for start in range(0, z, rows)]


def _affine_points(matrix: Tensor, onto: Geometry, rows: range) -> Tensor:
    """matrix (4, 4) applied to the voxel indices (x, y, z) of the slices ``rows`` of ``onto``: (3, N) float64."""
    x = torch.arange(onto.size[0], dtype=torch.float64)
    y = torch.arange(onto.size[1], dtype=torch.float64)
    z = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    columns = matrix[:3, :, None]
    slices = (columns[:, 2] * z + columns[:, 3])[:, :, None] + (columns[:, 1] * y)[:, None, :]
    return (slices[..., None] + (columns[:, 0] * x)[:, None, None, :]).reshape(3, -1)


def _follow(
    parts: tuple["Transform | _Field", ...], onto: Geometry, rows: range
) -> tuple[Tensor, Tensor | None]:
    """Where the voxels of ``rows`` go, as an affine part (4, 4) of the voxel index plus the rest (3, N), mm.

    Affines before, between and after fields only multiply small matrices: the image grid is walked once per field.
    """
    matrix, carry = onto.voxel_to_world, torch.eye(3, dtype=torch.float64)
    moved: Tensor | None = None
    for part in parts:
        if isinstance(part, Affine):
            matrix, carry = part.matrix @ matrix, part.matrix[:3, :3] @ carry
            continue
        here = None if moved is None else carry @ moved
        if isinstance(part, _Field):
            index = _affine_points(part.world_to_voxel @ matrix, onto, rows)
            if here is not None:
                index += part.world_to_voxel[:3, :3] @ here
            u = _outside(
                field.sample(part.data, _as_grid(index))[0].reshape(3, -1), index, part.data.shape[2:], 0.0
            )
        else:
            points = _affine_points(matrix, onto, rows)
            points = points if here is None else points + here
            u = part(points.T).T - points
        moved, carry = (u if here is None else u.add_(here)), torch.eye(3, dtype=torch.float64)
    return matrix, None if moved is None else carry @ moved


@dataclass(frozen=True)
class _Field:
    """A displacement field made ready for many look-ups, in double precision as ITK reads it."""

    data: Tensor
    """(1, 3, Z, Y, X) float64, LPS mm"""
    world_to_voxel: Tensor


def _leaves(transform: Transform) -> tuple[Transform | _Field, ...]:
    if isinstance(transform, Chain):
        return tuple(leaf for part in transform.parts for leaf in _leaves(part))
    if isinstance(transform, DisplacementField):
        return (_Field(transform.data[None].to(torch.float64), transform.geometry.world_to_voxel),)
    return (transform,)


def _read(data: Tensor, index: Tensor, *, fill: float, nearest: bool) -> Tensor:
    """data (C, D, H, W) at index (3, N) float64 voxels (x, y, z), ``fill`` outside: (C, N)."""
    shape = data.shape[1:]
    if nearest or min(shape) < 2:
        # Rounding errors of the matrices must not decide which voxel a point midway between two belongs to.
        index.mul_(_INDEX_STEPS).round_().div_(_INDEX_STEPS)
        mode: field.Interpolation = "nearest" if nearest else "linear"
        values = field.sample(data[None], _as_grid(index), mode=mode)[0].reshape(data.shape[0], -1)
    else:
        values = field.sample_points(data, index.flip(0))
    return _outside(values, index, shape, fill)


def _as_grid(index: Tensor) -> Tensor:
    """(3, N) components (x, y, z) -> (1, 3, 1, 1, N) components (d, h, w)."""
    return index.flip(0)[None, :, None, None]


def _outside(values: Tensor, index: Tensor, shape: tuple[int, ...], fill: float) -> Tensor:
    """``fill`` where index (3, N), components (x, y, z), lies outside the grid (d, h, w) ``shape``."""
    ends = torch.stack((index.amin(dim=1), index.amax(dim=1)), dim=1).flip(0)[None]
    if bool(field.inside(ends, shape).all()):
        return values
    return values.masked_fill_(~field.inside(index.flip(0)[None], shape)[0], fill)
