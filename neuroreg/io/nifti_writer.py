"""New NIfTI-1 files, written atomically and read back: .nii and .nii.gz, scalar images and vector fields.

``nifti_bytes`` makes the same in memory, for pages that hold their images.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg import __version__
from neuroreg.errors import WriteError
from neuroreg.io import nifti_frames, nifti_header
from neuroreg.io.files import atomic_write, suffix_of
from neuroreg.io.layout import geometry_of, nearest_rotation
from neuroreg.io.stream import GZIP, ByteStream
from neuroreg.volume import Geometry

_LEVEL = 1  # on float brain images level 6 saves 1 % of the bytes and costs twice the time
_LEVEL_IN_MEMORY = 6  # whole numbers of 8 bits: level 9 takes three times as long for 1 % less
_CHUNK = 1 << 22
_MAX_SIDE = 32_767  # NIfTI-1 stores sides in 16 bits


def write_nifti(
    voxels: NDArray[np.generic],
    geometry: Geometry,
    path: Path,
    *,
    overwrite: bool = False,
    description: str = "",
    intent: int = 0,
) -> tuple[str, ...]:
    """Write (Z, Y, X), or (C, Z, Y, X) as a 5-D vector image, on ``geometry``; returns the notes. Raises
    CannotCreateError or WriteError.

    ``descrip`` reads "neuroreg <version> <description>"; nothing else in the header is free text.
    """
    size = geometry.size if voxels.ndim == 3 else (*geometry.size, 1, voxels.shape[0])
    if max(size) > _MAX_SIDE:
        raise WriteError(
            f"a side of {max(size)} voxels does not fit into NIfTI-1", file=path, remedy="use .nrrd"
        )
    dtype = voxels.dtype.newbyteorder("<")
    descrip = f"neuroreg {__version__} {description}".strip()
    matrix = geometry.voxel_to_world.numpy()
    header = _header(size, dtype, matrix, descrip=descrip, intent=intent)
    content = _Content(header, np.ascontiguousarray(voxels, dtype))
    packed = suffix_of(path) == ".nii.gz"

    def write(temporary: Path) -> None:
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, GZIP) if packed else None
        with temporary.open("xb") as stream:
            for chunk in content.chunks():
                stream.write(compressor.compress(chunk) if compressor else chunk)
            if compressor:
                stream.write(compressor.flush())

    atomic_write(
        path, write, verify=lambda temporary: content.verify(temporary, geometry), overwrite=overwrite
    )
    return hidden_by(path)


def hidden_by(path: Path) -> tuple[str, ...]:
    """A note when programs built on ITK would read another file instead: they look for the .nii of that name first.

    They take its voxels with the header of ``path``, without a word (ITK issue 2243).
    """
    other = path.with_suffix("")
    if suffix_of(path) != ".nii.gz" or not other.is_file():
        return ()
    return (
        f"{path.name}: ANTs, Slicer and SimpleITK read the voxels of {other.name} in the same folder instead: "
        "move one of them",
    )


def nifti_bytes(voxels: NDArray[np.generic], geometry: Geometry, *, intent: int = 0) -> bytes:
    """A .nii.gz of (Z, Y, X) on ``geometry`` in memory; the same voxels give the same bytes."""
    dtype = voxels.dtype.newbyteorder("<")
    matrix = geometry.voxel_to_world.numpy()
    header = _header(geometry.size, dtype, matrix, descrip=f"neuroreg {__version__}", intent=intent)
    compressor = zlib.compressobj(_LEVEL_IN_MEMORY, zlib.DEFLATED, GZIP)
    packed = [compressor.compress(c) for c in _Content(header, np.ascontiguousarray(voxels, dtype)).chunks()]
    return b"".join((*packed, compressor.flush()))


class _Content:
    """The bytes meant for a file, and their checksum."""

    def __init__(self, header: bytes, voxels: NDArray[np.generic]) -> None:
        self.header = header
        self._bytes = voxels.reshape(-1).view(np.uint8).data
        self.length = len(header) + len(self._bytes)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Header first, then the voxels in pieces."""
        yield self.header
        for start in range(0, len(self._bytes), _CHUNK):
            yield self._bytes[start : start + _CHUNK]

    def checksum(self) -> int:
        """CRC-32 of the whole."""
        crc = 0
        for chunk in self.chunks():
            crc = zlib.crc32(chunk, crc)
        return crc

    def verify(self, temporary: Path, geometry: Geometry) -> None:
        """Read the file back, inflating it: same length, same checksum, same place in space. Raises WriteError."""
        with ByteStream(temporary) as stream:
            if suffix_of(temporary) == ".nii.gz":
                stream.inflate(GZIP)
            head = stream.read(len(self.header))
            crc, length = zlib.crc32(head), len(head)
            while block := stream.read(_CHUNK):
                crc, length = zlib.crc32(block, crc), length + len(block)
        if (length, crc) != (self.length, self.checksum()):
            raise WriteError(
                "what was written differs from what was meant",
                file=temporary,
                remedy="check the disk and its file system",
            )
        parsed = nifti_header.parse(head, file=temporary)
        matrix, _ = nifti_frames.voxel_to_lps(parsed, xform="auto")
        back, _ = geometry_of(matrix, geometry.size, file=temporary)
        if not back.same_grid(geometry):
            raise WriteError(
                "the grid does not survive writing: its numbers are too large",
                file=temporary,
                remedy="shift the origin, or use MetaImage (.mha)",
            )


