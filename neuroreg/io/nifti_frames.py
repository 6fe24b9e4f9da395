"""Where a NIfTI image lies: the policy on codes, units, quaternion and matrix (RELIABILITY faults 35 to 41)."""

import math

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError
from neuroreg.io.layout import matrix_gap
from neuroreg.io.nifti_header import RAS_TO_LPS, NiftiHeader, Xform

_UNITS = {0: None, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "microns"}
_LAST_CODE = 5
_SAME_MM = 1e-3
_ROUNDING = 1e-6  # what single precision leaves of a voxel size said twice
_XFORM_LIMIT_MM = 1.0


def voxel_to_lps(header: NiftiHeader, *, xform: Xform) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(4, 4) voxel index -> LPS mm, and the notes, by the project's policy on the two matrices.

    ``auto``: where both are set and differ by at most 1 mm, the one ITK takes (sform if its code is 1, else
    qform), so that ANTs and Slicer see the same head. Raises DataError when they differ more.
    """
    fields = header.fields
    spacing, spacing_notes = _spacing(header)
    scale, unit_notes = _unit(fields)
    codes = (int(fields["qform_code"]), int(fields["sform_code"]))
    unset = codes[0] <= 0 and codes[1] <= 0
    if unset and spacing_notes:
        raise DataError(
            "the voxel size is negative and there is no world frame: left and right are unsure",
            file=header.file,
            remedy="set the qform or sform of the file",
        )
    if unset and xform == "auto":
        matrix = np.diag([*spacing, 1.0])
        notes: tuple[str, ...] = (
            "no world frame (sform and qform codes are 0): axes taken as they are stored, origin 0",
        )
    else:
        matrix, notes = _chosen_matrix(header, spacing, xform)
        matrix = RAS_TO_LPS @ matrix
    matrix = np.diag([scale, scale, scale, 1.0]) @ matrix
    if min(codes) < 0 or max(codes) > _LAST_CODE:
        notes += (f"the qform and sform codes are {codes}: the standard has 0 to {_LAST_CODE} only",)
    return matrix, (*spacing_notes, *unit_notes, *notes)


def unsure_sides(header: NiftiHeader, xform: Xform) -> bool:
    """Whether left could be right: no world frame, a negative voxel size, or two matrices that mirror each other."""
    codes = (int(header.fields["qform_code"]), int(header.fields["sform_code"]))
    spacing, negative = _spacing(header)
    if negative or (max(codes) <= 0 and xform == "auto"):
        return True
    return (
        min(codes) > 0 and matrix_gap(_sform(header, spacing), _qform(header, spacing), header.sides[:3])[1]
    )


def _spacing(header: NiftiHeader) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    pixdim = np.array(header.fields["pixdim"][1:4], np.float64)
    if not np.isfinite(pixdim).all() or (pixdim == 0).any():
        raise DataError(
            f"the voxel spacing is zero or not a number: {_words(pixdim)} mm",
            file=header.file,
            remedy="repair the header",
        )
    if (pixdim > 0).all():
        return pixdim, ()
    return np.abs(pixdim), (
        f"negative voxel size {_words(pixdim)} mm: the absolute values were used, nothing flipped",
    )


def _unit(fields: np.void) -> tuple[float, tuple[str, ...]]:
    code = int(fields["xyzt_units"]) & 7
    scale = _UNITS.get(code)
    if scale is None:
        return 1.0, ("the unit of the voxel size is not given: millimetres assumed",)
    return scale, (
        (f"the voxel size is in {_UNIT_NAMES[code]} and was converted to mm",) if code != 2 else ()
    )


def _chosen_matrix(
    header: NiftiHeader, spacing: NDArray[np.float64], xform: Xform
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    codes = {"qform": int(header.fields["qform_code"]), "sform": int(header.fields["sform_code"])}
    if xform != "auto" and codes[xform] <= 0:
        raise DataError(
            f"the file has no {xform} (its code is 0)", file=header.file, remedy="choose --xform auto"
        )
    name: str = xform
    if xform == "auto":
        name = "sform" if codes["qform"] <= 0 or codes["sform"] == 1 else "qform"
    matrix = _qform(header, spacing) if name == "qform" else _sform(header, spacing)
    if min(codes.values()) <= 0:
        return matrix, _stretch_note(matrix, spacing) if name == "sform" else ()
    other = _sform(header, spacing) if name == "qform" else _qform(header, spacing)
    gap, mirrored = matrix_gap(matrix, other, header.sides[:3])
    if gap <= _SAME_MM and not mirrored:
        return matrix, ()
    how = "by handedness" if mirrored else f"by up to {gap:.4g} mm"
    if xform == "auto" and (mirrored or not gap <= _XFORM_LIMIT_MM):
        raise DataError(
            f"sform and qform differ {how}: the file says two things about where the head is",
            file=header.file,
            remedy="choose with --xform sform or --xform qform (neuroreg convert has it too)",
        )
    return matrix, (f"sform and qform differ {how}: the {name} was used",)


def _stretch_note(matrix: NDArray[np.float64], spacing: NDArray[np.float64]) -> tuple[str, ...]:
    columns = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.allclose(columns, spacing, rtol=1e-3):
        return ()
    return (
        f"the voxel size {_words(spacing)} mm differs from the sform's {_words(columns)}: the sform was used",
    )


def _sform(header: NiftiHeader, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = [np.array(header.fields[name], np.float64) for name in ("srow_x", "srow_y", "srow_z")]
    matrix = _finite(np.vstack((*rows, (0.0, 0.0, 0.0, 1.0))), "sform", header)
    columns = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.allclose(
        columns, spacing, rtol=_ROUNDING, atol=0.0
    ):  # then ITK's voxel size is that of pixdim: ours too
        matrix[:3, :3] *= spacing / columns
    return matrix


def _qform(header: NiftiHeader, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    fields = header.fields
    bcd = np.array([fields[f"quatern_{name}"] for name in "bcd"], np.float64)
    square = float(bcd @ bcd)
    if not square <= 1.0 + 1e-3:  # NaN included
        raise DataError(
            f"the qform quaternion {_words(bcd)} is no rotation",
            file=header.file,
            remedy="repair the header",
        )
    if square > 1.0 - 1e-7:  # a half turn: rounding leaves nothing sensible of the real part
        a, (b, c, d) = 0.0, bcd / math.sqrt(square)
    else:
        a, (b, c, d) = math.sqrt(1.0 - square), bcd
    rotation = np.array(
        [[a*a + b*b - c*c - d*d, 2*(b*c - a*d), 2*(b*d + a*c)],
         [2*(b*c + a*d), a*a + c*c - b*b - d*d, 2*(c*d - a*b)],
         [2*(b*d - a*c), 2*(c*d + a*b), a*a + d*d - b*b - c*c]]
    )  # fmt: skip
    qfac = float(fields["pixdim"][0])
    if math.isnan(qfac):
        raise DataError(
            "pixdim[0] is not a number: the handedness of the qform is unsure",
            file=header.file,
            remedy="repair the header",
        )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing * (1.0, 1.0, -1.0 if qfac < 0 else 1.0)
    matrix[:3, 3] = [fields[f"qoffset_{name}"] for name in "xyz"]
    return _finite(matrix, "qform", header)


def _words(numbers: NDArray[np.float64]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _finite(matrix: NDArray[np.float64], name: str, header: NiftiHeader) -> NDArray[np.float64]:
    if not np.isfinite(matrix).all():
        raise DataError(
            f"the {name} holds NaN or infinite numbers", file=header.file, remedy="repair the header"
        )
    return matrix
