"""Transforms: ITK files <-> Transform objects. World frame: LPS mm, pull-back (ECOSYSTEM section 4).

Composite .h5: the transform added last acts first on the point, so an affine with a residual field on the fixed
grid, p -> A(p + u(p)), is stored affine first, field last. Affines are stored with centre 0, and centres of
foreign files are folded in. Fields as NIfTI: 5-D (x, y, z, 1, 3), intent 1007, LPS.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.errors import UsageError, WriteError
from neuroreg.io.field_headers import FIELD_SUFFIXES, Frame, open_field, vector_frame
from neuroreg.io.files import atomic_write, check_input, suffix_of
from neuroreg.io.hdf5 import Node, write_hdf5
from neuroreg.io.itk_maps import Leaves, finite, maps_of
from neuroreg.io.itk_records import as_matlab, as_text, read_records
from neuroreg.io.nifti_header import INTENT_VECTOR
from neuroreg.io.nifti_writer import write_nifti
from neuroreg.io.stream import ByteStream
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform

AFFINE_SUFFIXES = (".mat", ".tfm", ".txt")
READ_SUFFIXES = (".h5", ".hdf5", *AFFINE_SUFFIXES, *FIELD_SUFFIXES)
_AFFINE_TYPE = "AffineTransform_double_3_3"


def read_transform(path: Path | str) -> Transform:
    """An Affine, DisplacementField or Chain from .h5, .mat, .tfm, .txt, .nii or .nii.gz.

    Raises UsageError (2), NoInputError (66) or DataError (65).
    """
    path = check_input(Path(path))
    suffix = suffix_of(path)
    if suffix not in READ_SUFFIXES:
        raise UsageError(
            f"the file type {suffix or '(none)'} is no transform",
            file=path,
            remedy=f"use {', '.join(READ_SUFFIXES)}",
        )
    if suffix in FIELD_SUFFIXES:
        return read_field(path)
    parts = maps_of(read_records(path), path)
    return parts[0] if len(parts) == 1 else Chain(parts)


def read_field(path: Path | str, *, assume: Frame | None = None) -> DisplacementField:
    """A displacement field from NIfTI: 5-D with intent 1007 (LPS mm) or 1006 (RAS mm, turned into LPS).

    ``assume`` says what a file holds whose header does not tell: 4-D (x, y, z, 3), or 5-D with another intent.
    Without it such a file is refused, because programs apply it differently (RELIABILITY finding 13). DataError.
    """
    path = check_input(Path(path))
    with ByteStream(path) as stream:
        header, layout, geometry = open_field(stream)
        frame = vector_frame(header, assume)
        stream.skip(
            layout.offset - header.fields.itemsize, past_end=f"vox_offset {layout.offset} lies past the end"
        )
        stored = stream.read_array(layout.frame_bytes * 3).view(layout.dtype)
        stream.finish()
    values = stored.astype(np.float32) if layout.slope == 1.0 and layout.inter == 0.0 else (
        (stored.astype(np.float64) * layout.slope + layout.inter).astype(np.float32))  # fmt: skip
    data = finite(torch.from_numpy(values.reshape(3, *geometry.shape)), path)
    if frame == "ras":
        data = data * torch.tensor([-1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
    return DisplacementField(data, geometry)


def write_field(field: DisplacementField, path: Path | str, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a field as 5-D NIfTI, intent 1007, LPS mm: what ANTs, SimpleITK and Slicer apply as it is.

    Returns the notes. Raises UsageError (2), CannotCreateError (73) or WriteError (74).
    """
    path = Path(path)
    if suffix_of(path) not in FIELD_SUFFIXES:
        raise UsageError("a displacement field is written as NIfTI", file=path, remedy="use .nii.gz")
    data = field.data.detach().cpu()
    if not bool(torch.isfinite(data).all()):
        raise WriteError(
            "the displacement field is not finite: nothing was written",
            file=path,
            remedy="this is a bug or a method that diverged; use another method",
        )
    return write_nifti(data.numpy(), field.geometry, path, overwrite=overwrite, intent=INTENT_VECTOR)


