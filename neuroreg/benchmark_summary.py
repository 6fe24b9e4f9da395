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

from neuroreg import __version__
from neuroreg.benchmark import Row
from neuroreg.io.files import atomic_write
from neuroreg.metrics.statistics import paired_tests

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
    dice_difference: float | None
    """mean of Dice minus the reference's, on the same pairs"""
    p_holm: float | None
    """paired Wilcoxon against the reference, Holm corrected; ordered pairs are not independent samples"""
    folded_percent_mean: float | None
    folded_percent_max: float | None
    ndv_percent_mean: float | None
    wall_s: float | None
    """median"""
    cpu_s: float | None
    """median"""
    deformable_s: float | None
    """median"""
    speed_up: float | None
    """median over the pairs of the reference's wall seconds / this method's"""
    cpu_saving: float | None
    """the same for CPU seconds, which other work on the machine disturbs less"""
    peak_mb: float | None
    """largest"""


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
    differences = [
        row.dice - mate.dice for row, mate in mates if row.dice is not None and mate.dice is not None
    ]
    wall = [mate.wall_s / row.wall_s for row, mate in mates if row.wall_s and mate.wall_s]
    cpu = [mate.cpu_s / row.cpu_s for row, mate in mates if row.cpu_s and mate.cpu_s]
    folds = _values(good, "folded_percent")
    return Line(
        *key,
        pairs=len(group),
        failures=len(group) - len(good),
        dice_mean=_of(statistics.fmean, dice),
        dice_sd=statistics.stdev(dice) if len(dice) > 1 else None,
        dice_difference=_of(statistics.fmean, differences),
        p_holm=p_holm,
        folded_percent_mean=_of(statistics.fmean, folds),
        folded_percent_max=_of(max, folds),
        ndv_percent_mean=_of(statistics.fmean, _values(good, "ndv_percent")),
        wall_s=_of(statistics.median, _values(good, "wall_s")),
        cpu_s=_of(statistics.median, _values(good, "cpu_s")),
        deformable_s=_of(statistics.median, _values(good, "deformable_s")),
        speed_up=_of(statistics.median, wall),
        cpu_saving=_of(statistics.median, cpu),
        peak_mb=_of(max, _values(good, "peak_mb")),
    )


def _of(function: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return float(function(values)) if values else None


def _values(rows: Sequence[Row], name: str) -> list[float]:
    values = (getattr(row, name) for row in rows)
    return [value for value in values if value is not None and math.isfinite(value)]


def _p_values(
    groups: Mapping[tuple[str, str], Sequence[Row]],
    base: Mapping[tuple[str, str], Row],
    reference: str | None,
) -> dict[tuple[str, str], float]:
    """Holm-corrected p of each method against the reference, over the pairs that all of them have."""
    others = {key: group for key, group in groups.items() if key[0] != reference}
    dice = {
        key: {(r.fixed, r.moving): r.dice for r in group if r.status == "ok" and r.dice is not None}
        for key, group in others.items()
    }
    common = sorted(set(base).intersection(*dice.values())) if dice else []
    if len(common) < _FEWEST_CASES:
        return {}
    first = [base[pair].dice or 0.0 for pair in common]
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


def to_markdown(lines: Sequence[Line], ids: Sequence[int], threads: int, reference: str | None) -> str:
    """The table as Markdown, with the conditions it was measured under."""
    against = f" vs {reference}" if reference else ""
    head = [
        "method", "pairs", "failed", "Dice, mean ± sd", f"Dice{against}", "p (Holm)", "folds % mean (max)", "NDV %",
        "wall s", "CPU s", "deformable s", f"speed{against}", f"CPU{against}", "peak MB",
    ]  # fmt: skip
    body = [
        [
            line.method, str(line.pairs), str(line.failures),
            f"{_text(line.dice_mean, '.4f')} ± {_text(line.dice_sd, '.4f')}",
            _text(line.dice_difference, "+.4f"), _text(line.p_holm, ".2g"),
            f"{_text(line.folded_percent_mean, '.4f')} ({_text(line.folded_percent_max, '.4f')})",
            _text(line.ndv_percent_mean, ".4f"), _text(line.wall_s, ".1f"), _text(line.cpu_s, ".1f"),
            _text(line.deformable_s, ".1f"), _times(line.speed_up), _times(line.cpu_saving), _text(line.peak_mb, ".0f"),
        ]
        for line in lines
    ]  # fmt: skip
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in [head, *body]]
    rows.insert(1, "|" + "---|" * len(head))
    note = (
        f"{len(ids)} regions, labels read once by nearest neighbour through the whole map. Folds (det J <= 0) and NDV "
        f"inside the fixed labels. Times: medians of whole processes, files to files, {threads} threads on {machine()}."
    )
    return "\n".join([*rows, "", note, ""])


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
    return "" if value is None else f"{value:.1f} x less"


def machine() -> str:
    """Processor and number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
