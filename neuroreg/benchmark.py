"""Methods x labelled pairs -> one table, every method run as a user would: a whole process, from files to files.

For each pair all methods run one after the other before the next pair begins, so that a machine that is busy for a
while slows all of them alike and ratios within a pair stay fair. Each result is one row of ``rows.csv``, written as
soon as it exists; a row that is there is never computed again. Dice is the mean over a written list of regions of
the moving labels read once by nearest neighbour through the whole map on the fixed label grid.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from neuroreg.benchmark_external import METHODS as EXTERNAL
from neuroreg.errors import DataError, InternalError, NeuroregError, UsageError
from neuroreg.io.files import check_input, output_lock, prepare_folder
from neuroreg.io.images import read_labels
from neuroreg.io.tables import read_csv, write_csv
from neuroreg.io.transforms import read_transform
from neuroreg.methods import METHODS
from neuroreg.metrics.segmentation import mean_dice
from neuroreg.pipeline.evaluate import measure_map
from neuroreg.registry import unknown_name
from neuroreg.transforms import Chain, Transform, resample

ROWS_NAME = "rows.csv"
TIMEOUT_S = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class LabelledPair:
    """Two images and their label maps. Ids name the pair in the table."""

    fixed_id: str
    moving_id: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path


@dataclass(frozen=True)
class Contender:
    """One line of the table: arguments of ``neuroreg register``, or another program when they are None."""

    name: str
    arguments: tuple[str, ...] | None

    def command(self, pair: LabelledPair, out: Path, threads: int) -> list[str]:
        """The program that registers one pair into the folder ``out``."""
        files = [str(pair.fixed), str(pair.moving)]
        if self.arguments is None:
            worker = [sys.executable, "-m", "neuroreg.benchmark_external", self.name]
            return [*worker, *files, str(out), "--threads", str(threads)]
        options = ["-o", str(out), "--outputs", "image,transform", "--threads", str(threads), *self.arguments]
        return [sys.executable, "-m", "neuroreg", "register", *files, *options]


@dataclass(frozen=True)
class Row:
    """One method on one pair. Figures that do not exist are None."""

    method: str
    arguments: str
    fixed: str
    moving: str
    threads: int
    status: str
    """"ok", or what went wrong"""
    dice: float | None = None
    folded_percent: float | None = None
    ndv_percent: float | None = None
    sd_log_jacobian: float | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    deformable_s: float | None = None
    """wall seconds of the deformable stage (and its refinement) alone"""
    peak_mb: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What makes two rows the same measurement."""
        return (self.method, self.arguments, self.fixed, self.moving, self.threads)


COLUMNS = tuple(column.name for column in fields(Row))


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure, and where to."""

    pairs: tuple[LabelledPair, ...]
    contenders: tuple[Contender, ...]
    output: Path
    """folder: rows.csv, and with ``keep`` what each run left"""
    ids: tuple[int, ...] | None = None
    """regions of the mean Dice; None: those common to all label maps of the pairs"""
    threads: int = 2
    keep: bool = False
    timeout_s: float = TIMEOUT_S


def run_benchmark(
    config: BenchmarkConfig, *, progress: Callable[[str], None] = lambda line: None
) -> tuple[tuple[Row, ...], tuple[int, ...]]:
    """Measure what is not in ``rows.csv`` yet; returns (the rows of the config, the ids used).

    ``progress`` gets one line per run. A method that fails is a row, not an exception. Raises DataError when the
    pairs' label maps share no region, BusyError when another benchmark writes to the folder.
    """
    prepare_folder(config.output)
    ids = common_ids(config.pairs) if config.ids is None else config.ids
    with output_lock(config.output):
        rows = {row.key: row for row in read_rows(config.output / ROWS_NAME)}
        wanted = []
        for pair, contender in itertools.product(config.pairs, config.contenders):
            key = _blank_row(contender, pair, config.threads).key
            wanted.append(key)
            if key in rows:
                continue
            row = _measure(contender, pair, config, ids)
            rows[key] = row
            write_csv(config.output / ROWS_NAME, COLUMNS, [asdict(r) for r in rows.values()], overwrite=True)
            progress(f"{row.method}: {row.moving} to {row.fixed}: {describe(row)}")
    return tuple(rows[key] for key in wanted), ids


def describe(row: Row) -> str:
    """One row in one line."""
    if row.status != "ok":
        return row.status
    folds = "" if row.folded_percent is None else f", folds {row.folded_percent:.4f} %"
    return f"Dice {row.dice:.4f}{folds}, {row.wall_s:.1f} s, {row.peak_mb:.0f} MB"


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run; none if there is no file."""
    if not path.exists():
        return []
    found = []
    for record in read_csv(path):
        values: dict[str, object] = {}
        for column in fields(Row):
            text = _plain(record.get(column.name) or "")
            number = column.name in COLUMNS[6:]
            values[column.name] = (float(text) if text else None) if number else text
        found.append(Row(**{**values, "threads": int(record["threads"])}))  # type: ignore[arg-type]
    return found


