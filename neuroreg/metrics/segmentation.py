"""Overlap and surface distances of label maps, all regions in one pass.

A voxel is on the surface of its region when one of its six face neighbours, or the outside of the image, has
another label. HD is the largest distance from any surface voxel of one map to the nearest of the other, HD95 the
larger of the two directed 95th percentiles (linear interpolation), ASSD the mean over the distances of both
directions together: the definitions of MONAI, which the tests use as oracle. Distances are between voxel centres.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from neuroreg.errors import DataError

Labels = NDArray[np.integer[Any]] | torch.Tensor
Status = Literal["ok", "missing in fixed", "missing in moved", "missing in both"]


@dataclass(frozen=True)
class RegionScore:
    """One region of two label maps. ``None`` stands where a figure does not exist (see ``status``)."""

    label: int
    dice: float | None
    """0 when the region is missing on one side, None when it is missing on both"""
    hd_mm: float | None
    hd95_mm: float | None
    assd_mm: float | None
    fixed_mm3: float
    moved_mm3: float
    status: Status


def dice(fixed: Labels, moved: Labels, ids: Sequence[int] | None = None) -> dict[int, float]:
    """Dice of each region: id -> 0..1, NaN where neither map has the region.

    fixed and moved are integer label maps of one shape; ``ids`` None means every id found in either, without 0.
    Raises DataError when the shapes differ or the labels are not integers.
    """
    first, second = _arrays(fixed, moved)
    counts = _counts(first, second, _ids(first, second, ids))
    with np.errstate(invalid="ignore"):
        values = 2.0 * counts[2] / (counts[0] + counts[1])
    return dict(zip(_ids(first, second, ids).tolist(), values.tolist(), strict=True))


def mean_dice(fixed: Labels, moved: Labels, ids: Sequence[int] | None = None) -> float:
    """The mean of ``dice`` over the regions that exist in at least one map; NaN when there is none."""
    values = [value for value in dice(fixed, moved, ids).values() if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")


def region_scores(
    fixed: Labels, moved: Labels, *, spacing_mm: Sequence[float], ids: Sequence[int] | None = None
) -> tuple[RegionScore, ...]:
    """Every figure of every region, in the order of ``ids`` (default: all found in either map, rising, without 0).

    fixed, moved: integer label maps (Z, Y, X) of one shape; ``spacing_mm`` in the order of the array axes, that is
    (z, y, x). Raises DataError when the shapes differ or the labels are not integers.
    """
    first, second = _arrays(fixed, moved)
    if len(spacing_mm) != first.ndim or not min(spacing_mm) > 0:
        raise DataError(f"expected {first.ndim} spacings above 0 mm, got {tuple(spacing_mm)}")
    wanted = _ids(first, second, ids)
    in_fixed, in_moved, in_both = _counts(first, second, wanted)
    surface_fixed, surface_moved = _surfaces(first, wanted, spacing_mm), _surfaces(second, wanted, spacing_mm)
    voxel_mm3 = float(np.prod(spacing_mm))
    scores = []
    for k, label in enumerate(wanted.tolist()):
        total = int(in_fixed[k] + in_moved[k])
        distances = _distances(surface_fixed[k], surface_moved[k])
        scores.append(
            RegionScore(
                label=label,
                dice=2.0 * int(in_both[k]) / total if total else None,
                hd_mm=distances and max(float(d.max()) for d in distances),
                hd95_mm=distances and max(float(np.quantile(d, 0.95)) for d in distances),
                assd_mm=distances and float(np.concatenate(distances).mean()),
                fixed_mm3=int(in_fixed[k]) * voxel_mm3,
                moved_mm3=int(in_moved[k]) * voxel_mm3,
                status=_status(bool(in_fixed[k]), bool(in_moved[k])),
            )
        )
    return tuple(scores)


def _status(in_fixed: bool, in_moved: bool) -> Status:
    if in_fixed:
        return "ok" if in_moved else "missing in moved"
    return "missing in fixed" if in_moved else "missing in both"


def _arrays(fixed: Labels, moved: Labels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both maps as integer arrays of one shape."""
    first, second = (
        np.asarray(labels.cpu() if torch.is_tensor(labels) else labels) for labels in (fixed, moved)
    )
    if first.shape != second.shape:
        raise DataError(f"the label maps differ in size: {first.shape} and {second.shape}")
    for labels in (first, second):
        if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == np.bool_):
            raise DataError(f"a label map holds integers, got {labels.dtype}")
    return first, second


def _ids(first: NDArray[Any], second: NDArray[Any], ids: Sequence[int] | None) -> NDArray[np.int64]:
    if ids is not None:
        return np.asarray(list(ids), dtype=np.int64)
    found = np.union1d(np.unique(first[first != 0]), np.unique(second[second != 0]))
    return found.astype(np.int64)


def _places(values: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each value stands in ``ids``; len(ids) for values that are not listed."""
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids[order], values)
    known = place < len(ids)
    known[known] = ids[order][place[known]] == values[known]
    result = np.full(values.shape, len(ids), dtype=np.intp)
    result[known] = order[place[known]]
    return result


def _counts(first: NDArray[Any], second: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Voxels of each id in the first map, in the second, in both at once: (3, len(ids))."""
    voxels = (first[first != 0], second[second != 0], first[(first == second) & (first != 0)])
    rows = [np.bincount(_places(values, ids), minlength=len(ids) + 1)[:-1] for values in voxels]
    return np.stack(rows).astype(np.int64)


def _surfaces(
    labels: NDArray[Any], ids: NDArray[np.int64], spacing_mm: Sequence[float]
) -> list[NDArray[np.float64]]:
    """The surface voxels of each id: arrays (n, axes) of positions in mm."""
    surface = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        mark = np.moveaxis(surface, axis, 0)  # a view: writing to it marks ``surface``
        change = along[1:] != along[:-1]
        mark[1:] |= change
        mark[:-1] |= change
        mark[0] = mark[-1] = True
    index = np.argwhere(surface & (labels != 0))
    place = _places(labels[tuple(index.T)], ids)
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(len(ids) + 1))
    points: NDArray[np.float64] = index[order].astype(np.float64) * np.asarray(spacing_mm, dtype=np.float64)
    return [points[bounds[k] : bounds[k + 1]] for k in range(len(ids))]


def _distances(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """From each surface voxel of one map to the nearest of the other, both ways, mm; None if one is empty.

    A tree over the surface voxels: unlike a distance map it costs nothing for the empty space between them.
    """
    if not len(first) or not len(second):
        return None
    return KDTree(second).query(first)[0], KDTree(first).query(second)[0]
