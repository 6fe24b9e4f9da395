"""Methods x labelled pairs -> one table, every method run as a user would: a whole process, from files to files.

For each pair all methods run one after the other before the next pair begins, so that a machine that is busy for a
while slows all of them alike and ratios within a pair stay fair. Each result is one row of ``rows.csv``, written as
soon as it exists; a row that is there is never computed again, not even one of an older benchmark that lacks a figure
of today: its figure stays blank. (Maps are not kept, so the figure would cost the whole run; another folder measures
all anew.) The one exception: tissue maps that are asked for now. Dice and ASSD are means over a written list of regions
of the moving labels read once by nearest neighbour through the whole map on the fixed label grid.
"""

import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from neuroreg.benchmark_contenders import Contender
from neuroreg.benchmark_pairs import LabelledPair, common_ids
from neuroreg.errors import DataError, InternalError, NeuroregError
from neuroreg.io.files import output_lock, prepare_folder
from neuroreg.io.images import read_labels
from neuroreg.io.tables import plain, read_csv, write_csv
from neuroreg.io.transforms import read_transform
from neuroreg.methods import METHODS
from neuroreg.metrics.segmentation import mean_dice, region_scores
from neuroreg.pipeline.evaluate import measure_map
from neuroreg.transforms import Chain, Transform, resample
from neuroreg.volume import Volume

ROWS_NAME = "rows.csv"
TIMEOUT_S = 3600.0
TISSUES = {1: "csf", 2: "gm", 3: "wm"}
"""Ids of a tissue map"""


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
    weights: str = ""
    """the beginning of the sha256 of the weights used"""
    device: str = ""
    """where it ran, as the run's own record says"""
    stages: str = ""
    """wall seconds of each stage as the run's own record says, a JSON object"""
    regions: str = ""
    """how many regions the means are over, and the beginning of the sha256 of their ids; "" in older rows"""
    dice: float | None = None
    assd_mm: float | None = None
    """mean over the regions that both maps have"""
    folded_percent: float | None = None
    ndv_percent: float | None = None
    sd_log_jacobian: float | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    deformable_s: float | None = None
    """wall seconds of the deformable stage (and its refinement) alone"""
    peak_mb: float | None = None
    affine_s: float | None = None
    """wall seconds of the affine stage"""
    dice_affine: float | None = None
    """the same mean, labels moved by the affine part alone"""
    csf_dice: float | None = None
    gm_dice: float | None = None
    wm_dice: float | None = None
    csf_assd_mm: float | None = None
    gm_assd_mm: float | None = None
    wm_assd_mm: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str, str, int, str]:
        """What makes two rows the same measurement."""
        measured = (self.method, self.arguments, self.weights, self.fixed, self.moving, self.threads)
        return (*measured, self.regions)

    @property
    def stage_seconds(self) -> dict[str, float]:
        """``stages`` as numbers; empty where there is none. Raises DataError when it is no such object."""
        try:
            return {str(name): float(value) for name, value in json.loads(self.stages or "{}").items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{ROWS_NAME}: the stages of {self.method} are no JSON object of seconds",
                remedy="remove the row and measure again",
            ) from error


COLUMNS = tuple(column.name for column in fields(Row))
_FIGURES = frozenset(COLUMNS[COLUMNS.index("dice") :])


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
            blank = _blank_row(contender, pair, config.threads, ids)
            row = rows.get(blank.key) or rows.get(replace(blank, regions="").key)
            if row is None or _lacks_tissues(row, pair):
                if row is not None:
                    del rows[row.key]
                row = _measure(contender, pair, config, ids)
                rows[row.key] = row
                write_csv(
                    config.output / ROWS_NAME, COLUMNS, [asdict(r) for r in rows.values()], overwrite=True
                )
                progress(f"{row.method}: {row.moving} to {row.fixed}: {describe(row)}")
            wanted.append(row)
    return tuple(wanted), ids


def _lacks_tissues(row: Row, pair: LabelledPair) -> bool:
    return pair.tissues is not None and row.status == "ok" and row.gm_dice is None


def forget_failures(folder: Path) -> int:
    """Drop the rows of runs that failed, so that they are tried again; returns how many. Raises BusyError."""
    path = folder / ROWS_NAME
    if not path.exists():
        return 0
    with output_lock(folder):
        rows = read_rows(path)
        good = [row for row in rows if row.status == "ok"]
        write_csv(path, COLUMNS, [asdict(row) for row in good], overwrite=True)
    return len(rows) - len(good)


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
            text = plain(record.get(column.name) or "")
            figure = column.name in _FIGURES
            values[column.name] = (float(text) if text else None) if figure else text
        found.append(Row(**{**values, "threads": int(record["threads"])}))  # type: ignore[arg-type]
    return found


