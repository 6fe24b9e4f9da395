"""What a file is, looked at before anything is registered with it: images, transforms, weights. Changes nothing.

A file is read as the commands read it, with the same checks, notes and errors: what is refused here is refused there.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from neuroreg import checkpoints, errors
from neuroreg.errors import NeuroregError
from neuroreg.io.field_headers import FIELD_SUFFIXES, holds_vectors
from neuroreg.io.files import check_input, suffix_of
from neuroreg.io.images import ImageFile, check_frame, read_image, read_labels
from neuroreg.io.layout import MAX_VOXELS
from neuroreg.io.nifti_header import Xform
from neuroreg.io.nifti_writer import hidden_by
from neuroreg.io.transforms import AFFINE_SUFFIXES, flatten, read_transform
from neuroreg.pipeline.outputs import jacobian_map
from neuroreg.pipeline.transforms import map_notes
from neuroreg.preprocess import brain
from neuroreg.preprocess.labelled import looks_labelled
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import Geometry, Volume

Content = Literal["brain", "head", "little", "labels"]
_TRANSFORMS = (".h5", ".hdf5", *AFFINE_SUFFIXES)
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".pt2")
_TOWARDS = ("RL", "AP", "IS")  # what lies at the low and at the high end of the world's axes, LPS


@dataclass(frozen=True)
class Grid:
    """Where voxels lie."""

    size: tuple[int, int, int]
    """voxels, (x, y, z)"""
    spacing_mm: tuple[float, float, float]
    field_of_view_mm: tuple[float, float, float]
    axes: str
    """the side each voxel axis runs towards, as nibabel and FreeSurfer name it: RAS, LIA, ..."""
    oblique_degrees: float
    """the largest angle between a voxel axis and the body axis next to it"""


@dataclass(frozen=True)
class ImageFacts:
    """One image, or one frame of it."""

    grid: Grid
    pixel_type: str
    """as stored: uint8, int16, float32, ..."""
    frames: int
    minimum: float
    """of the finite values, scaled as the header says; NaN and infinite ones count as 0"""
    maximum: float
    zero_percent: float
    """NaN and infinite voxels are not among them"""
    invalid_percent: float
    """of NaN and infinite voxels"""
    content: Content
    """brain: without skull; head: more than a brain; little: less than a brain; labels: a label map"""
    label_ids: int | None
    """how many there are besides 0; None when it is no label map"""
    sides_in_doubt: bool
    """the header does not say beyond doubt which side is left"""
    sha256: str


@dataclass(frozen=True)
class MapPart:
    """One part of a transform, in the order in which they act on the (fixed) point."""

    kind: Literal["affine", "field"]
    largest_mm: float
    """affine: how far the world's origin is moved; field: the longest displacement"""
    determinant: tuple[float, float] | None
    """lowest and highest of the Jacobian, both the same for an affine; None where a field has a side of one voxel"""
    folded_percent: float | None
    """of the voxels with a determinant of 0 or less"""
    grid: Grid | None
    """of a field"""


@dataclass(frozen=True)
class WeightFacts:
    """A weight file."""

    name: str
    method: str | None
    published: bool
    """it is in the list of this installation, and what was published"""
    tensors: int
    sha256: str


@dataclass(frozen=True)
class Examined:
    """One file. Either ``error`` is set or exactly one of the facts."""

    path: Path
    image: ImageFacts | None = None
    transform: tuple[MapPart, ...] | None = None
    weights: WeightFacts | None = None
    notes: tuple[str, ...] = ()
    """warnings, one line each"""
    error: NeuroregError | None = None
    """why it is refused"""


def examine_files(
    paths: Iterable[Path], *, frame: int | None = None, xform: Xform = "auto", max_voxels: int = MAX_VOXELS
) -> Iterator[Examined]:
    """Each file as soon as it was looked at; none stops the others, and none is kept."""
    for path in paths:
        try:
            found = _examine(check_input(path), frame=frame, xform=xform, max_voxels=max_voxels)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is said of this file; the next ones are looked at
            found = Examined(path, error=_known(error))
        yield found


def _known(error: Exception) -> NeuroregError:
    known = errors.as_known(error)
    return known.with_traceback(error.__traceback__)


