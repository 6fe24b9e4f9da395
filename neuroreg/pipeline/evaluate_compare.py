"""Is one method better than another? Paired tests over the pairs that all methods have, Holm corrected together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError, UsageError
from neuroreg.io.files import check_not_inputs
from neuroreg.io.tables import write_csv
from neuroreg.metrics.segmentation import FIGURES
from neuroreg.metrics.statistics import compare
from neuroreg.pipeline.evaluate_scores import Scores, Structure, read_scores
from neuroreg.pipeline.evaluate_summary import column_means

Level = Literal["mean", "roi", "group", "group mean"]
LEVELS: tuple[Level, ...] = ("mean", "roi", "group")
"""What is tested unless told otherwise: the mean over the regions of each pair, every region, every group."""
ALL_LEVELS: tuple[Level, ...] = (*LEVELS, "group mean")
_FEWEST_CASES = 2
_LEVEL = 0.05


@dataclass(frozen=True)
class Contrast:
    """One method against the reference, one figure, the pairs where all have it; differences: method - reference."""

    figure: str
    level: Level
    roi: str
    name: str
    method: str
    reference: str
    cases: int
    method_mean: float
    reference_mean: float
    mean_difference: float
    median_difference: float
    p_value: float
    """two-sided Wilcoxon signed rank"""
    p_holm: float
    """corrected over all tests of the comparison"""
    rank_biserial: float
    """matched pairs, above 0 where the method's figures are larger"""
    cohen_dz: float | None


COLUMNS = tuple(field.name for field in fields(Contrast))


@dataclass(frozen=True)
class Comparison:
    """All that was asked together."""

    methods: tuple[str, ...]
    """the first is the reference"""
    cases: tuple[str, ...]
    """those that all methods have"""
    tests: tuple[Contrast, ...]
    notes: tuple[str, ...]
    scores: tuple[Scores, ...]
    """of the common cases, for pictures"""

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "reference": self.methods[0],
            "methods": list(self.methods),
            "cases": list(self.cases),
            "correction": f"Holm, over all {len(self.tests)} tests",
            "tests": [asdict(test) for test in self.tests],
        }


@dataclass(frozen=True)
class _Question:
    """One test to be: columns of figures over the same cases."""

    figure: str
    level: Level
    structure: Structure
    method: str
    values: tuple[NDArray[np.float64], NDArray[np.float64]]
    """of the method and of the reference"""


