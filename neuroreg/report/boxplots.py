"""Box plots of one figure per structure, the methods side by side, as papers on registration print them.

Boxes reach from the first to the third quartile, the line is the median, whiskers end at the last point within 1.5 box
lengths, circles are the points beyond. Methods differ by colour, lightness and hatching, so that they can be told apart
by colour-blind readers (colours of Okabe and Ito) and in black and white. Letters are drawn as outlines: a picture is
the same wherever it is opened, and a name is never read as a formula.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from neuroreg.errors import DataError, UsageError
from neuroreg.io.files import atomic_write, suffix_of
from neuroreg.metrics.segmentation import HIGHER_IS_BETTER
from neuroreg.pipeline.evaluate_scores import Scores, Structure
from neuroreg.report.html import plain

TITLES = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hd_mm": "HD (mm)",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "surface_dice": "Surface Dice",
    "fixed_mm3": "Fixed volume (mm³)",
    "moved_mm3": "Moved volume (mm³)",
    "volume_difference_percent": "Volume difference (%)",
    "centroid_shift_mm": "Centroid shift (mm)",
}
"""What stands at the axis"""
_COLOURS = ("#f2f2f2", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#d55e00")
_HATCHES = ("", "", "////", "....", "\\\\\\\\", "xxxx", "----", "++++")
_SETTINGS: Any = {
    "text.usetex": False,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "neuroreg",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it
    "font.size": 8,
    "hatch.linewidth": 0.6,
}
_WIDTH, _ROW_HEIGHT = 10.0, 2.0  # inches
_SLANTED = 8  # structures in a row, above which their names stand upright
_MOST_BOXES, _MOST_STRUCTURES, _MOST_LETTERS = 4000, 400, 34
_SIDES = (
    re.compile(r"^(?P<side>left|right|lh|rh|l|r)[\s_.-]+(?P<rest>.+)$", re.IGNORECASE),
    re.compile(r"^(?P<rest>.+?)[\s_.-]+(?P<side>left|right|lh|rh|l|r)$", re.IGNORECASE),
)


@dataclass(frozen=True)
class Boxes:
    """The figures behind one picture."""

    figure: str
    methods: tuple[str, ...]
    structures: tuple[str, ...]
    values: tuple[tuple[NDArray[np.float64], ...], ...]
    """per structure and method the figures of the pairs, without gaps"""


def draw_boxplots(
    scores: Sequence[Scores],
    path: Path,
    *,
    figure: str = "dice",
    kind: str = "roi",
    merge_sides: bool = False,
    overwrite: bool = False,
) -> Boxes:
    """Draw one figure of every structure of a kind into an .svg or .png file; returns what was drawn.

    ``merge_sides``: left and right of a structure become one box of their mean in each pair. Regions are ordered by the
    median of the first method, best first; groups keep their order. Raises UsageError for another suffix, DataError for
    nothing to draw or more than a picture can hold, CannotCreateError (73), WriteError (74).
    """
    check_picture(path)
    boxes = _boxes(scores, figure, kind, merge_sides=merge_sides)
    with _defaults():
        picture = _picture(boxes)
        atomic_write(path, partial(_save, picture), overwrite=overwrite)
    return boxes


def check_picture(path: Path) -> None:
    """Refuse a file name that is no picture of ours. Raises UsageError."""
    if suffix_of(path) not in (".svg", ".png"):
        raise UsageError("a box plot is an .svg or a .png file", file=path, remedy="give such a name")


def without_side(name: str) -> str | None:
    """The name of a structure without its side: "Right Putamen", "Putamen_R", "rh.putamen"; None if it has none."""
    for pattern in _SIDES:
        match = pattern.match(name.strip())
        if match:
            return match["rest"]
    return None


def _boxes(scores: Sequence[Scores], figure: str, kind: str, *, merge_sides: bool) -> Boxes:
    chosen = [s.of_kind(kind) for s in scores]
    shown: dict[tuple[str, str], str] = {}
    for s in chosen:
        for structure in s.structures:
            shown.setdefault(_key(structure, merge_sides), _title(structure, merge_sides))
    columns: dict[tuple[str, str], list[NDArray[np.float64]]] = {key: [] for key in shown}
    for s in chosen:
        table = s.figure(figure)
        for key, column in columns.items():
            members = [k for k, x in enumerate(s.structures) if _key(x, merge_sides) == key]
            column.append(_mean_of(table[:, members]))
    drawn = [key for key, column in columns.items() if any(len(values) for values in column)]
    if not drawn:
        raise DataError(f"there is no {TITLES[figure]} of any {kind} to draw", remedy="choose another figure")
    if len(drawn) > _MOST_STRUCTURES or len(drawn) * len(scores) > _MOST_BOXES:
        raise DataError(
            f"{len(drawn)} structures of {len(scores)} methods are more than a picture can show",
            remedy="choose some by --labels, or --groups",
        )
    if kind == "roi":
        sign = -1 if figure in HIGHER_IS_BETTER else 1
        middle = {
            key: float(np.median(columns[key][0])) if len(columns[key][0]) else math.inf for key in drawn
        }
        drawn.sort(key=lambda key: sign * middle[key])
    return Boxes(
        figure,
        tuple(_short(s.method) for s in scores),
        tuple(shown[key] for key in drawn),
        tuple(tuple(columns[key]) for key in drawn),
    )


def _key(structure: Structure, merge_sides: bool) -> tuple[str, str]:
    rest = without_side(structure.title) if merge_sides else None
    return structure.key if rest is None else (structure.kind, f"both sides: {rest}")


def _title(structure: Structure, merge_sides: bool) -> str:
    rest = without_side(structure.title) if merge_sides else None
    return _short(rest or structure.title)


def _short(text: str) -> str:
    text = " ".join(plain(text).split())
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _mean_of(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each row over the columns that have a number, rows without one left out."""
    present = ~np.isnan(table)
    has = present.any(axis=1)
    result: NDArray[np.float64] = np.where(present, table, 0.0)[has].sum(axis=1) / present[has].sum(axis=1)
    return result


