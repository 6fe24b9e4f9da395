"""Landmarks: the target registration error of points that two people, or a program, marked in both images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from neuroreg.errors import DataError
from neuroreg.transforms import Transform

Point = tuple[float, float, float]
"""LPS mm"""


@dataclass(frozen=True)
class LandmarkFigures:
    """The distances between landmarks of the same name, mm."""

    count: int
    mean_mm: float
    sd_mm: float | None
    """n - 1 in the denominator; None of a single landmark"""
    median_mm: float
    max_mm: float
    errors_mm: Mapping[str, float]
    """name -> distance"""


def landmark_errors(
    fixed: Mapping[str, Point], other: Mapping[str, Point], transform: Transform | None = None
) -> LandmarkFigures:
    """Distance of each fixed landmark (name -> LPS mm), mapped by ``transform`` if given, from the other of its name.

    Without a transform ``other`` are the moving landmarks where the registration has put them, in the fixed image;
    with one, they are those of the moving image itself: the map takes fixed points to moving ones. Landmarks that one
    side lacks are left out. Raises DataError when no name is common or a point cannot be mapped.
    """
    names = [name for name in fixed if name in other]
    if not names:
        raise DataError("no landmark has the same name on both sides", remedy="check the column name")
    points = torch.tensor([fixed[name] for name in names], dtype=torch.float64)
    targets = torch.tensor([other[name] for name in names], dtype=torch.float64)
    if transform is not None:
        points = transform(points)
    errors = (points - targets).norm(dim=1).numpy()
    if not np.isfinite(errors).all():
        raise DataError("a landmark has no finite position")
    return LandmarkFigures(
        count=len(names),
        mean_mm=float(errors.mean()),
        sd_mm=float(errors.std(ddof=1)) if len(names) > 1 else None,
        median_mm=float(np.median(errors)),
        max_mm=float(errors.max()),
        errors_mm=dict(zip(names, errors.tolist(), strict=True)),
    )
