"""Transform files in, transform files out: compose, invert, Jacobian map, convert. World frame: LPS mm, pull-back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, UsageError
from neuroreg.io import files
from neuroreg.io.field_headers import FIELD_SUFFIXES, Frame, field_notes, holds_vectors
from neuroreg.io.images import check_frame, read_image, read_labels, write_image
from neuroreg.io.layout import MAX_VOXELS
from neuroreg.io.nifti_header import Xform
from neuroreg.io.transforms import (
    READ_SUFFIXES,
    flatten,
    read_field,
    read_transform,
    write_field,
    write_transform,
)
from neuroreg.pipeline.outputs import jacobian_map
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform, total_field, world_to_index
from neuroreg.volume import Geometry, Volume

_GOOD_MM = 0.1  # a round trip below this needs no second attempt
# Above this the inverse of a map that folds is none; of another it is written, with a warning.
_ROUGH_MM = 1.0
_USELESS_MM = 5.0  # above this the file would claim to be an inverse and not be one
_POINTS = 200_000  # at which a round trip is measured


@dataclass(frozen=True)
class Inverse:
    """The inverse of a map and how exact it is: distance of inverse(T(p)) from p where both grids reach, mm."""

    transform: Transform
    mean_mm: float
    p99_mm: float
    notes: tuple[str, ...] = ()
    """of both files, once the inverse is written"""

    @property
    def rough(self) -> bool:
        """Whether it misses by so much that one should know."""
        return self.p99_mm > _ROUGH_MM


@dataclass(frozen=True)
class JacobianFigures:
    """What the map of det J holds."""

    minimum: float
    maximum: float
    mean: float
    folded_percent: float
    """of the voxels with det J <= 0"""
    notes: tuple[str, ...]
    """of both files"""


def compose_files(
    paths: Sequence[Path], output: Path, *, to: Path | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Join maps into one; the first file acts first on the (fixed) point, so ``fixed_to_mid mid_to_moving``.

    ``to`` is the image whose grid a displacement field (.nii, .nii.gz) is written on. Returns the notes. Raises
    UsageError (2), DataError (65), NoInputError (66), CannotCreateError (73), WriteError (74).
    """
    _check(output, *paths, to=to, overwrite=overwrite)
    parts = tuple(read_transform(path) for path in paths)
    doubts = [note for part, path in zip(parts, paths, strict=True) for note in map_notes(part, path)]
    return (*doubts, *_write(Chain(parts), output, to=to, overwrite=overwrite))


def map_notes(transform: Transform, path: Path) -> tuple[str, ...]:
    """What has to be said of a map that was read from ``path``: doubts of its header, and whether it mirrors."""
    parts = transform.parts if isinstance(transform, Chain) else (transform,)
    mirrors = any(
        isinstance(part, Affine) and float(torch.linalg.det(part.matrix[:3, :3])) < 0 for part in parts
    )
    said = (f"{path.name}: the affine mirrors: it makes left right",) if mirrors else ()
    return (*field_notes(path), *said)


def invert_file(path: Path, output: Path, *, to: Path | None = None, overwrite: bool = False) -> Inverse:
    """Write the map from moving to fixed points. Raises DataError (65) where it has no usable inverse."""
    _check(output, path, to=to, overwrite=overwrite)
    transform = read_transform(path)
    found = invert(transform)
    missed = f"going there and back misses by {found.p99_mm:.2f} mm (99th percentile)"
    if found.rough and _folds(transform):
        raise DataError(
            f"the map folds and has no inverse: {missed}",
            file=path,
            remedy="register again with --refine, which removes folds",
        )
    if found.p99_mm > _USELESS_MM:
        raise DataError(
            f"no usable inverse was found: {missed}",
            file=path,
            remedy="use the inverse.h5 of the registration",
        )
    notes = (*map_notes(transform, path), *_write(found.transform, output, to=to, overwrite=overwrite))
    return replace(found, notes=notes)


def _folds(transform: Transform) -> bool:
    """Whether det J <= 0 anywhere in a displacement field of the map."""
    parts = transform.parts if isinstance(transform, Chain) else (transform,)
    fields = [part.to_voxels() for part in parts if isinstance(part, DisplacementField)]
    return any(bool((field.jacobian_determinant(u) <= 0).any()) for u in fields)


def jacobian_file(
    path: Path, output: Path, *, to: Path | None = None, overwrite: bool = False
) -> JacobianFigures:
    """Write det J of the whole map on the grid of the image ``to``, or on the grid of the field itself."""
    _check(output, path, to=to, overwrite=overwrite)
    transform = read_transform(path)
    displacement = _as_field(transform, to)
    determinant = jacobian_map(displacement)
    notes = write_image(
        Volume(determinant, displacement.geometry), output, overwrite=overwrite, description="jacobian"
    )
    return JacobianFigures(
        minimum=float(determinant.min()),
        maximum=float(determinant.max()),
        mean=float(determinant.mean(dtype=torch.float64)),
        folded_percent=100.0 * float((determinant <= 0).to(torch.float32).mean()),
        notes=(*map_notes(transform, path), *notes),
    )


