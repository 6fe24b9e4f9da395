"""The rows of a benchmark as one table: Markdown for people, a dict for JSON."""

import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeGuard

import numpy as np

from neuroreg import __version__
from neuroreg.benchmark import Row
from neuroreg.io.files import atomic_write
from neuroreg.methods import METHODS
from neuroreg.metrics.statistics import paired_tests

PLOT_NAME = "dice_seconds.svg"
"""In the folder of the summary; see ``neuroreg.benchmark_plot``"""

_STAGES = (
    "check", "read", "conform", "affine", "method", "refine", "resample", "maps", "judge", "write", "regions",
    "report", "total", "all",
)  # fmt: skip
"""Of our runs and of other programs, in the order of a run"""

Quartiles = tuple[float, float, float]
_FEWEST_CASES = 6  # with fewer, the smallest possible two-sided p of a signed-rank test is above .05


@dataclass(frozen=True)
class Line:
    """One method over all its pairs. Means and medians over the pairs that have the figure, else None."""

    method: str
    arguments: str
    pairs: int
    failures: int
    dice_mean: float | None
    dice_sd: float | None
    dice_quartiles: Quartiles | None
    dice_difference: float | None
    """mean of Dice minus the reference's, on the same pairs"""
    p_holm: float | None
    """paired Wilcoxon against the reference, Holm corrected; ordered pairs are not independent samples"""
    dice_affine_mean: float | None
    """labels moved by the affine part alone"""
    assd_mm_mean: float | None
    assd_pairs: int
    """rows of an older benchmark have no ASSD"""
    folded_percent_mean: float | None
    folded_percent_max: float | None
    ndv_percent_mean: float | None
    sd_log_jacobian_mean: float | None
    wall_s: float | None
    """median"""
    wall_quartiles: Quartiles | None
    cpu_s: float | None
    """median"""
    affine_s: float | None
    """median"""
    deformable_s: float | None
    """median"""
    speed_up: float | None
    """median over the pairs of the reference's wall seconds / this method's"""
    cpu_saving: float | None
    """the same for CPU seconds, which other work on the machine disturbs less"""
    peak_mb: float | None
    """largest"""
    stages: dict[str, float]
    """median wall seconds of each stage that the runs told of"""
    devices: tuple[str, ...]
    """where the runs were"""


