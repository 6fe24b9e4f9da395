"""CSV tables in and out: everything read is text, everything written is safe to open in a spreadsheet."""

import csv
import io
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from neuroreg.errors import DataError
from neuroreg.io.files import atomic_write, check_input

Cell = str | int | float | None
_MOST_DIGITS = 19  # of 2**63 - 1, the largest id an image can hold
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
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    content = buffer.getvalue().encode("utf-8")
    atomic_write(Path(path), lambda temporary: _write_all(temporary, content), overwrite=overwrite)


def _write_all(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """Rows as column -> text, whitespace stripped; ids such as 001 or NA stay what they are.

    Commas, semicolons or tabs; a byte-order mark is skipped. Raises DataError (65), NoInputError (66), UsageError (2).
    """
    header, lines = read_lines(path)
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(
                f"line {number} has {len(row)} cells, the header {len(header)}",
                file=path,
                remedy="check the commas and quotes of that line",
            )
    return [dict(zip(header, row, strict=True)) for _, row in lines]


def read_lines(path: Path | str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The column names, and each row as (line of the file on which it ends, cells), whose number nobody has checked.

    For tables of which every fault is to be told at once; otherwise as ``read_csv``, and raises as it does.
    """
    path = check_input(Path(path))
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the table is not UTF-8 text", file=path, remedy="save it as CSV, UTF-8") from error
    lines = list(io.StringIO(text, newline=""))  # str.splitlines would cut a cell at \f, \x1c or U+2028
    said = re.fullmatch(r"sep=(.)\s*", lines[0]) if lines else None  # what Excel is told, and what it writes
    delimiter = said[1] if said else max((",", ";", "\t"), key=lines[0].count) if lines else ","
    if said:
        lines[0] = "\n"  # keeps the numbers of the lines
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(
            f"the table cannot be read ({error})", file=path, remedy="check its quotes"
        ) from error
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        raise DataError("the table is empty", file=path, remedy="give a row of column names and the rows")
    width = max((last + 1 for _, row in rows for last, cell in enumerate(row) if cell), default=0)
    header = rows[0][1][:width]  # a spreadsheet may leave columns that are empty altogether
    rows = [(number, row[:width]) for number, row in rows]
    if len(set(header)) < len(header) or not all(header):
        raise DataError(
            f"column names must be there and differ, got {header}", file=path, remedy="name every column once"
        )
    return header, rows[1:]


def check_header(
    header: Sequence[str], known: Sequence[str], *, required: Sequence[str], ignored: Container[str] = ()
) -> tuple[list[str], list[str]]:
    """Faults and notes of the columns of a table, ``known`` and among them ``required`` ones.

    A column near to a known one is taken for a slip; any other is left alone and named, unless ``ignored``.
    """
    faults = [f"no column {name}" for name in required if name not in header]
    notes = []
    for name in header:
        if name in known or name in ignored:
            continue
        near = [k for k in get_close_matches(name.lower(), known, n=1, cutoff=0.75) if k not in header]
        if near:
            faults.append(f"column {name!r} is not known: did you mean {near[0]}?")
        else:
            notes.append(f"the column {name!r} is not used")
    return faults, notes


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
            raise DataError(
                f"the label id {row[ids]!r} is no whole number", file=path, remedy="correct the table"
            ) from error
        if found.setdefault(label, row[names]) != row[names]:
            raise DataError(f"label {label} has two names", file=path, remedy="keep one of them")
    return found


def read_groups(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Group -> its labels, from a table with the columns label and group; other columns are for the reader.

    One row per label and group: a label may have several rows, one for each of its groups. Order is kept. Raises as
    ``read_csv``, and DataError for a label that is no whole number above 0 or a row without a group.
    """
    groups: dict[str, dict[int, None]] = {}
    for label, group in _columns(path, ("label", "id", "roi"), ("group",)):
        if not (label.isascii() and label.isdecimal() and len(label) <= _MOST_DIGITS) or not int(label):
            raise DataError(
                f"the label {label!r} is no whole number above 0", file=path, remedy="correct the table"
            )
        if not group:
            raise DataError(f"label {label} has a row without a group", file=path, remedy="name its group")
        groups.setdefault(group, {})[int(label)] = None
    if not groups:
        raise DataError("the table names no group", file=path, remedy="give the columns label and group")
    return {group: tuple(labels) for group, labels in groups.items()}


def read_points(path: Path | str, *, ras: bool = False) -> dict[str, tuple[float, float, float]]:
    """Landmarks: name -> position in LPS mm, from a table with the columns name, x, y, z (mm; RAS with ``ras``).

    Raises as ``read_csv``, and DataError for a name that is missing or used twice or a position that is no number.
    """
    found: dict[str, tuple[float, float, float]] = {}
    for name, *texts in _columns(path, ("name", "label", "id", "landmark"), ("x",), ("y",), ("z",)):
        try:
            x, y, z = (float(text) for text in texts)
        except ValueError as error:
            raise DataError(
                f"landmark {name!r}: {', '.join(texts)!r} is no position",
                file=path,
                remedy="give x, y and z in mm",
            ) from error
        if not all(map(math.isfinite, (x, y, z))):
            raise DataError(
                f"landmark {name!r} has no finite position", file=path, remedy="correct the table"
            )
        if not name or name in found:
            raise DataError(
                f"landmark {name!r} is there twice" if name else "a landmark without a name",
                file=path,
                remedy="give each landmark one row and a name",
            )
        found[name] = (-x, -y, z) if ras else (x, y, z)
    if not found:
        raise DataError(
            "the table holds no landmark", file=path, remedy="give a row to each landmark: name, x, y, z"
        )
    return found


def _columns(path: Path | str, *wanted: Sequence[str]) -> list[list[str]]:
    """The cells of the wanted columns in every row; each may have several names, in lower or upper case."""
    rows = read_csv(path)
    columns = {name.lower(): name for name in (rows[0] if rows else {})}
    chosen = [next((columns[name] for name in names if name in columns), None) for names in wanted]
    missing = [names[0] for names, column in zip(wanted, chosen, strict=True) if column is None]
    if missing:
        raise DataError(
            f"expected the columns {', '.join(names[0] for names in wanted)}, got {', '.join(columns.values())}",
            file=path,
            remedy=f"add {', '.join(missing)}",
        )
    return [[row[column] for column in chosen if column is not None] for row in rows]


def plain(text: str) -> str:
    """A cell without the apostrophe that ``write_csv`` puts before what a spreadsheet would run."""
    return text[1:] if text.startswith("'") and text[1:2] in _FORMULA_STARTS else text


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