def convert_file(
    path: Path,
    output: Path,
    *,
    to: Path | None = None,
    vectors: Frame | None = None,
    labels: bool = False,
    frame: int | None = None,
    xform: Xform = "auto",
    max_voxels: int = MAX_VOXELS,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Rewrite a transform or an image in the format that the output's suffix names; returns the notes.

    ``vectors`` says in which frame a NIfTI file holds displacements whose header does not tell. ``labels`` keeps
    the whole numbers of a label map exact; other images are written as float32. ``frame`` chooses one of a 4-D image,
    ``xform`` the NIfTI frame to trust where two disagree.
    """
    _check(output, path, to=to, overwrite=overwrite)
    suffix = files.suffix_of(files.check_input(path))
    is_field = suffix in FIELD_SUFFIXES and (vectors is not None or holds_vectors(path))
    is_map = is_field or (suffix in READ_SUFFIXES and suffix not in FIELD_SUFFIXES)
    if is_map and (labels or frame is not None):
        raise UsageError(
            "--labels and --frame are for images, this file holds a map", file=path, remedy="leave them out"
        )
    if is_field:
        notes = _write(read_field(path, assume=vectors), output, to=to, overwrite=overwrite)
        return (*field_notes(path), *notes)
    if is_map:
        if vectors is not None:
            raise UsageError(
                "--vectors is for displacement fields in NIfTI files", file=path, remedy="leave --vectors out"
            )
        transform = read_transform(path)
        return (*map_notes(transform, path), *_write(transform, output, to=to, overwrite=overwrite))
    if to is not None:
        raise UsageError(
            "--to is for transforms", file=path, remedy="use neuroreg apply to resample an image"
        )
    image = (read_labels if labels else read_image)(path, frame=frame, xform=xform, max_voxels=max_voxels)
    check_frame(frame, image)
    notes, volume = image.notes, image.volume
    del image  # the mask of what is no number is not needed any more
    return (*notes, *write_image(volume, output, overwrite=overwrite))


def invert(transform: Transform) -> Inverse:
    """The inverse of any map made of affines and fields, part by part; affines are inverted exactly."""
    parts: list[Transform] = []
    mean_mm = p99_mm = 0.0
    for part in reversed(flatten(transform)):
        if isinstance(part, Affine):
            parts.append(part.inverse())
            continue
        found = _invert_field(part)
        parts.append(found.transform)
        mean_mm, p99_mm = max(mean_mm, found.mean_mm), max(p99_mm, found.p99_mm)
    return Inverse(parts[0] if len(parts) == 1 else Chain(tuple(parts)), mean_mm, p99_mm)


def _invert_field(displacement: DisplacementField) -> Inverse:
    """By fixed-point iteration; a field that holds a large affine is first divided by it, else that diverges."""
    plain = displacement.inverse()
    first = _round_trip(displacement, plain, read_at=displacement)
    if first.p99_mm <= _GOOD_MM:
        return first
    affine = fit_affine(displacement)
    back = affine.inverse()
    rest = total_field(Chain((displacement, back)), displacement.geometry)
    second = _round_trip(displacement, Chain((back, rest.inverse())), read_at=rest)
    return min(first, second, key=lambda found: found.p99_mm)


def fit_affine(displacement: DisplacementField) -> Affine:
    """The affine closest to p -> p + u(p) over the field's voxels, least squares in mm."""
    points = _some_points(displacement.geometry)
    homogeneous = torch.cat((points, torch.ones(len(points), 1, dtype=torch.float64)), dim=1)
    solution = torch.linalg.lstsq(homogeneous, displacement(points)).solution
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = solution.T
    return Affine(matrix)


def _round_trip(forward: Transform, inverse: Transform, *, read_at: DisplacementField) -> Inverse:
    """Measured where ``read_at`` leads to a point on its own grid: elsewhere the inverse has nothing to read."""
    points = _some_points(read_at.geometry)
    index = world_to_index(read_at(points), read_at.geometry)[0].reshape(3, -1)
    last = torch.tensor(read_at.geometry.shape, dtype=torch.float64)[:, None] - 1
    points = points[((index >= 0) & (index <= last)).all(dim=0)]
    if not len(points):
        return Inverse(inverse, float("inf"), float("inf"))
    distance = (inverse(forward(points)) - points).norm(dim=-1)
    return Inverse(inverse, float(distance.mean()), float(torch.quantile(distance, 0.99)))


def _some_points(geometry: Geometry) -> Tensor:
    """(N, 3) LPS mm: evenly spread voxel centres, at most _POINTS of them."""
    points = geometry.points().reshape(-1, 3)
    return points[:: -(-len(points) // _POINTS)]


def _check(output: Path, *inputs: Path, to: Path | None, overwrite: bool) -> None:
    """Refuse early what cannot be written. Raises UsageError (2) or CannotCreateError (73)."""
    for path in (*inputs, *(() if to is None else (to,))):
        if output.exists() and path.exists() and output.samefile(path):
            raise UsageError("the output is one of the inputs", file=output, remedy="give it another name")
    files.check_output(output, overwrite=overwrite)


def _as_field(transform: Transform, to: Path | None) -> DisplacementField:
    """The map as one field on the grid of ``to``, or as it is when it is one. Raises UsageError without a grid."""
    if to is not None:
        return total_field(transform, read_image(to).volume.geometry)
    parts = flatten(transform)
    if len(parts) == 1 and isinstance(parts[0], DisplacementField):
        return parts[0]
    raise UsageError("this map has no grid of its own", remedy="give the image whose grid to use with --to")


def _write(transform: Transform, output: Path, *, to: Path | None, overwrite: bool) -> tuple[str, ...]:
    """Returns the notes."""
    if files.suffix_of(output) in FIELD_SUFFIXES:
        return write_field(_as_field(transform, to), output, overwrite=overwrite)
    if to is not None:
        raise UsageError(
            "--to is for displacement fields", file=output, remedy="write .nii.gz, or leave --to out"
        )
    write_transform(transform, output, overwrite=overwrite)
    return ()
