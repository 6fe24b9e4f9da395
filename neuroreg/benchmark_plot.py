"""The picture of a benchmark: Dice against seconds, one labelled point for each method.

Drawn without a display and without pyplot's global state. Names are shown as they are, never as formulas, and become
outlines in the SVG: they stand in the file in comments alone, escaped by matplotlib.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from neuroreg.benchmark_external import METHODS as EXTERNAL
from neuroreg.benchmark_summary import PLOT_NAME, Line, Quartiles
from neuroreg.io.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHERS = ("#0072B2", "o"), ("#D55E00", "s")
"""Okabe and Ito's blue and vermilion, told apart by colour-blind readers; the marker's shape says the same"""

_SIZE_INCHES = (7.5, 5.0)
_PNG_DPI = 160
_LETTERS = 9.0
_MARKER = 7.0
_NEAR, _DISTANCES = 9.0, (9.0, 20.0, 32.0, 46.0, 64.0, 86.0, 112.0, 140.0)  # points
_DIRECTIONS = tuple(
    math.radians(a) for a in (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 65, 295, 115, 245)
)
Box = tuple[float, float, float, float]
"""left, bottom, right, top in points"""


@dataclass(frozen=True)
class Point:
    """One method: low, middle, high of its seconds and of its Dice over the pairs."""

    name: str
    seconds: Quartiles
    dice: Quartiles
    ours: bool


def points_of(lines: Sequence[Line]) -> tuple[Point, ...]:
    """The methods that have both figures."""
    return tuple(
        Point(
            line.method,
            line.wall_quartiles,
            line.dice_quartiles,
            bool(line.arguments) or line.method not in EXTERNAL,
        )
        for line in lines
        if line.wall_quartiles and line.dice_quartiles and min(line.wall_quartiles) > 0
    )


def write_plot(folder: Path, lines: Sequence[Line], *, subtitle: str = "") -> tuple[Path, Path]:
    """dice_seconds.svg and .png in ``folder``, replacing older ones; returns their paths. Raises WriteError."""
    svg = folder / PLOT_NAME
    png = svg.with_suffix(".png")
    with matplotlib.rc_context(
        {"text.parse_math": False, "text.usetex": False, "svg.fonttype": "path", "svg.hashsalt": "neuroreg"}
    ):
        figure = draw(points_of(lines), subtitle=subtitle)
        for path, options in (
            (svg, {"format": "svg", "metadata": {"Date": None}}),
            (png, {"format": "png", "dpi": _PNG_DPI, "metadata": {"Software": None}}),
        ):
            atomic_write(path, partial(_save, figure, options), overwrite=True)
    return svg, png


def _save(figure: Figure, options: dict[str, Any], path: Path) -> None:
    figure.savefig(path, **options)


def draw(points: Sequence[Point], *, subtitle: str = "") -> Figure:
    """The figure: medians with quartiles, seconds on a logarithmic axis, each point with its name beside it."""
    figure = Figure(figsize=_SIZE_INCHES, dpi=72, facecolor="white")  # at 72 dpi a pixel is a point
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.12, 0.87, 0.76))
    figure.text(0.1, 0.95, "Dice against seconds", fontsize=12, weight="bold")
    figure.text(0.1, 0.905, _shown(subtitle), fontsize=_LETTERS, color="#444444")
    axes.set_xlabel("seconds of a whole process, files to files: median and quartiles, logarithmic")
    axes.set_ylabel("mean Dice of the regions: median and quartiles")
    _set_axes(axes, points)
    for ours, (colour, marker) in ((True, _OURS), (False, _OTHERS)):
        chosen = [point for point in points if point.ours is ours]
        if chosen:
            label = "neuroreg register" if ours else "another program by itself"
            _plot(axes, chosen, colour=colour, marker=marker, label=label)
    if points:
        axes.legend(loc="upper center", bbox_to_anchor=(0.79, 1.15), fontsize=_LETTERS, frameon=False)
    else:
        axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center")
    _label(axes, points)
    return figure


def _plot(axes: "Axes", points: Sequence[Point], *, colour: str, marker: str, label: str) -> None:
    seconds, dice = [point.seconds for point in points], [point.dice for point in points]
    axes.errorbar(
        [q[1] for q in seconds], [q[1] for q in dice], xerr=_apart(seconds), yerr=_apart(dice), fmt=marker,
        color=colour, markersize=_MARKER, elinewidth=1.1, markeredgecolor="white",
    )  # fmt: skip
    axes.plot([], [], marker, color=colour, markersize=_MARKER, label=label)


def _apart(quartiles: Sequence[Quartiles]) -> list[list[float]]:
    """How far the quartiles lie below and above the median."""
    return [[max(q[k + 1] - q[k], 0.0) for q in quartiles] for k in (0, 1)]


def _set_axes(axes: "Axes", points: Sequence[Point]) -> None:
    """Limits with room for the labels, and ticks in plain numbers."""
    low = min((point.seconds[0] for point in points), default=1.0)
    high = max((point.seconds[2] for point in points), default=10.0)
    room = 1.25 * (high / low) ** 0.12
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    wide = high * room**2 / low > 12
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
    least = min((point.dice[0] for point in points), default=0.0)
    most = max((point.dice[2] for point in points), default=1.0)
    margin = max(0.12 * (most - least), 0.01)
    axes.set_ylim(least - margin, most + margin)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _label(axes: "Axes", points: Sequence[Point]) -> None:
    """A name beside each point, where it covers neither another name nor a mark; a thin line leads to distant ones."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    frame = axes.get_window_extent(renderer)
    taken = [box for point in points for box in _marks(axes, point)]
    for point in sorted(points, key=lambda point: -point.dice[1]):
        x, y = axes.transData.transform((point.seconds[1], point.dice[1])).tolist()
        text = axes.annotate(
            _shown(point.name), (point.seconds[1], point.dice[1]), xytext=(0, 0), textcoords="offset points",
            ha="center", va="center", fontsize=_LETTERS,
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        box, distance = _free_place((x, y), (size.width + 3, size.height + 2), taken, frame.extents)
        taken.append(box)
        middle = ((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y)
        text.set_position(middle)
        if distance > _NEAR:
            end = (min(max(x, box[0]), box[2]) - x, min(max(y, box[1]), box[3]) - y)
            axes.annotate(
                "", (point.seconds[1], point.dice[1]), xytext=end, textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip


def _marks(axes: "Axes", point: Point) -> tuple[Box, Box, Box]:
    """What a point covers: its marker and its two bars."""
    (x0, y0), (x, y), (x1, y1) = (
        axes.transData.transform(corner).tolist() for corner in zip(point.seconds, point.dice, strict=True)
    )
    half = _MARKER / 2 + 1
    return (x - half, y - half, x + half, y + half), (x0, y - 1, x1, y + 1), (x - 1, y0, x + 1, y1)


def _free_place(
    point: tuple[float, float], size: tuple[float, float], taken: Sequence[Box], frame: Box
) -> tuple[Box, float]:
    """The nearest place for a box of ``size`` (width, height) beside ``point`` that covers least, and its distance."""
    best: tuple[float, Box, float] | None = None
    for distance, angle in itertools.product(_DISTANCES, _DIRECTIONS):
        x = point[0] + math.cos(angle) * (distance + size[0] / 2)
        y = point[1] + math.sin(angle) * (distance + size[1] / 2)
        box = (x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)
        outside = size[0] * size[1] - _overlap(box, frame)
        covered = 2 * outside + sum(_overlap(box, other) for other in taken)
        if best is None or covered < best[0] - 1e-6:
            best = (covered, box, distance)
        if covered < 1e-6:
            break
    assert best is not None
    return best[1], best[2]


def _overlap(first: Box, second: Box) -> float:
    """The area that two boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def _shown(text: str) -> str:
    """Printable ASCII alone: what the font has, and nothing that turns the direction of writing."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)
