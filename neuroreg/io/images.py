"""Images: files -> Volume and back, whole and exact or not at all. World frame: mm, LPS.

NIfTI-1/2 (.nii, .nii.gz, .hdr + .img), MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) are read here and only here.
The voxels are decoded from the bytes that were just checked, not by a second reader: SimpleITK turns NaN into 0,
fills truncated files with zeros and chooses another frame than nibabel (RELIABILITY findings 1 to 5). Tests hold
the result to SimpleITK's on sound files.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuroreg.errors import BusyError, DataError, UsageError, WriteError
from neuroreg.io import nifti_header
from neuroreg.io.files import atomic_write, available_memory, check_input, suffix_of
from neuroreg.io.layout import ANYTHING, MAX_VOXELS, Layout, Limits, check_field_of_view, geometry_of
from neuroreg.io.nifti_header import Xform
from neuroreg.io.nifti_writer import write_nifti
from neuroreg.io.stream import GZIP, ZLIB, ByteStream
from neuroreg.io.text_headers import metaimage_layout, nrrd_layout
from neuroreg.volume import Geometry, Volume

_MOST_INVALID = 0.05
_SITK_SUFFIXES = (".mha", ".nrrd")
READ_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mha", ".mhd", ".nrrd", ".nhdr")
WRITE_SUFFIXES = (".nii", ".nii.gz", *_SITK_SUFFIXES)


@dataclass(frozen=True)
class ImageFile:
    """What a file held, and what had to be said about it."""

    path: Path
    volume: Volume
    notes: tuple[str, ...]
    """warnings, one line each"""
    pixel_type: str
    """as stored: uint8, int16, float32, ..."""
    sha256: str
    """of the file; of header and data file together where they are two"""
    invalid: Tensor | None = None
    """(1, Z, Y, X) bool: NaN or infinite in the file, 0 in the volume; None if there are none"""
    unsure_sides: bool = False
    """the header does not say beyond doubt which side is left"""
    frames: int = 1
    """how many the file has"""


def read_image(
    path: Path | str, *, frame: int | None = None, xform: Xform = "auto", max_voxels: int = MAX_VOXELS
) -> ImageFile:
    """An intensity image as float32 (1, Z, Y, X).

    Raises UsageError (2), DataError (65), NoInputError (66) or BusyError (75, memory).
    """
    path = Path(path)
    raw = _read(path, frame=frame, xform=xform, limits=Limits(max_voxels))
    data, invalid = _to_float(raw.voxels, raw.layout, path)
    if float(data.min()) == float(data.max()):
        raise DataError(f"every voxel is {float(data.min()):g}: there is nothing to see", file=path)
    notes = raw.notes
    if invalid is not None:
        count = int(np.count_nonzero(invalid))
        notes += (
            f"{path.name}: {count} NaN or infinite voxels ({count / data.size:.2%}) were masked and set to 0",
        )
    return ImageFile(
        path=path, volume=Volume(torch.from_numpy(data)[None], raw.geometry), notes=notes,
        pixel_type=raw.layout.dtype.name, sha256=raw.sha256,
        invalid=None if invalid is None else torch.from_numpy(invalid)[None],
        unsure_sides=raw.layout.unsure_sides, frames=raw.layout.frames,
    )  # fmt: skip


def read_labels(
    path: Path | str, *, frame: int | None = None, xform: Xform = "auto", max_voxels: int = MAX_VOXELS
) -> ImageFile:
    """A label map as int32, or int64 where ids need it, (1, Z, Y, X), exact. Raises as ``read_image``."""
    path = Path(path)
    raw = _read(path, frame=frame, xform=xform, limits=Limits(max_voxels))
    data = _to_integers(raw.voxels, raw.layout, path)
    return ImageFile(
        path=path, volume=Volume(torch.from_numpy(data)[None], raw.geometry, is_label=True), notes=raw.notes,
        pixel_type=raw.layout.dtype.name, sha256=raw.sha256, frames=raw.layout.frames,
    )  # fmt: skip


def check_frame(frame: int | None, *images: ImageFile) -> None:
    """Raise UsageError (2) when ``frame`` was asked for and none of the images has it."""
    if frame and all(image.frames == 1 for image in images):
        raise UsageError(f"frame {frame} does not exist, the file has 1", file=images[0].path)


def check_same_grid(labels: ImageFile, image: ImageFile) -> None:
    """Raise DataError (65) unless both lie on the same grid to within 1e-3 mm."""
    one, two = labels.volume.geometry, image.volume.geometry
    if one.size != two.size:
        raise DataError(
            f"the grid {one.size} differs from the {two.size} of {image.path.name}",
            file=labels.path,
            remedy="labels and masks must lie on the grid of their image",
        )
    if not one.same_grid(two):
        raise DataError(
            f"the grid lies elsewhere in space than that of {image.path.name}",
            file=labels.path,
            remedy="labels and masks must lie on the grid of their image: resample or repair the header",
        )


@dataclass(frozen=True)
class _Raw:
    """One frame as stored."""

    voxels: NDArray[np.generic]
    """(Z, Y, X), stored type and byte order"""
    layout: Layout
    geometry: Geometry
    notes: tuple[str, ...]
    sha256: str


def _read(path: Path, *, frame: int | None = None, xform: Xform = "auto", limits: Limits) -> _Raw:
    path = check_input(path)
    suffix = suffix_of(path)
    if suffix not in READ_SUFFIXES:
        raise UsageError(f"the file type {suffix or '(none)'} is not read", file=path,
                         remedy=f"use {', '.join(READ_SUFFIXES)}")  # fmt: skip
    if suffix == ".img":
        path = check_input(path.with_suffix(".hdr"))
    with ByteStream(path) as stream:
        notes: tuple[str, ...] = ()
        if suffix in (".nii", ".nii.gz", ".hdr", ".img"):
            layout, notes = _open_nifti(stream, frame=frame, xform=xform, limits=limits)
        else:
            parse = metaimage_layout if suffix in (".mha", ".mhd") else nrrd_layout
            layout = parse(stream, frame=frame, limits=limits)
        geometry, geometry_notes = geometry_of(layout.matrix, layout.size, file=path)
        check_field_of_view(geometry, limits=limits, file=path)
        _check_memory(layout, path)
        voxels, digest, more = _body(stream, layout)
    notes = tuple(f"{path.name}: {note}" for note in (*notes, *layout.notes, *geometry_notes, *more))
    return _Raw(voxels, layout, geometry, notes, digest)


def _open_nifti(
    stream: ByteStream, *, frame: int | None, xform: Xform, limits: Limits
) -> tuple[Layout, tuple[str, ...]]:
    """The layout; the stream, inflating if need be, stands at the byte ``layout.offset`` if the voxels are in it."""
    packed = stream.starts_with_gzip()
    notes: tuple[str, ...] = ()
    if packed != (suffix_of(stream.path) == ".nii.gz"):
        notes = ("the name ends in .gz but the file is not compressed" if not packed
                 else "the file is compressed although its name does not end in .gz",)  # fmt: skip
    if packed:
        stream.inflate(GZIP)
    head = stream.read(nifti_header.NIFTI1.itemsize)
    if head[:4] in nifti_header.NIFTI2_STARTS:
        head += stream.read(nifti_header.NIFTI2.itemsize - len(head))
    header = nifti_header.parse(head, file=stream.path)
    layout = nifti_header.layout_of(header, frame=frame, xform=xform, limits=limits)
    if header.paired:
        return layout.in_file(_image_beside(stream.path)), notes
    stream.skip(layout.offset - len(head), past_end=f"vox_offset {layout.offset} lies past the end")
    return layout, notes


def _image_beside(header: Path) -> Path:
    found = [header.with_suffix(suffix) for suffix in (".img", ".IMG")]
    image = next((path for path in found if path.is_file()), None)
    if image is None:
        raise DataError("the .img file beside the header is missing", file=header, remedy="put both together")
    return image


def _body(stream: ByteStream, layout: Layout) -> tuple[NDArray[np.generic], str, tuple[str, ...]]:
    """The chosen frame (Z, Y, X) as stored, the hash of everything, and notes on trailing bytes."""
    if layout.data_file is not None:
        stream.drain()
        with ByteStream(layout.data_file, digest=stream.digest) as data:
            if layout.at_end:
                data.skip(max(0, data.bytes_on_disk - layout.frame_bytes * layout.frames))
            else:
                data.skip(layout.offset)
            return _frame(data, layout)
    if layout.at_end:
        raise DataError("a byte skip of -1 needs a data file of its own", file=stream.path)
    return _frame(stream, layout)


def _frame(stream: ByteStream, layout: Layout) -> tuple[NDArray[np.generic], str, tuple[str, ...]]:
    if layout.encoding != "raw":
        stream.inflate(GZIP if layout.encoding == "gzip" else ZLIB)
    stream.skip(layout.frame * layout.frame_bytes)
    voxels = stream.read_array(layout.frame_bytes)
    stream.skip((layout.frames - layout.frame - 1) * layout.frame_bytes)
    notes = stream.finish()
    return voxels.view(layout.dtype).reshape(layout.size[::-1]), stream.digest.hexdigest(), notes


def _check_memory(layout: Layout, path: Path) -> None:
    needed = layout.frame_bytes + layout.voxels * 12  # stored, float32, and what is made of it
    free = available_memory()
    if free is not None and needed > free:
        raise BusyError(
            f"reading it needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            file=path,
            remedy="free some memory, or resample the image to a coarser grid",
        )


def _to_float(
    voxels: NDArray[np.generic], layout: Layout, path: Path
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """(Z, Y, X) float32 with the header's scaling, and the mask of what was not a finite number."""
    with np.errstate(over="ignore", invalid="ignore"):
        if (layout.slope, layout.inter) == (1.0, 0.0):
            data = voxels.astype(np.float32)
        else:
            data = np.empty(voxels.shape, np.float32)
            for slice_, stored in zip(data, voxels, strict=True):  # in double precision one by one
                slice_[...] = stored.astype(np.float64) * layout.slope + layout.inter
    if voxels.dtype.kind != "f" and np.isfinite(data.min()) and np.isfinite(data.max()):
        return data, None
    invalid = np.isfinite(data)
    np.logical_not(invalid, out=invalid)
    count = int(np.count_nonzero(invalid))
    if count == 0:
        return data, None
    if count > _MOST_INVALID * data.size:
        raise DataError(
            f"{count / data.size:.0%} of the voxels are NaN or infinite (at most {_MOST_INVALID:.0%} are accepted)",
            file=path,
            remedy="find out what went wrong where the image was made",
        )
    data[invalid] = 0.0
    return data, invalid


