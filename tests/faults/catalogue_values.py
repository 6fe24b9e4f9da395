"""Faults 20 to 29 of the catalogue: voxels that are no image, and label numbers that must survive."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from catalogue_files import MOVING, header
from nifti_bytes import nifti, save
from numpy.typing import NDArray
from scene import Fault, Scene

Array = NDArray[np.generic]


def save_like(path: Path, data: Array, image: nibabel.Nifti1Image) -> None:
    """Write voxels (x, y, z) in their own number type on the grid of an image, in mm."""
    new = nibabel.Nifti1Image(data, image.affine, dtype=data.dtype)
    new.header.set_xyzt_units("mm")
    nibabel.save(new, path)


def voxels(act: Callable[[Array], Array]) -> Callable[[Path], object]:
    """A maker: the voxels (x, y, z) of the moving image through ``act``, written by nibabel on the same grid."""

    def make(folder: Path) -> None:
        image = nibabel.load(folder / MOVING)
        data = act(image.get_fdata(dtype="float32"))
        save_like(folder / MOVING, data, image)

    return make


def nan(share: float) -> Callable[[Array], Array]:
    """So much of the image is no number, spread over it."""

    def act(data: Array) -> Array:
        found = data.copy()
        found.reshape(-1)[:: round(1 / share)] = np.nan
        return found

    return act


def one_infinity(data: Array) -> Array:
    """Two voxels within the head."""
    found = data.copy()
    found[20, 20, 18], found[20, 20, 19] = np.nan, np.inf
    return found


def number_type(kind: str) -> Callable[[Scene], object]:
    """A play: the image in this number type gives the very map and moved image that float32 gives."""

    def play(scene: Scene) -> None:
        found = []
        for dtype in ("float32", kind):
            image = nibabel.load(scene.folder / MOVING)
            save_like(scene.folder / MOVING, np.rint(image.get_fdata()).astype(dtype), image)
            answer = scene.register("--overwrite")
            assert (answer.code, answer.warnings) == (0, [])
            found.append(
                [(scene.folder / "out" / name).read_bytes() for name in ("moved.nii.gz", "transform.h5")]
            )
        assert found[0] == found[1]

    return play


def large_values(scene: Scene) -> None:
    """An 8-bit image with values up to 255 moved by interpolation: what comes out is float32, never wrapped around."""
    voxels(lambda data: np.clip(data / 3, 0, 255).astype("u1"))(scene.folder)
    assert scene.register().code == 0
    moved = nibabel.load(scene.folder / "out" / "moved.nii.gz")
    assert moved.get_data_dtype() == np.float32
    assert 200 < moved.get_fdata().max() <= 255
    assert moved.get_fdata().min() >= 0


LARGE = 16_777_217
"""The first whole number that float32 cannot hold."""


def large_labels(scene: Scene) -> None:
    """Labels are moved by nearest neighbour: the very ids arrive, whatever their number type."""
    image = nibabel.load(scene.folder / MOVING)
    data = np.where(image.get_fdata() > 400, LARGE, np.where(image.get_fdata() > 0, 4, 0)).astype("int64")
    nibabel.save(nibabel.Nifti1Image(data, image.affine, dtype="int64"), scene.folder / "seg.nii.gz")
    assert scene.register("--moving-labels", "seg.nii.gz").code == 0
    moved = nibabel.load(scene.folder / "out" / "moved_labels.nii.gz")
    assert set(np.unique(np.asarray(moved.dataobj))) == {0, 4, LARGE}
    words = (
        "apply",
        "out/transform.h5",
        "--to",
        "fixed.nii.gz",
        "seg.nii.gz",
        "--labels",
        "-o",
        "again.nii.gz",
    )
    assert scene.run(*words).code == 0
    again = nibabel.load(scene.folder / "again.nii.gz")
    assert np.array_equal(np.asarray(again.dataobj), np.asarray(moved.dataobj))


def blended_labels(folder: Path) -> None:
    """Labels that somebody interpolated linearly: halves between the ids."""
    image = nibabel.load(folder / MOVING)
    data = (image.get_fdata() > 0) * np.float32(4.5)
    save_like(folder / "seg.nii.gz", data.astype("f4"), image)


WITH_LABELS = (
    "register",
    "fixed.nii.gz",
    MOVING,
    "-o",
    "out",
    "--method",
    "toy",
    "--moving-labels",
    "seg.nii.gz",
)


def vectors(folder: Path) -> None:
    """A displacement field where an image is meant."""
    save(folder / MOVING, nifti(np.zeros((20, 20, 20, 1, 3), "f4"), intent_code=1007))


FAULTS = (
    Fault(20, "a few NaN or infinite voxels", 0,
          "moving.nii.gz: 2 NaN or infinite voxels (0.0033 %) were masked and set to 0", voxels(one_infinity)),
    Fault(20, "more than 5 % NaN", 65,
          "10% of the voxels are NaN or infinite (at most 5% are accepted); moving.nii.gz; find out what went "
          "wrong where the image was made", voxels(nan(0.1))),
    Fault(21, "all NaN", 65,
          "100% of the voxels are NaN or infinite (at most 5% are accepted); moving.nii.gz; find out what went "
          "wrong where the image was made", voxels(lambda data: data * np.float32("nan"))),
    Fault(21, "all zero", 65,
          "every voxel is 0: there is nothing to see; moving.nii.gz; check where the image was made: it holds "
          "no scan", voxels(lambda data: data * np.float32(0))),
    Fault(21, "constant", 65,
          "every voxel is 7: there is nothing to see; moving.nii.gz; check where the image was made: it holds "
          "no scan", voxels(lambda data: data * np.float32(0) + np.float32(7))),
    Fault(22, "scl_slope is NaN", 0,
          "moving.nii.gz: scl_slope nan, scl_inter 0: not numbers, read as unscaled", header(scl_slope=float("nan"))),
    Fault(23, "complex numbers", 65,
          "the voxels are complex, expected one real number each; moving.nii.gz; convert it to a scalar image first",
          voxels(lambda data: data.astype("c8"))),
    Fault(24, "int64", 0, "accepted; the outputs are those of float32, to the byte", play=number_type("int64")),
    Fault(25, "float64", 0, "accepted; the outputs are those of float32, to the byte", play=number_type("float64")),
    Fault(26, "RGB", 65,
          "the voxels are RGB colour, expected one real number each; moving.nii.gz; convert it to a scalar "
          "image first", header(datatype=128, bitpix=24)),
    Fault(27, "a vector image", 65,
          "the image holds vectors or is 5-D (20 x 20 x 20 x 1 x 3), expected one 3-D volume; moving.nii.gz; "
          "extract one scalar volume first", vectors),
    Fault(28, "values beyond the number type of the input", 0, "moved images are float32: nothing wraps around",
          play=large_values),
    Fault(29, "label ids beyond 2^24", 0, "moved by nearest neighbour, ids exact", play=large_labels),
    Fault(29, "labels that were interpolated", 65,
          "a label map holds whole numbers only, this one does not; seg.nii.gz; was it an intensity image, or "
          "labels that were interpolated linearly?", blended_labels, words=WITH_LABELS),
)  # fmt: skip
