"""Transforms: ITK files <-> Transform objects. World frame: LPS mm, pull-back (ECOSYSTEM section 4).

Composite .h5: the transform added last acts first on the point, so an affine with a residual field on the fixed
grid, p -> A(p + u(p)), is stored affine first, field last. Affines are stored with centre 0, and centres of
foreign files are folded in. Fields as NIfTI: 5-D (x, y, z, 1, 3), intent 1007, LPS.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.errors import DataError, UsageError, WriteError
from neuroreg.io import nifti_header
from neuroreg.io.files import atomic_write, check_input, suffix_of
from neuroreg.io.hdf5 import Node, write_hdf5
from neuroreg.io.itk_records import COMPOSITE, Record, as_matlab, as_text, read_records
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
_FIELD_TYPE = "DisplacementFieldTransform"
# numbers of parameters, then of fixed ones
_LINEAR = {
    "AffineTransform": (12, 3), "MatrixOffsetTransformBase": (12, 3), "Euler3DTransform": (6, 3, 4),
    "VersorTransform": (3, 3), "VersorRigid3DTransform": (6, 3), "Similarity3DTransform": (7, 3),
    "ScaleVersor3DTransform": (9, 3), "ScaleTransform": (3, 3), "TranslationTransform": (3, 0),
    "IdentityTransform": (0, 0),
}  # fmt: skip
_MIN_DETERMINANT = 1e-12
_MAX_SHEAR = 1e-3
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
    parts = _parts(read_records(path), path)
    return parts[0] if len(parts) == 1 else Chain(parts)


def _parts(records: tuple[Record, ...], path: Path) -> Leaves:
    """The maps in the order they act on the point."""
    if records[0].kind == COMPOSITE:
        return tuple(_part(record, path) for record in reversed(records[1:])) or (_IDENTITY,)
    if len(records) > 1:
        raise DataError(
            f"it holds {len(records)} transforms and does not say in which order they act",
            file=path,
            remedy="write them as one composite, or give them one by one",
        )
    return (_part(records[0], path),)


def _part(record: Record, path: Path) -> Affine | DisplacementField:
    if record.kind.endswith(_FIELD_TYPE):
        return _field(record, path)
    counts = _LINEAR.get(record.kind)
    if counts is None:
        raise DataError(
            f"{record.kind} is not read", file=path, remedy="convert it to a displacement field first"
        )
    if len(record.parameters) != counts[0] or len(record.fixed) not in counts[1:]:
        raise DataError(
            f"the {record.kind} has {len(record.parameters)} and {len(record.fixed)} numbers, "
            f"expected {counts[0]} and {counts[1]}",
            file=path,
        )
    return Affine(_matrix(record, path))


def _matrix(record: Record, path: Path) -> torch.Tensor:
    """(4, 4) float64 with the centre of rotation folded in: M p + (t + c - M c)."""
    matrix = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore"):
        if len(record.parameters) == 12:
            linear, shift = record.parameters[:9].reshape(3, 3), record.parameters[9:]
            matrix[:3, :3], matrix[:3, 3] = linear, shift + record.fixed - linear @ record.fixed
        else:  # what it does to the origin and the axes says all
            matrix[:3, 3], *axes = _by_itk(record, path)
            matrix[:3, :3] = np.stack(axes, axis=1) - matrix[:3, 3:]
        sound = np.isfinite(matrix).all() and abs(np.linalg.det(matrix[:3, :3])) >= _MIN_DETERMINANT
    if not sound:
        raise DataError("the affine is singular or not finite", file=path)
    return torch.from_numpy(matrix)


def _by_itk(record: Record, path: Path) -> list[NDArray[np.float64]]:
    """Where a rigid, similarity or scaling transform sends the origin and the ends of the three unit axes."""
    import SimpleITK as sitk

    kinds = {"TranslationTransform": sitk.sitkTranslation, "ScaleTransform": sitk.sitkScale,
             "IdentityTransform": sitk.sitkIdentity}  # fmt: skip
    kind = kinds.get(record.kind)
    transform = getattr(sitk, record.kind)() if kind is None else sitk.Transform(3, kind)
    try:
        transform.SetFixedParameters(record.fixed.tolist())
        transform.SetParameters(record.parameters.tolist())
    except RuntimeError as error:
        raise DataError(f"ITK refuses the numbers of the {record.kind}", file=path) from error
    return [np.array(transform.TransformPoint(point)) for point in np.eye(4, 3, -1).tolist()]


def _field(record: Record, path: Path) -> DisplacementField:
    """Fixed parameters: size, origin, spacing, direction; parameters: vectors, x fastest."""
    fixed = record.fixed.astype(np.float64)
    sides = fixed[:3]
    if len(fixed) != 18 or (sides < 1).any() or (sides != np.rint(sides)).any() or sides.max() > 2**31:
        raise DataError("the displacement field has no sensible grid", file=path)
    x, y, z = (int(n) for n in sides)
    if x * y * z * 3 != len(record.parameters):
        raise DataError(
            f"the displacement field has {len(record.parameters)} numbers, its grid {x} x {y} x {z} x 3",
            file=path,
        )
    spacing, axes = fixed[6:9], fixed[9:].reshape(3, 3)
    if not (spacing > 0).all() or np.abs(axes.T @ axes - np.eye(3)).max() > _MAX_SHEAR:
        raise DataError("the displacement field has no sensible grid", file=path)
    with np.errstate(over="ignore"):
        vectors = torch.from_numpy(record.parameters.reshape(z, y, x, 3).astype(np.float32))
    geometry = Geometry((x, y, z), _three(spacing), _three(fixed[3:6]), tuple(axes.reshape(-1).tolist()))
    return DisplacementField(_finite(vectors, path).movedim(-1, 0).contiguous(), geometry)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return (x, y, z)


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


def write_field(field: DisplacementField, path: Path | str, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a field as 5-D NIfTI, intent 1007, LPS mm: what ANTs, SimpleITK and Slicer apply as it is.

    Returns the notes. Raises UsageError (2), CannotCreateError (73) or WriteError (74).
    """
    path = Path(path)
    if suffix_of(path) not in FIELD_SUFFIXES:
        raise UsageError("a displacement field is written as NIfTI", file=path, remedy="use .nii.gz")
    data = field.data.detach().cpu()
    if not bool(torch.isfinite(data).all()):
        raise WriteError("the displacement field is not finite: nothing was written", file=path)
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