@contextmanager
def _defaults() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's own settings; a letter that no font has is a box, not a warning."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def _picture(boxes: Boxes) -> Figure:
    """Rows of structures below one another, one legend on top."""
    methods, count = len(boxes.methods), len(boxes.structures)
    per_row = max(1, int((_WIDTH - 1) / (0.1 * methods + 0.12)))
    rows = math.ceil(count / per_row)
    per_row = math.ceil(count / rows)
    upright = per_row > _SLANTED
    letters = max(map(len, boxes.structures)) * (0.055 if upright else 0.03)
    height = rows * (_ROW_HEIGHT + letters) + 0.4
    width = max(3.0, min(_WIDTH, 1.0 + per_row * (0.3 * methods + 0.3)))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    limits = _limits(boxes)
    for row, ax in enumerate(axes):
        part = slice(row * per_row, (row + 1) * per_row)
        _row(ax, boxes.values[part], methods)
        _label(ax, boxes.structures[part], upright=upright)
        ax.set_xlim(-0.6, per_row - 0.4)
        ax.set_ylim(*limits)
        ax.set_ylabel(TITLES[boxes.figure])
    if methods > 1:
        handles = [Patch(label=name, **_look(k)) for k, name in enumerate(boxes.methods)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(methods, 5), frameon=False)
    return figure


def _row(ax: Axes, values: Sequence[Sequence[NDArray[np.float64]]], methods: int) -> None:
    """The boxes of some structures, those of one structure side by side about its place 0, 1, 2, ..."""
    width = 0.8 / methods
    for k in range(methods):
        places = [x - 0.4 + width * (k + 0.5) for x in range(len(values))]
        drawn = ax.boxplot(
            [column[k] for column in values],
            positions=places,
            widths=0.82 * width,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black", "linewidth": 1.3},
            whiskerprops={"linewidth": 0.7},
            capprops={"linewidth": 0.7},
            flierprops={"marker": "o", "markersize": 2.2, "markeredgewidth": 0.5},
        )
        for box in drawn["boxes"]:
            box.set(linewidth=0.7, **_look(k))


def _label(ax: Axes, structures: Sequence[str], *, upright: bool) -> None:
    ax.set_xticks(range(len(structures)), structures, rotation=90 if upright else 30, fontsize=7)
    if not upright:
        for label in ax.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
    ax.set_xticks([x + 0.5 for x in range(len(structures) - 1)], minor=True)
    ax.tick_params(axis="x", which="both", length=0)
    ax.grid(axis="x", which="minor", color="0.9", linewidth=0.6)
    ax.grid(axis="y", color="0.85", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _look(k: int) -> dict[str, Any]:
    """Fill, edge and hatching of the k-th method; the ninth has the colour of the first and another hatching."""
    turn, place = divmod(k, len(_COLOURS))
    hatch = _HATCHES[(place + 2 * turn) % len(_HATCHES)]
    return {"facecolor": _COLOURS[place], "edgecolor": "black", "hatch": hatch}


def _limits(boxes: Boxes) -> tuple[float, float]:
    """One scale for all rows: overlaps end at 1, distances begin at 0."""
    everything = np.concatenate([values for column in boxes.values for values in column])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.05 * (high - low) or 0.05
    if boxes.figure in HIGHER_IS_BETTER:
        return max(-0.02, low - margin), min(1.02, high + margin)
    return (-0.02 * high if low >= 0 else low - margin), high + margin


def _save(picture: Figure, path: Path) -> None:
    # The format is named, and with it the canvas: no window is ever opened.
    kind = suffix_of(path)[1:]
    picture.savefig(path, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
