"""The report of one registration: a single HTML file that needs no network and no other file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroreg.errors import DataError
from neuroreg.io.files import atomic_write
from neuroreg.pipeline.case import Case
from neuroreg.pipeline.record import Quality
from neuroreg.pipeline.verdict import level_of
from neuroreg.report import pictures
from neuroreg.report.html import SYMBOLS, environment, own, plain, policy
from neuroreg.report.words import FIGURES, Meaning

MAX_BYTES = 5_000_000
_ABBREVIATED = {"ncc", "lncc", "ndv", "sd"}
_UNITS = {"mm": "mm", "percent": "%", "s": "s", "mm3": "mm³", "bytes": "bytes", "deg": "degrees"}
_VERDICTS = {
    "pass": ("Pass", "Nothing measured speaks against this registration."),
    "look": ("Look", "Somebody should look at the pictures before this registration is used."),
    "fail": ("Fail", "Do not use this registration."),
}
_ROI_COLUMNS = {
    "dice": "Dice", "dice_affine": "Dice, affine", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm",
    "fixed_mm3": "fixed mm³", "moved_mm3": "moved mm³"
}  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """One line of a table."""

    label: str
    value: str


@dataclass(frozen=True)
class _Figure:
    """One figure of quality."""

    label: str
    means: str
    value: str
    limits: str
    """where it stops being good; empty when nothing is judged by it"""
    state: str
    """pass, look, fail; empty when it is not judged"""


def write_report(path: Path, case: Case, *, overwrite: bool = False) -> None:
    """Write the report to ``path``, atomically.

    Raises DataError for volumes on other grids or a page that is too large; CannotCreateError and WriteError as any
    output.
    """
    for name in ("scanned", "before", "moved", "jacobian"):
        if not getattr(case, name).geometry.same_grid(case.fixed.geometry):
            raise DataError(
                f"the {name} image of the report is not on the fixed grid", remedy="this is a bug; report it"
            )
    script, style = own("report.js"), own("report.css")
    inside = {"script": script, "style": style, "policy": policy([script], None)}
    text = environment().get_template("report.html").render({**_context(case), **inside})
    if len(text.encode()) > MAX_BYTES:
        raise DataError(
            f"the report would take {len(text.encode())} bytes",
            file=path,
            remedy="register at a coarser grid, or leave the report out of --outputs",
        )

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, write, overwrite=overwrite)


def _context(case: Case) -> dict[str, object]:
    scene = pictures.scene_of(case)
    word, meaning = _VERDICTS[case.quality.verdict]
    return {
        "title": plain(case.title),
        "method": plain(case.method),
        "verdict": case.quality.verdict,
        "symbols": SYMBOLS,
        "word": word,
        "meaning": meaning,
        "reasons": [plain(reason) for reason in case.quality.reasons],
        "warnings": [plain(w) for w in case.warnings if w not in case.quality.reasons],
        "figures": figure_rows(case.quality),
        "thumbnail": pictures.thumbnail(case, scene),
        "pixel_mm": round(scene.grid.spacing[0], 6),
        "comparisons": pictures.comparisons(case, scene),
        "strips": pictures.static_strips(case, scene),
        "deformation": pictures.deformation(case, scene),
        "jacobian": pictures.jacobian(case, scene),
        "maps": pictures.measured(case, scene),
        "bars": None if case.rois is None else bars(case.rois),
        "regions": None if case.rois is None else _region_table(case.rois),
        "provenance": flattened(case.provenance),
    }


def figure_rows(quality: Quality) -> list[_Figure]:
    """Every figure, the judged ones first, then in the order in which the words have them."""
    order = {name: k for k, name in enumerate(FIGURES)}
    names = sorted(
        quality.figures, key=lambda name: (name not in quality.thresholds, order.get(name, len(order)))
    )
    return [_figure(name, quality.figures[name], quality.thresholds.get(name)) for name in names]


def _figure(name: str, value: float | None, limits: Mapping[str, float] | None) -> _Figure:
    known = FIGURES.get(name) or Meaning(label_of(name), "")
    text = number(value) + (f" {known.unit}" if known.unit and value is not None else "")
    if limits is None:
        return _Figure(known.label, known.means, text, "", "")
    word = "below" if limits["fail"] < limits["look"] else "above"
    limit_text = f"look {word} {limits['look']:g}, fail {word} {limits['fail']:g}"
    state = "" if value is None else level_of(value, look=limits["look"], fail=limits["fail"])
    return _Figure(known.label, known.means, text, limit_text, state)


def _region_table(rois: Sequence[Mapping[str, object]]) -> dict[str, list[list[str]] | list[str]]:
    """The header and the rows of the table of regions, in the order of the file."""
    columns = [name for name in _ROI_COLUMNS if any(name in row for row in rois)]
    rows = [
        [plain(row.get("id") or ""), plain(row.get("name") or ""), *(number(row.get(c)) for c in columns)]
        for row in rois
    ]
    return {"head": ["id", "region", *(_ROI_COLUMNS[c] for c in columns)], "rows": rows}


@dataclass(frozen=True)
class Bar:
    """The overlap of one region: percent of the width of the bar, and the Dice written beside it."""

    name: str
    after: float | None
    before: float | None
    text: str
    text_before: str


def bars(rois: Sequence[Mapping[str, object]]) -> list[Bar]:
    """One bar per region, those without a value first, then the worst."""
    found = []
    for row in rois:
        name = row.get("name") or row.get("label") or row.get("id")
        after, before = _share(row.get("dice")), _share(row.get("dice_affine"))
        found.append(
            Bar(
                name=plain("" if name is None else name),
                after=after,
                before=before,
                text="no value" if after is None else f"{after / 100:.3f}",
                text_before="" if before is None else f"{before / 100:.3f}",
            )
        )
    return sorted(found, key=lambda bar: (bar.after is not None, bar.after or 0.0))


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return round(100.0 * value, 1)


def label_of(name: str) -> str:
    """``inverse_mean_mm`` -> "Inverse mean (mm)"."""
    words = plain(name).split("_")
    unit = _UNITS.get(words[-1]) if len(words) > 1 else None
    text = " ".join(
        word.upper() if word in _ABBREVIATED else word for word in (words[:-1] if unit else words)
    )
    return f"{text[:1].upper()}{text[1:]}{f' ({unit})' if unit else ''}"


def number(value: object) -> str:
    """Four digits and more for numbers, "not measured" for None, yes or no, anything else as plain text."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not a number"
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return plain(value)


def flattened(tree: Mapping[str, object], prefix: str = "") -> list[_Row]:
    """A nested mapping as rows: names joined by dots, lists by commas."""
    rows = []
    for key, value in tree.items():
        name = f"{prefix}{plain(key)}"
        if isinstance(value, Mapping):
            rows += flattened(value, f"{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            rows.append(_Row(name, ", ".join(number(item) for item in value)))
        else:
            rows.append(_Row(name, number(value)))
    return rows
