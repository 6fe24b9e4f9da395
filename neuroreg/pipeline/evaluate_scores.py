"""The long table of many pairs, ``rois.csv``, as arrays: one method, its cases, its structures, every figure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError, UsageError
from neuroreg.io.tables import Cell, plain, read_csv
from neuroreg.metrics.segmentation import FIGURES

LONG_COLUMNS = ("id", "method", "roi", "name", "kind", *FIGURES, "tolerance_mm", "status")
"""The columns of the ``rois.csv`` of a table of pairs: ``id`` is the pair, ``roi`` the label."""
KINDS = ("roi", "group", "group mean")


@dataclass(frozen=True)
class Structure:
    """A region, or a group of them."""

    kind: str
    roi: str
    """the label, as text; "" for groups"""
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes two structures the same: the label of a region, the name of a group."""
        return (self.kind, self.roi or self.name)

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return self.name or self.roi


@dataclass(frozen=True)
class Scores:
    """Everything one method scored."""

    method: str
    cases: tuple[str, ...]
    structures: tuple[Structure, ...]
    """regions by rising label, then groups in the order of their table"""
    values: NDArray[np.float64]
    """(cases, structures, FIGURES), NaN where a figure does not exist"""
    tolerance_mm: float | None = None
    """of the surface Dice; None where it differs"""

    def figure(self, name: str) -> NDArray[np.float64]:
        """One of FIGURES: (cases, structures)."""
        return self.values[:, :, FIGURES.index(name)]

    def of_kind(self, kind: str) -> "Scores":
        """The structures of one kind alone."""
        chosen = [k for k, structure in enumerate(self.structures) if structure.kind == kind]
        return replace(
            self, structures=tuple(self.structures[k] for k in chosen), values=self.values[:, chosen]
        )


def collect(rows: Iterable[Mapping[str, Cell]]) -> tuple[Scores, ...]:
    """Rows of LONG_COLUMNS (figures as numbers or None) by method, in the order in which methods first appear.

    Raises DataError when a method has a structure of one case twice.
    """
    table: dict[str, dict[str, dict[tuple[str, str], tuple[float, ...]]]] = {}
    structures: dict[str, dict[tuple[str, str], Structure]] = {}
    tolerances: dict[str, set[float]] = {}
    for row in rows:
        method, case = str(row["method"]), str(row["id"])
        structure = Structure(str(row["kind"]), str(row["roi"]), str(row["name"]))
        scored = table.setdefault(method, {}).setdefault(case, {})
        if structure.key in scored:
            raise DataError(
                f"case {case}: {structure.title} is there twice for method {method!r}",
                remedy="keep one of the rows",
            )
        structures.setdefault(method, {}).setdefault(structure.key, structure)
        scored[structure.key] = tuple(_number(row[figure]) for figure in FIGURES)
        tolerances.setdefault(method, set()).add(_number(row["tolerance_mm"]))
    found = []
    for method, cases in table.items():
        ordered = sorted(structures[method].values(), key=_rank)
        blank = (np.nan,) * len(FIGURES)
        values = [[scored.get(structure.key, blank) for structure in ordered] for scored in cases.values()]
        (tolerance,) = tolerances[method] if len(tolerances[method]) == 1 else (None,)
        found.append(Scores(method, tuple(cases), tuple(ordered), np.array(values), tolerance))
    return tuple(found)


def read_scores(paths: Sequence[Path]) -> tuple[Scores, ...]:
    """The scores of several long tables, or of one with several methods; the first is the reference of a comparison.

    A table is called by its column ``method``, or by its folder where that is blank or does not tell tables apart.
    Raises DataError for what is no such table, UsageError when two have the same name, and as ``read_csv``.
    """
    tables = [(path, collect(_rows(path))) for path in paths]
    names = [scores.method for _, found in tables for scores in found]
    clear = len(set(names)) == len(names)
    named = []
    for path, found in tables:
        folder = path.resolve().parent.name
        by_folder = len(found) == 1 and not (clear and found[0].method)
        named += [replace(scores, method=folder) if by_folder else scores for scores in found]
    names = [scores.method for scores in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two sets of rows are called {twice!r}",
            remedy="give them different names in the column method, or put the tables into folders of different names",
        )
    return tuple(named)


def _rows(path: Path) -> list[dict[str, Cell]]:
    rows = read_csv(path)
    missing = [column for column in LONG_COLUMNS if rows and column not in rows[0]]
    if missing or not rows:
        what = (
            "the table has no rows"
            if not rows
            else f"this is no table of many pairs: no {', '.join(missing)}"
        )
        raise DataError(what, file=path, remedy="give the rois.csv that neuroreg evaluate --pairs leaves")
    found: list[dict[str, Cell]] = []
    for number, row in enumerate(rows, start=1):
        cells: dict[str, Cell] = {key: plain(value) for key, value in row.items()}
        if row["kind"] not in KINDS:
            raise DataError(
                f"row {number}: {row['kind']!r} is no kind: {', '.join(KINDS)}",
                file=path,
                remedy="give tables that neuroreg evaluate wrote",
            )
        for column in (*FIGURES, "tolerance_mm"):
            try:
                cells[column] = float(row[column]) if row[column] else None
            except ValueError as error:
                raise DataError(
                    f"row {number}: {column} {row[column]!r} is no number",
                    file=path,
                    remedy="give tables that neuroreg evaluate wrote",
                ) from error
        found.append(cells)
    return found


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else np.nan


def _rank(structure: Structure) -> tuple[int, float]:
    """Regions first, by label; groups keep their order, their means after them."""
    number = float(structure.roi) if structure.roi.isdecimal() else 0.0
    return (KINDS.index(structure.kind), number)
