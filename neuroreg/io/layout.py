"""How one image file stores its voxels and where they lie: what every header parser hands to the reader.

The policies that hold for all formats are here: legal sides, frames, spacing, shear and field of view.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError, UsageError
from neuroreg.volume import Geometry

MAX_VOXELS = 768**3
_SHEAR_REPAIRED = 5e-4  # ITK's own limit: below it a matrix counts as a rotation
_SHEAR_REFUSED = 1e-3
_FAR_MM = 1e6  # a kilometre; farther away single precision, as NIfTI-1 has it, loses tenths of a millimetre


@dataclass(frozen=True)
class Limits:
    """What a brain image can be; ``ANYTHING`` is for reading back what was just written."""

    max_voxels: int = MAX_VOXELS
    min_side: int = 16
    field_of_view_mm: tuple[float, float] = (50.0, 600.0)


ANYTHING = Limits(max_voxels=2**62, min_side=1, field_of_view_mm=(0.0, math.inf))


@dataclass(frozen=True)
class Layout:
    """Where the voxels are in a file, what they mean, and where they lie in the head."""

    size: tuple[int, int, int]
    """voxels, (x, y, z)"""
    dtype: np.dtype[np.generic]
    """as stored, byte order included"""
    matrix: NDArray[np.float64]
    """(4, 4) voxel index (x, y, z, 1) -> LPS mm"""
    offset: int = 0
    """bytes before the first voxel"""
    frame: int = 0
    """the one to read"""
    frames: int = 1
    slope: float = 1.0
    inter: float = 0.0
    encoding: str = "raw"
    """raw, gzip or zlib: how the voxels are packed from ``offset`` on"""
    data_file: Path | None = None
    """where the voxels are, if not in the file of the header"""
    at_end: bool = False
    """the voxels are the last bytes of the file, whatever lies before them"""
    notes: tuple[str, ...] = ()
    unsure_sides: bool = False
    """the header does not say beyond doubt which side is left"""

    @property
    def voxels(self) -> int:
        """Voxels in one frame."""
        return math.prod(self.size)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.voxels * self.dtype.itemsize

    def in_file(self, data_file: Path) -> "Layout":
        """The same layout with the voxels in a file of their own."""
        return replace(self, data_file=data_file)


def check_sides(sides: tuple[int, ...], *, limits: Limits, file: Path) -> None:
    """Refuse impossible, empty, flat, tiny and giant grids before a byte is allocated. Raises DataError.

    ``sides`` are those of the header, the spatial ones first; further ones are frames.
    """
    if min(sides) < 1:
        raise DataError(
            f"the image has a side of {min(sides)} voxels: {_times(sides)}",
            file=file,
            remedy="get the file again from its source",
        )
    if len(sides) < 3 or min(sides[:3]) == 1 < limits.min_side:
        raise DataError(
            f"expected one 3-D volume, got a 2-D image or single slice: {_times(sides)}",
            file=file,
            remedy="give the whole volume",
        )
    if math.prod(sides[:3]) > limits.max_voxels:
        raise DataError(
            f"the header declares {_times(sides)} voxels, more than the {limits.max_voxels} allowed",
            file=file,
            remedy="raise --max-voxels if this is true",
        )
    if min(sides[:3]) < limits.min_side:
        raise DataError(
            f"the image is too small: {_times(sides)}, at least {limits.min_side} voxels per axis are needed",
            file=file,
            remedy="give the whole volume: resampling a thumbnail does not help",
        )


def choose_frame(frames: int, frame: int | None, *, dims: int, file: Path) -> tuple[int, tuple[str, ...]]:
    """Which frame of ``frames`` to read, and the notes. Raises DataError (65) or UsageError (2).

    A single volume is read whatever ``frame`` says: of a pair the other image may be the one with frames (see
    ``images.check_frame``).
    """
    if frame is not None and (frame < 0 or 1 < frames <= frame):
        raise UsageError(
            f"frame {frame} does not exist, the file has {frames}",
            file=file,
            remedy="choose a frame that exists, from 0",
        )
    if frames > 1 and frame is None:
        raise DataError(
            f"expected one 3-D volume, got {frames} frames",
            file=file,
            remedy="choose one with --frame N, from 0 (neuroreg convert has it too)",
        )
    if frames > 1:
        return frame or 0, (f"frame {frame} of {frames} was read",)
    return 0, ((f"a {dims}-D file with a single frame was read as one 3-D volume",) if dims > 3 else ())


@np.errstate(over="ignore", invalid="ignore")
def geometry_of(
    matrix: NDArray[np.float64], size: tuple[int, int, int], *, file: Path
) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of a voxel-to-LPS matrix (4, 4), mm, and the notes. Raises DataError when it is no usable grid.

    Shear is the largest cosine between two voxel axes: below 5e-4 it passes as in ITK, up to 1e-3 the axes are
    made orthogonal, above it the file is refused (RELIABILITY, note on fault 37).
    """
    if not np.isfinite(matrix).all():
        raise DataError(
            "the voxel-to-world matrix holds NaN or infinite numbers", file=file, remedy="repair the header"
        )
    linear = matrix[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    if not ((spacing > 0) & (spacing < np.inf)).all():
        raise DataError(
            f"the voxel spacing is zero or infinite: {_mm(spacing)}", file=file, remedy="repair the header"
        )
    axes = linear / spacing
    if abs(float(np.linalg.det(axes))) < 1e-3:
        raise DataError("the voxel-to-world matrix is singular", file=file, remedy="repair the header")
    gram = axes.T @ axes
    shear = float(np.abs(gram[np.triu_indices(3, 1)]).max())
    notes: tuple[str, ...] = ()
    if shear > _SHEAR_REFUSED:
        raise DataError(
            f"the voxel axes are sheared by {shear:.4g} (limit {_SHEAR_REFUSED:g})",
            file=file,
            remedy="resample the image onto a rectangular grid first",
        )
    if shear >= _SHEAR_REPAIRED:
        axes = nearest_rotation(axes)
        notes = (f"the voxel axes were sheared by {shear:.4g} and have been made orthogonal",)
    return (
        Geometry(
            size=size,
            spacing=_three(spacing),
            origin=_three(matrix[:3, 3]),
            direction=tuple(float(v) for v in axes.reshape(-1)),
        ),
        notes,
    )


def nearest_rotation(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthogonal matrix (3, 3) nearest to ``axes``, of the same handedness."""
    left, _, right = np.linalg.svd(axes)
    return np.asarray(left @ right)


def matrix_gap(
    one: NDArray[np.float64], two: NDArray[np.float64], sides: tuple[int, ...]
) -> tuple[float, bool]:
    """The largest distance in mm between two (4, 4) matrices on a grid's corners, and whether one mirrors the other."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in sides))).reshape(3, -1)
    gap = np.linalg.norm((one - two)[:3] @ np.vstack((corners, np.ones(8))), axis=0)
    dets = np.linalg.det(one[:3, :3]), np.linalg.det(two[:3, :3])
    return float(gap.max()), bool(dets[0] * dets[1] < 0)


def check_field_of_view(geometry: Geometry, *, limits: Limits, file: Path) -> None:
    """Refuse an image no head fits (wrong unit or spacing). Raises DataError.

    The longest side decides: a thin slab is a slab, but a head is never all below 50 mm or anywhere above 600.
    """
    if limits.field_of_view_mm[1] < math.inf and max(map(abs, geometry.origin)) > _FAR_MM:
        raise DataError(f"the first voxel lies at {_mm(geometry.origin)}: no head is there", file=file,
                        remedy="correct the origin in the header")  # fmt: skip
    extent = max(n * mm for n, mm in zip(geometry.size, geometry.spacing, strict=True))
    low, high = limits.field_of_view_mm
    if not low <= extent <= high:
        raise DataError(
            f"no head is {extent:.4g} mm long (expected {low:g} to {high:g} mm), voxels are {_mm(geometry.spacing)}",
            file=file,
            remedy="correct the spacing or its unit in the header",
        )


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


def _times(sides: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in sides)


def _mm(values: Iterable[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values) + " mm"
