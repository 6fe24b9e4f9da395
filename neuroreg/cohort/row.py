"""One row of a manifest: what is wrong with it, or the case that it asks for."""

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from neuroreg.cohort.case import ID, Case
from neuroreg.cohort.shared import Fixed, configure, holds, is_weights_file, real, row_of
from neuroreg.errors import NeuroregError, UsageError
from neuroreg.io.files import check_input, check_name, suffix_of
from neuroreg.io.images import READ_SUFFIXES
from neuroreg.pipeline.config import AFFINES, RegisterConfig
from neuroreg.pipeline.engine import check_engine
from neuroreg.pipeline.inputs import named_outputs
from neuroreg.registry import unknown_name
from neuroreg.validation import parse_pairs, sentence

FILES = ("fixed", "moving", "fixed_labels", "moving_labels", "label_names", "fixed_mask", "moving_mask")
"""The columns that name one file each."""
ENGINE = ("method", "weights", "affine", "refine", "set")
"""The columns that say how one case is registered; ``set`` holds options of the method, key=value|key=value."""
SETTINGS = ("find_brain", "outputs", "frame", "xform", "seed", "max_voxels", "deterministic")
"""The columns of the other settings that one case may have of its own."""
COLUMNS = ("id", *FILES, "also", "root", *ENGINE, *SETTINGS)
"""Everything a manifest may hold. ``also`` names several files, separated by |."""

BETWEEN = "|"
"""Stands between several values of one cell."""
_NO_IMAGES = frozenset({"label_names", "affine", "weights"})


@dataclass(frozen=True)
class Table:
    """What the rows of one manifest have in common."""

    folder: Path
    """of the manifest, without symbolic links"""
    root: Path | None
    """where all files must lie, when the command line says so; likewise"""
    settings: Mapping[str, object]
    fixed: Fixed | None
    reserved: Set[str]
    """ids that are not free, in lower case"""
    engines: dict[tuple[str, ...], str] = field(default_factory=dict)
    """what is wrong with each choice of method and options that a row has made, "" for nothing"""


@dataclass
class Row:
    """One row, looked at. ``case`` is None where there are faults."""

    id: str
    faults: list[str]
    case: Case | None = None
    files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """column -> absolute paths, as they were named"""
    lies: list[tuple[str, Path]] = field(default_factory=list)
    """(column, path) of every file, without symbolic links"""
    own_engine: bool = False
    """the row says something of its own about how to register"""


def check_row(given: Mapping[str, str], table: Table) -> Row:
    """Every fault of one row, or its case; looks for the files, reads none."""
    cells = {name: text for name, text in given.items() if text and name in COLUMNS}
    name = cells.get("id", "")
    row = Row(name, _check_id(name, table.reserved))
    cells.pop("root", None)
    try:
        root = table.root or _root(given.get("root", ""), table.folder)
    except UsageError as error:
        row.faults.append(error.what)
        return row
    if table.fixed is not None:
        cells.pop("fixed", None)
        row.lies += [("fixed", path) for path in table.fixed.lies]
    elif "fixed" not in cells:
        row.faults.append("no fixed")
    row.faults += [] if "moving" in cells else ["no moving"]
    for column in (*FILES, "also"):
        if column in cells:
            _look(row, column, cells[column], root)
    settings = _settings(row, cells, root, table.settings)
    config = _config(row, settings, table)
    if config is not None and not row.faults:
        absolute = {column: BETWEEN.join(map(str, paths)) for column, paths in row.files.items()}
        if table.fixed is not None:
            cells |= table.fixed.cells
        row.case = Case(name, config, row_of(cells, absolute, root, (path for _, path in row.lies)))
    return row


def _check_id(text: str, reserved: Set[str]) -> list[str]:
    if not text:
        return ["no id"]
    if not ID.fullmatch(text):
        return [f"the id {text[:80]!r} is not 1 to 64 of A-Z a-z 0-9 . _ - without a dot in front"]
    return [f"the id {text!r} is the name of another output"] if is_reserved(text, reserved) else []


def is_reserved(text: str, reserved: Set[str]) -> bool:
    """Whether an id is the name of an output of the cohort or of a part of it: summary.csv, summary-3of8.csv."""
    stem, dot, suffix = text.lower().rpartition(".")
    whole, dash, part = stem.rpartition("-")
    numbers = part.split("of")
    is_part = bool(dash) and len(numbers) == 2 and all(map(str.isdecimal, numbers))
    return text.lower() in reserved or (is_part and f"{whole}{dot}{suffix}" in reserved)


