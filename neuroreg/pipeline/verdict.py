"""From figures to a verdict: the thresholds, calibrated on planted failures, and the sentence for each.

``examples/calibrate_qc.py`` measures every figure on registrations that went well and on ones spoilt on purpose; the
thresholds come from its validation split (two are wider, see there), and ``examples/QC.md`` says what they do on the
test split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neuroreg.pipeline.record import Quality, Verdict

_MIRRORED = (
    "seems to have left and right exchanged: its asymmetry is that of a mirrored brain "
    "(score {value:.3g}, brains as they are have more than {limit:g})"
)

Kind = Literal["heads", "brains", "deformed brains"]
"""What was registered: whole heads by any map, brains by an affine, brains by a deformation"""

_ALL: tuple[Kind, ...] = ("heads", "brains", "deformed brains")
_BRAINS: tuple[Kind, ...] = ("brains", "deformed brains")
_DEFORMED: tuple[Kind, ...] = ("deformed brains",)


@dataclass(frozen=True)
class Rule:
    """One figure and where it stops being good."""

    figure: str
    look: float
    fail: float
    """beyond ``look``, in the direction from ``look`` to ``fail``"""
    sentence: str
    """the reason, with {value} and {limit}, which is ``look``: where good ones end"""
    on: tuple[Kind, ...] = _ALL
    """what is judged by it"""

    @property
    def low_is_bad(self) -> bool:
        """Whether small values are the bad ones."""
        return self.fail < self.look


def level_of(value: float, *, look: float, fail: float) -> Verdict:
    """On which side of two thresholds a value is; bad values lie in the direction from ``look`` to ``fail``."""
    sign = -1.0 if fail < look else 1.0
    if sign * value > sign * fail:
        return "fail"
    return "look" if sign * value > sign * look else "pass"


RULES: tuple[Rule, ...] = (
    Rule(
        "affine_determinant", 0.4, 0.1,
        "by the affine the moving brain has only {value:.3g} of the fixed one's volume, in good pairs more than "
        "{limit:g}",
    ),
    Rule(
        "lncc_affine", 0.3, 0.2,
        "after the affine the brains are hardly alike (squared local correlation {value:.3g}, good ones have more than "
        "{limit:g}): the affine failed, or there was none",
        on=_BRAINS,
    ),
    Rule(
        "lncc_after", 0.5, 0.35,
        "the images are not alike at the end (squared local correlation {value:.3g}, good ones have more than "
        "{limit:g})",
        on=_DEFORMED,
    ),
    Rule(
        "lncc_worst", 0.15, 0.05,
        "one region is not alike at the end (squared local correlation {value:.3g}, good ones have more than "
        "{limit:g}); the report shows it first",
        on=_DEFORMED,
    ),
    Rule(
        "mask_overlap", 0.975, 0.93,
        "the brains do not cover each other (overlap {value:.3g}, good ones have more than {limit:g}): a part may be "
        "missing, or a mask may be another's",
        on=_DEFORMED,
    ),
    Rule(
        "mask_overlap", 0.85, 0.7,
        "the heads do not cover each other (overlap {value:.3g}, good ones have more than {limit:g})",
        on=("heads",),
    ),
    Rule(
        "ncc_affine", 0.45, 0.25,
        "after the affine the heads are hardly alike (correlation {value:.3g}, good ones have more than {limit:g})",
        on=("heads",),
    ),
    Rule(
        "dice_estimated", 0.55, 0.4,
        "the method's own segmentations overlap little (Dice {value:.3g}, good ones have more than {limit:g})",
        on=_DEFORMED,
    ),
    Rule(
        "contrast", 0.8, -0.99,
        "the two images seem to have different contrast (rank correlation {value:.3g}, good ones have more than "
        "{limit:g}); the methods are made for one",
    ),
    Rule(
        "residual_global_mm", 1.8, 4.0,
        "the deformation does the work of an affine ({value:.3g} mm, good ones have less than {limit:g}): the affine "
        "failed, a part is missing, or a mask is another's",
        on=_DEFORMED,
    ),
    Rule(
        "residual_max_mm", 26.0, 40.0,
        "the deformation moves points very far ({value:.3g} mm, good ones less than {limit:g})",
        on=_DEFORMED,
    ),
    Rule(
        "affine_scale_min", 0.8, 0.65,
        "by the affine the moving brain measures only {value:.3g} of the fixed one along one direction, in good pairs "
        "more than {limit:g}",
    ),
    Rule(
        "affine_scale_max", 1.25, 1.5,
        "by the affine the moving brain measures {value:.3g} times the fixed one along one direction, in good pairs "
        "less than {limit:g}",
    ),
    Rule(
        "affine_shear_deg", 10.0, 18.0,
        "the affine shears the brain by {value:.3g} degrees, good ones by less than {limit:g}",
    ),
    Rule(
        "folded_percent", 0.5, 3.0,
        "the map folds in {value:.3g} % of the brain, good ones in less than {limit:g}",
    ),
    Rule(
        "ndv_percent", 0.5, 3.0,
        "folds take {value:.3g} % of the volume, in good ones less than {limit:g}",
    ),
    Rule(
        "sd_log_jacobian", 0.85, 1.2,
        "the deformation is rough (SD log J {value:.3g}, good ones have less than {limit:g})",
        on=_DEFORMED,
    ),
    Rule(
        "inverse_consistency_p95_mm", 2.0, 4.0,
        "the map and its inverse do not belong together (95th percentile {value:.3g} mm, in good ones less than "
        "{limit:g})",
    ),
    Rule("sides_moving", 0.25, 0.0, f"the moving image {_MIRRORED}"),
    Rule("sides_fixed", 0.25, 0.0, f"the fixed image {_MIRRORED}"),
)  # fmt: skip
"""In the order in which reasons are given. Left and right last: half a brain has an odd asymmetry as well."""


def verdict(
    figures: Mapping[str, float | None],
    doubts: Sequence[str] = (),
    *,
    kind: Kind = "deformed brains",
    place: tuple[float, float, float] | None = None,
) -> Quality:
    """The worst that any rule for this kind says; each of ``doubts`` asks for a look.

    A figure that is None or missing is not judged; one that is no finite number asks for a look.
    ``place`` is handed on.
    """
    found: dict[str, list[str]] = {"fail": [], "look": list(doubts)}
    rules = [rule for rule in RULES if kind in rule.on and rule.figure in figures]
    for rule in rules:
        value = figures[rule.figure]
        if value is not None and not math.isfinite(value):
            found["look"].append(f"{rule.figure} came out as no number")
            continue
        level = "pass" if value is None else level_of(value, look=rule.look, fail=rule.fail)
        if value is not None and level != "pass":
            found[level].append(rule.sentence.format(value=value, limit=rule.look))
    worst = next((level for level in ("fail", "look") if found[level]), "pass")
    return Quality(
        verdict=worst,
        reasons=(*found["fail"], *found["look"]),
        figures={name: _finite(value) for name, value in figures.items()},
        worst_place_lps_mm=place,
        thresholds={rule.figure: {"look": rule.look, "fail": rule.fail} for rule in rules},
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
