"""Pictures of one registration as small data URIs: slices in radiological view, overlays, the Jacobian.

Every slice is read on a grid along the LPS world axes, so that left is left whatever the file's axes are.
Shown as a radiologist sees them: the patient's right on the left of axial and coronal views, anterior on top of
axial and on the left of sagittal views, superior on top of the other two.
"""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.preprocess import brain, conform, intensity
from neuroreg.transforms import world_to_index
from neuroreg.volume import Geometry, Volume

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]

_LONGEST_PIXELS = 300  # of the longest side of the shown box
_MARGIN_MM = 6.0
_SAGITTAL = 0.42  # a little right of the middle: the exact middle shows the cleft between the hemispheres
_DOUBLINGS = (0.5, 3.0)  # least and largest range of the Jacobian's colours, in doublings of volume

_OCTAVES, _BINS = 3, 96
_DIVERGING = (
    (12, 58, 120),
    (66, 134, 190),
    (160, 203, 226),
    (247, 247, 247),
    (246, 178, 148),
    (208, 82, 70),
    (118, 8, 34),
)
"""blue to red through white, equally spaced; told apart by colour-blind readers"""

FIXED_EDGE = (255, 214, 10)
FOLD = (0, 200, 60)


@dataclass(frozen=True)
class View:
    """One anatomical orientation: which world axes run along the columns and rows, and how rows are ordered."""

    name: str
    across: int
    """world axis (x 0, y 1, z 2) normal to the plane"""
    upwards: bool
    """rows are turned over, because the world axis along them rises towards the top of the picture"""
    letters: tuple[str, str, str, str]
    """left, right, top, bottom of the picture"""


VIEWS = (
    View("Axial", 2, upwards=False, letters=("R", "L", "A", "P")),
    View("Coronal", 1, upwards=True, letters=("R", "L", "S", "I")),
    View("Sagittal", 0, upwards=True, letters=("A", "P", "S", "I")),
)


@dataclass(frozen=True)
class Panel:
    """One picture: its data URI, where its plane lies ("S 12 mm"), its letters and its size in pixels."""

    uri: str
    view: str
    place: str
    letters: tuple[str, str, str, str]
    width: int
    height: int


Strip = tuple[Panel, ...]
"""The same content in the three orientations."""


def display_grid(front: Tensor, geometry: Geometry) -> Geometry:
    """The isotropic grid along the LPS world axes on which slices are shown: the box of ``front`` (1, Z, Y, X) bool."""
    corners = front[0].nonzero().flip(1).to(torch.float32)
    matrix = geometry.voxel_to_world.to(torch.float32)
    world = corners @ matrix[:3, :3].T
    longest = float((world.amax(dim=0) - world.amin(dim=0)).max()) + 2 * _MARGIN_MM
    return conform.network_grid(
        front, geometry, longest / _LONGEST_PIXELS, 1, _MARGIN_MM, aligned_with=geometry
    )


def foreground(volume: Volume) -> Tensor:
    """(1, Z, Y, X) bool: the brain or head of channel 0, or everything when nothing stands out."""
    data = torch.nan_to_num(volume.data[:1].to(torch.float32), posinf=0.0, neginf=0.0)
    try:
        return brain.foreground(Volume(data, volume.geometry))
    except DataError:
        return torch.ones_like(data, dtype=torch.bool)


def centre(grid: Geometry) -> tuple[float, float, float]:
    """LPS mm of the point through which the slices of a grid are laid by default."""
    x, y, z = (grid.origin[k] + grid.spacing[k] * (grid.size[k] - 1) / 2 for k in range(3))
    width = grid.spacing[0] * (grid.size[0] - 1)
    return (x + (_SAGITTAL - 0.5) * width, y, z)


