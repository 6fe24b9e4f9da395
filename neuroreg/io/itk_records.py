"""ITK's transform files as records: a type's name, its parameters, its fixed parameters. Read: .h5, .mat, .tfm, .txt.

The three formats carry the same records. They are read here and not by ITK, which crashes on some damaged files and
fills what is missing with zeros; the formats are those of ITK's HDF5, MATLAB and text TransformIO.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import BusyError, DataError
from neuroreg.io.files import available_memory
from neuroreg.io.hdf5 import Node
from neuroreg.io.hdf5_reader import read_hdf5

COMPOSITE = "CompositeTransform"
_KIND = re.compile(r"([A-Za-z]\w{0,80}?)(?:_(?:double|float)_(\d)_(\d))", re.ASCII)
_FIRST_LINE = "#Insight Transform File"
_NUMBERS = re.compile(r"[0-9eE+\-.\s]*", re.ASCII)
_MATLAB_DOUBLE, _MATLAB_FLOAT = 0, 10
# Early versions of ITK 4 wrote the names of the datasets with a letter less.
_PARAMETERS = ("TransformParameters", "TranformParameters")
_FIXED = ("TransformFixedParameters", "TranformFixedParameters")


@dataclass(frozen=True)
class Record:
    """One transform as ITK stores it."""

    kind: str
    """the class without precision and dimension, e.g. AffineTransform"""
    parameters: NDArray[np.floating]
    """(n,) finite"""
    fixed: NDArray[np.floating]
    """(m,) finite: a centre of rotation, or the grid of a field"""


def read_records(path: Path) -> tuple[Record, ...]:
    """The transforms of a file in the order they are stored. Raises DataError (damaged, not 3-D) or BusyError."""
    size, free = path.stat().st_size, available_memory()
    if size == 0:
        raise DataError("empty file", file=path, remedy="get the file again from its source")
    if free is not None and 2 * size > free:
        raise BusyError(
            f"reading it needs {2 * size / 2**30:.1f} GiB of memory", file=path, remedy="free some memory"
        )
    suffix = path.suffix.lower()
    if suffix == ".mat":
        records = [_from_matlab(path)]
    else:
        records = _from_hdf5(path) if suffix in (".h5", ".hdf5") else _from_text(path)
    if not records:
        raise DataError("it holds no transform", file=path, remedy="check what the file is")
    return tuple(records)


def _record(kind: str, parameters: NDArray[np.floating], fixed: NDArray[np.floating], path: Path) -> Record:
    match = _KIND.fullmatch(kind)
    if match is None:
        raise _damaged(path)
    if match[2] != match[3] or match[2] != "3":
        raise DataError(
            f"the transform is {match[2]}-D, expected 3-D", file=path, remedy="give a 3-D transform"
        )
    if not (np.isfinite(parameters).all() and np.isfinite(fixed).all()):
        raise DataError(
            "the transform holds NaN or infinite numbers",
            file=path,
            remedy="get the file again from its source",
        )
    return Record(match[1], parameters, fixed)


def _damaged(path: Path, why: str = "this is not a transform file, or it is damaged") -> DataError:
    return DataError(why, file=path, remedy="get the file again from its source")


def _from_hdf5(path: Path) -> list[Record]:
    group = read_hdf5(path, "TransformGroup")
    if not isinstance(group, Mapping):
        raise _damaged(path)
    records = []
    for number in range(len(group)):
        part = group.get(str(number))
        kind = part.get("TransformType") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(kind, str):
            raise _damaged(path)
        none = np.zeros(0) if kind.startswith(COMPOSITE) else None
        records.append(
            _record(kind, _array(part, _PARAMETERS, none, path), _array(part, _FIXED, none, path), path)
        )
    return records


def _array(
    part: Mapping[str, Node], names: tuple[str, ...], default: NDArray[np.float64] | None, path: Path
) -> NDArray[np.floating]:
    found = next((part[name] for name in names if name in part), default)
    if not isinstance(found, np.ndarray):
        raise _damaged(path, f"the transform file is damaged: it has no {names[0]}")
    return found


def _from_text(path: Path) -> list[Record]:
    try:
        text = path.read_bytes().decode("ascii")
    except UnicodeDecodeError as error:
        raise _damaged(path) from error
    if not text.startswith(_FIRST_LINE):
        raise _damaged(path)
    if not text.endswith("\n"):  # half of a number is a number too
        raise DataError("the transform file is cut off: its last line has no end", file=path,
                        remedy="get it again, or add a line break if it is complete")  # fmt: skip
    blocks: list[dict[str, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        key, separator, value = (word.strip() for word in line.partition(":"))
        if key == "Transform":
            blocks.append({})
        if (
            not separator
            or not blocks
            or key in blocks[-1]
            or key not in ("Transform", "Parameters", "FixedParameters")
        ):
            raise _damaged(path)
        blocks[-1][key] = value
    return [_text_record(block, path) for block in blocks]


def _text_record(block: dict[str, str], path: Path) -> Record:
    values = []
    for key in ("Parameters", "FixedParameters"):
        if key not in block and not block["Transform"].startswith(COMPOSITE):
            raise _damaged(path, f"the transform file is damaged: it has no {key}")
        text = block.get(key, "")
        try:
            values.append(np.array([float(word) for word in text.split()]))
        except ValueError as error:
            raise _damaged(path, f"the transform file's {key} are no numbers") from error
        if not _NUMBERS.fullmatch(text) and np.isfinite(values[-1]).all():  # Python reads more than C: 1_000
            raise _damaged(path, f"the transform file's {key} are no numbers")
    return _record(block["Transform"], values[0], values[1], path)


def _from_matlab(path: Path) -> Record:
    """Two named columns of numbers in a MATLAB level 4 file: the parameters under the type's name, and "fixed"."""
    content, place = path.read_bytes(), 0
    columns: list[tuple[str, NDArray[np.floating]]] = []
    while place < len(content):
        name, values, place = _matlab_column(content, place, path)
        columns.append((name, values))
    if len(columns) != 2 or columns[1][0] != "fixed":
        raise _damaged(path)
    return _record(*columns[0], columns[1][1], path)


