"""What a 3-D page shows, as small whole numbers on one coarse grid along the world axes.

The grid is in the order of NIfTI's own frame: i to the right, j to the front, k upwards. So left is left whatever
the axes of the files are, and no reader has to turn anything.
"""

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from neuroreg.errors import DataError, NoInputError
from neuroreg.pipeline.finished import FinishedRun
from neuroreg.preprocess import brain, conform
from neuroreg.report import figures as draw
from neuroreg.report.faces import Shown, without_face
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Geometry, Volume

OCTAVES = 3.0
"""Volume changes of a Jacobian layer reach from 2**-OCTAVES to 2**OCTAVES; code 1 and 255, and 128 is no change."""

_MARGIN_MM = 6.0
_MOST_LABELS = 32_767
_IDENTITY = Affine(torch.eye(4, dtype=torch.float64))

Codes = NDArray[np.uint8] | NDArray[np.int16]
Kind = Literal["image", "jacobian", "folds", "labels"]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Layer:
    """One volume of the page."""

    key: str
    title: str
    kind: Kind
    codes: Codes
    """(Z, Y, X) on the grid of the page; 0 is background"""
    low: float = 0.0
    """intensity of code 0"""
    high: float = 255.0
    """intensity of code 255"""


@dataclass(frozen=True)
class Region:
    """A label of the run; its code in the label layers is its place in the list, from 1."""

    label: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Remains:
    """What a run left, on the fixed grid, before it is made small."""

    fixed: Shown
    moved: Shown | None
    jacobian: Volume | None
    fixed_labels: Volume | None
    moved_labels: Volume | None
    windows: Mapping[str, draw.Window]
    """what is shown as black and white of "fixed" and "moved" """
    inside: Tensor
    """(1, Z, Y, X) bool: the brain or head without holes"""
    names: Mapping[int, str]
    places: tuple[tuple[str, Point], ...]
    """places worth a look, LPS mm"""
    notes: tuple[str, ...]

    @property
    def whole_head(self) -> bool:
        """Whether a face can be seen."""
        return self.fixed.whole_head or (self.moved is not None and self.moved.whole_head)


def gather(run: FinishedRun, *, with_face: bool) -> Remains:
    """Everything the page can show. Raises NoInputError without the fixed image, DataError for files that changed."""
    notes: list[str] = []
    moved = run.moved()
    if moved is None:
        notes.append("the moved image is left out: the run kept neither it nor a transform")
    jacobian = run.jacobian()
    if jacobian is None:
        notes.append("the Jacobian is left out: the run kept neither it nor a transform")
    fixed = Shown(run.fixed) if with_face else without_face(run, "fixed", run.fixed)
    shown = None if moved is None else Shown(moved) if with_face else without_face(run, "moving", moved)
    notes += [each.note for each in (fixed, shown) if each is not None and each.note]
    if with_face and any(brain.exceeds_brain(v) for v in (run.fixed, moved) if v is not None):
        notes.append("face and skull are shown, as asked for: this page identifies a person")
    labels = _labels(run, notes)
    images = {"fixed": fixed, "moved": shown}
    windows = {key: draw.window_of(each.volume) for key, each in images.items() if each is not None}
    inside = brain.close_and_fill(draw.foreground(fixed.volume), radius=2)
    return Remains(
        fixed=fixed,
        moved=shown,
        jacobian=jacobian,
        fixed_labels=labels[0],
        moved_labels=labels[1],
        windows=windows,
        inside=inside,
        names=_names(run, notes) if any(labels) else {},
        places=tuple(_places(run, jacobian, inside)),
        notes=tuple(notes),
    )


def _labels(run: FinishedRun, notes: list[str]) -> tuple[Volume | None, Volume | None]:
    """The fixed and the moved labels; those that are not found are noted."""
    found: list[Volume | None] = []
    for side in ("fixed", "moving"):
        try:
            image = run.image("fixed_labels") if side == "fixed" else None
            found.append(
                run.moved("moving_labels") if side == "moving" else None if image is None else image.volume
            )
        except (NoInputError, DataError) as error:
            notes.append(f"the {side} labels are left out: {error}")
            found.append(None)
    return found[0], found[1]


def _names(run: FinishedRun, notes: list[str]) -> Mapping[int, str]:
    try:
        return run.label_names()
    except (NoInputError, DataError) as error:
        notes.append(f"the regions have no names: {error}")
        return {}


def _places(run: FinishedRun, jacobian: Volume | None, inside: Tensor) -> Sequence[tuple[str, Point]]:
    """Where to jump: the extremes of the volume change inside the head, and what the record names."""
    found: list[tuple[str, Point]] = []
    if jacobian is not None and not run.linear:
        values = jacobian.data[:1]
        lowest = torch.where(inside, values, torch.inf)
        highest = torch.where(inside, values, -torch.inf)
        folded = float(lowest.min()) <= 0
        words = "Worst fold" if folded else f"Strongest shrinking (det {float(lowest.min()):.2f})"
        found.append((words, _point(jacobian.geometry, int(lowest.argmin()))))
        largest = f"Strongest growth (det {float(highest.max()):.2f})"
        found.append((largest, _point(jacobian.geometry, int(highest.argmax()))))
    place = (run.recorded.qc or {}).get("worst_place_lps_mm")
    if isinstance(place, list) and len(place) == 3 and all(isinstance(v, int | float) for v in place):
        point = (float(place[0]), float(place[1]), float(place[2]))
        if all(map(math.isfinite, point)):
            found.append(("Worst local match", point))
    return found