def plane_points(view: View, grid: Geometry, point: tuple[float, float, float]) -> Tensor:
    """World points of the pixels of the plane of ``view`` through ``point``: (rows, columns, 3) LPS mm, as shown."""
    size, origin = list(grid.size), list(grid.origin)
    size[view.across], origin[view.across] = 1, point[view.across]
    plane = Geometry((size[0], size[1], size[2]), grid.spacing, (origin[0], origin[1], origin[2]))
    points = plane.points().squeeze(2 - view.across)
    return points.flip(0) if view.upwards else points


def slices(
    volume: Volume, grid: Geometry, point: tuple[float, float, float], *, fill: float = 0.0
) -> list[Plane]:
    """Channel 0 of ``volume`` in the planes of VIEWS through ``point`` (LPS mm), rows and columns as shown."""
    data = volume.data[None, :1] if volume.is_label else volume.data[None, :1].to(torch.float32)
    planes = []
    for view in VIEWS:
        points = plane_points(view, grid, point)[None]
        index = world_to_index(points, volume.geometry).to(torch.float32)
        read = field.sample(data, index, mode="nearest" if volume.is_label else "linear", fill=fill)
        planes.append(read[0, 0, 0].to(torch.float32).numpy())
    return planes


@dataclass(frozen=True)
class Window:
    """The intensities shown as black and white."""

    low: float
    high: float

    def apply(self, plane: Plane) -> Plane:
        """Intensities as 0..1."""
        return np.clip((np.nan_to_num(plane) - self.low) / (self.high - self.low), 0.0, 1.0).astype(
            np.float32
        )