def _header(
    size: tuple[int, ...],
    dtype: np.dtype[np.generic],
    matrix: NDArray[np.float64],
    *,
    descrip: str,
    intent: int = 0,
) -> bytes:
    """The 352 bytes before the voxels of a new little-endian NIfTI-1 file: nothing in them comes from an input.

    size: all sides; matrix: (4, 4) voxel index -> LPS mm. Both forms are written with code 1 and say the same.
    """
    ras = nifti_header.RAS_TO_LPS @ matrix
    spacing = np.linalg.norm(ras[:3, :3], axis=0)
    axes = nearest_rotation(ras[:3, :3] / spacing)
    qfac = -1.0 if np.linalg.det(axes) < 0 else 1.0
    fields = np.zeros((), nifti_header.NIFTI1.newbyteorder("<"))
    fields["sizeof_hdr"], fields["regular"], fields["magic"] = 348, b"r", b"n+1"
    fields["dim"] = [len(size), *size, *(1,) * (7 - len(size))]
    fields["pixdim"] = [qfac, *spacing, 1.0, 1.0, 1.0, 1.0]
    fields["datatype"], fields["bitpix"] = nifti_header.CODES[dtype.newbyteorder("=")], dtype.itemsize * 8
    fields["vox_offset"], fields["scl_slope"], fields["xyzt_units"] = 352.0, 1.0, 2
    fields["descrip"], fields["intent_code"] = descrip.encode("ascii", "replace")[:79], intent
    fields["qform_code"] = fields["sform_code"] = 1
    for name, value in zip("bcd", _quaternion(axes * (1.0, 1.0, qfac)), strict=True):
        fields[f"quatern_{name}"] = value
    for row, name in enumerate("xyz"):
        fields[f"qoffset_{name}"] = ras[row, 3]
        fields[f"srow_{name}"] = ras[row]
    return fields.tobytes() + b"\0\0\0\0"


def _quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """(b, c, d) of the unit quaternion (a, b, c, d), a >= 0, of a proper rotation (3, 3)."""
    # The eigenvector of the largest eigenvalue of a symmetric 4 x 4 matrix: stable at half turns (Bar-Itzhack 2000).
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [[xx + yy + zz, zy - yz, xz - zx, yx - xy],
         [zy - yz, xx - yy - zz, xy + yx, xz + zx],
         [xz - zx, xy + yx, yy - xx - zz, yz + zy],
         [yx - xy, xz + zx, yz + zy, zz - xx - yy]]
    )  # fmt: skip
    vector = np.linalg.eigh(k)[1][:, -1]
    return np.asarray(vector[1:] * (-1.0 if vector[0] < 0 else 1.0))