def write_transform(transform: Transform, path: Path | str, *, overwrite: bool = False) -> None:
    """Write .h5 (any chain of affines and fields), .mat or .tfm (affines), .nii or .nii.gz (one field).

    The same transform gives the same bytes. Raises UsageError (2), CannotCreateError (73) or WriteError (74).
    """
    path = Path(path)
    suffix, parts = suffix_of(path), flatten(transform)
    if suffix in FIELD_SUFFIXES and isinstance(parts[0], DisplacementField) and len(parts) == 1:
        write_field(parts[0], path, overwrite=overwrite)
    elif suffix in AFFINE_SUFFIXES:
        affine = _collapsed(parts)
        if affine is None:
            raise UsageError(f"{suffix} holds affines only", file=path, remedy="use .h5 for a deformation")
        write_as = as_matlab if suffix == ".mat" else as_text
        content = write_as(_AFFINE_TYPE, _parameters(affine), np.zeros(3))
        _write(path, (affine,), lambda temporary: _write_new(temporary, content), overwrite=overwrite)
    elif suffix == ".h5":
        tree = {"TransformGroup": _composite(parts)}
        _write(path, parts, lambda temporary: write_hdf5(tree, temporary), overwrite=overwrite)
    else:
        raise UsageError(
            f"{suffix or 'a name without suffix'} cannot hold this transform",
            file=path,
            remedy="use .h5, .mat or .tfm",
        )


def _write(path: Path, parts: Leaves, write: Callable[[Path], None], *, overwrite: bool) -> None:
    def verify(temporary: Path) -> None:
        if not _equal(flatten(read_transform(temporary)), parts):
            raise WriteError(
                "what was written differs from what was meant",
                file=path,
                remedy="check the disk and its file system",
            )

    atomic_write(path, write, verify=verify, overwrite=overwrite)


def _composite(parts: Leaves) -> dict[str, Node]:
    """ITK's composite as HDF5 groups: number 0 names it, the map that acts last comes first.

    Affines are double, fields single precision: half the size, and what both ITK and nitransforms convert on reading.
    """
    groups: dict[str, Node] = {"0": {"TransformType": "CompositeTransform_double_3_3"}}
    for number, part in enumerate(reversed(parts), start=1):
        groups[str(number)] = _affine_group(part) if isinstance(part, Affine) else _field_group(part)
    return groups


def _affine_group(affine: Affine) -> dict[str, Node]:
    return {
        "TransformType": _AFFINE_TYPE,
        "TransformFixedParameters": np.zeros(3),
        "TransformParameters": _parameters(affine),
    }


def _field_group(field: DisplacementField) -> dict[str, Node]:
    grid = field.geometry
    data = field.data.detach().cpu()
    if not bool(torch.isfinite(data).all()):
        raise WriteError(
            "the displacement field is not finite: nothing was written",
            remedy="this is a bug or a method that diverged; use another method",
        )
    return {
        "TransformType": "DisplacementFieldTransform_float_3_3",
        "TransformFixedParameters": np.array(
            [*grid.size, *grid.origin, *grid.spacing, *grid.direction], np.float64
        ),
        "TransformParameters": data.movedim(0, -1).contiguous().to(torch.float32).numpy(),
    }


def flatten(transform: Transform) -> Leaves:
    """The affines and fields of a chain in the order they act on the point. Raises UsageError for other maps."""
    if isinstance(transform, Affine | DisplacementField):
        return (transform,)
    if isinstance(transform, Chain) and transform.parts:
        return tuple(leaf for part in transform.parts for leaf in flatten(part))
    raise UsageError(
        f"{type(transform).__name__} cannot be written", remedy="write it as a displacement field"
    )


def _collapsed(parts: Leaves) -> Affine | None:
    matrix = torch.eye(4, dtype=torch.float64)
    for part in parts:
        if not isinstance(part, Affine):
            return None
        matrix = part.matrix @ matrix
    return Affine(matrix)


def _parameters(affine: Affine) -> NDArray[np.float64]:
    """The twelve numbers of ITK's AffineTransform: the matrix row by row, then the translation; the centre is 0."""
    matrix = affine.matrix.detach().cpu().numpy()
    return np.concatenate((matrix[:3, :3].reshape(-1), matrix[:3, 3]))


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)


def _equal(back: Leaves, meant: Leaves) -> bool:
    if len(back) != len(meant):
        return False
    for one, two in zip(back, meant, strict=True):
        if isinstance(one, Affine) and isinstance(two, Affine):
            same = torch.equal(one.matrix, two.matrix.cpu())
        elif isinstance(one, DisplacementField) and isinstance(two, DisplacementField):
            same = one.geometry.same_grid(two.geometry) and torch.equal(one.data, two.data.cpu())
        else:
            same = False
        if not same:
            return False
    return True
