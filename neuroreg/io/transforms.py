"""Transforms: ITK files <-> Transform objects. World frame: LPS mm, pull-back (ECOSYSTEM section 4).

Composite .h5: the transform added last acts first on the point, so an affine with a residual field on the fixed
grid, p -> A(p + u(p)), is stored affine first, field last. Affines are stored with centre 0, and centres of
foreign files are folded in. Fields as NIfTI: 5-D (x, y, z, 1, 3), intent 1007, LPS.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from neuroreg.errors import DataError, UsageError, WriteError
from neuroreg.io import nifti_header
from neuroreg.io.files import atomic_write, check_input, suffix_of
from neuroreg.io.hdf5 import Node, write_hdf5
from neuroreg.io.layout import MAX_VOXELS, geometry_of
from neuroreg.io.nifti_header import INTENT_DISPLACEMENT, INTENT_VECTOR
from neuroreg.io.nifti_writer import write_nifti
from neuroreg.io.stream import GZIP, ByteStream
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform
from neuroreg.volume import Geometry

FIELD_SUFFIXES = (".nii", ".nii.gz")
AFFINE_SUFFIXES = (".mat", ".tfm", ".txt")
READ_SUFFIXES = (".h5", ".hdf5", *AFFINE_SUFFIXES, *FIELD_SUFFIXES)
_AFFINE_TYPE = "AffineTransform_double_3_3"
_MIN_DETERMINANT = 1e-12
_IDENTITY = Affine(torch.eye(4, dtype=torch.float64))

Leaves = tuple[Affine | DisplacementField, ...]


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
    if path.stat().st_size == 0:
        raise DataError("empty file", file=path)
    if suffix == ".mat":
        _check_matlab(path)
    try:
        parts = _parts(sitk.ReadTransform(str(path)), path)
    except RuntimeError as error:
        raise DataError("this is not a transform file, or it is damaged", file=path,
                        remedy="get the file again from its source") from error  # fmt: skip
    return parts[0] if len(parts) == 1 else Chain(parts)


def _parts(transform: sitk.Transform, path: Path) -> Leaves:
    """The maps in the order they act on the point, nested composites flattened."""
    transform = transform.Downcast()
    if transform.GetDimension() != 3:
        raise DataError(f"the transform is {transform.GetDimension()}-D, expected 3-D", file=path)
    if isinstance(transform, sitk.CompositeTransform):
        return _composite_parts(transform, path)
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return (_field(transform.GetDisplacementField(), path),)
    if transform.IsLinear():
        return (Affine(_matrix(transform, path)),)
    raise DataError(
        f"{transform.GetName()} is not read", file=path, remedy="convert it to a displacement field first"
    )


def _composite_parts(composite: sitk.CompositeTransform, path: Path) -> Leaves:
    inner = [composite.GetNthTransform(n) for n in reversed(range(composite.GetNumberOfTransforms()))]
    if len(inner) == 1 and inner[0].GetName() == composite.GetName():
        # A type SimpleITK has no class for comes as a composite of itself, without end (MatrixOffsetTransformBase).
        if not composite.IsLinear():
            raise DataError("it holds a kind of transform that is not read", file=path)
        return (Affine(_matrix(composite, path)),)
    return tuple(part for transform in inner for part in _parts(transform, path)) or (_IDENTITY,)


def _matrix(transform: sitk.Transform, path: Path) -> torch.Tensor:
    """(4, 4) float64 with the centre of rotation folded in: M p + (t + c - M c)."""
    matrix = np.eye(4)
    if all(hasattr(transform, name) for name in ("GetMatrix", "GetCenter", "GetTranslation")):
        linear, centre = np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetCenter())
        matrix[:3, :3], matrix[:3, 3] = (
            linear,
            np.array(transform.GetTranslation()) + centre - linear @ centre,
        )
    else:  # translations, scalings and generic linear maps: what they do to the origin and the axes says all
        offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        matrix[:3, 3] = offset
        for axis in range(3):
            matrix[:3, axis] = np.array(transform.TransformPoint(tuple(np.eye(3)[axis]))) - offset
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < _MIN_DETERMINANT:
        raise DataError("the affine is singular or not finite", file=path)
    return torch.from_numpy(matrix)


def _field(image: sitk.Image, path: Path) -> DisplacementField:
    geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    vectors = torch.from_numpy(sitk.GetArrayFromImage(image).astype(np.float32))
    return DisplacementField(_finite(vectors, path).movedim(-1, 0).contiguous(), geometry)


def _finite(data: torch.Tensor, path: Path) -> torch.Tensor:
    if not bool(torch.isfinite(data).all()):
        raise DataError("the displacement field holds NaN or infinite numbers", file=path)
    return data


def read_field(path: Path | str, *, assume: Literal["lps", "ras"] | None = None) -> DisplacementField:
    """A displacement field from NIfTI: 5-D with intent 1007 (LPS mm) or 1006 (RAS mm, turned into LPS).

    ``assume`` says what a file holds whose header does not tell: 4-D (x, y, z, 3), or 5-D with another intent.
    Without it such a file is refused, because programs apply it differently (RELIABILITY finding 13). DataError.
    """
    path = check_input(Path(path))
    with ByteStream(path) as stream:
        header = _header(stream)
        layout = nifti_header.vector_layout_of(header, max_voxels=MAX_VOXELS)
        frame = _vector_frame(header, assume)
        geometry, _ = geometry_of(layout.matrix, layout.size, file=path)
        stream.skip(
            layout.offset - header.fields.itemsize, past_end=f"vox_offset {layout.offset} lies past the end"
        )
        stored = stream.read_array(layout.frame_bytes * 3).view(layout.dtype)
        stream.finish()
    values = stored.astype(np.float32) if layout.slope == 1.0 and layout.inter == 0.0 else (
        (stored.astype(np.float64) * layout.slope + layout.inter).astype(np.float32))  # fmt: skip
    data = _finite(torch.from_numpy(values.reshape(3, *geometry.shape)), path)
    if frame == "ras":
        data = data * torch.tensor([-1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
    return DisplacementField(data, geometry)


def holds_vectors(path: Path | str) -> bool:
    """Whether a NIfTI file has the shape of a displacement field, (x, y, z, 1, 3). Raises like ``read_field``."""
    with ByteStream(check_input(Path(path))) as stream:
        return _header(stream).sides[3:] == (1, 3)


def _header(stream: ByteStream) -> nifti_header.NiftiHeader:
    """The header at the start of a NIfTI file, compressed or not; the stream then stands behind it."""
    if stream.starts_with_gzip():
        stream.inflate(GZIP)
    head = stream.read(nifti_header.NIFTI1.itemsize)
    if head[:4] in nifti_header.NIFTI2_STARTS:
        head += stream.read(nifti_header.NIFTI2.itemsize - len(head))
    return nifti_header.parse(head, file=stream.path)


def _vector_frame(
    header: nifti_header.NiftiHeader, assume: Literal["lps", "ras"] | None
) -> Literal["lps", "ras"]:
    intent = int(header.fields["intent_code"])
    if len(header.sides) == 5 and intent == INTENT_VECTOR:
        return "lps"
    if len(header.sides) == 5 and intent == INTENT_DISPLACEMENT:
        return "ras"
    if assume is None:
        raise DataError(
            f"the vectors of a {len(header.sides)}-D file with intent {intent} may be LPS or RAS: the header does not "
            "say",
            file=header.file,
            remedy="convert it, telling which (neuroreg convert --vectors lps|ras)",
        )
    return assume


def write_field(field: DisplacementField, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a field as 5-D NIfTI, intent 1007, LPS mm: what ANTs, SimpleITK and Slicer apply as it is.

    Raises UsageError (2), CannotCreateError (73) or WriteError (74).
    """
    path = Path(path)
    if suffix_of(path) not in FIELD_SUFFIXES:
        raise UsageError("a displacement field is written as NIfTI", file=path, remedy="use .nii.gz")
    data = field.data.detach().cpu()
    if not bool(torch.isfinite(data).all()):
        raise WriteError("the displacement field is not finite: nothing was written", file=path)
    write_nifti(data.numpy(), field.geometry, path, overwrite=overwrite, intent=INTENT_VECTOR)


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
        content = _matlab(affine) if suffix == ".mat" else _text(affine)
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
            raise WriteError("what was written differs from what was meant", file=path)

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
        raise WriteError("the displacement field is not finite: nothing was written")
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


