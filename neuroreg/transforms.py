"""World-frame maps. Points are (..., 3) LPS mm, components (x, y, z); T(p_fixed) = p_moving (pull-back).

A transform never resamples and never touches a file; ``resample`` is the only verb that makes a new image.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.volume import Geometry, Volume

_SLAB_POINTS = 2_000_000  # points resampled at once: about 200 MB of float64 intermediates


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
            raise DataError(f"an affine is (4, 4) float64, got {tuple(self.matrix.shape)} {self.matrix.dtype}")

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
            raise DataError(f"expected a field (3, Z, Y, X) on {self.geometry.shape}, got {tuple(self.data.shape)}")

    def __call__(self, points: Tensor) -> Tensor:
        """(..., 3) LPS mm -> (..., 3) LPS mm."""
        points = points.to(torch.float64)
        index = world_to_index(points, self.geometry)
        u = field.sample(self.data[None].to(torch.float64), index, fill=0.0)
        return points + u[0].movedim(0, -1).reshape(points.shape)

    def inverse(self) -> "DisplacementField":
        """The inverse on the same grid, by fixed-point iteration in the voxel frame."""
        return DisplacementField.from_voxels(field.invert(self.to_voxels()), self.geometry)

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
    moving: Volume, transform: Transform, onto: Geometry, *, fill: float = 0.0, mode: field.Interpolation = "linear"
) -> Volume:
    """The moving volume on the grid ``onto``: out(p) = moving(transform(p)), interpolated once.

    Label maps are always read by nearest neighbour, whatever ``mode`` says. Outside the moving image: ``fill``.
    """
    labels = moving.is_label
    data = moving.data if labels else moving.data.to(torch.float64)
    out = torch.empty((data.shape[0], *onto.shape), dtype=moving.data.dtype if labels else torch.float32)
    points = onto.points()
    rows = max(1, _SLAB_POINTS // (onto.size[0] * onto.size[1]))
    for start in range(0, onto.size[2], rows):
        index = world_to_index(transform(points[start : start + rows]), moving.geometry)
        slab = field.sample(data[None], index, mode="nearest" if labels else mode, fill=None)[0]
        ok = field.inside(index, moving.geometry.shape)[0]
        out[:, start : start + rows] = torch.where(ok, slab, torch.tensor(fill, dtype=slab.dtype)).to(out.dtype)
    return Volume(out, onto, is_label=labels)


def total_field(transform: Transform, onto: Geometry) -> DisplacementField:
    """Any map written out as one displacement field on the grid ``onto``: u(p) = transform(p) - p."""
    points = onto.points()
    rows = max(1, _SLAB_POINTS // (onto.size[0] * onto.size[1]))
    data = torch.empty((3, *onto.shape), dtype=torch.float32)
    for start in range(0, onto.size[2], rows):
        slab = points[start : start + rows]
        data[:, start : start + rows] = (transform(slab) - slab).movedim(-1, 0).to(torch.float32)
    return DisplacementField(data, onto)
