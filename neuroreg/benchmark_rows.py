"""The rows of a reproduction on disk: methods.csv, ixi.csv and oasis/rows.csv in one folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroreg.benchmark import ROWS_NAME, Row, read_rows
from neuroreg.benchmark_claims import FIGURES, Measured, Pair, Table
from neuroreg.errors import DataError
from neuroreg.io.tables import plain, read_csv, write_csv

METHODS_NAME, IXI_NAME, OASIS_NAME = "methods.csv", "ixi.csv", "oasis"
METHOD_COLUMNS = (
    "name", "method", "weights", "parameters", "steps", "budget", "arguments", "settings", "machine", "note",
)  # fmt: skip
IXI_FIGURES = ("dice_before", "dice_affine", "dice", "folded_percent", "seconds")
_OF_METHOD = ("name", "weights", "settings")
IXI_COLUMNS = (*_OF_METHOD, "fixed", "moving", *IXI_FIGURES)
COSTS = ("wall_s", "cpu_s", "affine_s", "deformable_s", "peak_mb")
"""What a run on OASIS costs"""


@dataclass(frozen=True)
class Measurements:
    """What a folder of rows holds."""

    methods: tuple[dict[str, str], ...]
    """the rows of methods.csv"""
    table: Table


def read_measurements(folder: Path) -> Measurements:
    """The methods of ``folder`` with their rows: of each only those made with the weights and options it has now.

    Raises NoInputError when the folder holds none, DataError for rows that are not numbers.
    """
    methods = tuple(_read(folder / METHODS_NAME))
    ixi = _read(folder / IXI_NAME) if (folder / IXI_NAME).is_file() else []
    oasis = [row for row in read_rows(folder / OASIS_NAME / ROWS_NAME) if row.status == "ok"]
    table: dict[tuple[str, str], Measured] = {}
    for method in methods:
        own = [row for row in ixi if all(row[key] == method[key] for key in _OF_METHOD)]
        table["ixi", method["name"]] = {(row["fixed"], row["moving"]): _ixi_figures(row) for row in own}
        runs = [row for row in oasis if _is_of(row, method)]
        table["oasis", method["name"]] = {(row.fixed, row.moving): _oasis_figures(row) for row in runs}
    return Measurements(methods, table)


def _read(path: Path) -> list[dict[str, str]]:
    return [{name: plain(text) for name, text in row.items()} for row in read_csv(path)]


def _is_of(row: Row, method: Mapping[str, str]) -> bool:
    names = (row.method, row.weights, row.arguments)
    return names == (method["name"], method["weights"], method["arguments"])


def _ixi_figures(row: Mapping[str, str]) -> dict[str, float]:
    try:
        return {name: float(row[name]) for name in IXI_FIGURES if row[name]}
    except (KeyError, ValueError) as error:
        raise DataError(f"{IXI_NAME}: {error}", remedy="remove the file and measure again") from error


def _oasis_figures(row: Row) -> dict[str, float]:
    """Every figure of the row that exists; ``seconds`` are those of finding the map, affine included."""
    names = [*FIGURES, *COSTS]
    found = {name: getattr(row, name) for name in names if getattr(row, name, None) is not None}
    stages = [found[name] for name in ("affine_s", "deformable_s") if name in found]
    return found | ({"seconds": sum(stages)} if stages else {})


class IxiRows:
    """ixi.csv, one row per method and pair. A row is kept while the method has the same weights and options."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / IXI_NAME
        self._rows = {_key(row): row for row in (_read(self._path) if self._path.is_file() else [])}

    def forget_older(self, method: Mapping[str, str]) -> None:
        """Drop the rows of a method (a row of methods.csv) that are not of the weights and options it has now."""
        now = tuple(method[name] for name in _OF_METHOD)
        self._rows = {key: row for key, row in self._rows.items() if key[0] != now[0] or key[:3] == now}

    def has(self, method: Mapping[str, str], pair: Pair) -> bool:
        """Whether the method has been measured on the pair."""
        return (*(method[name] for name in _OF_METHOD), *pair) in self._rows

    def add(self, method: Mapping[str, str], pair: Pair, figures: Mapping[str, float]) -> None:
        """Keep a result, on disk. Raises WriteError."""
        row = {name: method[name] for name in _OF_METHOD} | dict(zip(("fixed", "moving"), pair, strict=True))
        row |= {name: repr(float(figures[name])) for name in IXI_FIGURES}
        self._rows[_key(row)] = row
        write_csv(self._path, IXI_COLUMNS, [*self._rows.values()], overwrite=True)


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in (*_OF_METHOD, "fixed", "moving"))


def write_methods(folder: Path, methods: Sequence[Mapping[str, str]]) -> None:
    """methods.csv: the methods as they are now; those that are not among them keep their rows. Raises WriteError."""
    path = folder / METHODS_NAME
    before = {row["name"]: row for row in (_read(path) if path.is_file() else [])}
    rows = before | {method["name"]: dict(method) for method in methods}
    write_csv(path, METHOD_COLUMNS, [*rows.values()], overwrite=True)


def method_names(folder: Path) -> frozenset[str]:
    """The methods that methods.csv holds."""
    path = folder / METHODS_NAME
    return frozenset(row["name"] for row in _read(path)) if path.is_file() else frozenset()
