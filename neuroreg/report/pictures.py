"""Every picture of one case: where the slices lie, what is drawn in them, and what the page says about each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg.pipeline.case import Case
from neuroreg.preprocess import brain, intensity
from neuroreg.report import figures as draw
from neuroreg.report import maps
from neuroreg.volume import Geometry, Volume

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """What all pictures share."""

    grid: Geometry
    """isotropic, along the world's axes: pixels are square in mm, left is left"""
    middle: Point
    inside: Tensor
    """(1, Z, Y, X) bool on the fixed grid: the brain or head without holes"""
    fixed: draw.Window
    moving: draw.Window


@dataclass(frozen=True)
class Comparison:
    """The same three planes of all images, for looking from one to the other."""

    name: str
    remark: str
    fixed: draw.Strip
    scanned: draw.Strip
    before: draw.Strip
    moved: draw.Strip
    outlines: draw.Strip
    """of the fixed image, transparent elsewhere"""


@dataclass(frozen=True)
class Scale:
    """The colours of a map and the numbers below them."""

    stops: list[str]
    ticks: list[str]


def scene_of(case: Case) -> Scene:
    """Where slices lie and how intensities become grey."""
    front = draw.foreground(case.fixed)
    grid = draw.display_grid(front, case.fixed.geometry)
    inside = brain.close_and_fill(front, radius=2)
    return Scene(grid, draw.centre(grid), inside, draw.window_of(case.fixed), draw.window_of(case.before))


def comparisons(case: Case, scene: Scene) -> list[Comparison]:
    """Through the worst place first, then through the middle."""
    places: list[tuple[str, str, Point]] = []
    if case.quality.worst_place_lps_mm is not None:
        value = case.quality.figures.get("lncc_worst")
        remark = (
            "" if value is None else f"mean local correlation {value:.2f}, the lowest of any region of 26 mm"
        )
        places.append(("Where the images are least alike", remark, case.quality.worst_place_lps_mm))
    places.append(("Through the middle", "", scene.middle))
    return [_comparison(case, scene, *place) for place in places]


def _comparison(case: Case, scene: Scene, name: str, remark: str, point: Point) -> Comparison:
    def grey(volume: Volume, window: draw.Window) -> draw.Strip:
        return _strip(scene, point, volume, lambda plane: draw.grey(window.apply(plane)))

    return Comparison(
        name,
        remark,
        fixed=grey(case.fixed, scene.fixed),
        scanned=grey(case.scanned, scene.moving),
        before=grey(case.before, scene.moving),
        moved=grey(case.moved, scene.moving),
        outlines=_strip(scene, point, case.fixed, lambda plane: draw.overlay(scene.fixed.apply(plane))),
    )


def _strip(
    scene: Scene, point: Point, volume: Volume, draw_one: Callable[[draw.Plane], draw.Pixels]
) -> draw.Strip:
    return draw.strip([draw_one(plane) for plane in draw.slices(volume, scene.grid, point)], point)


def static_strips(case: Case, scene: Scene) -> dict[str, draw.Strip]:
    """Outlines and differences through the middle, drawn once: they need no script and can be printed."""
    still = [scene.fixed.apply(plane) for plane in draw.slices(case.fixed, scene.grid, scene.middle)]
    found = {}
    for name, volume in (("before", case.before), ("after", case.moved)):
        planes = [scene.moving.apply(plane) for plane in draw.slices(volume, scene.grid, scene.middle)]
        pairs = list(zip(still, planes, strict=True))
        found[f"edges_{name}"] = draw.strip([draw.edges(*pair) for pair in pairs], scene.middle)
        found[f"difference_{name}"] = draw.strip([draw.difference(*pair) for pair in pairs], scene.middle)
    return found


def thumbnail(case: Case, scene: Scene) -> str:
    """The axial slice through the middle: outlines of the fixed image on the moved one."""
    still, moved = (
        window.apply(draw.slices(volume, scene.grid, scene.middle)[0])
        for volume, window in ((case.fixed, scene.fixed), (case.moved, scene.moving))
    )
    return draw.thumbnail(draw.edges(still, moved))