def _matlab_column(content: bytes, place: int, path: Path) -> tuple[str, NDArray[np.floating], int]:
    head = content[place : place + 20]
    kind, rows, columns, imaginary, label = struct.unpack("<5i", head) if len(head) == 20 else (-1,) * 5
    if (
        kind not in (_MATLAB_DOUBLE, _MATLAB_FLOAT)
        or columns != 1
        or imaginary
        or rows < 0
        or not 1 < label < 128
    ):
        raise _damaged(path)
    dtype = np.dtype("<f8" if kind == _MATLAB_DOUBLE else "<f4")
    start = place + 20 + label
    end = start + rows * dtype.itemsize
    if end > len(content):
        raise _damaged(path, "the transform file is truncated")
    name = content[place + 20 : start]
    if name[-1:] != b"\0":
        raise _damaged(path)
    return name[:-1].decode("latin-1"), np.frombuffer(content[start:end], dtype), end


def as_text(kind: str, parameters: NDArray[np.float64], fixed: NDArray[np.float64]) -> bytes:
    """One transform in ITK's text format; repr keeps every digit."""
    numbers, centre = (" ".join(repr(value) for value in values.tolist()) for values in (parameters, fixed))
    return (
        f"{_FIRST_LINE} V1.0\n#Transform 0\nTransform: {kind}\nParameters: {numbers}\nFixedParameters: {centre}\n"
    ).encode("ascii")


def as_matlab(kind: str, parameters: NDArray[np.float64], fixed: NDArray[np.float64]) -> bytes:
    """One transform in ITK's binary format: two named columns of doubles in a MATLAB level 4 file."""
    content = b""
    for name, values in ((kind, parameters), ("fixed", fixed)):
        label = name.encode("ascii") + b"\0"
        content += (
            struct.pack("<5i", 0, len(values), 1, 0, len(label)) + label + values.astype("<f8").tobytes()
        )
    return content