def window_of(volume: Volume) -> Window:
    """From the background (or the darkest 1 % of the head) to the 99.5th percentile of the head."""
    data = torch.nan_to_num(volume.data[:1].to(torch.float32), posinf=0.0, neginf=0.0)
    values = data[foreground(volume)]
    values = values[:: max(1, values.numel() // 200_000)]
    low = min(brain.background_value(data), intensity.percentile(values, 1.0))
    high = intensity.percentile(values, 99.5)
    return Window(low, high if high > low else low + 1.0)


def strip(pictures: list[Pixels], point: tuple[float, float, float]) -> Strip:
    """The three pictures of VIEWS, (rows, columns, 3) uint8 each, as panels."""
    return tuple(
        Panel(
            png(picture),
            view.name,
            place(view.across, point),
            view.letters,
            picture.shape[1],
            picture.shape[0],
        )
        for view, picture in zip(VIEWS, pictures, strict=True)
    )


def place(across: int, point: tuple[float, float, float]) -> str:
    """Where a plane lies, in words a reader knows: "R 12.0 mm" is 12 mm to the right of the world's origin."""
    value = round(point[across], 1)
    letter = (("R", "L"), ("A", "P"), ("I", "S"))[across][value >= 0]
    return f"{letter} {abs(value):.1f} mm"


def grey(plane: Plane) -> Pixels:
    """0..1 as grey pixels (rows, columns, 3)."""
    return np.repeat((plane * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=2)


def outlines(of: Plane) -> NDArray[np.bool_]:
    """Where a slice, 0..1, has its outlines: two levels that part the tissues of most images."""
    smooth = ndimage.gaussian_filter(of, 1.5)
    front = smooth[smooth > 0.1]
    found = np.zeros(of.shape, dtype=np.bool_)
    levels = (0.15, float(np.percentile(front, 60))) if front.size else ()
    for level in levels:
        solid = smooth > level
        found |= solid & ~ndimage.binary_erosion(solid)
    return found


def edges(of: Plane, on: Plane) -> Pixels:
    """The outlines of one slice, 0..1, drawn in yellow on another."""
    pixels = grey(on)
    pixels[outlines(of)] = FIXED_EDGE
    return pixels


def overlay(of: Plane) -> Pixels:
    """The outlines of one slice alone, (rows, columns, 4): yellow, and nothing elsewhere."""
    drawn = outlines(of)
    pixels = np.zeros((*of.shape, 4), np.uint8)
    pixels[drawn] = (*FIXED_EDGE, 255)
    return pixels


def difference(first: Plane, second: Plane) -> Pixels:
    """second - first of two slices, 0..1: blue where the second is darker, white where equal, red where brighter."""
    return coloured((second - first + 1.0) / 2.0)


def coloured(plane: Plane) -> Pixels:
    """0..1 in the diverging colours blue, white, red."""
    places = np.linspace(0.0, 1.0, len(_DIVERGING))
    channels = [np.interp(plane, places, levels) for levels in zip(*_DIVERGING, strict=True)]
    return (np.stack(channels, axis=-1) + 0.5).astype(np.uint8)


def doublings(jacobian: Tensor, inside: Tensor) -> float:
    """The range of the colours of a Jacobian map in doublings of volume: covers 99 % of the voxels inside."""
    values = jacobian[inside & (jacobian > 0)]
    if values.numel() == 0:
        return _DOUBLINGS[0]
    reach = math.ceil(2 * intensity.percentile(values.to(torch.float32).log2().abs(), 99.0)) / 2
    return min(max(reach, _DOUBLINGS[0]), _DOUBLINGS[1])


def jacobian_map(determinant: Plane, folded: Plane, inside: Plane, *, reach: float) -> Pixels:
    """log2 of the determinant in colours, paler outside the mask; folds in green, unknown values in grey.

    ``reach`` is the value of log2 at the ends of the colours.
    """
    known = np.isfinite(determinant)
    value = np.log2(np.maximum(np.where(known, determinant, 1.0), 1e-6))
    pixels = coloured(((np.clip(value / reach, -1, 1) + 1) / 2).astype(np.float32))
    outside = inside == 0
    pixels[outside] = (0.3 * pixels[outside] + 0.7 * 255).astype(np.uint8)
    pixels[~known] = (160, 160, 160)
    pixels[folded > 0] = FOLD
    return pixels


def colour_stops(reach: float) -> tuple[list[str], list[str]]:
    """CSS colours of the Jacobian scale from left to right, and the determinants written below it."""
    steps = np.linspace(0, 1, 9, dtype=np.float32)
    stops = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in coloured(steps[None])[0].tolist()]
    ticks = [f"{2.0 ** (reach * t):.2g}" for t in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return stops, ticks


def png(pixels: Pixels) -> str:
    """Pixels (rows, columns, 3 or 4) as a data URI; what is grey is stored as grey."""
    plain = pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all())
    return _encoded(Image.fromarray(pixels[..., 0] if plain else pixels), "png")


def thumbnail(pixels: Pixels, *, longest: int = 112) -> str:
    """A small JPEG of pixels (rows, columns, 3), about 3 kB, as a data URI."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    return _encoded(image, "jpeg", quality=60)


def _encoded(image: Image.Image, form: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return f"data:image/{form};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram; place and width in 0..1 of the axis, the share in percent of all voxels."""

    left: float
    width: float
    percent: float


def histogram(jacobian: Tensor, inside: Tensor) -> tuple[list[Bin], list[tuple[float, str]]]:
    """How often each positive determinant occurs inside the mask, and the ticks (place 0..1, text) of its axis.

    The axis is logarithmic, from 1/8 to 8; what lies beyond falls into the last bins.
    """
    values = jacobian[inside & torch.isfinite(jacobian)]
    logs = values[values > 0].to(torch.float64).log2().clamp(-_OCTAVES, _OCTAVES)
    counts, _ = np.histogram(logs.numpy(), bins=_BINS, range=(-_OCTAVES, _OCTAVES))
    percent = 100.0 * counts / max(values.numel(), 1)
    bins = [Bin(k / _BINS, 1 / _BINS, float(p)) for k, p in enumerate(percent)]
    ticks = [((t + _OCTAVES) / (2 * _OCTAVES), _tick(t)) for t in range(-_OCTAVES, _OCTAVES + 1)]
    return bins, ticks


def _tick(octave: int) -> str:
    """The determinant there; the outermost bars hold what lies beyond as well."""
    beyond = {-_OCTAVES: "\u2264 ", _OCTAVES: "\u2265 "}
    return f"{beyond.get(octave, '')}{2.0**octave:g}"
