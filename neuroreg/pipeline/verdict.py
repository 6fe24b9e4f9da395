"""From figures to a verdict: the thresholds, calibrated on planted failures, and the sentence for each.

``examples/calibrate_qc.py`` measures every figure on registrations that went well and on ones spoilt on purpose; the
thresholds were chosen on its validation split, and ``examples/QC.md`` says what they do on the test split.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuroreg.pipeline.record import Quality


@dataclass(frozen=True)
class Rule:
    """One figure and where it stops being good."""

    figure: str
    look: float
    fail: float
    """beyond ``look``, in the direction from ``look`` to ``fail``"""
    sentence: str
    """the reason, with {value} and {limit}"""
    only_brain: bool = False
    """judged only where no skull or face is left: its thresholds are those of brains"""

    @property
    def low_is_bad(self) -> bool:
        """Whether small values are the bad ones."""
        return self.fail < self.look

    def broken(self, value: float) -> str | None:
        """The level, "look" or "fail", when the value is beyond its threshold, else None."""
        sign = -1.0 if self.low_is_bad else 1.0
        if sign * value > sign * self.fail:
            return "fail"
        return "look" if sign * value > sign * self.look else None


RULES: tuple[Rule, ...] = (
    Rule(
        "sides_moving", 0.25, 0.0,
        "left and right seem exchanged in the moving image: its asymmetry is that of a mirrored brain "
        "(score {value:.2f}, brains as they are have more than {limit:g})",
    ),
    Rule(
        "sides_fixed", 0.25, 0.0,
        "left and right seem exchanged in the fixed image: its asymmetry is that of a mirrored brain "
        "(score {value:.2f}, brains as they are have more than {limit:g})",
    ),
)  # fmt: skip
"""In the order in which reasons are given."""


def verdict(
    figures: Mapping[str, float | None],
    doubts: Sequence[str] = (),
    *,
    failures: Sequence[str] = (),
    whole_head: bool = False,
    place: tuple[float, float, float] | None = None,
) -> Quality:
    """The worst that any rule says; ``doubts`` count as a reason to look, ``failures`` as one to fail.

    A figure that is None is not judged, one that is missing neither. ``place`` is handed on.
    """
    found: dict[str, list[str]] = {"fail": list(failures), "look": list(doubts)}
    rules = [rule for rule in RULES if not (whole_head and rule.only_brain)]
    for rule in rules:
        value = figures.get(rule.figure)
        level = None if value is None else rule.broken(value)
        if value is not None and level is not None:
            limit = rule.fail if level == "fail" else rule.look
            found[level].append(rule.sentence.format(value=value, limit=limit))
    worst = next((level for level in ("fail", "look") if found[level]), "pass")
    return Quality(
        verdict=worst,
        reasons=(*found["fail"], *found["look"]),
        figures={name: _finite(value) for name, value in figures.items()},
        worst_place_lps_mm=place,
        thresholds={
            rule.figure: {"look": rule.look, "fail": rule.fail} for rule in rules if rule.figure in figures
        },
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
