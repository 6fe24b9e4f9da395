"""CSV tables in and out: everything read is text, everything written is safe to open in a spreadsheet."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from neuroreg.errors import DataError
from neuroreg.io.files import atomic_write, check_input

Cell = str | int | float | None
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_ID_COLUMNS = ("id", "index", "number", "value", "key", "label", "roi")
_NAME_COLUMNS = ("name", "label_name", "roi_name", "region", "structure", "label")


def write_csv(
    path: Path | str, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]], *, overwrite: bool = False
) -> None:
    """Write rows (column -> cell) under a header line, atomically, UTF-8.

    None and NaN become blanks, floats keep full precision, and text that a spreadsheet would run as a formula gets a
    leading apostrophe (OWASP ASVS 1.2.10). Raises CannotCreateError (73) or WriteError (74).
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_text(column) for column in columns])
    writer.writerows([[_cell(row.get(column)) for column in columns] for row in rows])
    content = buffer.getvalue().encode("utf-8")
    atomic_write(Path(path), lambda temporary: _write_all(temporary, content), overwrite=overwrite)


def _write_all(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """Rows as column -> text, whitespace stripped; ids such as 001 or NA stay what they are.

    Commas, semicolons or tabs; a byte-order mark is skipped. Raises DataError (65), NoInputError (66), UsageError (2).
    """
    path = check_input(Path(path))
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the table is not UTF-8 text", file=path, remedy="save it as CSV, UTF-8") from error
    lines = text.splitlines()
    if not lines:
        raise DataError("the table is empty", file=path)
    delimiter = max((",", ";", "\t"), key=lines[0].count)
    try:
        rows = [
            row for row in csv.reader(lines, delimiter=delimiter, strict=True) if any(c.strip() for c in row)
        ]
    except csv.Error as error:
        raise DataError(
            f"the table cannot be read ({error})", file=path, remedy="check its quotes"
        ) from error
    return _as_mappings(rows, path)


def _as_mappings(rows: list[list[str]], path: Path) -> list[dict[str, str]]:
    if not rows:
        raise DataError("the table is empty", file=path)
    header = [name.strip() for name in rows[0]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or not all(header):
        raise DataError(f"column names must be there and differ, got {header}", file=path)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"row {number} has {len(row)} cells, the header {len(header)}", file=path)
    return [dict(zip(header, (cell.strip() for cell in row), strict=True)) for row in rows[1:]]


def read_label_names(path: Path | str) -> dict[int, str]:
    """Label id -> name from a table with a column of ids and one of names. Raises as ``read_csv``."""
    path = Path(path)
    rows = read_csv(path)
    columns = {name.lower(): name for name in (rows[0] if rows else {})}
    ids = next((columns[name] for name in _ID_COLUMNS if name in columns), None)
    names = next((columns[name] for name in _NAME_COLUMNS if name in columns and columns[name] != ids), None)
    if ids is None or names is None:
        raise DataError(
            f"expected a column of label ids and one of names, got {', '.join(columns.values())}",
            file=path,
            remedy="name them id and name",
        )
    found: dict[int, str] = {}
    for row in rows:
        try:
            label = int(row[ids])
        except ValueError as error:
            raise DataError(f"the label id {row[ids]!r} is no whole number", file=path) from error
        if found.setdefault(label, row[names]) != row[names]:
            raise DataError(f"label {label} has two names", file=path)
    return found


def plain(text: str) -> str:
    """A cell without the apostrophe that ``write_csv`` puts before what a spreadsheet would run."""
    return text[1:] if text.startswith("'") and text[1:2] in _FORMULA_STARTS else text


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