def _measure(contender: Contender, pair: LabelledPair, config: BenchmarkConfig, ids: Sequence[int]) -> Row:
    folder = config.output / "work" / contender.name / f"{pair.moving_id}_to_{pair.fixed_id}"
    if folder.exists():  # left by a benchmark that was stopped
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    out, result = folder / "out", folder / "process.json"
    command = contender.command(pair.fixed, pair.moving, out, config.threads)
    launcher = [sys.executable, "-m", "neuroreg.benchmark_process", str(result), str(config.timeout_s), "--"]
    _run([*launcher, *command], _environment(config.threads))
    found = json.loads(result.read_text(encoding="utf-8"))
    row = replace(
        _blank_row(contender, pair, config.threads, ids),
        wall_s=found["wall_s"], cpu_s=found["cpu_s"], peak_mb=found["peak_mb"],
    )  # fmt: skip
    if found["code"] != 0:
        return replace(row, status=f"failed ({found['code']}): {_last_line(result.with_suffix('.log'))}")
    try:
        row = replace(_score(row, pair, out, ids), **_said(out))
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
        raise InternalError(
            f"the launcher of the benchmark ended with {process.returncode}",
            remedy="run it again with --debug and report it",
        )


def _blank_row(contender: Contender, pair: LabelledPair, threads: int, ids: Sequence[int]) -> Row:
    digest = hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()[:8]
    return Row(
        contender.name,
        contender.shown,
        pair.fixed_id,
        pair.moving_id,
        threads,
        "",
        weights=contender.weights(),
        regions=f"{len(ids)} {digest}",
    )


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
    """The row with Dice and ASSD of the labels moved by what ``out`` holds, and how regular the map is inside them."""
    transform = read_result(out)
    fixed, moving = read_labels(pair.fixed_labels).volume, read_labels(pair.moving_labels).volume
    moved = resample(moving, transform, fixed.geometry)
    figures = measure_map(transform, fixed.geometry, fixed.data[0] > 0)
    affine = None
    if (out / "affine.mat").exists():
        by_affine = resample(moving, read_transform(out / "affine.mat"), fixed.geometry)
        affine = mean_dice(fixed.data, by_affine.data, ids)
    return replace(
        row,
        status="ok",
        dice=mean_dice(fixed.data, moved.data, ids),
        assd_mm=_mean_assd(fixed, moved, ids),
        dice_affine=affine,
        folded_percent=figures.folded_percent,
        ndv_percent=figures.ndv_percent,
        sd_log_jacobian=figures.sd_log_jacobian,
        **({} if pair.tissues is None else _tissue_figures(pair.tissues, transform)),
    )


def _mean_assd(fixed: Volume, moved: Volume, ids: Sequence[int]) -> float | None:
    """Mean ASSD (mm) of the regions that both maps have; None without any."""
    spacing = fixed.geometry.spacing[::-1]
    scores = region_scores(fixed.data[0], moved.data[0], spacing_mm=spacing, ids=ids)
    found = [score.assd_mm for score in scores if score.assd_mm is not None]
    return statistics.fmean(found) if found else None


def _tissue_figures(tissues: tuple[Path, Path], transform: Transform) -> dict[str, Any]:
    """Dice and ASSD (mm) of each tissue, its map moved once by nearest neighbour."""
    fixed, moving = (read_labels(path).volume for path in tissues)
    moved = resample(moving, transform, fixed.geometry)
    spacing = fixed.geometry.spacing[::-1]
    scores = region_scores(fixed.data[0], moved.data[0], spacing_mm=spacing, ids=tuple(TISSUES))
    found = {f"{TISSUES[score.label]}_dice": score.dice for score in scores}
    return found | {f"{TISSUES[score.label]}_assd_mm": score.assd_mm for score in scores}


def read_result(out: Path) -> Transform:
    """The map a run left in the folder ``out``: our composite, or another program's warp and affine.

    Raises NoInputError when there is none, DataError when it cannot be used.
    """
    if (out / "transform.h5").exists():
        return read_transform(out / "transform.h5")
    affine = read_transform(out / "affine.mat")
    warp = out / "warp.nii.gz"
    return Chain((read_transform(warp), affine)) if warp.exists() else affine


def _said(out: Path) -> dict[str, Any]:
    """What the run says of itself in run.json, or stages.json of another program: its seconds, and its device.

    The affine stage and the method's own stage with the refinement have columns of their own.
    """
    if (out / "stages.json").exists():
        seconds, device = _seconds(json.loads((out / "stages.json").read_text(encoding="utf-8"))), "cpu"
        own = [seconds["deformable"]] if "deformable" in seconds else []
    elif (out / "run.json").exists():
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        seconds, device = _seconds(record.get("seconds")), str(record.get("device", ""))
        own = [seconds[name] for name in (*METHODS, "refine") if name != "affine" and name in seconds]
    else:
        return {}
    stages = json.dumps({name: round(value, 3) for name, value in seconds.items()})
    deformable = sum(own) if own else None
    return {"affine_s": seconds.get("affine"), "deformable_s": deformable, "stages": stages, "device": device}


def _seconds(said: object) -> dict[str, float]:
    """The numbers of a table of stages."""
    table = said if isinstance(said, dict) else {}
    return {str(name): float(value) for name, value in table.items() if isinstance(value, int | float)}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no message"