def summarise(rows: Sequence[Row], *, reference: str | None = None) -> tuple[Line, ...]:
    """One line per method, in the order of their first rows; ``reference`` is compared with on equal pairs."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.arguments), []).append(row)
    base = {(r.fixed, r.moving): r for r in rows if r.method == reference and r.status == "ok"}
    p_values = _p_values(groups, base, reference)
    return tuple(_line(key, group, base, p_values.get(key)) for key, group in groups.items())


def _line(
    key: tuple[str, str], group: Sequence[Row], base: Mapping[tuple[str, str], Row], p_holm: float | None
) -> Line:
    good = [row for row in group if row.status == "ok"]
    mates = [(row, base[row.fixed, row.moving]) for row in good if (row.fixed, row.moving) in base]
    dice = _values(good, "dice")
    differences = [row.dice - mate.dice for row, mate in mates if _known(row.dice) and _known(mate.dice)]
    wall = [mate.wall_s / row.wall_s for row, mate in mates if row.wall_s and mate.wall_s]
    cpu = [mate.cpu_s / row.cpu_s for row, mate in mates if row.cpu_s and mate.cpu_s]
    mean, median, largest = (_over(good, figure) for figure in (statistics.fmean, statistics.median, max))
    return Line(
        *key,
        pairs=len(group),
        failures=len(group) - len(good),
        dice_mean=mean("dice"),
        dice_sd=statistics.stdev(dice) if len(dice) > 1 else None,
        dice_quartiles=_quartiles(dice),
        dice_difference=_of(statistics.fmean, differences),
        p_holm=p_holm,
        dice_affine_mean=mean("dice_affine"),
        assd_mm_mean=mean("assd_mm"),
        assd_pairs=len(_values(good, "assd_mm")),
        folded_percent_mean=mean("folded_percent"),
        folded_percent_max=largest("folded_percent"),
        ndv_percent_mean=mean("ndv_percent"),
        sd_log_jacobian_mean=mean("sd_log_jacobian"),
        wall_s=median("wall_s"),
        wall_quartiles=_quartiles(_values(good, "wall_s")),
        cpu_s=median("cpu_s"),
        affine_s=median("affine_s"),
        deformable_s=median("deformable_s"),
        speed_up=_of(statistics.median, wall),
        cpu_saving=_of(statistics.median, cpu),
        peak_mb=largest("peak_mb"),
        stages=_stages(good),
        devices=tuple(sorted({row.device for row in good if row.device})),
    )


def _over(rows: Sequence[Row], function: Callable[[Sequence[float]], float]) -> Callable[[str], float | None]:
    """``function`` of the figure of some name, over the rows that have it."""
    return lambda name: _of(function, _values(rows, name))


def _of(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return float(function(values)) if values else None


def _quartiles(values: Sequence[float]) -> Quartiles | None:
    if not values:
        return None
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def _values(rows: Sequence[Row], name: str) -> list[float]:
    values = (getattr(row, name) for row in rows)
    return [value for value in values if value is not None and math.isfinite(value)]


def _stages(rows: Sequence[Row]) -> dict[str, float]:
    """Median seconds of each stage over the rows that have it, in the order in which the runs told of them."""
    told = [row.stage_seconds for row in rows]
    names = dict.fromkeys(name for seconds in told for name in seconds)
    return {name: statistics.median(s[name] for s in told if name in s) for name in names}


def _known(value: float | None) -> TypeGuard[float]:
    """Whether there is a figure: pairs without any region of the list have none."""
    return value is not None and math.isfinite(value)


def _p_values(
    groups: Mapping[tuple[str, str], Sequence[Row]],
    base: Mapping[tuple[str, str], Row],
    reference: str | None,
) -> dict[tuple[str, str], float]:
    """Holm-corrected p of each method against the reference, over the pairs that all of them have."""
    others = {key: group for key, group in groups.items() if key[0] != reference}
    dice = {
        key: {(r.fixed, r.moving): r.dice for r in group if r.status == "ok" and _known(r.dice)}
        for key, group in others.items()
    }
    reference_dice = {pair: row.dice for pair, row in base.items() if _known(row.dice)}
    common = sorted(set(reference_dice).intersection(*dice.values())) if dice else []
    if len(common) < _FEWEST_CASES:
        return {}
    first = [reference_dice[pair] for pair in common]
    names = {str(k): key for k, key in enumerate(dice)}
    tests = paired_tests(first, {name: [dice[key][pair] for pair in common] for name, key in names.items()})
    return {names[test.name]: test.p_holm for test in tests}


def to_record(
    lines: Sequence[Line], ids: Sequence[int], threads: int, reference: str | None
) -> dict[str, object]:
    """Everything for JSON: the lines, the ids, the machine."""
    return {
        "program": f"neuroreg {__version__}",
        "machine": machine(),
        "threads": threads,
        "reference": reference,
        "regions": len(ids),
        "ids": list(ids),
        "methods": [asdict(line) for line in lines],
    }


def to_markdown(
    lines: Sequence[Line],
    ids: Sequence[int],
    threads: int,
    reference: str | None,
    told: Mapping[str, str] | None = None,
) -> str:
    """The tables as Markdown, with the conditions they were measured under; ``told``: what each method runs."""
    accuracy = [
        f"{len(ids)} regions, labels read once by nearest neighbour through the whole map; ASSD: mean over the regions "
        "that both maps have. Folds (det J <= 0), NDV and SD log J inside the fixed labels."
    ]
    lacking = sum(line.pairs - line.failures - line.assd_pairs for line in lines)
    if lacking:
        accuracy.append(
            f"{lacking} results are of an older benchmark, or of pairs without a region in common, and have no ASSD; "
            "they are kept as they are."
        )
    costs = (
        f"Medians (quartiles) of whole processes, files to files, {threads} threads on {machine()}; memory: the "
        "largest. Other work on the machine makes seconds good for ratios at best."
    )
    parts = [_table(_accuracy(lines, reference)), " ".join(accuracy), _table(_costs(lines, reference)), costs]
    stages = _stage_rows(lines)
    if stages:
        parts += [_table(stages), "Wall seconds of each stage, medians, as the runs tell of them."]
    if told:
        parts.append("\n".join(f"- `{name}`: {what.replace('`', '')}" for name, what in told.items()))
    return "\n\n".join([*parts, f"![Dice against seconds]({PLOT_NAME})"]) + "\n"


def _accuracy(lines: Sequence[Line], reference: str | None) -> list[list[str]]:
    against = f" vs {reference}" if reference else ""
    head = [
        "method", "pairs", "failed", "Dice, mean ± sd", f"Dice{against}", "p (Holm)", "affine Dice", "ASSD mm",
        "folds % mean (max)", "NDV %", "SD log J",
    ]  # fmt: skip
    body = [
        [
            line.method, str(line.pairs), str(line.failures),
            f"{_text(line.dice_mean, '.4f')} ± {_text(line.dice_sd, '.4f')}",
            _text(line.dice_difference, "+.4f"), _text(line.p_holm, ".2g"), _text(line.dice_affine_mean, ".4f"),
            _text(line.assd_mm_mean, ".3f"),
            f"{_text(line.folded_percent_mean, '.4f')} ({_text(line.folded_percent_max, '.4f')})",
            _text(line.ndv_percent_mean, ".4f"), _text(line.sd_log_jacobian_mean, ".3f"),
        ]
        for line in lines
    ]  # fmt: skip
    return [head, *body]


def _costs(lines: Sequence[Line], reference: str | None) -> list[list[str]]:
    against = f" vs {reference}" if reference else ""
    head = [
        "method", "wall s", "CPU s", "affine s", "deformable s", f"speed{against}", f"CPU{against}", "peak MB",
        "device",
    ]  # fmt: skip
    body = []
    for line in lines:
        low, _, high = line.wall_quartiles or (None, None, None)
        spread = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
        body.append(
            [
                line.method, f"{_text(line.wall_s, '.1f')}{spread}", _text(line.cpu_s, ".1f"),
                _text(line.affine_s, ".1f"), _text(line.deformable_s, ".1f"), _times(line.speed_up),
                _times(line.cpu_saving), _text(line.peak_mb, ".0f"), ", ".join(line.devices),
            ]
        )  # fmt: skip
    return [head, *body]


def _stage_rows(lines: Sequence[Line]) -> list[list[str]]:
    """One column for each stage, the methods' own stages in one; nothing when no run told of its stages."""
    own = {name for name in METHODS if name != "affine"} | {"deformable"}
    told = [{"method" if name in own else name: s for name, s in line.stages.items()} for line in lines]
    named = dict.fromkeys(name for seconds in told for name in seconds)
    names = sorted(named, key=lambda name: _STAGES.index(name) if name in _STAGES else len(_STAGES))
    if not names:
        return []
    body = [
        [line.method, *(_text(seconds.get(name), ".2f") for name in names)]
        for line, seconds in zip(lines, told, strict=True)
    ]
    return [["method", *names], *body]


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write_summary(folder: Path, record: Mapping[str, object], table: str) -> None:
    """summary.json and summary.md in ``folder``, replacing older ones. Raises WriteError."""
    text = json.dumps(record, allow_nan=False, indent=2) + "\n"
    for name, content in (("summary.json", text), ("summary.md", table)):
        atomic_write(folder / name, partial(_write, content), overwrite=True)


def _write(content: str, path: Path) -> None:
    path.write_text(content, encoding="utf-8")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} x"


def machine() -> str:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
