"""The report of one registration: a single HTML file that needs no network, no script and no other file."""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from neuroreg.errors import DataError
from neuroreg.io.files import atomic_write
from neuroreg.preprocess import brain
from neuroreg.report import figures as draw
from neuroreg.volume import Geometry, Volume

Point = tuple[float, float, float]

MAX_BYTES = 5_000_000
_ABBREVIATED = {"ncc", "lncc", "ndv", "sd"}
_UNITS = {"mm": "mm", "percent": "%", "s": "s", "mm3": "mm³", "bytes": "bytes"}


@dataclass(frozen=True)
class _Row:
    """One line of a table."""

    label: str
    value: str


def write_report(
    path: Path,
    *,
    title: str,
    fixed: Volume,
    moving_before: Volume,
    moved: Volume,
    jacobian: Volume,
    figures: Mapping[str, object],
    warnings: Sequence[str],
    rois: Sequence[Mapping[str, object]] | None,
    provenance: Mapping[str, object],
    overwrite: bool = False,
) -> None:
    """Write the report to ``path``, atomically. All volumes (1, Z, Y, X) lie on the fixed grid.

    ``moving_before`` is the moving image before the deformation, ``jacobian`` the determinant of the whole map.
    ``figures`` are numbers named with their unit (``inverse_mean_mm``, ``folded_percent``). A row of ``rois`` has
    "dice" and "name", "label" or "id", and "dice_before" where known. ``provenance`` may be nested.
    Raises DataError for volumes on other grids; CannotCreateError and WriteError as any output.
    """
    for name, volume in (("moving", moving_before), ("moved", moved), ("Jacobian", jacobian)):
        if not volume.geometry.same_grid(fixed.geometry):
            raise DataError(f"the {name} image of the report is not on the fixed grid")
    scene = _scene(fixed)
    context = {
        "title": plain(title),
        "warnings": [plain(warning) for warning in warnings],
        "figures": [_Row(label_of(name), number(value)) for name, value in figures.items()],
        "pictures": _pictures(scene, moving_before, moved),
        "jacobian": _jacobian(scene, jacobian),
        "bars": None if rois is None else bars(rois),
        "provenance": flattened(provenance),
    }
    text = environment().get_template("report.html").render(context)
    if len(text.encode()) > MAX_BYTES:
        raise DataError(f"the report would take {len(text.encode())} bytes", file=path)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, write, overwrite=overwrite)


def environment() -> Environment:
    """The templates of this room, with everything escaped that is not marked safe."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True)
class _Scene:
    """What all pictures share: where slices lie, and the fixed image in them."""

    grid: Geometry
    point: Point
    inside: Tensor
    """(1, Z, Y, X) bool: the brain or head without holes"""
    still: list[draw.Plane]
    """the fixed image, 0..1"""


def _scene(fixed: Volume) -> _Scene:
    front = draw.foreground(fixed)
    grid = draw.display_grid(front, fixed.geometry)
    point = draw.centre(grid)
    shown = draw.window_of(fixed)
    still = [shown.apply(plane) for plane in draw.slices(fixed, grid, point)]
    return _Scene(grid, point, brain.close_and_fill(front, radius=2), still)


def _pictures(scene: _Scene, before: Volume, moved: Volume) -> dict[str, draw.Strip]:
    """The strips of slices by name; before and after share one window of intensities."""
    window = draw.window_of(before)
    first = [window.apply(plane) for plane in draw.slices(before, scene.grid, scene.point)]
    last = [window.apply(plane) for plane in draw.slices(moved, scene.grid, scene.point)]
    square = max(1, round(draw.CHECKER_MM / scene.grid.spacing[0]))

    def strip(draw_one: Callable[..., draw.Pixels], *planes: list[draw.Plane]) -> draw.Strip:
        return draw.strip([draw_one(*each) for each in zip(*planes, strict=True)], scene.point)

    return {
        "fixed": strip(draw.grey, scene.still),
        "before": strip(draw.grey, first),
        "moved": strip(draw.grey, last),
        "edges_before": strip(draw.edges, scene.still, first),
        "edges_after": strip(draw.edges, scene.still, last),
        "checkerboard": strip(partial(draw.checkerboard, square=square), scene.still, last),
        "difference_before": strip(draw.difference, scene.still, first),
        "difference_after": strip(draw.difference, scene.still, last),
    }


def _jacobian(scene: _Scene, jacobian: Volume) -> dict[str, object]:
    """Everything the page says about the determinant; a second strip runs through the worst fold, if any."""
    determinant = jacobian.data[:1].to(torch.float32)
    folds = (determinant <= 0) & scene.inside
    reach = draw.doublings(determinant, scene.inside)
    stops, ticks = draw.colour_stops(reach)
    bins, marks = draw.histogram(determinant, scene.inside)
    points = {"middle": scene.point}
    if bool(folds.any()):
        points["worst"] = _lowest(determinant, folds, jacobian.geometry)
    return {
        "strips": {name: _map(scene, jacobian, folds, point, reach) for name, point in points.items()},
        "stops": stops,
        "ticks": ticks,
        "folded": int(folds.sum()),
        "inside": int(scene.inside.sum()),
        "bins": bins,
        "marks": marks,
        "top": max((each.percent for each in bins), default=0.0) or 1.0,
    }


def _map(scene: _Scene, jacobian: Volume, folds: Tensor, point: Point, reach: float) -> draw.Strip:
    def marked(mask: Tensor) -> list[draw.Plane]:
        return draw.slices(Volume(mask.to(torch.uint8), jacobian.geometry, is_label=True), scene.grid, point)

    values = draw.slices(jacobian, scene.grid, point, fill=math.nan)
    planes = zip(values, marked(folds), marked(scene.inside), strict=True)
    return draw.strip([draw.jacobian_map(*each, reach=reach) for each in planes], point)


def _lowest(determinant: Tensor, folds: Tensor, geometry: Geometry) -> Point:
    """LPS mm of the fold with the lowest determinant."""
    values = torch.where(folds, determinant, torch.inf)[0]
    z, y, x = (int(i) for i in torch.unravel_index(values.argmin(), values.shape))
    world = geometry.voxel_to_world @ torch.tensor([x, y, z, 1], dtype=torch.float64)
    return (float(world[0]), float(world[1]), float(world[2]))


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
        after, before = _share(row.get("dice")), _share(row.get("dice_before"))
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
    """Four significant digits for numbers, "not measured" for None, yes or no, anything else as plain text."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "not a number"
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


def plain(text: object) -> str:
    """Text without control characters, direction overrides and bad bytes; the template escapes the rest."""
    return "".join(
        " " if letter in "\n\t" else "?" if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter
        for letter in str(text)
    )
