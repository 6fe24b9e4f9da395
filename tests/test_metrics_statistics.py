"""Paired tests: exact small-sample p values and Holm's correction by hand."""

import pytest

from neuroreg.metrics.statistics import holm, paired_tests


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
