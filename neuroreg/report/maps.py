"""Pictures of a map and of what is measured on it: deformed grid, lengths, errors. Planes as in ``figures.slices``."""

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.report import figures as draw
from neuroreg.transforms import Transform
from neuroreg.volume import Geometry

GRID_MM = 6.0
"""Distance of the lines of the deformed grid in the moving image, mm"""

_SEQUENTIAL = (
    (20, 14, 54),
    (60, 38, 120),
    (52, 94, 141),
    (33, 144, 141),
    (90, 200, 100),
    (253, 231, 60),
)
"""dark to bright, equally spaced: its order survives a grey printer and colour-blind eyes"""
_UNKNOWN = (160, 160, 160)
_LINE = (250, 224, 90)


def sequential(plane: draw.Plane) -> draw.Pixels:
    """0..1 as colours from dark to bright."""
    places = np.linspace(0.0, 1.0, len(_SEQUENTIAL))
    channels = [np.interp(np.nan_to_num(plane), places, levels) for levels in zip(*_SEQUENTIAL, strict=True)]
    return (np.stack(channels, axis=-1) + 0.5).astype(np.uint8)


def amount(values: draw.Plane, inside: draw.Plane, *, top: float) -> draw.Pixels:
    """Values from 0 to ``top`` in colours, pale outside the mask, grey where there is none (NaN)."""
    pixels = sequential(np.clip(values / top, 0, 1).astype(np.float32))
    outside = inside == 0
    pixels[outside] = (0.25 * pixels[outside] + 0.75 * 255).astype(np.uint8)
    pixels[~np.isfinite(values)] = _UNKNOWN
    return pixels


def sequential_stops() -> list[str]:
    """CSS colours of the scale from low to high."""
    return ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in _SEQUENTIAL]


def displaced_planes(
    transform: Transform, grid: Geometry, point: tuple[float, float, float]
) -> list[tuple[NDArray[np.float64], draw.Plane]]:
    """For each of VIEWS through ``point``: where its pixels end in the plane's two directions (rows, columns, 2), mm,
    and how far they go in space (rows, columns), mm."""
    found = []
    for view in draw.VIEWS:
        points = draw.plane_points(view, grid, point)
        ends = transform(points)
        length = (ends - points).norm(dim=-1).to(torch.float32).numpy()
        along = [axis for axis in (0, 1, 2) if axis != view.across]
        found.append((ends[..., along].numpy(), length))
    return found


def deformed_grid(ends: NDArray[np.float64], on: draw.Plane) -> draw.Pixels:
    """A line where the pixels' ends (rows, columns, 2) mm cross one of a regular grid; elsewhere the slice, dimmed."""
    pixels = draw.grey(0.55 * on)
    cell = np.floor(ends / GRID_MM)
    crossed = np.zeros(on.shape, dtype=bool)
    for k in (0, 1):
        crossed[1:] |= cell[1:, :, k] != cell[:-1, :, k]
        crossed[:, 1:] |= cell[:, 1:, k] != cell[:, :-1, k]
    pixels[crossed] = _LINE
    return pixels
