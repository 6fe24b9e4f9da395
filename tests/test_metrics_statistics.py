"""Paired tests, effect sizes and intervals: small samples by hand, intervals by SciPy. Agreement: a published table."""

import math

import numpy as np
import pytest
from scipy import stats

from neuroreg.metrics.statistics import (
    agreement,
    cohen_dz,
    compare,
    describe,
    holm,
    intraclass_correlation,
    paired_tests,
    rank_biserial,
)


def test_holm_by_hand() -> None:
    # Sorted .01, .03, .04 of three: 3 x .01 = .03; 2 x .03 = .06; 1 x .04 = .04, raised to .06.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})
    assert holm({"a": 0.8, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})


def test_five_wins_of_five() -> None:
    # All five signed ranks positive: two of 2^5 equally likely sign patterns are as extreme, p = 2 / 32.
    reference = [0.5, 0.6, 0.4, 0.55, 0.45]
    better = [0.51, 0.62, 0.43, 0.59, 0.50]
    (result,) = paired_tests(reference, {"better": better})
    assert result.p_value == pytest.approx(2 / 32)
    assert result.median_difference == pytest.approx(0.03)


def test_equal_methods_and_unequal_counts() -> None:
    (result,) = paired_tests([0.5, 0.6], {"same": [0.5, 0.6]})
    assert result.p_value == result.p_holm == 1.0
    with pytest.raises(ValueError, match="2 cases"):
        paired_tests([0.5, 0.6, 0.7], {"short": [0.5, 0.6]})


def test_effect_sizes_by_hand() -> None:
    # |d| = 1, 2, 2, 4 (and a 0, which does not count): ranks 1, 2.5, 2.5, 4. (1 + 2.5 + 4 - 2.5) / 10 = .5.
    assert rank_biserial(np.array([1.0, 2.0, 0.0, -2.0, 4.0])) == pytest.approx(0.5)
    assert rank_biserial(np.array([0.0, 0.0])) == 0.0
    assert rank_biserial(np.array([-3.0, -1.0])) == -1.0
    # d = 1, 3: mean 2, deviation sqrt(2).
    assert cohen_dz(np.array([1.0, 3.0])) == pytest.approx(math.sqrt(2))
    assert cohen_dz(np.array([2.0, 2.0])) is cohen_dz(np.array([2.0])) is None
    (test,) = compare({"a": ([3.0, 6.0], [2.0, 3.0])})
    assert (test.cases, test.mean_difference, test.rank_biserial) == (2, 2.0, 1.0)


def test_rank_biserial_is_what_the_sums_of_ranks_say() -> None:
    difference = np.random.default_rng(5).normal(0.3, 1.0, 40)
    total = 40 * 41 / 2
    smaller = stats.wilcoxon(difference).statistic
    assert abs(rank_biserial(difference)) == pytest.approx(1 - 2 * smaller / total)


def test_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, 25)
    (found,) = describe(values[:, None], draws=40_000)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=40_000, rng=np.random.default_rng(2)
    ).confidence_interval
    spread = values.std() / 5
    assert found.low == pytest.approx(expected.low, abs=0.03 * spread)
    assert found.high == pytest.approx(expected.high, abs=0.03 * spread)
    assert (found.mean, found.median) == (pytest.approx(values.mean()), pytest.approx(np.median(values)))
    assert found.sd == pytest.approx(np.std(values, ddof=1))


def test_intervals_repeat_and_leave_gaps_out() -> None:
    values = np.array([[1.0, np.nan, 5.0, np.nan], [2.0, 7.0, 5.0, np.nan], [6.0, np.nan, 5.0, np.nan]])
    first, single, same, none = describe(values, seed=3, draws=500)
    assert describe(values, seed=3, draws=500) == (first, single, same, none)
    assert 1.0 <= first.low < first.mean < first.high <= 6.0
    assert (single.count, single.mean, single.sd, single.low) == (1, 7.0, None, None)
    assert (same.low, same.high, same.sd) == (5.0, 5.0, 0.0)
    assert (none.count, none.mean, none.median, none.high) == (0, None, None, None)


SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)
"""Table 2 of Shrout and Fleiss 1979: six targets, four judges"""


def test_the_intraclass_correlation_of_the_published_table() -> None:
    # Their table 3: mean squares 11.24 (targets), 32.49 (judges), 1.02 (residual); table 4: ICC(2,1) = .29
    found = float(intraclass_correlation(SHROUT_FLEISS))
    assert found == pytest.approx(0.29, abs=0.005)
    assert found == pytest.approx((11.24 - 1.02) / (11.24 + 3 * 1.02 + 4 * (32.49 - 1.02) / 6), abs=5e-4)


def test_a_shift_counts_against_absolute_agreement() -> None:
    first = np.array([1.0, 2.0, 4.0])
    same, shifted = np.stack((first, first), axis=1), np.stack((first, first + 1), axis=1)
    # Subjects vary by 7/3 around their mean; a shift of 1 adds half its square to the expected variance of a reading.
    assert intraclass_correlation(np.stack((same, shifted))) == pytest.approx(
        [1.0, (7 / 3) / (7 / 3 + 1 / 2)]
    )
    assert np.isnan(intraclass_correlation(np.full((3, 2), 0.1)))
    for few in (same[:1], same[:, :1], first):
        with pytest.raises(ValueError, match="two subjects measured twice"):
            intraclass_correlation(few)


def test_agreement_of_two_measurements_by_hand() -> None:
    found = agreement(np.array([[95.0, 210.0], [0.0, 0.0]]), np.array([[105.0, 190.0], [0.0, 0.0]]))
    assert found.difference_percent[0] == pytest.approx(10.0)  # 10 of 100 and 20 of 200
    assert found.within_cv_percent[0] == pytest.approx(10 / 2**0.5)
    assert found.between_cv_percent[0] == pytest.approx(100 * (100 / 2**0.5) / 150)
    assert np.isnan([found.icc[1], found.difference_percent[1], found.between_cv_percent[1]]).all()
    with pytest.raises(ValueError, match="differ in shape"):
        agreement(np.ones(2), np.ones(3))
