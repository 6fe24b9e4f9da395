"""Records of ITK transform files -> maps in the world frame, LPS mm; what cannot be a map is refused."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.errors import DataError
from neuroreg.io.itk_records import COMPOSITE, Record
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import Geometry

FIELD_TYPE = "DisplacementFieldTransform"
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


def maps_of(records: tuple[Record, ...], path: Path) -> Leaves:
    """The maps in the order they act on the point. Raises DataError for what is no map in 3-D."""
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
    if record.kind.endswith(FIELD_TYPE):
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
            remedy="get the file again from its source",
        )
    return Affine(_matrix(record, path))


def _matrix(record: Record, path: Path) -> torch.Tensor:
    """(4, 4) float64 with the centre of rotation folded in: M p + (t + c - M c)."""
    matrix = np.eye(4)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if len(record.parameters) == 12:
            linear, shift = record.parameters[:9].reshape(3, 3), record.parameters[9:]
            matrix[:3, :3], matrix[:3, 3] = linear, shift + record.fixed - linear @ record.fixed
        else:  # what it does to the origin and the axes says all
            matrix[:3, 3], *axes = _by_itk(record, path)
            matrix[:3, :3] = np.stack(axes, axis=1) - matrix[:3, 3:]
        determinant = abs(np.linalg.det(matrix[:3, :3]))
        sound = np.isfinite(matrix).all() and _MIN_DETERMINANT <= determinant < np.inf
    if not sound:
        raise DataError(
            "the affine is singular or not finite", file=path, remedy="get the file again from its source"
        )
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
        raise DataError(
            f"ITK refuses the numbers of the {record.kind}",
            file=path,
            remedy="get the file again from its source",
        ) from error
    return [np.array(transform.TransformPoint(point)) for point in np.eye(4, 3, -1).tolist()]


def _field(record: Record, path: Path) -> DisplacementField:
    """Fixed parameters: size, origin, spacing, direction; parameters: vectors, x fastest."""
    fixed = record.fixed.astype(np.float64)
    sides = fixed[:3]
    if len(fixed) != 18 or (sides < 1).any() or (sides != np.rint(sides)).any() or sides.max() > 2**31:
        raise DataError(
            "the displacement field has no sensible grid",
            file=path,
            remedy="get the file again from its source",
        )
    x, y, z = (int(n) for n in sides)
    if x * y * z * 3 != len(record.parameters):
        raise DataError(
            f"the displacement field has {len(record.parameters)} numbers, its grid {x} x {y} x {z} x 3",
            file=path,
            remedy="get the file again from its source",
        )
    spacing, axes = fixed[6:9], fixed[9:].reshape(3, 3)
    if not (spacing > 0).all() or np.abs(axes.T @ axes - np.eye(3)).max() > _MAX_SHEAR:
        raise DataError(
            "the displacement field has no sensible grid",
            file=path,
            remedy="get the file again from its source",
        )
    with np.errstate(over="ignore"):
        vectors = torch.from_numpy(record.parameters.reshape(z, y, x, 3).astype(np.float32))
    geometry = Geometry((x, y, z), _three(spacing), _three(fixed[3:6]), tuple(axes.reshape(-1).tolist()))
    return DisplacementField(finite(vectors, path).movedim(-1, 0).contiguous(), geometry)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return (x, y, z)


def finite(data: torch.Tensor, path: Path) -> torch.Tensor:
    """The vectors themselves. Raises DataError when one is not a finite number."""
    if not bool(torch.isfinite(data).all()):
        raise DataError(
            "the displacement field holds NaN or infinite numbers",
            file=path,
            remedy="get the file again from its source",
        )
    return data
