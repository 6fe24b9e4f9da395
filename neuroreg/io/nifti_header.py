"""NIfTI-1 and NIfTI-2 headers: bytes -> Layout, with the policy on codes, units, quaternion and matrix.

The header is read here and not by a library because SimpleITK and nibabel silently disagree about the world
frame (RELIABILITY finding 4), and because SimpleITK hides bad headers (findings 5, faults 8, 9, 22, 35, 36).
Names and meanings of the fields: the NIfTI-1 and NIfTI-2 standards.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError
from neuroreg.io.layout import ANYTHING, Layout, Limits, check_sides, choose_frame, matrix_gap

Xform = Literal["auto", "sform", "qform"]

_FLOATS = [
    (name, "f8") for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
]
_ROWS = [(name, "f8", 4) for name in ("srow_x", "srow_y", "srow_z")]
NIFTI1 = np.dtype(
    [("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"), ("session_error", "i2"),
     ("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", 8), ("intent_p", "f4", 3), ("intent_code", "i2"),
     ("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", 8), ("vox_offset", "f4"),
     ("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
     ("cal", "f4", 2), ("slice_duration", "f4"), ("toffset", "f4"), ("gl", "i4", 2), ("descrip", "S80"),
     ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2"),
     *((name, "f4") for name, _ in _FLOATS), *((name, "f4", 4) for name, _, _ in _ROWS),
     ("intent_name", "S16"), ("magic", "S4")]
)  # fmt: skip
NIFTI2 = np.dtype(
    [("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", 8),
     ("intent_p", "f8", 3), ("pixdim", "f8", 8), ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8"),
     ("cal", "f8", 2), ("slice_duration", "f8"), ("toffset", "f8"), ("slice_start", "i8"), ("slice_end", "i8"),
     ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4"), ("sform_code", "i4"), *_FLOATS, *_ROWS,
     ("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "i4"), ("intent_name", "S16"), ("dim_info", "u1"),
     ("unused", "S15")]
)  # fmt: skip
DATATYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
CODES = {np.dtype(name): code for code, name in DATATYPES.items()}
_REFUSED = {32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour",
            1536: "128-bit float", 1: "single-bit"}  # fmt: skip
_UNITS = {0: None, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "microns"}
INTENT_VECTOR, INTENT_DISPLACEMENT = 1007, 1006
_VECTOR_INTENTS = (1003, 1004, 1005, INTENT_DISPLACEMENT, INTENT_VECTOR, 1008, 1011)
NIFTI2_STARTS = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the length of the header, in both byte orders
_MAX_OFFSET = 1 << 28  # header extensions are kilobytes; beyond 256 MiB the number is nonsense
_LAST_CODE = 5
_BY_HAND = np.errstate(over="ignore", invalid="ignore")  # damaged numbers are looked for, and named
_SAME_MM = 1e-3
_ROUNDING = 1e-6  # what single precision leaves of a voxel size said twice
_XFORM_LIMIT_MM = 1.0
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class NiftiHeader:
    """A header's fields in native byte order; the file they came from, for messages."""

    fields: np.void
    little_endian: bool
    version: int
    paired: bool
    """the voxels are in an .img file of their own"""
    file: Path

    @property
    def sides(self) -> tuple[int, ...]:
        """dim[1..dim[0]]: the spatial sides first. Raises DataError when dim[0] is not 1 to 7."""
        count = int(self.fields["dim"][0])
        if not 1 <= count <= 7:
            raise DataError(
                f"the header declares {count} dimensions", file=self.file, remedy="get the file again"
            )
        return tuple(int(n) for n in self.fields["dim"][1 : count + 1])


def parse(head: bytes, *, file: Path) -> NiftiHeader:
    """The header in the first 348 or 540 bytes of a file. Raises DataError when they are none."""
    for dtype, version in ((NIFTI1, 1), (NIFTI2, 2)):
        for order in ("<", ">"):
            if len(head) < dtype.itemsize or int(np.frombuffer(head, order + "i4", 1)[0]) != dtype.itemsize:
                continue
            fields = np.frombuffer(head, dtype.newbyteorder(order), 1).astype(dtype)[0]
            paired = _check_magic(head, fields, version, file)
            return NiftiHeader(fields, order == "<", version, paired, file)
    short = len(head) < NIFTI1.itemsize
    what = "the file is truncated inside its header" if short else "this is not a NIfTI file"
    raise DataError(what, file=file, remedy="check what the file is; its name promises NIfTI")