def _to_integers(
    voxels: NDArray[np.generic], layout: Layout, path: Path
) -> NDArray[np.int32] | NDArray[np.int64]:
    """(Z, Y, X) int32, or int64 where needed. Raises DataError for anything that is not a whole number."""
    scaled = (layout.slope, layout.inter) != (1.0, 0.0)
    if scaled or voxels.dtype.kind == "f":
        values = voxels.astype(np.float64)
        values = values * layout.slope + layout.inter if scaled else values
        if (
            not np.isfinite(values).all()
            or (values != np.rint(values)).any()
            or np.abs(values).max() > 2.0**53
        ):
            raise DataError(
                "a label map holds whole numbers only, this one does not",
                file=path,
                remedy="was it an intensity image, or labels that were interpolated linearly?",
            )
        voxels = values.astype(np.int64)
    low, high = int(voxels.min()), int(voxels.max())
    if high > 2**63 - 1:
        raise DataError(f"the label id {high} does not fit into 64 bits", file=path)
    if low >= -(2**31) and high < 2**31:
        return voxels.astype(np.int32)
    return voxels.astype(np.int64)


def write_image(
    volume: Volume,
    path: Path | str,
    *,
    pixel_type: str | None = None,
    overwrite: bool = False,
    description: str = "",
) -> tuple[str, ...]:
    """Write a volume (1, Z, Y, X) atomically, read it back, and return the notes. No header field comes from an input.

    pixel_type: uint8, int16, float32, ...; None means float32 for images and the smallest fitting integer for labels.
    Raises UsageError (2), CannotCreateError (73) or WriteError (74).
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix not in WRITE_SUFFIXES:
        raise UsageError(f"the file type {suffix or '(none)'} is not written", file=path,
                         remedy=f"use {', '.join(WRITE_SUFFIXES)}")  # fmt: skip
    if volume.data.shape[0] != 1:
        raise UsageError(f"an image has one channel, got {volume.data.shape[0]}", file=path)
    voxels, notes = _cast(volume, pixel_type, path)
    if suffix in _SITK_SUFFIXES:
        _write_with_sitk(voxels, volume.geometry, path, overwrite=overwrite)
        return notes
    write_nifti(voxels, volume.geometry, path, overwrite=overwrite, description=description)
    return notes


def _cast(volume: Volume, pixel_type: str | None, path: Path) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(Z, Y, X) in the type to store; out-of-range values are clamped and noted (fault 28)."""
    values = volume.data[0].detach().cpu().numpy()
    dtype = np.dtype(pixel_type or (_smallest_integer(values) if volume.is_label else "float32"))
    if values.dtype.kind == "f" and not all(np.isfinite(slice_).all() for slice_ in values):
        raise WriteError(
            f"{int((~np.isfinite(values)).sum())} voxels are not finite: nothing was written", file=path
        )
    if dtype.kind == "f" or dtype == values.dtype:
        return np.ascontiguousarray(values, dtype), ()
    limits = np.iinfo(dtype)
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    outside = int(np.count_nonzero((rounded < limits.min) | (rounded > limits.max)))
    if outside and volume.is_label:
        raise WriteError(
            f"{outside} label ids do not fit into {dtype.name}", file=path, remedy="use a wider type"
        )
    notes = (
        (f"{path.name}: {outside} voxels beyond the range of {dtype.name} were clamped",) if outside else ()
    )
    # Clipping in float64 could round 2**63 - 1 up; the range test above is done on what is stored.
    return np.clip(rounded, limits.min, limits.max).astype(dtype), notes


def _smallest_integer(values: NDArray[np.generic]) -> str:
    low, high = int(values.min()), int(values.max())
    fits = (
        name
        for name in ("uint8", "int16", "int32")
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max
    )
    return next(fits, "int64")


def _write_with_sitk(voxels: NDArray[np.generic], geometry: Geometry, path: Path, *, overwrite: bool) -> None:
    """MetaImage and NRRD through SimpleITK, which reports success on a full disk: hence read back and compared."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)  # a fresh image: no header of an input can come along
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)

    def write(temporary: Path) -> None:
        sitk.WriteImage(image, str(temporary), True, 1)

    def verify(temporary: Path) -> None:
        back = _read(temporary, limits=ANYTHING)
        if not np.array_equal(back.voxels, voxels) or not back.geometry.same_grid(geometry):
            raise WriteError("what was written differs from what was meant", file=path)

    atomic_write(path, write, verify=verify, overwrite=overwrite)
