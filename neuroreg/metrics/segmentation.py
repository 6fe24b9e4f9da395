"""Overlap, surface distances, volumes and centroids of label maps, all regions in one pass.

F and M are the voxels of one region in the fixed and in the moved map, #F how many they are, v is the volume of one.

**Surface.** A voxel of a region is on its surface when one of its six face neighbours, or the outside of the image, has
another label: dF and dM. For p in dF, d(p, dM) is the distance between the centres of p and of the nearest voxel of dM,
in mm, spacing counted. The two directed sets of distances, D1 = {d(p, dM): p in dF} and D2 = {d(q, dF): q in dM}, are
worked out once per region, and every figure of the surface is read off them.

==========================  =====================================================  ================================
figure                      definition                                             region missing on one side
==========================  =====================================================  ================================
dice                        2 #(F and M) / (#F + #M), 0..1                         0
jaccard                     #(F and M) / #(F or M), 0..1                           0
hd_mm                       max(max D1, max D2)                                    none
hd95_mm                     max(P95 D1, P95 D2), P95 interpolated linearly         none
assd_mm                     (sum D1 + sum D2) / (#D1 + #D2)                        none
surface_dice                share of D1 and D2 together at most ``tolerance_mm``   0
fixed_mm3, moved_mm3        v #F, v #M                                             0 on that side
volume_difference_percent   100 (#M - #F) / #F, signed                             -100, or none without F
centroid_shift_mm           distance between the mean positions of F and of M      none
==========================  =====================================================  ================================

A region missing on both sides has no figure but its volumes, 0. Surfaces and distances are those of MONAI (surface Dice
without subvoxels, Nikolov et al. 2021), overlaps, volumes and centroids those of SimpleITK: the tests use both as
oracles. SimpleITK's HausdorffDistance is between all voxels of F and M; given dF and dM it is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from neuroreg.errors import DataError
from neuroreg.parallel import workers

Labels = NDArray[np.integer[Any]] | torch.Tensor
Status = Literal["ok", "missing in fixed", "missing in moved", "missing in both"]
Distances = tuple[NDArray[np.float64], NDArray[np.float64]]

TOLERANCE_MM = 1.0
"""of the surface Dice, where none is asked for"""
_ROUNDING_MM = (
    1e-6  # spacings are stored in single precision: a distance of one voxel of 1.2 mm is 1.2000000477 mm
)

FIGURES = (
    "dice",
    "jaccard",
    "hd_mm",
    "hd95_mm",
    "assd_mm",
    "surface_dice",
    "fixed_mm3",
    "moved_mm3",
    "volume_difference_percent",
    "centroid_shift_mm",
)
"""The figures of a RegionScore, in the order of every table."""
HIGHER_IS_BETTER = frozenset({"dice", "jaccard", "surface_dice"})
"""Of the others less is better, but volumes, of which neither is."""


@dataclass(frozen=True, slots=True)
class RegionScore:
    """One region of two label maps. ``None`` stands where a figure does not exist (see ``status``)."""

    label: int
    dice: float | None
    """0 when the region is missing on one side, None when it is missing on both; so too the next and surface_dice"""
    jaccard: float | None
    hd_mm: float | None
    hd95_mm: float | None
    assd_mm: float | None
    surface_dice: float | None
    fixed_mm3: float
    moved_mm3: float
    volume_difference_percent: float | None
    """moved against fixed: above 0 where moved is larger"""
    centroid_shift_mm: float | None
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
    fixed: Labels,
    moved: Labels,
    *,
    spacing_mm: Sequence[float],
    ids: Sequence[int] | None = None,
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[RegionScore, ...]:
    """Every figure of every region, in the order of ``ids`` (default: all found in either map, rising, without 0).

    fixed, moved: integer label maps (Z, Y, X) of one shape; ``spacing_mm`` in the order of the array axes, that is
    (z, y, x). Regions are shared among the threads torch may use. Raises DataError when the shapes differ, the labels
    are not integers or the tolerance is below 0.
    """
    first, second = _arrays(fixed, moved)
    if len(spacing_mm) != first.ndim or not min(spacing_mm) > 0:
        raise DataError(f"expected {first.ndim} spacings above 0 mm, got {tuple(spacing_mm)}")
    if not 0 <= tolerance_mm < np.inf:
        raise DataError(f"expected a tolerance of 0 mm or more, got {tolerance_mm}")
    wanted = _ids(first, second, ids)
    counts = _counts(first, second, wanted)
    surfaces = [_surfaces(labels, wanted, spacing_mm) for labels in (first, second)]
    shifts = np.linalg.norm(
        _centroids(second, wanted, spacing_mm) - _centroids(first, wanted, spacing_mm), axis=1
    )
    voxel_mm3 = float(np.prod(spacing_mm))

    def score(k: int) -> RegionScore:
        distances = _distances(surfaces[0][k], surfaces[1][k])
        in_fixed, in_moved, in_both = (int(count[k]) for count in counts)
        present = in_fixed > 0 and in_moved > 0
        return RegionScore(
            label=int(wanted[k]),
            **_overlaps(in_fixed, in_moved, in_both),
            **_surface_figures(distances, tolerance_mm),
            fixed_mm3=in_fixed * voxel_mm3,
            moved_mm3=in_moved * voxel_mm3,
            volume_difference_percent=100.0 * (in_moved - in_fixed) / in_fixed if in_fixed else None,
            centroid_shift_mm=float(shifts[k]) if present else None,
            status=_status(in_fixed > 0, in_moved > 0),
        )

    with workers(torch.device("cpu")) as team:
        return tuple(team.map(score, range(len(wanted))))


def _overlaps(in_fixed: int, in_moved: int, in_both: int) -> dict[str, float | None]:
    total = in_fixed + in_moved
    return {
        "dice": 2.0 * in_both / total if total else None,
        "jaccard": in_both / (total - in_both) if total else None,
    }


def _surface_figures(distances: Distances, tolerance_mm: float) -> dict[str, float | None]:
    """All that is read off the two directed sets of distances of one region, mm."""
    together = np.concatenate(distances)
    if not len(together):
        return dict.fromkeys(("hd_mm", "hd95_mm", "assd_mm", "surface_dice"))
    near = float(np.mean(together <= tolerance_mm + _ROUNDING_MM))
    if np.isinf(together[0]):
        return {"hd_mm": None, "hd95_mm": None, "assd_mm": None, "surface_dice": near}
    return {
        "hd_mm": float(together.max()),
        "hd95_mm": max(float(np.quantile(d, 0.95)) for d in distances),
        "assd_mm": float(together.mean()),
        "surface_dice": near,
    }


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


def _centroids(
    labels: NDArray[Any], ids: NDArray[np.int64], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """The mean position of each id along the array axes, mm: (len(ids), axes), NaN where it is missing."""
    index = np.nonzero(labels)
    place = _places(labels[index], ids)
    count = np.bincount(place, minlength=len(ids) + 1)[:-1]
    sums = [np.bincount(place, weights=along, minlength=len(ids) + 1)[:-1] for along in index]
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.stack(sums, axis=1) / count[:, None]
    return means * np.asarray(spacing_mm, dtype=np.float64)


def _distances(first: NDArray[np.float64], second: NDArray[np.float64]) -> Distances:
    """From each surface voxel of one map to the nearest of the other, both ways, mm; infinite if that is empty.

    A tree over the surface voxels: unlike a distance map it costs nothing for the empty space between them.
    """
    if not len(first) or not len(second):
        return np.full(len(first), np.inf), np.full(len(second), np.inf)
    return KDTree(second).query(first)[0], KDTree(first).query(second)[0]
