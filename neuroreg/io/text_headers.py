"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) headers -> Layout.

MetaImage: the rows of TransformMatrix are the axes' directions, LPS. NRRD: one vector per axis, in the frame that
``space`` names; only frames that say where left is are turned into LPS. What a header says and this file does not
understand is refused, never guessed. Formats: the MetaIO documentation; the NRRD definition of teem.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError
from neuroreg.io.layout import Layout, Limits, check_sides, choose_frame
from neuroreg.io.stream import ByteStream
from neuroreg.io.text_fields import (
    META_AXES,
    META_FIELDS,
    META_ORIGIN,
    NRRD_FIELDS,
    NRRD_KINDS,
    Fields,
    add,
    number,
)

_MET_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4", "double": "f8",
}  # fmt: skip
_SPACES = {
    "left-posterior-superior": (1.0, 1.0, 1.0), "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
}  # fmt: skip
_UNITS = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 0.001,
    "micron": 0.001,
}
_MAX_LINES = 4096
_UNIT_TOLERANCE = 1e-3
_NO_FRAME = "no world frame: axes taken as they are stored"


def metaimage_layout(stream: ByteStream, *, frame: int | None, limits: Limits) -> Layout:
    """Read a MetaImage header; the stream then stands at the voxels if they are in it. Raises DataError."""
    fields = Fields(_metaimage_pairs(stream), stream.path)
    dims = fields.whole("NDims", count=1)[0]
    if not 1 <= dims <= 7:
        raise fields.bad("NDims")
    sides = fields.whole("DimSize", count=dims)
    if fields.whole("ElementNumberOfChannels", count=1, default="1") != (1,):
        raise _vectors(stream.path)
    check_sides(sides, limits=limits, file=stream.path)
    if dims > 4:
        raise DataError(
            f"expected one 3-D volume, got {dims} dimensions", file=stream.path, remedy="give one 3-D volume"
        )
    frames = sides[3] if dims == 4 else 1
    chosen, notes = choose_frame(frames, frame, dims=dims, file=stream.path)
    if not fields.truth("BinaryData", default="True"):
        raise DataError(
            "the voxels are stored as text", file=stream.path, remedy="convert the file to binary"
        )
    big = fields.truth("BinaryDataByteOrderMSB", "ElementByteOrderMSB", default="False")
    packed = fields.truth("CompressedData", default="False")
    fields.whole("CompressedDataSize", count=1, default="0")  # the stream itself says where it ends
    detached, offset, at_end = _metaimage_data(fields)
    matrix = _metaimage_matrix(fields, dims)
    notes += _metaimage_notes(fields)
    x, y, z = sides[:3]
    return Layout(
        size=(x, y, z), dtype=_type(fields, "ElementType", _MET_TYPES, big=big), matrix=matrix, frame=chosen,
        frames=frames, offset=offset, encoding="zlib" if packed else "raw", data_file=detached, at_end=at_end,
        notes=notes, unsure_sides=any(_NO_FRAME in note for note in notes),
    )  # fmt: skip


def _metaimage_notes(fields: Fields) -> tuple[str, ...]:
    """What the header leaves out, and what it says that is not read: a damaged name must not move a brain silently."""
    placed = not fields.pairs.keys().isdisjoint(META_ORIGIN)
    turned = not fields.pairs.keys().isdisjoint(META_AXES)
    notes = [
        f"the line {key[:40]!r} of the header was not read" for key in fields.pairs if key not in META_FIELDS
    ]
    if not turned:
        notes.append(f"{_NO_FRAME} (no TransformMatrix)" if placed else _NO_FRAME)
    elif not placed:
        notes.append("no Offset in the header: the first voxel was put at 0")
    return tuple(notes)


def _metaimage_pairs(stream: ByteStream) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for _ in range(_MAX_LINES):
        line = stream.read_line().decode("latin-1")
        key, separator, value = line.partition("=")
        if not separator:
            break
        add(pairs, key.strip(), value.strip(), stream.path)
        if key.strip() == "ElementDataFile":
            return pairs
    raise DataError(
        "this is not a MetaImage file: no ElementDataFile in its header",
        file=stream.path,
        remedy="check what the file is",
    )


def _metaimage_data(fields: Fields) -> tuple[Path | None, int, bool]:
    name = fields.text("ElementDataFile")
    offset = fields.whole("HeaderSize", count=1, default="0")[0]
    if name.upper() == "LOCAL":
        return None, max(0, offset), False
    return _detached(fields.file, name), max(0, offset), offset == -1


