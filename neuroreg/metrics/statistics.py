"""What figures of several cases say: their spread, whether one method is better, whether a repetition agrees.

**Interval.** The cases are drawn with replacement, as many as there are, DRAWS times; the interval of the mean is from
the 2.5th to the 97.5th percentile of the means of the draws (Efron's percentile interval). Cases are drawn whole: every
figure and region of a draw comes from the same cases.

**Effect sizes** of paired figures, differences d = first - second. Matched-pairs rank-biserial correlation: the sizes
of the d that are not 0 are ranked; (sum of the ranks of d > 0 - sum of those of d < 0) / sum of all ranks, -1..1 (Kerby
2014). Cohen's dz: mean of d / standard deviation of d (n - 1 in the denominator).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

DRAWS = 10_000
_LEVEL = 0.95
_MOST_WEIGHTS = 4_000_000  # of draws x cases held at once: 32 MB

Figures = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PairedTest:
    """One set of figures against another on the same cases."""

    name: str
    median_difference: float
    p_value: float
    """two-sided Wilcoxon signed rank"""
    p_holm: float
    """the same after Holm's correction over all that was asked together"""
    cases: int
    mean_difference: float
    rank_biserial: float
    """matched pairs, above 0 where the first figures are larger; 0 when all are equal"""
    cohen_dz: float | None
    """None when all differences are the same"""


@dataclass(frozen=True)
class Description:
    """One figure over several cases. What too few cases cannot tell is None."""

    count: int
    mean: float | None
    sd: float | None
    """n - 1 in the denominator"""
    median: float | None
    low: float | None
    """of the 95 % bootstrap interval of the mean"""
    high: float | None


def describe(values: NDArray[np.float64], *, seed: int = 0, draws: int = DRAWS) -> tuple[Description, ...]:
    """Each column of ``values`` (cases, columns), NaN where a case lacks the figure, over the cases that have it.

    All columns see the same draws of cases; the same ``seed`` gives the same interval.
    """
    present = ~np.isnan(values)
    low, high = _intervals(values, present, seed=seed, draws=draws)
    found = []
    for k, has in enumerate(present.T):
        column = values[has, k]
        several = len(column) > 1
        found.append(
            Description(
                count=len(column),
                mean=float(column.mean()) if len(column) else None,
                sd=float(column.std(ddof=1)) if several else None,
                median=float(np.median(column)) if len(column) else None,
                low=float(low[k]) if several else None,
                high=float(high[k]) if several else None,
            )
        )
    return tuple(found)


def _intervals(
    values: NDArray[np.float64], present: NDArray[np.bool_], *, seed: int, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The percentiles of the means over the draws, each (columns,); NaN for a column without values."""
    cases, columns = values.shape
    means = np.full((draws, columns), np.nan)
    if not cases or not columns:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    generator = np.random.default_rng(seed)
    filled, rows = np.where(present, values, 0.0), max(1, _MOST_WEIGHTS // cases)
    for start in range(0, draws, rows):
        stop = min(start + rows, draws)
        # how often each case is in each draw
        weights = generator.multinomial(cases, np.full(cases, 1.0 / cases), size=stop - start).astype(float)
        count = weights @ present
        np.divide(weights @ filled, count, out=means[start:stop], where=count > 0)
    tail = (1.0 - _LEVEL) / 2
    result = np.full((2, columns), np.nan)
    some = present.any(axis=0)
    if some.any():
        result[:, some] = np.nanquantile(means[:, some], [tail, 1.0 - tail], axis=0)
    return result[0], result[1]


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
        PairedTest(
            name=name,
            median_difference=float(np.median(d)),
            p_value=raw[name],
            p_holm=corrected[name],
            cases=len(d),
            mean_difference=float(d.mean()),
            rank_biserial=rank_biserial(d),
            cohen_dz=cohen_dz(d),
        )
        for name, d in differences.items()
    )


def rank_biserial(differences: NDArray[np.float64]) -> float:
    """Matched-pairs rank-biserial correlation of paired differences (n,), -1..1; 0 when all are 0."""
    d = differences[differences != 0]
    if not len(d):
        return 0.0
    ranks = rankdata(np.abs(d))
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def cohen_dz(differences: NDArray[np.float64]) -> float | None:
    """Mean over standard deviation of paired differences (n,); None of fewer than two, or when all are equal."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    return float(differences.mean() / differences.std(ddof=1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the k-th smallest of m p values times m - k + 1, kept rising, at most 1."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for k, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - k)))
        corrected[name] = highest
    return corrected


@dataclass(frozen=True)
class Agreement:
    """How well two measurements of the same subjects agree, and how much the subjects differ. NaN where undefined."""

    icc: Figures
    """``intraclass_correlation``: 1 when they agree; below that for differences and for a bias of one measurement"""
    difference_percent: Figures
    """mean over the subjects of 100 |a - b| / their mean"""
    within_cv_percent: Figures
    """within-subject coefficient of variation: root mean square over the subjects of SD / mean of the two"""
    between_cv_percent: Figures
    """SD of the subjects' means / their mean: what agreement is worth nothing without"""


def agreement(first: Figures, second: Figures) -> Agreement:
    """Two measurements (..., n) of n subjects, of a quantity above 0 such as a volume; each figure is (...).

    Raises ValueError when the shapes differ or there are fewer than two subjects.
    """
    if first.shape != second.shape:
        raise ValueError(f"the measurements differ in shape: {first.shape} and {second.shape}")
    icc = intraclass_correlation(np.stack((first, second), axis=-1))
    means, apart = (first + second) / 2, np.abs(first - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = apart / means
        return Agreement(
            icc=icc,
            difference_percent=100 * relative.mean(axis=-1),
            within_cv_percent=100 * np.sqrt((relative**2 / 2).mean(axis=-1)),  # SD of two is |a - b| / sqrt 2
            between_cv_percent=100 * means.std(axis=-1, ddof=1) / means.mean(axis=-1),
        )


def intraclass_correlation(ratings: Figures) -> Figures:
    """ICC(2,1) of ratings (..., n, k), n subjects measured k times: (...), at most 1; NaN when all ratings are equal.

    Two-way random effects, absolute agreement, single measurement: a shift of one of the k columns counts against it.
    Shrout and Fleiss, Intraclass correlations: uses in assessing rater reliability, Psychol. Bull. 86, 1979.
    Raises ValueError for fewer than two subjects or measurements.
    """
    ratings = np.asarray(ratings, dtype=np.float64)
    n, k = ratings.shape[-2:] if ratings.ndim > 1 else (0, 0)
    if n < 2 or k < 2:
        raise ValueError(f"agreement needs two subjects measured twice at least, got {n} measured {k} times")
    whole = ratings.mean(axis=(-2, -1), keepdims=True)
    subjects, columns = ratings.mean(axis=-1, keepdims=True), ratings.mean(axis=-2, keepdims=True)
    between = k * ((subjects - whole) ** 2).sum(axis=(-2, -1)) / (n - 1)
    shift = n * ((columns - whole) ** 2).sum(axis=(-2, -1)) / (k - 1)
    error = ((ratings - subjects - columns + whole) ** 2).sum(axis=(-2, -1)) / ((n - 1) * (k - 1))
    varies = np.ptp(ratings, axis=(-2, -1)) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Figures = (between - error) / (between + (k - 1) * error + k * (shift - error) / n)
    return np.where(varies, found, np.nan)
