"""Stored numbers to values and back: scaling, NaN, label ids, number types that do not hold what is to be stored."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError, WriteError
from neuroreg.io.layout import Layout
from neuroreg.volume import Volume

_MOST_INVALID = 0.05


def to_float(
    voxels: NDArray[np.generic], layout: Layout, path: Path
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """(Z, Y, X) float32 with the header's scaling, and the mask of what was not a finite number."""
    with np.errstate(over="ignore", invalid="ignore"):
        if (layout.slope, layout.inter) == (1.0, 0.0):
            data = voxels.astype(np.float32)
        else:
            data = np.empty(voxels.shape, np.float32)
            for slice_, stored in zip(data, voxels, strict=True):  # in double precision one by one
                slice_[...] = stored.astype(np.float64) * layout.slope + layout.inter
    if voxels.dtype.kind != "f" and np.isfinite(data.min()) and np.isfinite(data.max()):
        return data, None
    invalid = np.isfinite(data)
    np.logical_not(invalid, out=invalid)
    count = int(np.count_nonzero(invalid))
    if count == 0:
        return data, None
    if count > _MOST_INVALID * data.size:
        raise DataError(
            f"{count / data.size:.0%} of the voxels are NaN or infinite (at most {_MOST_INVALID:.0%} are accepted)",
            file=path,
            remedy="find out what went wrong where the image was made",
        )
    data[invalid] = 0.0
    return data, invalid


def to_integers(
    voxels: NDArray[np.generic], layout: Layout, path: Path
) -> NDArray[np.int32] | NDArray[np.int64]:
    """(Z, Y, X) int32, or int64 where needed. Raises DataError for anything that is not a whole number."""
    scaled = (layout.slope, layout.inter) != (1.0, 0.0)
    if scaled or voxels.dtype.kind == "f":
        values = voxels.astype(np.float64)
        values = values * layout.slope + layout.inter if scaled else values
        if (
            not np.isfinite(values).all()
            or (values != np.rint(values)).any()
            or np.abs(values).max() > 2.0**53
        ):
            raise DataError(
                "a label map holds whole numbers only, this one does not",
                file=path,
                remedy="was it an intensity image, or labels that were interpolated linearly?",
            )
        voxels = values.astype(np.int64)
    low, high = int(voxels.min()), int(voxels.max())
    if high > 2**63 - 1:
        raise DataError(
            f"the label id {high} does not fit into 64 bits", file=path, remedy="use smaller label numbers"
        )
    if low >= -(2**31) and high < 2**31:
        return voxels.astype(np.int32)
    return voxels.astype(np.int64)


def to_stored(
    volume: Volume, pixel_type: str | None, path: Path
) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(Z, Y, X) in the type to store; out-of-range values are clamped and noted (fault 28)."""
    values = volume.data[0].detach().cpu().numpy()
    dtype = np.dtype(pixel_type or (_smallest_integer(values) if volume.is_label else "float32"))
    if values.dtype.kind == "f" and not all(np.isfinite(slice_).all() for slice_ in values):
        raise WriteError(
            f"{int((~np.isfinite(values)).sum())} voxels are not finite: nothing was written",
            file=path,
            remedy="this is a bug or a method that diverged; use another method",
        )
    if dtype.kind == "f" or dtype == values.dtype:
        return np.ascontiguousarray(values, dtype), ()
    limits = np.iinfo(dtype)
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    outside = int(np.count_nonzero((rounded < limits.min) | (rounded > limits.max)))
    if outside and volume.is_label:
        raise WriteError(
            f"{outside} label ids do not fit into {dtype.name}", file=path, remedy="use a wider type"
        )
    notes = (
        (f"{path.name}: {outside} voxels beyond the range of {dtype.name} were clamped",) if outside else ()
    )
    # Clipping in float64 could round 2**63 - 1 up; the range test above is done on what is stored.
    return np.clip(rounded, limits.min, limits.max).astype(dtype), notes


def _smallest_integer(values: NDArray[np.generic]) -> str:
    low, high = int(values.min()), int(values.max())
    fits = (
        name
        for name in ("uint8", "int16", "int32")
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max
    )
    return next(fits, "int64")