def _metaimage_matrix(fields: Fields, dims: int) -> NDArray[np.float64]:
    identity = " ".join(str(float(v)) for v in np.eye(dims).reshape(-1))
    axes = fields.numbers(*META_AXES, count=dims * dims, default=identity).reshape(dims, dims)[:3, :3].T
    if np.abs(np.linalg.norm(axes, axis=0) - 1.0).max() > _UNIT_TOLERANCE:
        raise DataError("the directions of the voxel axes are not of length 1", file=fields.file,
                        remedy="get the file again from its source")  # fmt: skip
    origin = fields.numbers(*META_ORIGIN, count=dims, default=" ".join("0" * dims))[:3]
    spacing = fields.numbers("ElementSpacing", "ElementSize", count=dims)[:3]
    return _assemble(axes * _positive(spacing, fields), origin)


def nrrd_layout(stream: ByteStream, *, frame: int | None, limits: Limits) -> Layout:
    """Read a NRRD header; the stream then stands at the voxels if they are in it. Raises DataError."""
    fields = Fields(_nrrd_pairs(stream), stream.path)
    dims = fields.whole("dimension", count=1)[0]
    if not 1 <= dims <= 16:
        raise fields.bad("dimension")
    sides = fields.whole("sizes", count=dims)
    kinds = fields.text("kinds", default="domain " * dims).lower().split()
    if not NRRD_KINDS.issuperset(kinds):
        raise fields.bad("kinds")
    spatial = _spatial_axes(fields, dims, kinds)
    extra = [axis for axis in range(dims) if axis not in spatial]
    if any(sides[axis] > 1 and axis < max(spatial, default=0) for axis in extra):
        raise _vectors(stream.path)  # several numbers per voxel, stored side by side
    frames = [sides[axis] for axis in extra]
    check_sides((*(sides[axis] for axis in spatial), *frames), limits=limits, file=stream.path)
    if len(spatial) != 3 or sum(n > 1 for n in frames) > 1:
        raise DataError(
            f"expected one 3-D volume, got {dims} dimensions", file=stream.path, remedy="give one 3-D volume"
        )
    count = int(np.prod(frames, dtype=object)) if frames else 1
    chosen, notes = choose_frame(count, frame, dims=dims, file=stream.path)
    encoding = fields.text("encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise DataError(
            f"the NRRD encoding {encoding!r} is not read", file=stream.path, remedy="use raw or gzip"
        )
    matrix, matrix_notes = _nrrd_matrix(fields, dims, spatial)
    detached, offset = _nrrd_data(fields)
    x, y, z = (sides[axis] for axis in spatial)
    return Layout(
        size=(x, y, z), dtype=_nrrd_type(fields), matrix=matrix, frame=chosen, frames=count, offset=max(0, offset),
        encoding="raw" if encoding == "raw" else "gzip", data_file=detached, at_end=offset == -1,
        notes=(*notes, *matrix_notes), unsure_sides=any(note.startswith(_NO_FRAME) for note in matrix_notes),
    )  # fmt: skip


def _nrrd_pairs(stream: ByteStream) -> dict[str, str]:
    if not re.fullmatch(rb"NRRD000[1-5]", stream.read_line()):
        raise DataError("this is not a NRRD file", file=stream.path, remedy="check what the file is")
    pairs: dict[str, str] = {}
    for _ in range(_MAX_LINES):
        line = stream.read_line().decode("latin-1")
        if not line:
            return pairs
        if line.startswith("#") or ":=" in line:  # comments, and free texts that may name a patient
            continue
        key, separator, value = line.partition(":")
        if not separator:
            break
        name = key.strip().lower()
        if name not in NRRD_FIELDS:
            raise DataError(f"the header's {name[:40]!r} is no field of NRRD", file=stream.path,
                            remedy="get the file again from its source")  # fmt: skip
        if name in pairs:
            raise DataError(f"the header has {name} twice", file=stream.path, remedy="repair the header")
        add(pairs, name, value.strip(), stream.path)
    raise DataError("the NRRD header does not end", file=stream.path, remedy="get the file again")


