"""NIfTI headers -> Layout: what the voxels are, where they begin, how they are scaled and where they lie."""

import math
from dataclasses import replace

import numpy as np

from neuroreg.errors import DataError
from neuroreg.io.layout import ANYTHING, Layout, Limits, check_sides, choose_frame
from neuroreg.io.nifti_frames import unsure_sides, voxel_to_lps
from neuroreg.io.nifti_header import DATATYPES, INTENT_DISPLACEMENT, INTENT_VECTOR, NiftiHeader, Xform

_REFUSED = {32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour",
            1536: "128-bit float", 1: "single-bit"}  # fmt: skip
_VECTOR_INTENTS = (1003, 1004, 1005, INTENT_DISPLACEMENT, INTENT_VECTOR, 1008, 1011)
_MAX_OFFSET = 1 << 28  # header extensions are kilobytes; beyond 256 MiB the number is nonsense
_BY_HAND = np.errstate(over="ignore", invalid="ignore")  # damaged numbers are looked for, and named


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
        unsure_sides=unsure_sides(header, xform),
    )  # fmt: skip


@_BY_HAND
def vector_layout_of(header: NiftiHeader, *, max_voxels: int) -> Layout:
    """The layout of a file of three-component vectors, (x, y, z, 1, 3) or (x, y, z, 3). Raises DataError."""
    sides = header.sides
    if sides[3:] not in ((1, 3), (3,)) or int(header.fields["datatype"]) not in DATATYPES:
        raise DataError(
            f"expected a displacement field (x, y, z, 1, 3), got {' x '.join(map(str, sides))}",
            file=header.file,
            remedy="give a field with three numbers for each voxel",
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
