"""Which cases of a cohort stand out, in what figure, and whether that is the bad side of it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neuroreg.report.group_cases import VERDICTS, Case

Side = Literal[-1, 0, 1]
"""The bad side of a figure: -1 low values, 1 high ones, 0 neither as such."""

OUTLIER = 3.5
"""|robust z| from which on a case stands out: Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993."""

_LEAST = 5  # cases with the figure; the median of fewer says little
_NORMAL = 1.482602218505602  # standard deviations of a normal distribution per MAD: 1 / Phi^-1(3/4)
_LARGEST = 1e6  # |z|; by how much more than that does not matter
_REACH = 12.0  # robust standard deviations that the axis of a picture reaches from the median


@dataclass(frozen=True)
class Kind:
    """What the values of a figure mean. ``grain`` is the spread below which a difference does not matter."""

    bad: Side
    grain: float


_KINDS: tuple[tuple[str, Kind], ...] = (
    ("lncc_before", Kind(0, 0.01)),  # how the heads happen to lie in their scanners
    ("ncc_before", Kind(0, 0.01)),
    ("lncc", Kind(-1, 0.01)),
    ("ncc", Kind(-1, 0.01)),
    ("folded", Kind(1, 0.05)),
    ("ndv", Kind(1, 0.05)),
    ("inverse_consistency", Kind(1, 0.05)),
    ("residual", Kind(1, 0.25)),
    ("displacement", Kind(0, 0.25)),
    ("sd_log_jacobian", Kind(1, 0.01)),
    ("dice", Kind(-1, 0.01)),
    ("mask_overlap", Kind(-1, 0.01)),
    ("affine_scale_min", Kind(-1, 0.01)),
    ("affine_scale_max", Kind(1, 0.01)),
    ("affine_shear", Kind(1, 0.5)),
    ("affine_determinant", Kind(0, 0.02)),
    ("sides", Kind(-1, 0.1)),
    ("contrast", Kind(-1, 0.01)),
    ("affine_rotation", Kind(0, 0.5)),
)
"""By the beginning of a figure's name. Grains: 0.01 of a correlation, an overlap or a scale, 0.05 % of the brain,
0.05 mm of consistency, 0.25 mm of a displacement, half a degree, 0.1 of
the score of left and right."""

_UNKNOWN = Kind(0, 0.0)


def kind_of(figure: str) -> Kind:
    """What is known about a figure; one that nobody foresaw has no bad side and no grain."""
    return next((kind for start, kind in _KINDS if figure.startswith(start)), _UNKNOWN)


@dataclass(frozen=True)
class Deviation:
    """The figure in which a case lies farthest from the others of its method."""

    figure: str
    z: float
    """robust z: (value - median) / spread"""
    bad: bool | None
    """whether it lies on the bad side; None where the figure has none"""


@dataclass(frozen=True)
class Standing:
    """One case among the others: its robust z by figure, and the largest."""

    z: Mapping[str, float]
    largest: Deviation | None
    """None where nothing could be compared"""

    @property
    def outlier(self) -> bool:
        """Whether it stands out."""
        return self.largest is not None and abs(self.largest.z) >= OUTLIER


def robust_z(values: Sequence[float], grain: float = 0.0) -> list[float] | None:
    """(value - median) / (1.4826 MAD), the spread taken as ``grain`` at least; None for fewer than five values.

    The grain keeps trifles from standing out where most values are equal (no folds in nearly all cases, and 0.001 %
    in one). None too when the spread and the grain are 0.
    """
    if len(values) < _LEAST:
        return None
    centre, spread = centre_and_spread(values, grain)
    if spread == 0:
        return None
    return [min(max((value - centre) / spread, -_LARGEST), _LARGEST) for value in values]


def centre_and_spread(values: Sequence[float], grain: float = 0.0) -> tuple[float, float]:
    """Median and 1.4826 MAD (at least ``grain``) of some values."""
    centre = statistics.median(values)
    return centre, max(_NORMAL * statistics.median(abs(value - centre) for value in values), grain)


def axis(
    values: Sequence[float], grain: float = 0.0, *, including: Sequence[float] = ()
) -> tuple[float, float]:
    """The least and largest value that a picture has room for; what lies far beyond is drawn at its edge.

    Whatever of ``including`` lies among the values has a place within.
    """
    centre, spread = centre_and_spread(values, grain)
    least, most, reach = min(values), max(values), _REACH * spread or float("inf")
    wanted = [value for value in including if least <= value <= most]
    return min([max(least, centre - reach), *wanted]), max([min(most, centre + reach), *wanted])


def standings(cases: Sequence[Case]) -> list[Standing]:
    """How each case stands among those of the same method, in the order of ``cases``."""
    scores: list[dict[str, float]] = [{} for _ in cases]
    names = dict.fromkeys(name for case in cases for name in case.figures)
    for method in dict.fromkeys(case.method for case in cases):
        for name in names:
            known = [
                (k, value)
                for k, case in enumerate(cases)
                if case.method == method and (value := case.figures.get(name)) is not None
            ]
            found = robust_z([value for _, value in known], kind_of(name).grain)
            if found is not None:
                for (k, _), z in zip(known, found, strict=True):
                    scores[k][name] = z
    return [Standing(z, _largest(z)) for z in scores]


def _largest(scores: Mapping[str, float]) -> Deviation | None:
    if not scores:
        return None
    figure = max(scores, key=lambda name: abs(scores[name]))
    z, side = scores[figure], kind_of(figure).bad
    return Deviation(figure, z, bad=z * side > 0 if side else None)


def worst_first(cases: Sequence[Case], found: Sequence[Standing]) -> list[int]:
    """The order of reading: by verdict, within it by the largest |robust z|, those not comparable last, then by id."""

    def key(k: int) -> tuple[int, float, str]:
        largest = found[k].largest
        return VERDICTS.index(cases[k].verdict), -abs(largest.z) if largest else 1.0, cases[k].id

    return sorted(range(len(cases)), key=key)