def _nrrd_type(fields: Fields) -> np.dtype[np.generic]:
    dtype = _type(fields, "type", _NRRD_TYPES, big=False)
    if dtype.itemsize == 1:
        return dtype
    endian = fields.text("endian").lower()
    if endian not in ("little", "big"):
        raise fields.bad("endian")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _nrrd_data(fields: Fields) -> tuple[Path | None, int]:
    offset = fields.whole("byte skip", "byteskip", count=1, default="0")[0]
    if fields.whole("line skip", "lineskip", count=1, default="0") != (0,):
        raise DataError(
            "NRRD files with a line skip are not read",
            file=fields.file,
            remedy="convert it to NIfTI with the tool that made it",
        )
    name = fields.text("data file", "datafile", default="")
    return (_detached(fields.file, name) if name else None), offset


def _spatial_axes(fields: Fields, dims: int, kinds: list[str]) -> list[int]:
    """The axes that lie in space: those with a direction, or else those whose kind says so."""
    if "space directions" in fields.pairs:
        vectors = _vectors_of(fields, "space directions", dims)
        return [axis for axis, vector in enumerate(vectors) if vector is not None]
    if len(kinds) != dims:
        raise fields.bad("kinds")
    return [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space", "???", "none")]


def _vectors_of(fields: Fields, name: str, count: int) -> list[NDArray[np.float64] | None]:
    """``count`` vectors "(x,y,z)" or "none"."""
    words = re.findall(r"\([^)]*\)|none", fields.text(name))
    vectors: list[NDArray[np.float64] | None] = []
    for word in words:
        try:
            vectors.append(
                None if word == "none" else np.array([number(v.strip()) for v in word[1:-1].split(",")])
            )
        except ValueError as error:
            raise fields.bad(name) from error
    if len(vectors) != count or any(
        v is not None and not (len(v) == 3 and np.isfinite(v).all()) for v in vectors
    ):
        raise fields.bad(name)
    return vectors


def _nrrd_matrix(
    fields: Fields, dims: int, spatial: list[int]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    if "space directions" not in fields.pairs:
        spacing = fields.numbers("spacings", count=dims)[spatial]
        return _assemble(np.diag(_positive(spacing, fields)), np.zeros(3)), (_NO_FRAME,)
    axes = np.stack([v for v in _vectors_of(fields, "space directions", dims) if v is not None], axis=1)
    origin = _vectors_of(fields, "space origin", 1)[0] if "space origin" in fields.pairs else np.zeros(3)
    space = fields.text("space", default="").lower()
    signs = _SPACES.get(space)
    notes: tuple[str, ...] = () if signs else (f"{_NO_FRAME} (space {space!r} does not say where left is)",)
    units = set(re.findall(r'"([^"]*)"', fields.text("space units", default=""))) or {"mm"}
    if len(units) != 1 or (unit := units.pop().lower()) not in _UNITS:
        raise fields.bad("space units")
    if _UNITS[unit] != 1.0:
        notes += (f"the voxel size is in {unit} and was converted to mm",)
    if "space origin" not in fields.pairs:
        notes += ("no space origin in the header: the first voxel was put at 0",)
    turn = np.diag(signs or (1.0, 1.0, 1.0)) * _UNITS[unit]
    return _assemble(turn @ axes, turn @ (np.zeros(3) if origin is None else origin)), notes


def _type(fields: Fields, name: str, known: Mapping[str, str], *, big: bool) -> np.dtype[np.generic]:
    text = " ".join(fields.text(name).split())
    if "ARRAY" in text or text == "block":
        raise _vectors(fields.file)
    if text not in known:
        raise DataError(
            f"the voxel type {text[:40]!r} is not read", file=fields.file, remedy="convert the file"
        )
    return np.dtype(known[text]).newbyteorder(">" if big else "<")


def _detached(header: Path, name: str) -> Path:
    """The data file a header names: beside it or below, never elsewhere on the machine. Raises DataError."""
    if name.upper() == "LIST" or "%" in name or re.search(r"\s\d+$", name):
        raise DataError("the voxels are spread over several files", file=header, remedy="convert to one file")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            "the header points to a file outside its folder", file=header, remedy="put both together"
        )
    path = header.parent / path
    if not path.is_file():
        raise DataError(
            f"the data file {path.name} is missing", file=header, remedy="put it beside the header"
        )
    return path


def _positive(spacing: NDArray[np.float64], fields: Fields) -> NDArray[np.float64]:
    if not (spacing > 0).all():
        raise DataError(
            f"the voxel spacing is {spacing.tolist()} mm", file=fields.file, remedy="repair the header"
        )
    return spacing


def _assemble(columns: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = columns, origin
    return matrix


def _vectors(file: Path) -> DataError:
    return DataError(
        "the image holds vectors or colours", file=file, remedy="extract one scalar volume first"
    )