def _plain(text: str) -> str:
    """A cell without the apostrophe that ``write_csv`` puts before what a spreadsheet would run."""
    return text[1:] if text.startswith("'") and text[1:2] in tuple("=+-@") else text


def parse_contender(text: str) -> Contender:
    """A method of ours by name, another program by name, or "NAME=options of neuroreg register".

    Raises UsageError for an unknown name.
    """
    name, given, options = text.partition("=")
    if given:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a line of the table", remedy="use letters, digits and ._+-"
            )
        return Contender(name, tuple(shlex.split(options)))
    if name in EXTERNAL:
        return Contender(name, None)
    if name not in METHODS:
        raise UsageError(unknown_name("method", name, {**EXTERNAL, **METHODS}))
    return Contender(name, ("--method", name))


def manifest_pairs(path: Path) -> tuple[LabelledPair, ...]:
    """Pairs from a CSV with the columns fixed, moving, fixed_labels, moving_labels; paths relative to the CSV.

    Raises DataError naming the first missing column, NoInputError naming the first missing file.
    """
    columns = ("fixed", "moving", "fixed_labels", "moving_labels")
    pairs = []
    for number, record in enumerate(read_csv(path), start=2):
        missing = [column for column in columns if not record.get(column)]
        if missing:
            raise DataError(
                f"line {number}: no {missing[0]}", file=path, remedy=f"columns: {', '.join(columns)}"
            )
        fixed, moving, fixed_labels, moving_labels = (check_input(path.parent / record[c]) for c in columns)
        pairs.append(LabelledPair(_stem(fixed), _stem(moving), fixed, moving, fixed_labels, moving_labels))
    return tuple(pairs)


def folder_pairs(folder: Path, split: str) -> tuple[LabelledPair, ...]:
    """All ordered pairs of one split of a folder with t1/ID.nii.gz, seg/ID.nii.gz and splits.csv (id, split, person).

    Pairs of different people; where the split holds people scanned twice, the two scans of each person instead.
    Ordered so that any first part of the list uses everyone about equally often.
    """
    people = {
        r["id"]: r.get("person") or r["id"] for r in read_csv(folder / "splits.csv") if r["split"] == split
    }
    if len(people) < 2:
        raise DataError(f"the split {split!r} has {len(people)} scans", file=folder / "splits.csv")
    scans = list(people)
    twice = len(set(people.values())) < len(people)
    pairs = []
    for shift, k in itertools.product(range(1, len(scans)), range(len(scans))):
        fixed, moving = scans[k], scans[(k + shift) % len(scans)]
        if (people[fixed] == people[moving]) == twice:
            images = [check_input(folder / "t1" / f"{scan}.nii.gz") for scan in (fixed, moving)]
            labels = [check_input(folder / "seg" / f"{scan}.nii.gz") for scan in (fixed, moving)]
            pairs.append(LabelledPair(fixed, moving, images[0], images[1], labels[0], labels[1]))
    return tuple(pairs)


