"""What a table of pairs says as a whole: every figure over the pairs, per region and group, as JSON and Markdown."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroreg import __version__
from neuroreg.io.files import atomic_write
from neuroreg.metrics.segmentation import FIGURES, HIGHER_IS_BETTER
from neuroreg.metrics.statistics import DRAWS, describe
from neuroreg.pipeline.evaluate_scores import Scores, Structure
from neuroreg.pipeline.evaluate_table import PAIR_FIGURES, Case, TableOutcome

JSON_NAME, MARKDOWN_NAME = "summary.json", "summary.md"
VOLUMES = frozenset({"fixed_mm3", "moved_mm3"})
"""Figures of which neither more nor less is better."""
_SHOWN = ("dice", "hd95_mm", "assd_mm", "surface_dice", "volume_difference_percent")
"""The figures of the table of structures in ``summary.md``; ``summary.json`` has all."""


def summarise(outcome: TableOutcome, *, seed: int = 0) -> dict[str, Any]:
    """Mean, SD, median and 95 % bootstrap interval of every figure over the pairs, for JSON; no NaN, gaps are None.

    Per method: ``figures`` are those of whole pairs (means over the regions of a pair, regularity, landmarks), with
    the worst region by its mean over the pairs; ``structures`` those of every region and group.
    """
    return {
        "program": f"neuroreg {__version__}",
        "pairs": len(outcome.cases),
        "failed": [{"id": c.id, "method": c.method, "status": c.status} for c in outcome.failed],
        "interval": "95 %, bootstrap over pairs, percentile",
        "bootstrap_draws": DRAWS,
        "seed": seed,
        "methods": [_method(scores, outcome.cases, seed) for scores in outcome.scores],
    }


def _method(scores: Scores, cases: Sequence[Case], seed: int) -> dict[str, Any]:
    regions = scores.of_kind("roi")
    found = [case.figures() for case in cases if case.method == scores.method and case.status == "ok"]
    every = {name: [row.get(name) for row in found] for name in PAIR_FIGURES}
    pairs = {name: values for name, values in every.items() if any(value is not None for value in values)}
    figures = {}
    if pairs:
        table = np.array(list(pairs.values()), dtype=np.float64).T
        for name, description in zip(pairs, describe(table, seed=seed), strict=True):
            figures[name] = {**asdict(description), "worst_roi": _worst(regions, name.removeprefix("mean_"))}
    described = {name: describe(scores.figure(name), seed=seed) for name in FIGURES}
    structures = [
        {**asdict(structure), "figures": {name: asdict(described[name][k]) for name in FIGURES}}
        for k, structure in enumerate(scores.structures)
    ]
    return {
        "method": scores.method,
        "pairs": len(scores.cases),
        "tolerance_mm": scores.tolerance_mm,
        "figures": figures,
        "structures": structures,
    }


def _worst(regions: Scores, figure: str) -> dict[str, object] | None:
    """The region whose mean over the pairs is worst, None where no region is worse than another."""
    if figure not in FIGURES or figure in VOLUMES or not regions.structures:
        return None
    means = column_means(regions.figure(figure))
    badness = -means if figure in HIGHER_IS_BETTER else np.abs(means)
    if np.isnan(badness).all():
        return None
    k = int(np.nanargmax(badness))
    structure: Structure = regions.structures[k]
    return {"roi": structure.roi, "name": structure.name, "mean": float(means[k])}


def column_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each column over the rows that have a number; NaN where none has."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        result: NDArray[np.float64] = np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)
    return result


def to_markdown(record: Mapping[str, Any]) -> str:
    """The summary for people."""
    failed = record["failed"]
    parts = [
        "# Evaluation",
        f"{record['pairs']} pairs, {len(failed)} of them failed. Means over the pairs; intervals: "
        f"{record['interval']}, {record['bootstrap_draws']} draws, seed {record['seed']}. Figures of a pair are means "
        "over its regions. Pairs that share people are not independent: their intervals are too narrow.",
    ]
    for method in record["methods"]:
        parts.append(f"## {_text(method['method']) or 'Pairs'}: {method['pairs']} pairs")
        if method["tolerance_mm"] is not None:
            parts.append(f"Surface Dice at {method['tolerance_mm']:g} mm.")
        parts += [_figures(method["figures"]), _structures(method["structures"])]
    if failed:
        rows = [[_text(case[key]) for key in ("id", "method", "status")] for case in failed]
        parts += ["## Failed", _table([["id", "method", "status"], *rows])]
    return "\n\n".join(parts) + "\n"


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["figure", "pairs", "mean", "SD", "95 % interval", "median", "worst region (its mean)"]
    body = []
    for name, found in figures.items():
        worst = found["worst_roi"]
        last = "" if worst is None else f"{_text(worst['name'] or worst['roi'])} ({_number(worst['mean'])})"
        cells = [f"`{name}`", str(found["count"]), _number(found["mean"]), _number(found["sd"])]
        body.append([*cells, _interval(found), _number(found["median"]), last])
    return _table([head, *body])


def _structures(structures: Sequence[Mapping[str, Any]]) -> str:
    head = ["structure", "kind", "pairs"]
    for name in _SHOWN:
        head += [f"`{name}` mean ± SD", "95 % interval"]
    body = []
    for structure in structures:
        figures = structure["figures"]
        title = " ".join(filter(None, (structure["roi"], structure["name"])))
        cells = [_text(title), structure["kind"], str(figures["dice"]["count"])]
        for name in _SHOWN:
            found = figures[name]
            spread = "" if found["sd"] is None else f" ± {_number(found['sd'])}"
            cells += [_number(found["mean"]) + spread, _interval(found)]
        body.append(cells)
    return _table([head, *body])


def write_summary(folder: Path, record: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """summary.md and summary.json in ``folder``. Raises CannotCreateError (73) or WriteError (74)."""
    texts = {
        MARKDOWN_NAME: to_markdown(record),
        JSON_NAME: json.dumps(record, allow_nan=False, indent=2) + "\n",
    }
    for name, text in texts.items():
        atomic_write(folder / name, partial(_write, text), overwrite=overwrite)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def _text(text: str) -> str:
    """Text from a table as a cell: no markup of its own, no control characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    for mark in "\\`*_[]|":
        shown = shown.replace(mark, f"\\{mark}")
    return html.escape(shown, quote=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(found: Mapping[str, Any]) -> str:
    return "" if found["low"] is None else f"{_number(found['low'])} to {_number(found['high'])}"