def _check_magic(head: bytes, fields: np.void, version: int, file: Path) -> bool:
    single, pair = (b"n+1\0", b"ni1\0") if version == 1 else (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
    offset = 344 if version == 1 else 4
    magic = head[offset : offset + len(single)]
    if magic not in (single, pair):
        raise DataError(
            f"wrong magic number {magic!r}: this is not NIfTI (an Analyze file does not say where left is)",
            file=file,
            remedy="convert it to NIfTI with the tool that made it",
        )
    is_header_file = file.suffix.lower() == ".hdr"
    if (magic == pair) != is_header_file:
        raise DataError(f"wrong magic number {magic!r} for a {file.suffix} file", file=file)
    return magic == pair


@_BY_HAND
def layout_of(header: NiftiHeader, *, frame: int | None, xform: Xform, limits: Limits) -> Layout:
    """Everything the reader needs to know, checked. Raises DataError (65) or UsageError (2)."""
    fields, file = header.fields, header.file
    sides = header.sides
    _check_content(header, sides)
    check_sides(sides, limits=limits, file=file)
    dtype, type_notes = _dtype(header)
    chosen, frame_notes = choose_frame(math.prod(sides[3:]), frame, dims=len(sides), file=file)
    slope, inter, scale_notes = _scaling(fields)
    matrix, matrix_notes = voxel_to_lps(header, xform=xform)
    offset, offset_notes = _offset(header)
    x, y, z = sides[:3]
    return Layout(
        size=(x, y, z), dtype=dtype, matrix=matrix, offset=offset, frame=chosen, frames=math.prod(sides[3:]),
        slope=slope, inter=inter, notes=(*type_notes, *frame_notes, *scale_notes, *matrix_notes, *offset_notes),
        unsure_sides=_unsure_sides(header, xform),
    )  # fmt: skip


@_BY_HAND
def vector_layout_of(header: NiftiHeader, *, max_voxels: int) -> Layout:
    """The layout of a file of three-component vectors, (x, y, z, 1, 3) or (x, y, z, 3). Raises DataError."""
    sides = header.sides
    if sides[3:] not in ((1, 3), (3,)) or int(header.fields["datatype"]) not in DATATYPES:
        raise DataError(
            f"expected a displacement field (x, y, z, 1, 3), got {' x '.join(map(str, sides))}",
            file=header.file,
        )
    check_sides(sides, limits=replace(ANYTHING, max_voxels=max_voxels), file=header.file)
    dtype, type_notes = _dtype(header)
    slope, inter, scale_notes = _scaling(header.fields)
    matrix, matrix_notes = voxel_to_lps(header, xform="auto")
    offset, offset_notes = _offset(header)
    return Layout(
        (sides[0], sides[1], sides[2]), dtype, matrix, offset=offset, frames=3, slope=slope, inter=inter,
        notes=(*type_notes, *scale_notes, *matrix_notes, *offset_notes),
    )  # fmt: skip


def _check_content(header: NiftiHeader, sides: tuple[int, ...]) -> None:
    code, intent = int(header.fields["datatype"]), int(header.fields["intent_code"])
    if code in _REFUSED:
        raise DataError(
            f"the voxels are {_REFUSED[code]}, expected one real number each",
            file=header.file,
            remedy="convert it to a scalar image first",
        )
    if code not in DATATYPES:
        raise DataError(f"unknown datatype code {code}", file=header.file, remedy="get the file again")
    several = len(sides) > 3 and max(sides[3:]) > 1
    if several and (max(sides[4:], default=1) > 1 or intent in _VECTOR_INTENTS):
        raise DataError(
            f"the image holds vectors or is {len(sides)}-D ({' x '.join(map(str, sides))}), expected one 3-D volume",
            file=header.file,
            remedy="extract one scalar volume first",
        )


def _dtype(header: NiftiHeader) -> tuple[np.dtype[np.generic], tuple[str, ...]]:
    dtype = np.dtype(DATATYPES[int(header.fields["datatype"])]).newbyteorder(
        "<" if header.little_endian else ">"
    )
    bits = int(header.fields["bitpix"])
    if bits == dtype.itemsize * 8:
        return dtype, ()
    return dtype, (f"bitpix says {bits}, the datatype {dtype.itemsize * 8} bits: the datatype was believed",)


def _scaling(fields: np.void) -> tuple[float, float, tuple[str, ...]]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(inter)):
        return 1.0, 0.0, (f"scl_slope {slope:g}, scl_inter {inter:g}: not numbers, read as unscaled",)
    return (1.0, 0.0, ()) if slope == 0 else (slope, inter, ())


def _offset(header: NiftiHeader) -> tuple[int, tuple[str, ...]]:
    value = float(header.fields["vox_offset"])
    least = 0 if header.paired else header.fields.dtype.itemsize + 4
    if value == 0 and not header.paired:
        return least, (f"vox_offset is 0: the voxels were read from byte {least} on, as the standard has it",)
    if not (math.isfinite(value) and value == int(value) and least <= value <= _MAX_OFFSET):
        raise DataError(
            f"vox_offset {value:g} cannot be where the voxels start",
            file=header.file,
            remedy="get the file again",
        )
    return int(value), ()


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


def _unsure_sides(header: NiftiHeader, xform: Xform) -> bool:
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
            f"the voxel spacing is zero or not a number: {pixdim.tolist()}",
            file=header.file,
            remedy="repair the header",
        )
    if (pixdim > 0).all():
        return pixdim, ()
    return np.abs(pixdim), (
        f"negative voxel size {pixdim.tolist()}: the absolute values were used, nothing flipped",
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
        f"the voxel size {spacing.tolist()} differs from the sform's {columns.tolist()}: the sform was used",
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
        raise DataError(f"the qform quaternion {bcd.tolist()} is no rotation", file=header.file)
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
        raise DataError("pixdim[0] is not a number: the handedness of the qform is unsure", file=header.file)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * spacing * (1.0, 1.0, -1.0 if qfac < 0 else 1.0)
    matrix[:3, 3] = [fields[f"qoffset_{name}"] for name in "xyz"]
    return _finite(matrix, "qform", header)


def _finite(matrix: NDArray[np.float64], name: str, header: NiftiHeader) -> NDArray[np.float64]:
    if not np.isfinite(matrix).all():
        raise DataError(
            f"the {name} holds NaN or infinite numbers", file=header.file, remedy="repair the header"
        )
    return matrix