def compare_tables(
    paths: Sequence[Path],
    *,
    figures: Sequence[str] = ("dice",),
    levels: Sequence[Level] = LEVELS,
    csv: Path | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Test every method of the tables against the first, and write COLUMNS to ``csv``.

    A region counts in the mean of a pair only where all methods have its figure, so that all means are over the same
    regions. Raises DataError with fewer than two common pairs, UsageError with fewer than two methods or when
    ``csv`` is one of ``paths``.
    """
    if csv is not None:
        check_not_inputs([csv], paths)
    scores = common_cases(read_scores(paths))
    _check_figures(scores, figures)
    notes = []
    asked = [
        question for figure in figures for level in levels for question in _questions(scores, figure, level)
    ]
    kept = [question for question in asked if len(question.values[0]) >= _FEWEST_CASES]
    if len(kept) < len(asked):
        notes.append(
            f"{len(asked) - len(kept)} comparisons have fewer than {_FEWEST_CASES} pairs and are left out"
        )
    if not kept:
        raise DataError("there is nothing to compare", remedy="no two pairs have the figures asked for")
    notes += _too_few(len(scores[0].cases), len(kept))
    tests = _tests(kept, scores[0].method)
    if csv is not None:
        write_csv(csv, COLUMNS, [asdict(test) for test in tests], overwrite=overwrite)
    return Comparison(tuple(s.method for s in scores), scores[0].cases, tests, tuple(notes), scores)


def common_cases(scores: Sequence[Scores]) -> tuple[Scores, ...]:
    """The scores of the pairs that every method has, in one order. Raises DataError with fewer than two."""
    if len(scores) < 2:
        raise UsageError(
            "a comparison needs two methods",
            remedy="give two tables, or one whose column method has two names",
        )
    cases = [case for case in scores[0].cases if all(case in other.cases for other in scores[1:])]
    if len(cases) < _FEWEST_CASES:
        names = ", ".join(repr(s.method) for s in scores)
        raise DataError(
            f"{names} have {len(cases)} pairs in common, a paired test needs {_FEWEST_CASES}",
            remedy="the same ids in all tables are the same pairs",
        )
    return tuple(
        Scores(
            s.method, tuple(cases), s.structures, s.values[[s.cases.index(c) for c in cases]], s.tolerance_mm
        )
        for s in scores
    )


def _check_figures(scores: Sequence[Scores], figures: Sequence[str]) -> None:
    if unknown := [name for name in figures if name not in FIGURES]:
        raise UsageError(f"{unknown[0]!r} is no figure", remedy=f"known: {', '.join(FIGURES)}")
    tolerances = {s.tolerance_mm for s in scores}
    if "surface_dice" in figures and len(tolerances) > 1:
        raise DataError(
            "the surface Dice of the tables have different tolerances", remedy="evaluate with one"
        )


def _too_few(cases: int, tests: int) -> list[str]:
    """What a reader must know of few cases: the smallest p, when all differences have one sign, is 2 / 2^cases."""
    if 2.0 ** (1 - cases) > _LEVEL:
        return [f"only {cases} pairs: no p of a signed-rank test can be below {_LEVEL:g} with fewer than 6"]
    if 2.0 ** (1 - cases) * tests > _LEVEL:
        return [
            f"no p of {cases} pairs can be below {_LEVEL:g} after the correction for {tests} tests: "
            "have more pairs, or ask for less (--by mean)"
        ]
    return []


def _questions(scores: Sequence[Scores], figure: str, level: Level) -> list[_Question]:
    """Every method against the first, for the mean or for each structure of a kind that all methods have."""
    kind = "roi" if level == "mean" else level
    chosen = [s.of_kind(kind) for s in scores]
    keys = [{structure.key: k for k, structure in enumerate(s.structures)} for s in chosen]
    shared = [s for s in chosen[0].structures if all(s.key in other for other in keys)]
    # (methods, cases, structures)
    values = np.stack(
        [s.figure(figure)[:, [key[x.key] for x in shared]] for s, key in zip(chosen, keys, strict=True)]
    )
    values = np.where(np.isnan(values).any(axis=0), np.nan, values)
    if level == "mean":
        values = np.stack([column_means(table.T)[:, None] for table in values])
        shared = [Structure("mean", "", f"mean of {len(shared)} regions")]
    found = []
    for k, structure in enumerate(shared):
        here = ~np.isnan(values[0, :, k])
        for s, table in zip(scores[1:], values[1:], strict=True):
            pair = (table[here, k], values[0, here, k])
            found.append(_Question(figure, level, structure, s.method, pair))
    return found


def _tests(questions: Sequence[_Question], reference: str) -> tuple[Contrast, ...]:
    results = compare({str(k): (q.values[0].tolist(), q.values[1].tolist()) for k, q in enumerate(questions)})
    return tuple(
        Contrast(
            figure=q.figure,
            level=q.level,
            roi=q.structure.roi,
            name=q.structure.name,
            method=q.method,
            reference=reference,
            cases=result.cases,
            method_mean=float(q.values[0].mean()),
            reference_mean=float(q.values[1].mean()),
            mean_difference=result.mean_difference,
            median_difference=result.median_difference,
            p_value=result.p_value,
            p_holm=result.p_holm,
            rank_biserial=result.rank_biserial,
            cohen_dz=result.cohen_dz,
        )
        for q, result in zip(questions, results, strict=True)
    )