def jacobian(case: Case, scene: Scene) -> dict[str, object]:
    """Everything the page says about the determinant; a second strip runs through the worst fold, if any."""
    determinant = case.jacobian.data[:1].to(torch.float32)
    folds = (determinant <= 0) & scene.inside
    reach = draw.doublings(determinant, scene.inside)
    stops, ticks = draw.colour_stops(reach)
    bins, marks = draw.histogram(determinant, scene.inside)
    points = {"middle": scene.middle}
    if bool(folds.any()):
        points["worst"] = _lowest(determinant, folds, case.jacobian.geometry)
    return {
        "strips": {name: _jacobian_strip(case, scene, folds, at, reach) for name, at in points.items()},
        "scale": Scale(stops, ticks),
        "folded": int(folds.sum()),
        "inside": int(scene.inside.sum()),
        "bins": bins,
        "marks": marks,
        "top": max((each.percent for each in bins), default=0.0) or 1.0,
    }


def _jacobian_strip(case: Case, scene: Scene, folds: Tensor, point: Point, reach: float) -> draw.Strip:
    values = draw.slices(case.jacobian, scene.grid, point, fill=math.nan)
    masks = [_mask_planes(mask, case.jacobian.geometry, scene, point) for mask in (folds, scene.inside)]
    planes = zip(values, *masks, strict=True)
    return draw.strip([draw.jacobian_map(*each, reach=reach) for each in planes], point)


def _mask_planes(mask: Tensor, geometry: Geometry, scene: Scene, point: Point) -> list[draw.Plane]:
    return draw.slices(Volume(mask.to(torch.uint8), geometry, is_label=True), scene.grid, point)


def _lowest(determinant: Tensor, folds: Tensor, geometry: Geometry) -> Point:
    """LPS mm of the fold with the lowest determinant."""
    values = torch.where(folds, determinant, torch.inf)[0]
    z, y, x = (int(i) for i in torch.unravel_index(values.argmin(), values.shape))
    world = geometry.voxel_to_world @ torch.tensor([x, y, z, 1], dtype=torch.float64)
    return (float(world[0]), float(world[1]), float(world[2]))


def deformation(case: Case, scene: Scene) -> dict[str, object] | None:
    """The deformed grid and how far every point goes, the affine left out; None for an affine registration."""
    if case.residual is None:
        return None
    inside = _mask_planes(scene.inside, case.fixed.geometry, scene, scene.middle)
    still = [scene.fixed.apply(plane) for plane in draw.slices(case.fixed, scene.grid, scene.middle)]
    planes = maps.displaced_planes(case.residual, scene.grid, scene.middle)
    top = max(
        1.0, math.ceil(max(_top(length, mask) for (_, length), mask in zip(planes, inside, strict=True)))
    )
    grids = [maps.deformed_grid(ends, on) for (ends, _), on in zip(planes, still, strict=True)]
    lengths = [maps.amount(length, mask, top=top) for (_, length), mask in zip(planes, inside, strict=True)]
    return {
        "grid": draw.strip(grids, scene.middle),
        "grid_mm": maps.GRID_MM,
        "length": draw.strip(lengths, scene.middle),
        "scale": Scale(maps.sequential_stops(), _ticks(top, "mm")),
    }


def _top(values: draw.Plane, inside: draw.Plane) -> float:
    """The 99th percentile inside the mask."""
    return _reach(torch.from_numpy(values)[torch.from_numpy(inside > 0)], 99.0)


def _reach(values: Tensor, percent: float) -> float:
    """That percentile of the finite values; 0 without any."""
    known = values[torch.isfinite(values)]
    return intensity.percentile(known, percent) if known.numel() else 0.0


def _ticks(top: float, unit: str) -> list[str]:
    return [f"{top * t:g} {unit}".strip() for t in (0.0, 0.25, 0.5, 0.75, 1.0)]


def measured(case: Case, scene: Scene) -> dict[str, dict[str, object]]:
    """The maps of the coarse grid: local correlation at the end, inverse consistency error."""
    found: dict[str, dict[str, object]] = {}
    tops = {"lncc": (1.0, "")}
    if "inverse" in case.maps:
        values = case.maps["inverse"].data
        reach = _reach(values, 99.5)
        tops["inverse"] = (max(0.5, math.ceil(2 * reach) / 2), "mm")
    at = case.quality.worst_place_lps_mm or scene.middle
    inside = _mask_planes(scene.inside, case.fixed.geometry, scene, at)
    for name, (top, unit) in tops.items():
        if name in case.maps:
            planes = draw.slices(case.maps[name], scene.grid, at, fill=math.nan)
            pixels = [maps.amount(p, m, top=top) for p, m in zip(planes, inside, strict=True)]
            found[name] = {
                "strip": draw.strip(pixels, at),
                "scale": Scale(maps.sequential_stops(), _ticks(top, unit)),
            }
    return found
