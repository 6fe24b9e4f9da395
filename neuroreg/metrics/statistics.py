"""Is one method better than another? Paired tests with a correction for asking several times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon


@dataclass(frozen=True)
class PairedTest:
    """One set of figures against another on the same cases."""

    name: str
    median_difference: float
    p_value: float
    """two-sided Wilcoxon signed rank"""
    p_holm: float
    """the same after Holm's correction over all that was asked together"""


def paired_tests(reference: Sequence[float], others: Mapping[str, Sequence[float]]) -> tuple[PairedTest, ...]:
    """Wilcoxon signed-rank tests of each method's figures against the reference's, case by case, Holm corrected.

    Ordered pairs of few people are not independent samples: read the p values as a description, not as proof.
    Raises ValueError when the numbers of cases differ.
    """
    return compare({name: (values, reference) for name, values in others.items()})


def compare(asked: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> tuple[PairedTest, ...]:
    """Wilcoxon signed-rank tests of the first figures against the second, case by case, Holm corrected over all.

    Each comparison has cases of its own. What ``paired_tests`` says of p values holds here too. Raises ValueError when
    the numbers of cases differ.
    """
    differences = {}
    for name, (first, second) in asked.items():
        if len(first) != len(second):
            raise ValueError(f"{name}: {len(first)} cases, the reference has {len(second)}")
        differences[name] = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    # All differences zero: nothing to rank, and no evidence of a difference.
    raw = {name: float(wilcoxon(d).pvalue) if np.any(d) else 1.0 for name, d in differences.items()}
    corrected = holm(raw)
    return tuple(
        PairedTest(name, float(np.median(d)), raw[name], corrected[name]) for name, d in differences.items()
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the k-th smallest of m p values times m - k + 1, kept rising, at most 1."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for k, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - k)))
        corrected[name] = highest
    return corrected
