"""Displacement fields in NIfTI files, as far as their headers go: is it one, in which frame, and what is doubtful."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from neuroreg.errors import BusyError, DataError
from neuroreg.io import nifti_header, nifti_layout
from neuroreg.io.files import available_memory, check_input, suffix_of
from neuroreg.io.layout import MAX_VOXELS, Layout, geometry_of
from neuroreg.io.nifti_header import INTENT_DISPLACEMENT, INTENT_VECTOR, NiftiHeader
from neuroreg.io.stream import GZIP, ByteStream
from neuroreg.volume import Geometry

FIELD_SUFFIXES = (".nii", ".nii.gz")
Frame = Literal["lps", "ras"]


def open_field(stream: ByteStream) -> tuple[NiftiHeader, Layout, Geometry]:
    """The header of a field, its layout with every note on it, its grid; the stream then stands behind the header.

    Raises DataError, also where the header gives the voxels in another unit than mm: that of the vectors is unsure
    then; BusyError (75) where the memory is too short.
    """
    header = _header(stream)
    layout = nifti_layout.vector_layout_of(header, max_voxels=MAX_VOXELS)
    if int(header.fields["xyzt_units"]) & 7 in (1, 3):
        raise DataError("the voxel size is not in mm: the unit of the displacements is unsure", file=stream.path,
                        remedy="write the field in mm")  # fmt: skip
    needed, free = 3 * (layout.frame_bytes + layout.voxels * 12), available_memory()
    if free is not None and needed > free:
        raise BusyError(
            f"reading it needs {needed / 2**30:.1f} GiB of memory",
            file=stream.path,
            remedy="free some memory",
        )
    geometry, notes = geometry_of(layout.matrix, layout.size, file=stream.path)
    return header, replace(layout, notes=(*layout.notes, *notes)), geometry


def field_notes(path: Path) -> tuple[str, ...]:
    """What has to be said of the header of a field, one line each; nothing of other files. Raises as ``open_field``."""
    if suffix_of(path) not in FIELD_SUFFIXES:
        return ()
    with ByteStream(check_input(path)) as stream:
        _, layout, _ = open_field(stream)
    return tuple(f"{path.name}: {note}" for note in layout.notes)


def holds_vectors(path: Path | str) -> bool:
    """Whether a NIfTI file has the shape of a displacement field, (x, y, z, 1, 3). Raises NoInputError, DataError."""
    with ByteStream(check_input(Path(path))) as stream:
        return _header(stream).sides[3:] == (1, 3)


def vector_frame(header: NiftiHeader, assume: Frame | None) -> Frame:
    """In which frame the vectors are, as the header says, or else ``assume``. Raises DataError without either."""
    intent = int(header.fields["intent_code"])
    if len(header.sides) == 5 and intent == INTENT_VECTOR:
        return "lps"
    if len(header.sides) == 5 and intent == INTENT_DISPLACEMENT:
        return "ras"
    if assume is None:
        raise DataError(
            f"the vectors of a {len(header.sides)}-D file with intent {intent} may be LPS or RAS: the header does not "
            "say",
            file=header.file,
            remedy="convert it, telling which (neuroreg convert --vectors lps|ras)",
        )
    return assume


def _header(stream: ByteStream) -> NiftiHeader:
    """The header at the start of a NIfTI file, compressed or not; the stream then stands behind it."""
    if stream.starts_with_gzip():
        stream.inflate(GZIP)
    head = stream.read(nifti_header.NIFTI1.itemsize)
    if head[:4] in nifti_header.NIFTI2_STARTS:
        head += stream.read(nifti_header.NIFTI2.itemsize - len(head))
    return nifti_header.parse(head, file=stream.path)