def _point(geometry: Geometry, flat: int) -> Point:
    """LPS mm of the voxel with that place in the flattened data."""
    z, rest = divmod(flat, geometry.size[1] * geometry.size[0])
    y, x = divmod(rest, geometry.size[0])
    world = geometry.voxel_to_world @ torch.tensor([x, y, z, 1], dtype=torch.float64)
    return (float(world[0]), float(world[1]), float(world[2]))


def page_grid(remains: Remains, spacing_mm: float) -> Geometry:
    """The grid of the page around the fixed head or brain: isotropic, axes right, front, up. Raises DataError."""
    geometry = remains.fixed.volume.geometry
    box = conform.network_grid(remains.inside, geometry, spacing_mm, 1, _MARGIN_MM, aligned_with=geometry)
    x, y = (box.origin[k] + (box.size[k] - 1) * spacing_mm for k in range(2))
    return Geometry(box.size, box.spacing, (x, y, box.origin[2]), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def make_layers(remains: Remains, grid: Geometry) -> tuple[tuple[Layer, ...], tuple[Region, ...]]:
    """All volumes on the page's grid, and the regions that the label layers share."""
    found = [_image("fixed", remains.fixed.volume, remains.windows["fixed"], grid)]
    if remains.moved is not None:
        found.append(_image("moved", remains.moved.volume, remains.windows["moved"], grid))
    if remains.jacobian is not None:
        found.append(_jacobian(remains.jacobian, remains.inside, grid))
    labels, regions = _label_layers(remains, grid)
    found += labels
    if remains.jacobian is not None:
        found += _folds(remains.jacobian, remains.inside, grid)
    return tuple(found), regions


def _image(key: str, volume: Volume, window: draw.Window, grid: Geometry) -> Layer:
    values = _onto(volume, grid)
    codes = ((np.clip((values - window.low) / (window.high - window.low), 0, 1)) * 255 + 0.5).astype(np.uint8)
    return Layer(key, f"{key.capitalize()} image", "image", codes, window.low, window.high)


def _onto(volume: Volume, grid: Geometry) -> NDArray[np.float64]:
    """(Z, Y, X) on the grid of the page; an image finer than it is smoothed first."""
    data, onto_mm = volume.data[0].to(torch.float32).numpy(), grid.spacing[0]
    for axis, spacing in enumerate(reversed(volume.geometry.spacing)):
        if onto_mm > spacing * (1 + 1e-4):  # to the resolution of the grid, as conform does
            sigma = 0.5 * math.sqrt(onto_mm**2 - spacing**2) / spacing
            data = ndimage.gaussian_filter1d(data, sigma, axis=axis, mode="nearest")
    smooth = Volume(torch.from_numpy(np.ascontiguousarray(data))[None], volume.geometry)
    return resample(smooth, _IDENTITY, grid).data[0].numpy().astype(np.float64)


def _nearest(labels: Volume, grid: Geometry) -> NDArray[np.int64]:
    """(Z, Y, X) on the grid of the page."""
    return resample(labels, _IDENTITY, grid).data[0].numpy().astype(np.int64)


def _jacobian(jacobian: Volume, inside: Tensor, grid: Geometry) -> Layer:
    """log2 of the determinant inside the head."""
    head = Volume(inside.to(torch.uint8), jacobian.geometry, is_label=True)
    octaves = np.log2(np.maximum(_onto(jacobian, grid), 1e-6))
    codes = np.rint(128 + 127 * np.clip(octaves / OCTAVES, -1, 1)).astype(np.uint8)
    codes[_nearest(head, grid) == 0] = 0
    return Layer("jacobian", "Volume change", "jacobian", codes)


def _folds(jacobian: Volume, inside: Tensor, grid: Geometry) -> list[Layer]:
    """Every fold of the full grid inside the head, none lost on the coarser one; no layer when there is none."""
    folds = ((jacobian.data[0] <= 0) & inside[0]).nonzero().flip(1).to(torch.float64)
    if not len(folds):
        return []
    matrix = grid.world_to_voxel @ jacobian.geometry.voxel_to_world
    index = (folds @ matrix[:3, :3].T + matrix[:3, 3]).round().to(torch.int64)
    x, y, z = index[((index >= 0) & (index < torch.tensor(grid.size))).all(dim=1)].T.numpy()
    codes = np.zeros(grid.shape, np.uint8)
    codes[z, y, x] = 1
    return [Layer("folds", "Folds", "folds", codes)]


def _label_layers(remains: Remains, grid: Geometry) -> tuple[list[Layer], tuple[Region, ...]]:
    given = {"fixed": remains.fixed_labels, "moved": remains.moved_labels}
    read = {name: _nearest(volume, grid) for name, volume in given.items() if volume is not None}
    present = [np.unique(values) for values in read.values()]
    ids = np.unique(np.concatenate([np.zeros(1, np.int64), *present]))
    ids = ids[ids != 0]
    if len(ids) > _MOST_LABELS:
        raise DataError(f"{len(ids)} labels are more than a page can colour", remedy="leave some labels out")
    layers = []
    for name, values in read.items():
        codes = np.where(values == 0, 0, np.searchsorted(ids, values) + 1)
        small = codes.astype(np.uint8) if len(ids) <= 255 else codes.astype(np.int16)
        layers.append(Layer(f"{name}_labels", f"{name.capitalize()} labels", "labels", small))
    return layers, tuple(_region(int(label), remains.names) for label in ids)


def _region(label: int, names: Mapping[int, str]) -> Region:
    """Neighbouring numbers get colours far apart on the wheel, always the same."""
    hue = (label * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (label % 3) / 2, 0.75)
    colour = (round(255 * red), round(255 * green), round(255 * blue))
    return Region(label, names.get(label, ""), colour)