def _root(cell: str, folder: Path) -> Path:
    """The folder that holds the files of a row. Raises UsageError."""
    if not cell:
        return folder
    path = Path(cell)
    check_name(path)
    if not path.is_absolute() or not os.path.isdir(path):
        raise UsageError(
            f"root: not the absolute path of a folder ({path.name})",
            remedy="give an absolute path, or --root",
        )
    return real(path)


def _look(row: Row, column: str, text: str, root: Path) -> None:
    """Note the files of one cell, or what is wrong with them."""
    parts = [text] if column != "also" else [part.strip() for part in text.split(BETWEEN) if part.strip()]
    paths = []
    for part in parts:
        path = root / part
        try:
            check_name(path)
            lies = real(path)
            if not holds(root, lies):
                raise UsageError(
                    "the file lies outside the folder of the manifest, give --root",
                    file=path,
                    remedy="move it there, or name a folder that holds all files by --root",
                )
            if column not in _NO_IMAGES and suffix_of(path) not in READ_SUFFIXES:
                raise UsageError(
                    f"the file type {suffix_of(path) or '(none)'} is not read",
                    file=path,
                    remedy="use NIfTI, MetaImage or NRRD",
                )
            paths.append(check_input(path))
        except NeuroregError as error:
            row.faults.append(f"{column}: {error.what}" + (f" ({error.file})" if error.file else ""))
            continue
        row.lies.append((column, lies))
    if paths:
        row.files[column] = tuple(paths)


def _settings(
    row: Row, cells: Mapping[str, str], root: Path, shared: Mapping[str, object]
) -> dict[str, object]:
    """The settings of the batch, and over them those of the row."""
    own: dict[str, object] = {name: cells[name] for name in (*ENGINE, *SETTINGS) if name in cells}
    row.own_engine = not own.keys().isdisjoint(ENGINE)
    if "outputs" in own:
        own["outputs"] = cells["outputs"].replace(BETWEEN, ",")
    if own.pop("set", None):
        try:
            options = parse_pairs([part for part in cells["set"].split(BETWEEN) if part.strip()])
            below = shared.get("options")
            own["options"] = {**(below if isinstance(below, Mapping) else {}), **options}
        except UsageError as error:
            row.faults.append(error.what)
    affine = cells.get("affine", "none")
    if affine not in AFFINES and ("." in affine or os.path.exists(root / affine)):
        _look(row, "affine", affine, root)
    elif affine not in AFFINES:
        row.faults.append(f"affine: {unknown_name('affine', affine, AFFINES)}, or a file")
        del own["affine"]
    if is_weights_file(cells.get("weights", "")):
        own["weights"] = None
        _look(row, "weights", cells["weights"], root)
    named = {name: paths if name == "also" else str(*paths) for name, paths in row.files.items()}
    return {**shared, **own, **named}


def _config(row: Row, settings: Mapping[str, object], table: Table) -> RegisterConfig | None:
    """The settings checked as a whole, whether or not all the files are there."""
    fixed = table.fixed.path if table.fixed else Path(str(settings.get("fixed", "fixed")))
    try:
        config = configure(settings, fixed, Path(str(settings.get("moving", "moving"))))
        named_outputs(config)
    except ValidationError as error:
        row.faults.append(sentence(error))
        return None
    except UsageError as error:
        row.faults.append(error.what)
        return None
    fault = _engine_fault(config, table.engines) if row.own_engine else ""
    row.faults += [fault] if fault else []
    return config


def _engine_fault(config: RegisterConfig, found: dict[tuple[str, ...], str]) -> str:
    """What is wrong with the method, weights and options; each choice is looked at once, however many make it."""
    affine = config.affine if config.affine in AFFINES else "file"
    options = repr(sorted(config.options.items(), key=lambda item: item[0]))
    key = (config.method, str(config.weights), affine, str(config.refine), options)
    if key not in found:
        try:
            check_engine(config)
            found[key] = ""
        except NeuroregError as error:
            found[key] = "; ".join(filter(None, (error.what, error.file, error.remedy)))
    return found[key]