def _text(affine: Affine) -> bytes:
    """ITK's text format; repr keeps every digit."""
    numbers = " ".join(repr(value) for value in _parameters(affine).tolist())
    return (
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {_AFFINE_TYPE}\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    ).encode("ascii")


def _matlab(affine: Affine) -> bytes:
    """ITK's binary format: two named columns of doubles in a MATLAB level 4 file."""
    content = b""
    for name, values in ((_AFFINE_TYPE, _parameters(affine)), ("fixed", np.zeros(3))):
        label = name.encode("ascii") + b"\0"
        content += (
            struct.pack("<5i", 0, len(values), 1, 0, len(label)) + label + values.astype("<f8").tobytes()
        )
    return content


def _check_matlab(path: Path) -> None:
    """Refuse a level 4 file that ends too early: ITK reads what is missing as zeros. Raises DataError."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        head = content[place : place + 20]
        kind, rows, columns, _, label = struct.unpack("<5i", head) if len(head) == 20 else (-1, 0, 0, 0, 0)
        width = {0: 8, 10: 4}.get(kind, 0)
        if not width or label < 1 or min(rows, columns) < 0:
            raise DataError("this is not a transform file, or it is damaged", file=path)
        place += 20 + label + rows * columns * width
    if place != len(content):
        raise DataError(
            "the transform file is truncated", file=path, remedy="get the file again from its source"
        )


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
