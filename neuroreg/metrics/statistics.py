"""Is one method better than another? Paired tests with a correction for asking several times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon


@dataclass(frozen=True)
class PairedTest:
    """A method against the reference on the same cases."""

    name: str
    median_difference: float
    p_value: float
    """two-sided Wilcoxon signed rank"""
    p_holm: float
    """the same after Holm's correction over all methods asked about"""


def paired_tests(reference: Sequence[float], others: Mapping[str, Sequence[float]]) -> tuple[PairedTest, ...]:
    """Wilcoxon signed-rank tests of each method's figures against the reference's, case by case, Holm corrected.

    Ordered pairs of few people are not independent samples: read the p values as a description, not as proof.
    Raises ValueError when the numbers of cases differ.
    """
    base = np.asarray(reference, dtype=np.float64)
    differences = {}
    for name, values in others.items():
        if len(values) != len(base):
            raise ValueError(f"{name}: {len(values)} cases, the reference has {len(base)}")
        differences[name] = np.asarray(values, dtype=np.float64) - base
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
