"""A cohort as a table: one row per case, checked whole before anything runs, every fault told at once."""

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from neuroreg.cohort.case import RESERVED, Cohort
from neuroreg.cohort.row import COLUMNS, Row, Table, check_row
from neuroreg.cohort.shared import (
    TEMPLATE,
    FixedChoice,
    fixed_image,
    holds,
    real,
    shared_settings,
)
from neuroreg.errors import UsageError
from neuroreg.io.tables import check_header, plain, read_lines
from neuroreg.pipeline.config import RegisterConfig

IGNORED = frozenset({"state", "message", "attempts", "exit_code", "verdict", "reasons", "seconds"})
"""Columns of failed.csv that say how a case went: the table is a manifest all the same."""

_OF_THE_BATCH = tuple(sorted(RegisterConfig.model_fields.keys() - {*COLUMNS, "options"}))
_OF_A_SIDE = {
    **dict.fromkeys(("labels", "segmentation", "seg", "dseg"), "moving_labels (or fixed_labels)"),
    **dict.fromkeys(("mask", "brain_mask"), "moving_mask (or fixed_mask)"),
}
"""Columns that leave open which image they belong to: not to be passed over."""
_MOST_FAULTS = 50
_MOST_LINES = 8


def read_manifest(
    path: Path,
    settings: Mapping[str, object],
    *,
    output: Path,
    fixed: FixedChoice | None = None,
    root: Path | None = None,
    reserved: Set[str] = RESERVED,
) -> Cohort:
    """The cases of a CSV or TSV file with the columns COLUMNS, of which id and moving must be there.

    A cell holds over ``settings`` (names of RegisterConfig), an empty one does not. Without a column ``fixed`` all
    cases are registered onto ``fixed``, and without that onto the template, which ``Cohort.prepare`` then puts into
    ``output``, the folder of the cohort. Files are relative to ``root``, or to the folder in the column root, or to
    that of the table, and lie inside it wherever their links lead. Images are looked for, not read.

    Raises UsageError with the faults of all rows and their lines, DataError and NoInputError for the table. Methods
    and weights are looked at where a row names its own: the others are the business of whoever runs the cases.
    """
    header, lines = read_lines(path)
    header = [_plain_column(name, header) for name in header]
    faults, notes = _check_columns(header)
    if faults:
        raise _refusal(path, faults)
    rows, found = _cells(header, lines)
    own = [number for number, row in rows if row.get("fixed")]
    if own and fixed is not None:
        faults.append(f"--fixed and the column fixed ({_lines(own)}): leave out --fixed, or empty the column")
    if not own and fixed is None:
        fixed = TEMPLATE
        notes.append("no fixed image is named: all cases are registered onto the template")
    table = Table(
        folder=real(path.parent),
        root=None if root is None else _root(root),
        settings=shared_settings(settings, one_fixed=not own),
        fixed=None if fixed is None else fixed_image(fixed, output),
        reserved=reserved,
    )
    checked = [(number, check_row(row, table)) for number, row in rows]
    found += [*_doubled(checked), *_of_rows(checked, real(output))]
    faults += _in_order(found)
    if faults or not rows:
        raise _refusal(path, faults or ["there are no cases"])
    cases = [row.case for _, row in checked if row.case is not None]
    return Cohort(cases, [*notes, *_notes(checked)], table.fixed.prepare if table.fixed else None)


def _plain_column(name: str, header: Sequence[str]) -> str:
    """``ID`` and ``Moving`` say what they mean."""
    plain_name = name.lower().replace(" ", "_")
    return plain_name if plain_name in COLUMNS and plain_name not in header else name


def _check_columns(header: Sequence[str]) -> tuple[list[str], list[str]]:
    faults, notes = check_header(
        header, COLUMNS, required=("id", "moving"), ignored={*IGNORED, *_OF_THE_BATCH, "options"}
    )
    faults += [
        f"column {name!r} is not known: did you mean {meant}?"
        for name, meant in _OF_A_SIDE.items()
        if name in header
    ]
    faults += ["column 'options' is not known: did you mean set?"] if "options" in header else []
    for name in _OF_THE_BATCH:
        if name in header:
            notes.append(f"the column {name!r} is not used: --{name.replace('_', '-')} holds for all cases")
    return faults, notes


def _root(root: Path) -> Path:
    if not root.is_dir():
        raise UsageError("--root is not a folder", file=root, remedy="give the folder that holds the images")
    return real(root)


def _cells(
    header: Sequence[str], lines: Iterable[tuple[int, list[str]]]
) -> tuple[list[tuple[int, dict[str, str]]], list[tuple[int, str]]]:
    """(line, row) for each line of the right length, (line, fault) for the others."""
    rows, faults = [], []
    for number, cells in lines:
        if len(cells) == len(header):
            rows.append((number, dict(zip(header, map(plain, cells), strict=True))))
        else:
            faults.append((number, f"{len(cells)} cells, the header has {len(header)}"))
    return rows, faults


def _doubled(checked: Iterable[tuple[int, Row]]) -> Iterable[tuple[int, str]]:
    """Ids that are there already, also but for capitals: on some disks their folders would be one."""
    first: dict[str, tuple[int, str]] = {}
    for number, row in checked:
        line, other = first.setdefault(row.id.lower(), (number, row.id))
        if row.id and line != number:
            capitals = "" if other == row.id else "but for capitals "
            yield number, f"the id {row.id[:80]!r} is {capitals}that of line {line}"


def _of_rows(checked: Sequence[tuple[int, Row]], output: Path) -> Iterable[tuple[int, str]]:
    """What is wrong with each row, also files where a case will be written: its folder is replaced as a whole."""
    ids = {row.id.lower() for _, row in checked}
    for number, row in checked:
        yield from ((number, fault) for fault in row.faults)
        for column, path in row.lies:
            if holds(output, path) and path.relative_to(output).parts[0].lower() in ids:
                yield number, f"{column}: the file lies in the output folder of a case ({path.name})"


def _in_order(found: Iterable[tuple[int, str]]) -> list[str]:
    """Each fault with its lines, by the first of them: one slip that is in every row leaves room for the others."""
    lines: dict[str, list[int]] = {}
    for number, fault in sorted(found, key=lambda fault: fault[0]):
        lines.setdefault(fault, []).append(number)
    return [f"{_lines(numbers)}: {fault}" for fault, numbers in lines.items()]


def _notes(checked: Iterable[tuple[int, Row]]) -> list[str]:
    same = []
    for number, row in checked:
        lies = dict(row.lies)
        if "moving" in lies and lies["moving"] == lies.get("fixed"):
            same.append(number)
    return [f"fixed and moving are the same file ({_lines(same)})"] if same else []


def _lines(numbers: Sequence[int]) -> str:
    """``line 3``, ``lines 3, 4``, ``lines 3, 4, ... and 90 more``."""
    shown = ", ".join(map(str, numbers[:_MOST_LINES]))
    more = f" and {len(numbers) - _MOST_LINES} more" if len(numbers) > _MOST_LINES else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _refusal(path: Path, faults: Sequence[str]) -> UsageError:
    more = len(faults) - _MOST_FAULTS
    shown = [*faults[:_MOST_FAULTS], *([f"and {more} more"] if more > 0 else [])]
    return UsageError("; ".join(shown), file=path, remedy="nothing was registered: mend the table")