def _examine(path: Path, *, frame: int | None, xform: Xform, max_voxels: int) -> Examined:
    suffix = suffix_of(path)
    if suffix in _WEIGHTS:
        return Examined(path, weights=_weights(path))
    if suffix in _TRANSFORMS or (suffix in FIELD_SUFFIXES and holds_vectors(path)):
        transform = read_transform(path)
        parts = tuple(map_part(part) for part in flatten(transform))
        notes = (*map_notes(transform, path), *_folds(path, parts), *hidden_by(path))
        return Examined(path, transform=parts, notes=notes)
    image = read_image(path, frame=frame, xform=xform, max_voxels=max_voxels)
    check_frame(frame, image)
    facts, notes = image_facts(image), image.notes
    if facts.content == "labels":
        del image
        labels = read_labels(path, frame=frame, xform=xform, max_voxels=max_voxels).volume
        facts = _with_ids(facts, labels)
    return Examined(path, image=facts, notes=(*notes, *hidden_by(path)))


def image_facts(image: ImageFile) -> ImageFacts:
    """What can be said of an image without comparing it to another; the ids of a label map are not yet counted."""
    data = image.volume.data
    invalid = 0 if image.invalid is None else int(image.invalid.count_nonzero())
    return ImageFacts(
        grid=grid_of(image.volume.geometry), pixel_type=image.pixel_type, frames=image.frames,
        minimum=float(data.min()), maximum=float(data.max()),
        zero_percent=100.0 * (data.numel() - int(data.count_nonzero()) - invalid) / data.numel(),
        invalid_percent=100.0 * invalid / data.numel(), content=_content(image.volume), label_ids=None,
        sides_in_doubt=image.unsure_sides, sha256=image.sha256,
    )  # fmt: skip


def _with_ids(facts: ImageFacts, labels: Volume) -> ImageFacts:
    ids = torch.unique(labels.data)
    low, high = int(ids[0]), int(ids[-1])  # large ids lose digits as float32
    exact = {"label_ids": int((ids != 0).sum()), "minimum": float(low), "maximum": float(high)}
    return ImageFacts(**{**vars(facts), **exact})


def _content(volume: Volume) -> Content:
    if looks_labelled(volume.data):
        return "labels"
    if brain.looks_stripped(volume):
        return "brain"
    return "head" if brain.exceeds_brain(volume) else "little"


def grid_of(geometry: Geometry) -> Grid:
    """A geometry as people speak of it."""
    x, y, z = (n * mm for n, mm in zip(geometry.size, geometry.spacing, strict=True))
    axes, oblique = orientation(geometry)
    return Grid(geometry.size, geometry.spacing, (x, y, z), axes, oblique)


def orientation(geometry: Geometry) -> tuple[str, float]:
    """The three letters, such as RAS: the sides of the body that the voxel axes run towards; and how oblique they are.

    Each voxel axis gets the body axis that lies next to it, no two the same: of all ways the one with the largest sum
    of cosines. The second number is the largest angle left, degrees.
    """
    axes = torch.tensor(geometry.direction, dtype=torch.float64).reshape(3, 3).T
    order = max(
        itertools.permutations(range(3)), key=lambda p: sum(abs(float(axes[k, p[k]])) for k in range(3))
    )
    letters, angles = "", []
    for axis, world in zip(axes, order, strict=True):
        along = float(axis[world])
        letters += _TOWARDS[world][int(along > 0)]
        across = float(torch.cat((axis[:world], axis[world + 1 :])).norm())
        angles.append(math.degrees(math.atan2(across, abs(along))))
    return letters, max(angles)


def map_part(part: Affine | DisplacementField) -> MapPart:
    """What can be said of an affine or a displacement field."""
    if isinstance(part, Affine):
        determinant = float(torch.linalg.det(part.matrix[:3, :3]))
        shift = float(part.matrix[:3, 3].norm())
        return MapPart("affine", shift, (determinant, determinant), None, None)
    grid, largest = grid_of(part.geometry), float(part.data.to(torch.float64).norm(dim=0).max())
    if min(part.geometry.size) < 2:
        return MapPart("field", largest, None, None, grid)
    jacobian = jacobian_map(part)
    folded = 100.0 * int((jacobian <= 0).sum()) / jacobian.numel()
    return MapPart("field", largest, (float(jacobian.min()), float(jacobian.max())), folded, grid)


def _folds(path: Path, parts: Iterable[MapPart]) -> Iterator[str]:
    for part in parts:
        if part.folded_percent:
            yield f"{path.name}: {part.folded_percent:.3g} % of the field folds"


def _weights(path: Path) -> WeightFacts:
    record = checkpoints.find(path)
    tensors = checkpoints.load_tensors(record)
    checkpoints.verify(record)
    published = any(one.path == record.path for one in checkpoints.manifest())
    return WeightFacts(record.name, record.method, published, len(tensors), record.sha256)