def common_ids(pairs: Sequence[LabelledPair]) -> tuple[int, ...]:
    """The region ids above 0 that every label map of the pairs holds, rising. Raises DataError if there is none."""
    paths = {path for pair in pairs for path in (pair.fixed_labels, pair.moving_labels)}
    found = [set(np.unique(read_labels(path).volume.data.numpy()).tolist()) for path in sorted(paths)]
    ids = sorted(set.intersection(*found) - {0}) if found else []
    if not ids:
        raise DataError("the label maps have no region in common", remedy="give --ids, or other pairs")
    return tuple(ids)


def _measure(contender: Contender, pair: LabelledPair, config: BenchmarkConfig, ids: Sequence[int]) -> Row:
    folder = config.output / "work" / contender.name / f"{pair.moving_id}_to_{pair.fixed_id}"
    if folder.exists():  # left by a benchmark that was stopped
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    out, result = folder / "out", folder / "process.json"
    command = contender.command(pair, out, config.threads)
    launcher = [sys.executable, "-m", "neuroreg.benchmark_process", str(result), str(config.timeout_s), "--"]
    _run([*launcher, *command], _environment(config.threads))
    found = json.loads(result.read_text(encoding="utf-8"))
    row = replace(
        _blank_row(contender, pair, config.threads),
        wall_s=found["wall_s"], cpu_s=found["cpu_s"], peak_mb=found["peak_mb"],
    )  # fmt: skip
    if found["code"] != 0:
        return replace(row, status=f"failed ({found['code']}): {_last_line(result.with_suffix('.log'))}")
    try:
        row = replace(_score(row, pair, out, ids), deformable_s=_deformable_seconds(out))
    except NeuroregError as error:
        return replace(row, status=f"unusable result: {error}")
    if not config.keep:
        shutil.rmtree(folder)
    return row


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the launcher; if this process is told to stop, the launcher is too, and stops what it launched."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            process.wait()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise InternalError(f"the launcher of the benchmark ended with {process.returncode}")


def _blank_row(contender: Contender, pair: LabelledPair, threads: int) -> Row:
    arguments = "" if contender.arguments is None else shlex.join(contender.arguments)
    return Row(contender.name, arguments, pair.fixed_id, pair.moving_id, threads, status="")


def _environment(threads: int) -> dict[str, str]:
    """Every library of every contender gets the same number of threads."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    )
    return {**os.environ, **dict.fromkeys(names, str(threads))}


@torch.inference_mode()
def _score(row: Row, pair: LabelledPair, out: Path, ids: Sequence[int]) -> Row:
    """The row with Dice of the labels moved by what ``out`` holds, and the map's regularity inside the fixed labels."""
    transform = read_result(out)
    fixed, moving = read_labels(pair.fixed_labels).volume, read_labels(pair.moving_labels).volume
    moved = resample(moving, transform, fixed.geometry)
    figures = measure_map(transform, fixed.geometry, fixed.data[0] > 0)
    return replace(
        row,
        status="ok",
        dice=mean_dice(fixed.data, moved.data, ids),
        folded_percent=figures.folded_percent,
        ndv_percent=figures.ndv_percent,
        sd_log_jacobian=figures.sd_log_jacobian,
    )


def read_result(out: Path) -> Transform:
    """The map a run left in the folder ``out``: our composite, or another program's warp and affine.

    Raises NoInputError when there is none, DataError when it cannot be used.
    """
    if (out / "transform.h5").exists():
        return read_transform(out / "transform.h5")
    affine = read_transform(out / "affine.mat")
    warp = out / "warp.nii.gz"
    return Chain((read_transform(warp), affine)) if warp.exists() else affine


def _deformable_seconds(out: Path) -> float | None:
    """Seconds of the method's own stage and of the refinement, from run.json or stages.json."""
    if (out / "stages.json").exists():
        return _number(json.loads((out / "stages.json").read_text(encoding="utf-8")).get("deformable"))
    record = out / "run.json"
    if not record.exists():
        return None
    seconds: Mapping[str, float] = json.loads(record.read_text(encoding="utf-8")).get("seconds", {})
    stages = [seconds[name] for name in (*METHODS, "refine") if name != "affine" and name in seconds]
    return sum(stages) if stages else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no message"


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
