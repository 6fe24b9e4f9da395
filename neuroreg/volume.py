"""A tensor and where it lies in the head. World frame: mm, LPS, components (x, y, z)."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuroreg.errors import DataError

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Geometry:
    """A regular grid in world space. Voxel indices are (x, y, z) here; tensors are stored (..., Z, Y, X)."""

    size: tuple[int, int, int]
    """voxels, (x, y, z)"""
    spacing: tuple[float, float, float]
    """mm, (x, y, z)"""
    origin: tuple[float, float, float]
    """LPS mm of the centre of voxel (0, 0, 0)"""
    direction: tuple[float, ...] = IDENTITY_DIRECTION
    """nine cosines, row-major; column k is voxel axis k"""

    def __post_init__(self) -> None:
        if len(self.size) != 3 or len(self.spacing) != 3 or len(self.origin) != 3 or len(self.direction) != 9:
            raise DataError(f"a geometry has three axes, got size {self.size} and direction {self.direction}")
        if min(self.size) < 1 or not all(0 < step < math.inf for step in self.spacing):
            raise DataError(f"a grid needs positive sides, got size {self.size}, spacing {self.spacing} mm")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Tensor shape (Z, Y, X)."""
        x, y, z = self.size
        return (z, y, x)

    @property
    def voxel_to_world(self) -> Tensor:
        """(4, 4) float64: voxel index (x, y, z, 1) -> LPS mm."""
        matrix = torch.eye(4, dtype=torch.float64)
        direction = torch.tensor(self.direction, dtype=torch.float64).reshape(3, 3)
        matrix[:3, :3] = direction * torch.tensor(self.spacing, dtype=torch.float64)
        matrix[:3, 3] = torch.tensor(self.origin, dtype=torch.float64)
        return matrix

    @property
    def world_to_voxel(self) -> Tensor:
        """(4, 4) float64: LPS mm -> voxel index (x, y, z, 1)."""
        inverse: Tensor = torch.linalg.inv(self.voxel_to_world)
        return inverse

    @property
    def centre_mm(self) -> Tensor:
        """(3,) float64: LPS mm of the middle of the grid."""
        middle = torch.tensor([(n - 1) / 2 for n in self.size] + [1.0], dtype=torch.float64)
        return (self.voxel_to_world @ middle)[:3]

    @property
    def voxel_volume_mm3(self) -> float:
        """mm^3 of one voxel."""
        x, y, z = self.spacing
        return x * y * z

    def points(self) -> Tensor:
        """(Z, Y, X, 3) float64: LPS mm of every voxel centre."""
        axes = [torch.arange(n, dtype=torch.float64) for n in self.shape]
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        index = torch.stack((x, y, z), dim=-1)
        matrix = self.voxel_to_world
        return index @ matrix[:3, :3].T + matrix[:3, 3]

    def same_grid(self, other: "Geometry", *, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same size and all their voxels lie within ``tolerance_mm`` of each other."""
        if self.size != other.size:
            return False
        corners = torch.cartesian_prod(
            *(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in self.size)
        )
        corners = torch.cat((corners, torch.ones(len(corners), 1, dtype=torch.float64)), dim=1)
        gap = (self.voxel_to_world - other.voxel_to_world) @ corners.T
        return bool(gap.norm(dim=0).max() <= tolerance_mm)

    def level(self, level: int) -> "Geometry":
        """The grid of pyramid level ``level``: voxel i lies on voxel i * 2**level of this one."""
        step = 2**level
        x, y, z = (-(-n // step) for n in self.size)
        sx, sy, sz = (s * step for s in self.spacing)
        return replace(self, size=(x, y, z), spacing=(sx, sy, sz))


@dataclass(frozen=True)
class Volume:
    """An image or label map (C, Z, Y, X) on a grid. Label maps keep an integer type: ids stay exact."""

    data: Tensor
    geometry: Geometry
    is_label: bool = False

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or tuple(self.data.shape[1:]) != self.geometry.shape:
            raise DataError(
                f"expected data (C, Z, Y, X) on {self.geometry.shape}, got {tuple(self.data.shape)}"
            )
        if self.is_label and self.data.is_floating_point():
            raise DataError(f"a label map holds integers, got {self.data.dtype}")

    def with_data(self, data: Tensor) -> "Volume":
        """The same grid with other data."""
        return replace(self, data=data)
