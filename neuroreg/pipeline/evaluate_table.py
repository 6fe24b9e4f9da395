"""A table of pairs, evaluated one after the other: rois.csv, pairs.csv and a summary; an unusable pair is a row.

One pair is in memory at a time; of a finished one only its numbers are kept.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from neuroreg.errors import NeuroregError, UsageError
from neuroreg.io.files import check_input, check_not_inputs, check_output, output_lock, prepare_folder
from neuroreg.io.tables import Cell, check_header, read_groups, read_label_names, read_lines, write_csv
from neuroreg.metrics.deformation import DeformationFigures
from neuroreg.metrics.segmentation import FIGURES
from neuroreg.pipeline.evaluate import EvaluateConfig, EvaluateOptions, Evaluation, check_config, evaluate
from neuroreg.pipeline.evaluate_scores import LONG_COLUMNS, Scores, Structure, collect

FILES = (
    "fixed_labels",
    "moved_labels",
    "transform",
    "inverse",
    "mask",
    "fixed_landmarks",
    "moved_landmarks",
    "moving_landmarks",
)
"""The columns that name files, relative to the folder of the table; the first two must be there."""
COLUMNS = ("id", "method", *FILES)
"""What a table of pairs may hold. An id may come once for each method."""
ROIS_NAME, PAIRS_NAME = "rois.csv", "pairs.csv"
_TRE = ("count", "mean_mm", "sd_mm", "median_mm", "max_mm")
PAIR_FIGURES = (
    *(f"mean_{figure}" for figure in FIGURES),
    *DeformationFigures.__dataclass_fields__,
    *(f"tre_{name}" for name in _TRE),
    *(f"tre_mapped_{name}" for name in _TRE),
)
"""The figures of a whole pair: means over its regions, regularity of the map, landmark errors before and after it."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TableConfig(BaseModel):
    """A table of pairs and where its outcome goes. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: Path
    """CSV with COLUMNS"""
    output: Path
    """folder"""
    options: EvaluateOptions = EvaluateOptions()
    """``overwrite`` holds for all outputs"""
    also: tuple[str, ...] = ()
    """names of files that the caller will add to the folder: checked with the others"""
    seed: int = Field(0, ge=0)
    """of the bootstrap"""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    id: str
    method: str
    status: str
    """"ok", or what went wrong"""
    evaluation: Evaluation | None = None

    def figures(self) -> dict[str, float | None]:
        """PAIR_FIGURES that this pair has; None where they do not exist."""
        if self.evaluation is None:
            return {}
        summary = self.evaluation.summary()
        found: dict[str, object] = {name: summary[name] for name in PAIR_FIGURES if name in summary}
        for key, prefix in (("deformation", ""), ("landmarks", "tre_"), ("landmarks_mapped", "tre_mapped_")):
            inner = summary[key]
            if isinstance(inner, dict):
                found |= {f"{prefix}{name}": value for name, value in inner.items()}
        return {
            name: value for name, value in found.items() if value is None or isinstance(value, int | float)
        }


@dataclass(frozen=True)
class TableOutcome:
    """The evaluated table."""

    cases: tuple[Case, ...]
    scores: tuple[Scores, ...]
    """one for each method that has a pair that succeeded"""
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Case, ...]:
        """The pairs that could not be evaluated."""
        return tuple(case for case in self.cases if case.status != "ok")


def evaluate_table(
    config: TableConfig, *, progress: Callable[[str], None] = lambda line: None
) -> TableOutcome:
    """Check every row, evaluate every pair, write rois.csv and pairs.csv; ``progress`` gets a line per pair.

    Raises UsageError (2) with all the faults of the table, CannotCreateError (73) for outputs that exist, both before
    anything is computed; BusyError (75), WriteError (74). A pair that cannot be used is a case with that status.
    """
    rows, notes = read_pairs(config.pairs, config.options)
    for path, read in ((config.options.label_names, read_label_names), (config.options.groups, read_groups)):
        if path is not None:
            read(path)
    outputs = [config.output / name for name in (ROIS_NAME, PAIRS_NAME, *config.also)]
    given = (path for _, _, pair in rows for path in pair.paths)
    named = (path for path in (config.options.label_names, config.options.groups) if path is not None)
    check_not_inputs(outputs, (config.pairs, *named, *given))
    prepare_folder(config.output)
    for path in outputs:
        check_output(path, overwrite=config.options.overwrite)
    cases = []
    with output_lock(config.output):
        for number, (name, method, pair) in enumerate(rows, start=1):
            progress(f"{number}/{len(rows)} {name}" + (f", {method}" if method else ""))
            case = _evaluate(name, method, pair)
            cases.append(case)
            notes += [f"{name}: {note}" for note in (case.evaluation.notes if case.evaluation else ())]
            notes += [] if case.status == "ok" else [f"{name}: {case.status}"]
        outcome = TableOutcome(tuple(cases), collect(_long_rows(cases)), tuple(dict.fromkeys(notes)))
        overwrite = config.options.overwrite
        write_csv(config.output / ROIS_NAME, LONG_COLUMNS, _long_rows(cases), overwrite=overwrite)
        columns, wide = _wide(outcome)
        write_csv(config.output / PAIRS_NAME, columns, wide, overwrite=overwrite)
    return outcome


def _evaluate(name: str, method: str, pair: EvaluateConfig) -> Case:
    try:
        return Case(name, method, "ok", evaluate(pair))
    except NeuroregError as error:
        return Case(name, method, f"failed ({error.exit_code}): {error}")


def read_pairs(
    path: Path, options: EvaluateOptions
) -> tuple[list[tuple[str, str, EvaluateConfig]], list[str]]:
    """The rows (id, method, what to compare) and notes. Raises UsageError with every fault and its line at once.

    Files are relative to the folder of the table, so that a table and its files can be moved together.
    """
    header, lines = read_lines(path)
    faults, notes = check_header(header, COLUMNS, required=("id", *FILES[:2]))
    rows: list[tuple[str, str, EvaluateConfig]] = []
    seen: dict[tuple[str, str], int] = {}
    for number, cells in lines if not faults else ():
        if len(cells) != len(header):
            faults.append(f"line {number}: {len(cells)} cells, the header has {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        found, pair = _check_row(row, path.parent, options)
        first = seen.setdefault((row["id"], row.get("method", "")), number)
        if first != number:
            found.append(f"the same id and method as line {first}")
        faults += [f"line {number}: {fault}" for fault in found]
        if pair is not None:
            rows.append((row["id"], row.get("method", ""), pair))
    if not lines and not faults:
        faults.append("there are no pairs")
    if faults:
        raise UsageError("; ".join(faults), file=path, remedy="nothing was evaluated: mend the table")
    return rows, notes


def _check_row(
    row: Mapping[str, str], folder: Path, options: EvaluateOptions
) -> tuple[list[str], EvaluateConfig | None]:
    """Every fault of one row, and what to compare where there is none."""
    faults = [] if _ID.fullmatch(row["id"]) else [f"the id {row['id']!r} is not 1 to 64 of A-Z a-z 0-9 . _ -"]
    if len(row.get("method", "")) > 64 or not row.get("method", "").isprintable():
        faults.append("the method is longer than 64 letters or cannot be printed")
    files: dict[str, Path] = {}
    for column in FILES:
        text = row.get(column, "")
        if not text:
            faults += [f"no {column}"] if column in FILES[:2] else []
            continue
        try:
            files[column] = check_input(folder / text)
        except NeuroregError as error:
            faults.append(f"{column}: {error.what} ({error.file})")
    if faults:
        return faults, None
    pair = EvaluateConfig(**options.model_dump(), **files)
    try:
        check_config(pair)
    except UsageError as error:
        return [str(error)], None
    return [], pair


def _long_rows(cases: list[Case]) -> Iterator[dict[str, Cell]]:
    for case in cases:
        for row in case.evaluation.rows() if case.evaluation else ():
            yield {**row, "id": case.id, "method": case.method, "roi": row["id"]}


def _wide(outcome: TableOutcome) -> tuple[list[str], list[dict[str, Cell]]]:
    """The columns and rows of ``pairs.csv``: figures that no pair has are left out, then one Dice per structure."""
    figures = [case.figures() for case in outcome.cases]
    used = [name for name in PAIR_FIGURES if any(found.get(name) is not None for found in figures)]
    structures = {s.key: s for scores in outcome.scores for s in scores.structures}
    dice = {
        (scores.method, case): dict(zip((s.key for s in scores.structures), row.tolist(), strict=True))
        for scores in outcome.scores
        for case, row in zip(scores.cases, scores.figure("dice"), strict=True)
    }
    rows: list[dict[str, Cell]] = []
    for case, found in zip(outcome.cases, figures, strict=True):
        row: dict[str, Cell] = {"id": case.id, "method": case.method, "status": case.status}
        if case.evaluation is not None:
            regions = case.evaluation.regions
            row |= {"regions": len(regions), "regions_incomplete": sum(r.status != "ok" for r in regions)}
        mine = dice.get((case.method, case.id), {})
        overlaps = {dice_column(s): mine.get(key, math.nan) for key, s in structures.items()}
        rows.append({**row, **found, **overlaps})
    head = ["id", "method", "status", "regions", "regions_incomplete"]
    return [*head, *used, *map(dice_column, structures.values())], rows


def dice_column(structure: Structure) -> str:
    """``dice_47_Hippocampus_R``, ``dice_group_Frontal lobe``, ``dice_group mean_Frontal lobe``."""
    parts = [structure.roi, structure.name] if structure.kind == "roi" else [structure.kind, structure.name]
    return "_".join(["dice", *filter(None, parts)])
