"""The lines of a text header: fields by name, with look-ups that refuse what is damaged and name the file.

A name that a format does not know may be a damaged one: MetaImage allows names of one's own, which are then said to
be left out; NRRD has other means for those, so there it is an error, as it is in teem. Names: the MetaIO
documentation; the NRRD definition of teem.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError

META_AXES, META_ORIGIN = ("TransformMatrix", "Rotation", "Orientation"), ("Offset", "Position", "Origin")
META_FIELDS = frozenset(
    {*META_AXES, *META_ORIGIN, "Comment", "ObjectType", "ObjectSubType", "TransformType", "NDims", "Name", "ID",
     "ParentID", "CompressedData", "CompressedDataSize", "CompressionLevel", "BinaryData", "BinaryDataByteOrderMSB",
     "ElementByteOrderMSB", "Color", "CenterOfRotation", "AnatomicalOrientation", "ElementSpacing", "ElementSize",
     "DimSize", "HeaderSize", "Modality", "SequenceID", "ElementMin", "ElementMax", "ElementNumberOfChannels",
     "ElementType", "ElementDataFile", "AcquisitionDate"}
)  # fmt: skip
"""Of MetaImage: what is read, and what has no part in where a voxel lies or what it is."""
NRRD_FIELDS = frozenset(
    {"dimension", "type", "block size", "blocksize", "encoding", "endian", "content", "old min", "oldmin", "old max",
     "oldmax", "data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip", "number", "sample units",
     "sampleunits", "sizes", "spacings", "thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs", "centers",
     "centerings", "labels", "units", "min", "max", "kinds", "space", "space dimension", "space units", "space origin",
     "space directions", "measurement frame"}
)  # fmt: skip
"""All that NRRD has."""
NRRD_KINDS = frozenset(
    {"domain", "space", "time", "list", "point", "vector", "covariant-vector", "normal", "stub", "scalar", "complex",
     "2-vector", "3-color", "rgb-color", "hsv-color", "xyz-color", "4-color", "rgba-color", "3-vector", "3-gradient",
     "3-normal", "4-vector", "quaternion", "2d-symmetric-matrix", "2d-masked-symmetric-matrix", "2d-matrix",
     "2d-masked-matrix", "3d-symmetric-matrix", "3d-masked-symmetric-matrix", "3d-matrix", "3d-masked-matrix", "???",
     "none"}
)  # fmt: skip
"""What NRRD calls an axis."""
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_NUMBER = re.compile(r"[-+0-9.eE]+", re.ASCII)  # Python would read 1_0 as ten, C as one
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Fields:
    """The ``key: value`` pairs of a text header; typed look-ups that name the file when they fail."""

    def __init__(self, pairs: Mapping[str, str], file: Path) -> None:
        """``file`` is the one that messages name."""
        self.pairs, self.file = pairs, file

    def text(self, *names: str, default: str | None = None) -> str:
        """The value of the first of ``names`` that is there. Raises DataError when there is none and no default."""
        found = next((self.pairs[name] for name in names if name in self.pairs), default)
        if found is None:
            raise DataError(f"the header has no {names[0]}", file=self.file, remedy="get the file again")
        return found

    def numbers(self, *names: str, count: int, default: str | None = None) -> NDArray[np.float64]:
        """(count,) finite numbers. Raises DataError."""
        try:
            values = np.array([number(word) for word in self.text(*names, default=default).split()])
        except ValueError as error:
            raise self.bad(names[0]) from error
        if len(values) != count or not np.isfinite(values).all():
            raise self.bad(names[0])
        return values

    def whole(self, *names: str, count: int, default: str | None = None) -> tuple[int, ...]:
        """``count`` whole numbers. Raises DataError."""
        values = self.numbers(*names, count=count, default=default)
        if (values != np.rint(values)).any() or np.abs(values).max() > 2**53:
            raise self.bad(names[0])
        return tuple(int(v) for v in values)

    def truth(self, *names: str, default: str) -> bool:
        """True or False, in any of MetaIO's spellings. Raises DataError."""
        text = self.text(*names, default=default).lower()
        if text not in _BOOLEANS:
            raise self.bad(names[0])
        return _BOOLEANS[text]

    def bad(self, name: str) -> DataError:
        """What to raise where the value of ``name`` cannot be meant."""
        return DataError(
            f"the header's {name} is {self.pairs.get(name, '')[:60]!r}",
            file=self.file,
            remedy="repair the header",
        )


def number(word: str) -> float:
    """A number as C reads it. Raises ValueError."""
    if not _NUMBER.fullmatch(word):
        raise ValueError(word)
    return float(word)


def add(pairs: dict[str, str], key: str, value: str, file: Path) -> None:
    """One more field. Raises DataError for what is not text, and for a second value of the same field."""
    if _CONTROL.search(key + value):
        raise DataError("the header is not text", file=file, remedy="get the file again from its source")
    if pairs.setdefault(key, value) != value:
        raise DataError(f"the header says two things about {key[:40]}", file=file, remedy="repair the header")
