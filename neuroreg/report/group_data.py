"""What the page of a cohort shows: one block of data for its script, and the same for readers without scripts."""

import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from neuroreg.io.tables import Cell
from neuroreg.report.group_cases import VERDICTS, Case, Cohort
from neuroreg.report.group_outliers import (
    OUTLIER,
    Deviation,
    Standing,
    axis,
    kind_of,
    standings,
    worst_first,
)
from neuroreg.report.html import SYMBOLS
from neuroreg.report.page import label_of
from neuroreg.report.words import FIGURES

MAIN_FIGURES = (
    "lncc_after",
    "lncc_worst",
    "folded_percent",
    "residual_max_mm",
    "inverse_consistency_p95_mm",
    "dice_mean",
    "dice_estimated",
)
"""What the table begins with; the reader can ask for the others."""

STATIC_ROWS = 50
"""Cases that are shown without a script."""

THUMBNAIL_LETTERS = 12_000_000
"""Room for the small pictures of all cases together; the worst cases come first."""

_MAX_FIGURES = 60  # columns of the page; the CSV has every one
_MAX_MARKS = 6
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
DESCRIBED = ("method", "weights", "version")
"""What the runs of a cohort should have in common."""


@dataclass(frozen=True)
class Group:
    """A cohort in the order of reading, and how each case stands in it."""

    cases: tuple[Case, ...]
    standings: tuple[Standing, ...]
    figures: tuple[str, ...]
    """every figure that some case has, the known ones first"""

    @classmethod
    def of(cls, cohort: Cohort) -> "Group":
        """Compare the cases and put the worst first."""
        found = standings(cohort.cases)
        order = worst_first(cohort.cases, found)
        names = {name for case in cohort.cases for name in case.figures}
        known = [name for name in FIGURES if name in names]
        return cls(
            cases=tuple(cohort.cases[k] for k in order),
            standings=tuple(found[k] for k in order),
            figures=(*known, *sorted(names - set(known))),
        )

    def count(self, verdict: str) -> int:
        """How many cases have it."""
        return sum(case.verdict == verdict for case in self.cases)


def table(group: Group) -> tuple[tuple[str, ...], list[dict[str, Cell]]]:
    """Columns and rows of the CSV: one row per case, the worst first, numbers in full."""
    fixed = ("id", "verdict", "reasons", "outlier_figure", "outlier_z")
    last = ("seconds", "method", "weights", "version")
    columns = (*fixed, *group.figures, *last)
    rows: list[dict[str, Cell]] = []
    for case, standing in zip(group.cases, group.standings, strict=True):
        largest = standing.largest
        rows.append(
            {
                **case.figures,
                "id": case.id,
                "verdict": case.verdict,
                "reasons": "; ".join(case.reasons),
                "outlier_figure": largest.figure if largest else None,
                "outlier_z": largest.z if largest else None,
                "seconds": case.seconds,
                "method": case.method,
                "weights": case.weights,
                "version": case.version,
            }
        )
    return columns, rows


def payload(group: Group, page: Path) -> dict[str, object]:
    """Everything the script of the page reads, as plain JSON values; links are relative to the folder of ``page``."""
    names = figures_shown(group)
    reasons = _numbered(reason for case in group.cases for reason in case.reasons)
    kinds = _numbered(kind for kind, _ in problems(group.cases))
    described = {key: _numbered(getattr(case, key) for case in group.cases) for key in DESCRIBED}
    pictures = thumbnails(group.cases)
    cases = []
    for case, standing, picture in zip(group.cases, group.standings, pictures, strict=True):
        largest = standing.largest
        cases.append(
            {
                "id": case.id,
                "verdict": VERDICTS.index(case.verdict),
                "reasons": [reasons[reason] for reason in case.reasons],
                "values": [case.figures.get(name) for name in names],
                "seconds": case.seconds,
                "z": largest.z if largest else None,
                "of": label_of(largest.figure) if largest else None,
                "bad": largest.bad if largest else None,
                "odd": [k for k, name in enumerate(names) if abs(standing.z.get(name, 0.0)) >= OUTLIER],
                "link": link_to(case.report, page),
                "picture": picture,
                **{key: numbers[getattr(case, key)] for key, numbers in described.items()},
            }
        )
    return {
        "verdicts": [{"word": verdict, "symbol": SYMBOLS[verdict]} for verdict in VERDICTS],
        "outlier": OUTLIER,
        "figures": [_figure(name, group.cases) for name in names],
        "reasons": list(reasons),
        "kinds": [kinds[kind_of_problem(reason)] for reason in reasons],
        "described": {key: list(numbers) for key, numbers in described.items()},
        "cases": cases,
    }


def figures_shown(group: Group) -> tuple[str, ...]:
    """The figures that the page has room for, of those that were measured at all."""
    measured = (name for name in group.figures if _values(group.cases, name))
    return tuple(measured)[:_MAX_FIGURES]


def _figure(name: str, cases: Sequence[Case]) -> dict[str, object]:
    """A figure's column and picture. Its marks are the thresholds of the records, [level, value], each once."""
    values, kind = _values(cases, name), kind_of(name)
    marks = Counter(mark for case in cases for mark in case.thresholds.get(name, {}).items())
    frequent = sorted(mark for mark, _ in marks.most_common(_MAX_MARKS))
    low, high = axis(values, kind.grain, including=[value for _, value in frequent])
    return {
        "name": name,
        "label": label_of(name),
        "bad": kind.bad,
        "main": name in MAIN_FIGURES,
        "low": low,
        "high": high,
        "median": statistics.median(values),
        "marks": frequent,
    }


def _values(cases: Sequence[Case], name: str) -> list[float]:
    return [value for case in cases if (value := case.figures.get(name)) is not None]


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    """Each text once, with its number."""
    return {text: k for k, text in enumerate(dict.fromkeys(texts))}


def thumbnails(cases: Sequence[Case]) -> list[str | None]:
    """The small pictures in the order of the cases, until the room is used up."""
    room, found = THUMBNAIL_LETTERS, []
    for case in cases:
        room -= len(case.thumbnail or "")
        found.append(case.thumbnail if room >= 0 else None)
    return found


def kind_of_problem(reason: str) -> str:
    """A reason without its numbers, so that "folds in 0.7 %" and "folds in 3 %" count as one."""
    return _NUMBER.sub("…", reason)


def problems(cases: Sequence[Case]) -> list[tuple[str, int]]:
    """What is wrong, and in how many cases: the most frequent first."""
    counted = Counter(kind for case in cases for kind in {kind_of_problem(r) for r in case.reasons})
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def differences(cases: Sequence[Case]) -> list[tuple[str, list[tuple[str, int]]]]:
    """In what the runs are not alike: (method, weights or version, [(which, how many cases)])."""
    counted = {key: Counter(getattr(case, key) for case in cases) for key in DESCRIBED}
    return [(key, found.most_common()) for key, found in counted.items() if len(found) > 1]


def link_to(file: Path | None, page: Path) -> str | None:
    """A relative, quoted link from ``page``; nothing in a name can make another scheme or host of it."""
    if file is None:
        return None
    relative = os.path.relpath(file.absolute(), page.absolute().parent)
    return "./" + quote(os.fsencode(Path(relative).as_posix()))


def standing_text(largest: Deviation | None) -> str:
    """The largest deviation in words: ``LNCC after: z -6.2, worse``."""
    if largest is None:
        return "not comparable"
    side = {True: "worse", False: "better", None: "either way"}[largest.bad]
    return f"{label_of(largest.figure)}: z {largest.z:+.1f}, {side}"
