"""NIfTI files made byte by byte, independent of the product and of every library: sound ones, and broken ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

OFFSETS = {
    "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "intent_code": (68, "h"), "datatype": (70, "h"), "bitpix": (72, "h"),
    "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"), "descrip": (148, "80s"), "aux_file": (228, "24s"), "qform_code": (252, "h"),
    "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"), "srow": (280, "12f"),
    "intent_name": (328, "16s"), "magic": (344, "4s"),
}  # fmt: skip
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280,
         "c8": 32, "c16": 1792}  # fmt: skip
SPACING = (2.0, 1.7, 2.4)
ORIGIN_RAS = (-31.0, 22.5, -17.25)


def rotation(
    axis: tuple[float, float, float], degrees: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rodrigues' rotation matrix (3, 3), and the quaternion's (b, c, d) for the same turn."""
    unit, angle = np.array(axis) / np.linalg.norm(axis), np.radians(degrees)
    x, y, z = unit
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross, np.sin(angle / 2) * unit


TURN, QUATERNION = rotation((0.3, -0.5, 0.8), 25.0)
AFFINE_RAS = np.eye(4)
AFFINE_RAS[:3, :3] = TURN * SPACING
AFFINE_RAS[:3, 3] = ORIGIN_RAS


def phantom(
    shape: tuple[int, int, int] = (33, 30, 27), dtype: str = "i2", seed: int = 0
) -> NDArray[np.generic]:
    """An asymmetric image (x, y, z), values 0 to 100."""
    generator = np.random.default_rng(seed)
    ramp = np.add.outer(
        np.add.outer(np.arange(shape[0]) * 1.1, np.arange(shape[1]) * 0.7), np.arange(shape[2]) * 0.4
    )
    return (ramp + generator.uniform(0, 30, shape)).astype(dtype)


def patched(content: bytes, *, order: str = "<", **fields: object) -> bytes:
    """The same file with other header fields; arrays are given whole."""
    buffer = bytearray(content)
    for name, value in fields.items():
        offset, code = OFFSETS[name]
        values = value if isinstance(value, list | tuple) else (value,)
        struct.pack_into(order + code, buffer, offset, *values)
    return bytes(buffer)


def nifti(data: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE_RAS, *, order: str = "<",
          **fields: object) -> bytes:  # fmt: skip
    """A single-file NIfTI-1 of data (x, y, z, ...), sform and qform alike (for the standard affine), unit mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    code = np.dtype(data.dtype).str[1:]
    standard = {
        "sizeof_hdr": 348, "dim": [data.ndim, *data.shape, *(1,) * (7 - data.ndim)], "datatype": CODES[code],
        "bitpix": data.itemsize * 8, "pixdim": [1.0, *spacing, 1.0, 1.0, 1.0, 1.0], "vox_offset": 352.0,
        "scl_slope": 1.0, "xyzt_units": 2, "qform_code": 1, "sform_code": 1, "quatern": list(QUATERNION),
        "qoffset": list(affine[:3, 3]), "srow": list(affine[:3].reshape(-1)), "magic": b"n+1\0",
    }  # fmt: skip
    header = patched(bytes(352), order=order, **(standard | fields))
    return header + data.astype(data.dtype.newbyteorder(order)).tobytes(order="F")


def save(path: Path, content: bytes) -> Path:
    """Write, compressing when the name ends in .gz."""
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.name.endswith(".gz") else content)
    return path


def lps(affine: NDArray[np.float64] = AFFINE_RAS) -> NDArray[np.float64]:
    """RAS -> LPS by hand: x and y change sign."""
    flipped = affine.copy()
    flipped[:2] *= -1
    return flipped
