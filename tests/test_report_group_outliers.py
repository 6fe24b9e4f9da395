"""Who stands out: the numbers by hand and by scipy, sides, trifles, and the order of reading."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from scipy.stats import median_abs_deviation

from neuroreg.report.group_cases import Case, Verdict
from neuroreg.report.group_outliers import axis, kind_of, robust_z, standings, worst_first

PLAIN = Case(
    id="a",
    verdict="pass",
    reasons=(),
    figures={},
    seconds=1.0,
    method="m",
    weights="none",
    version="v",
    thresholds={},
    report=None,
    thumbnail=None,
)


def _cases(*values: float | None, name: str = "lncc_after", method: str = "m") -> list[Case]:
    return [replace(PLAIN, id=f"{method}{k}", figures={name: v}, method=method) for k, v in enumerate(values)]


def test_robust_z_by_hand() -> None:
    # median 3; absolute deviations 2 1 0 1 97, their median 1: one MAD is 1.4826 standard deviations
    found = robust_z([1, 2, 3, 4, 100])
    assert found == pytest.approx([-2 / 1.4826022, -1 / 1.4826022, 0, 1 / 1.4826022, 97 / 1.4826022])


def test_robust_z_as_scipy_and_statistics_say() -> None:
    draw = random.Random(0)
    values = [draw.gauss(5, 2) for _ in range(101)]
    spread = float(median_abs_deviation(values, scale="normal"))
    expected = [(value - statistics.median(values)) / spread for value in values]
    assert robust_z(values) == pytest.approx(expected, rel=1e-12)


def test_a_trifle_does_not_stand_out_where_all_others_are_equal() -> None:
    assert robust_z([0, 0, 0, 0, 0, 0.001], grain=0.05) == pytest.approx([0, 0, 0, 0, 0, 0.02])
    assert robust_z([0, 0, 0, 0, 0, 5.0], grain=0.05) == pytest.approx([0, 0, 0, 0, 0, 100])
    assert robust_z([0, 0, 0, 0, 0, 5.0]) is None  # no spread to measure by
    assert robust_z([1, 2, 3, 4]) is None  # too few


def test_extreme_values_give_finite_scores() -> None:
    found = robust_z([0.0, 5e-324, 1e-323, 1.5e-323, 1e30])
    assert found is not None
    assert all(math.isfinite(z) for z in found)


def test_cases_are_compared_within_their_method_and_on_the_bad_side() -> None:
    good, other = [0.90, 0.88, 0.92, 0.86, 0.94], [0.40, 0.38, 0.42, 0.36, 0.44]
    cases = [*_cases(*good, 0.40, method="m"), *_cases(*other, 0.90, method="affine")]
    found = standings(cases)
    # m: median of .90 .88 .92 .86 .94 .40 is .89, deviations .01 .01 .03 .03 .05 .49, MAD .03
    bad = found[5].largest
    assert bad is not None
    assert bad.z == pytest.approx(-0.49 / (1.4826022 * 0.03))
    assert (bad.figure, bad.bad, found[5].outlier) == ("lncc_after", True, True)
    high = found[11].largest
    assert high is not None
    assert (high.bad, found[11].outlier) == (False, True)  # much better than other affines: odd, not bad
    assert not any(standing.outlier for k, standing in enumerate(found) if k not in (5, 11))


def test_the_figure_farthest_out_is_named_and_missing_values_are_left_out() -> None:
    cases = [
        replace(case, figures={**case.figures, "residual_max_mm": mm})
        for case, mm in zip(
            _cases(0.9, 0.91, 0.92, 0.93, None, 0.94), (10, 11, 12, 13, 40, None), strict=True
        )
    ]
    largest = standings(cases)[4].largest
    assert largest is not None
    assert (largest.figure, largest.bad) == ("residual_max_mm", True)
    assert standings(_cases(0.1, 0.2))[0].largest is None


@pytest.mark.parametrize(
    ("figure", "bad"),
    [("lncc_worst", -1), ("lncc_before", 0), ("dice_mean", -1), ("folded_percent", 1), ("novel", 0)],
)
def test_figures_know_their_bad_side(figure: str, bad: int) -> None:
    assert kind_of(figure).bad == bad


def test_the_worst_come_first() -> None:
    verdicts: tuple[Verdict, ...] = ("pass", "fail", "look", "pass", "pass", "look", "pass")
    values = (0.90, 0.89, 0.91, 0.60, 0.92, 0.88, None)
    cases = [replace(case, verdict=v) for case, v in zip(_cases(*values), verdicts, strict=True)]
    # Median of the six values .895, deviations .005 .005 .015 .295 .025 .015, MAD .015.
    # fail: 1; look: 5 and 2 lie equally far out, so by name; pass: 3, 4, 0, and 6, which has no value
    assert worst_first(cases, standings(cases)) == [1, 2, 5, 3, 4, 0, 6]


def test_an_axis_leaves_the_far_ones_at_its_edge() -> None:
    values = [1.0, 2, 3, 4, 5, 1000]  # median 3.5, deviations .5 .5 1.5 1.5 2.5 996.5, MAD 1.5
    low, high = axis(values)
    assert (low, high) == (1, pytest.approx(3.5 + 12 * 1.4826022 * 1.5))
    assert axis(values, including=[500, 2000]) == (1, 500)
    assert axis([0.0, 0, 0]) == (0, 0)
