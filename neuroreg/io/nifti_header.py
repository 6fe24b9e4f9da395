"""NIfTI-1 and NIfTI-2 headers: bytes -> fields, and what the numbers of the standard are called.

The header is read here and not by a library because SimpleITK and nibabel silently disagree about the world
frame (RELIABILITY finding 4), and because SimpleITK hides bad headers (findings 5, faults 8, 9, 22, 35, 36).
Names and meanings of the fields: the NIfTI-1 and NIfTI-2 standards.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from neuroreg.errors import DataError

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
INTENT_VECTOR, INTENT_DISPLACEMENT = 1007, 1006
NIFTI2_STARTS = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the length of the header, in both byte orders
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
    what = (
        "the file is truncated inside its header"
        if len(head) < NIFTI1.itemsize
        else "this is not a NIfTI file"
    )
    raise DataError(what, file=file, remedy="check what the file is: its name promises NIfTI")


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
        raise DataError(
            f"wrong magic number {magic!r} for a {file.suffix} file",
            file=file,
            remedy="get the file again from its source",
        )
    return magic == pair
