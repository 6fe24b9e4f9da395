"""Faults 30 to 48 of the catalogue: grids that are none, heads that lie elsewhere, sides that are in doubt."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pipeline_phantoms as phantoms
from catalogue_files import MOVING, header
from catalogue_values import save_like
from nifti_bytes import nifti, phantom, save
from numpy.typing import NDArray
from scene import TOY, Fault, Scene

from neuroreg.io import files, images
from neuroreg.io.images import write_image
from neuroreg.pipeline.template import load_template
from neuroreg.volume import Volume

FIRST = "register", "fixed.nii.gz", MOVING, "-o", "out", *TOY


def array(data: NDArray[np.generic], **fields: object) -> Callable[[Path], object]:
    """A maker: these voxels as the moving image, on a grid of their own."""
    return lambda folder: save(folder / MOVING, nifti(data, **fields))


def matrix(
    act: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, qform: bool = False
) -> Callable[[Path], object]:
    """A maker: the voxel-to-world matrix (RAS) of the moving image through ``act``, as sform; the qform may go."""

    def make(folder: Path) -> None:
        image = nibabel.load(folder / MOVING)
        rows = act(image.affine.copy())[:3]
        codes = {} if qform else {"qform_code": 0}
        header(srow=rows.reshape(-1).tolist(), sform_code=1, **codes)(folder)

    return make


def scaled(factor: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Every distance times ``factor``."""
    return lambda rows: np.diag([factor, factor, factor, 1.0]) @ rows


def shear(cosine: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The second voxel axis leans towards the first."""

    def act(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        first, second = (rows[:3, k] / np.linalg.norm(rows[:3, k]) for k in (0, 1))
        rows[:3, 1] = np.linalg.norm(rows[:3, 1]) * (np.sqrt(1 - cosine**2) * second + cosine * first)
        return rows

    return act


def shifted(millimetres: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Moved along x."""

    def act(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        rows[0, 3] += millimetres
        return rows

    return act


def mirrored(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Left and right exchanged about the middle of the head."""
    return np.diag([-1.0, 1.0, 1.0, 1.0]) @ rows


def frames(count: int) -> Callable[[Path], object]:
    """A maker: the moving image so many times over, as 4-D."""

    def make(folder: Path) -> None:
        image = nibabel.load(folder / MOVING)
        save_like(folder / MOVING, np.stack([image.get_fdata(dtype="f4")] * count, -1), image)

    return make


def chosen_frame(scene: Scene) -> None:
    """--frame takes one volume of many."""
    frames(3)(scene.folder)
    answer = scene.register("--frame", "2")
    assert answer.code == 0
    assert any("frame 2 of 3" in line for line in answer.warnings)


def short_of_memory(scene: Scene) -> None:
    """The estimate of memory comes before any work: a giant image is turned away, nothing is made."""
    before = scene.files()
    scene.patch.setattr(files, "available_memory", lambda: 10_000_000)
    answer = scene.register()
    assert answer.code == 75
    assert answer.error.startswith("registering onto 38 x 44 x 34 voxels needs about")
    scene.patch.setattr(images, "available_memory", lambda: 100_000)
    answer = scene.register()
    assert answer.code == 75
    assert answer.error.startswith("reading it needs")
    assert "; fixed.nii.gz; " in answer.error
    assert scene.files() == before


def mirrored_brain(scene: Scene) -> None:
    """A brain whose voxels are flipped under an unchanged header fails for each side, and is written all the same."""
    brain = load_template().image
    for side in ("fixed", "moving"):
        for name in ("fixed", "moving"):
            data = brain.data.flip(3) if name == side else brain.data
            write_image(Volume(data, brain.geometry), scene.folder / f"{name}.nii.gz", overwrite=True)
        answer = scene.register("--strict-qc", "--set", "amplitude=0", "--overwrite")
        assert answer.code == 3
        assert f"the {side} image seems to have left and right exchanged" in answer.error
        assert (scene.record()["qc"]["sides_fixed"] > 0.25) is (side == "moving")


def other_handedness(folder: Path) -> None:
    """The first axis of the moving image runs the other way, the head lies where it lay; the fixed one has no codes."""
    image = nibabel.load(folder / MOVING)
    rows = image.affine.copy()
    rows[:3, 3] += rows[:3, 0] * (image.shape[0] - 1)
    rows[:3, 0] *= -1
    turned = nibabel.Nifti1Image(image.get_fdata(dtype="f4")[::-1], rows)
    save_like(folder / MOVING, turned.get_fdata(dtype="f4"), turned)
    (folder / "fixed.nii.gz").rename(folder / "whole.nii.gz")
    save_without_frame(folder / "whole.nii.gz", folder / "fixed.nii.gz")


def save_without_frame(source: Path, target: Path) -> None:
    """The same voxels, both codes 0: nothing says where left is."""
    image = nibabel.load(source)
    new = nibabel.Nifti1Image(image.get_fdata(dtype="f4"), None)
    new.header.set_zooms(image.header.get_zooms())
    new.header.set_xyzt_units("mm")
    nibabel.save(new, target)


def far_apart(folder: Path) -> None:
    """Two metres lie between the heads."""
    for name in ("fixed", "moving"):
        (folder / f"{name}.nii.gz").unlink()
    phantoms.save_pair(folder, moving_offset_mm=(2000.0, 0.0, 0.0))


def centred(scene: Scene) -> None:
    """The affine starts from the centres of the heads and says how far apart they were."""
    far_apart(scene.folder)
    answer = scene.register(toy=("--method", "affine", "--threads", "1", "--outputs", "affine"))
    assert answer.code == 0
    assert any("2000 mm apart" in line for line in answer.warnings)
    assert scene.record()["qc"]["ncc_after"] > 0.95


def other_contrast(scene: Scene) -> None:
    """Bright is dark in the moving image: remarked, and no pass."""
    image = nibabel.load(scene.folder / MOVING)
    data = image.get_fdata(dtype="f4")
    save_like(scene.folder / MOVING, np.where(data > 0, np.float32(1500) - data, np.float32(0)), image)
    answer = scene.register("--set", "amplitude=0", "--strict-qc")
    assert answer.code == 3
    assert "contrast" in answer.error


def labels_elsewhere(folder: Path) -> None:
    """The label maps of the two images exchanged."""
    phantoms.save_labels(folder)


def missing_label(scene: Scene) -> None:
    """A region that one side lacks has a row with blanks and the reason."""
    phantoms.save_labels(scene.folder)
    seg = nibabel.load(scene.folder / "moving_seg.nii.gz")
    data = np.asarray(seg.dataobj)
    save_like(scene.folder / "moving_seg.nii.gz", np.where(data == 23, 0, data).astype("i4"), seg)
    options = "--fixed-labels", "fixed_seg.nii.gz", "--moving-labels", "moving_seg.nii.gz"
    assert scene.register(*options).code == 0
    table = (scene.folder / "out" / "rois.csv").read_text().splitlines()
    (row,) = (line for line in table if line.startswith("23,"))
    assert "missing in moved" in row
    cells = dict(zip(table[0].split(","), row.split(","), strict=True))
    assert (float(cells["dice"]), cells["hd95_mm"], cells["assd_mm"]) == (0.0, "", "")


def over_an_input(scene: Scene) -> None:
    """An output that would replace an input is refused by whatever name, --overwrite or not."""
    folder = scene.folder
    (folder / "out").mkdir()
    (folder / MOVING).rename(folder / "out" / "moved.nii.gz")
    (folder / "link").symlink_to(folder / "out")
    before = scene.files()
    for words in (("-o", "out"), ("-o", "link", "--overwrite"), ("-o", "fixed.nii.gz", "--overwrite")):
        answer = scene.run("register", "fixed.nii.gz", "out/moved.nii.gz", *words, *TOY)
        assert answer.code == 2
        assert "would overwrite an input" in answer.error
    words = "convert", "fixed.nii.gz", "./fixed.nii.gz", "--overwrite"
    assert scene.run(*words).code == 2
    assert scene.files() == before


EXCHANGED = *FIRST, "--fixed-labels", "moving_seg.nii.gz", "--moving-labels", "fixed_seg.nii.gz"
FLAT = lambda rows: np.diag([1.0, 1.0, 0.0, 1.0]) @ rows  # noqa: E731
NEGATIVE = [1.0, -3.2, 3.0, 3.5, 1, 1, 1, 1]

FAULTS = (
    Fault(30, "a single slice", 65,
          "expected one 3-D volume, got a 2-D image or single slice: 33 x 30 x 1; moving.nii.gz; give the whole"
          " volume", array(phantom((33, 30, 1)))),
    Fault(30, "a 2-D image", 65,
          "expected one 3-D volume, got a 2-D image or single slice: 33 x 30; moving.nii.gz; give the whole volume",
          array(np.ones((33, 30), "i2"))),
    Fault(31, "4-D with one frame", 0,
          "moving.nii.gz: a 4-D file with a single frame was read as one 3-D volume", frames(1)),
    Fault(31, "4-D with many frames", 65,
          "expected one 3-D volume, got 3 frames; moving.nii.gz; choose one with --frame N, from 0 (neuroreg "
          "convert has it too)", frames(3)),
    Fault(31, "4-D with many frames, and --frame", 0, "the chosen volume, with a note", play=chosen_frame),
    Fault(32, "three voxels a side", 65,
          "the image is too small: 3 x 3 x 3, at least 16 voxels per axis are needed; moving.nii.gz; give the "
          "whole volume: resampling a thumbnail does not help", array(np.arange(27, dtype="i2").reshape(3, 3, 3))),
    Fault(33, "eight voxels a side", 65,
          "the image is too small: 8 x 8 x 8, at least 16 voxels per axis are needed; moving.nii.gz; give the "
          "whole volume: resampling a thumbnail does not help", array(phantom((8, 8, 8)))),
    Fault(34, "more than memory holds", 75, "refused before any work, with the GiB it would take",
          play=short_of_memory),
    Fault(35, "negative pixdim", 0,
          "moving.nii.gz: negative voxel size -3.2 x 3 x 3.5 mm: the absolute values were used, nothing flipped",
          header(pixdim=NEGATIVE)),
    Fault(35, "negative pixdim and nothing else to go by", 65,
          "the voxel size is negative and there is no world frame: left and right are unsure; moving.nii.gz; "
          "set the qform or sform of the file",
          header(pixdim=NEGATIVE, qform_code=0, sform_code=0)),
    Fault(36, "a voxel size of zero", 65,
          "the voxel spacing is zero or not a number: 3.2 x 0 x 3.5 mm; moving.nii.gz; repair the header",
          header(pixdim=[1, 3.2, 0, 3.5, 1, 1, 1, 1])),
    Fault(36, "a voxel size of NaN", 65,
          "the voxel spacing is zero or not a number: 3.2 x nan x 3.5 mm; moving.nii.gz; repair the header",
          header(pixdim=[1, 3.2, float("nan"), 3.5, 1, 1, 1, 1])),
    Fault(37, "sheared axes, cosine .02", 65,
          "the voxel axes are sheared by 0.02 (limit 0.001); moving.nii.gz; resample the image onto a "
          "rectangular grid first", matrix(shear(0.02))),
    Fault(37, "sheared axes, cosine .0008", 0,
          "moving.nii.gz: the voxel axes were sheared by 0.0008 and have been made orthogonal",
          matrix(shear(0.0008))),
    Fault(38, "a singular matrix", 65,
          "the voxel-to-world matrix is singular; moving.nii.gz; repair the header", matrix(FLAT)),
    Fault(39, "sform and qform 5 mm apart", 65,
          "sform and qform differ by up to 5 mm: the file says two things about where the head is; "
          "moving.nii.gz; choose with --xform sform or --xform qform (neuroreg convert has it too)",
          matrix(shifted(5.0), qform=True)),
    Fault(39, "sform and qform .3 mm apart", 0,
          "moving.nii.gz: sform and qform differ by up to 0.3 mm: the sform was used",
          matrix(shifted(0.3), qform=True)),
    Fault(39, "sform a mirror of the qform", 65,
          "sform and qform differ by handedness: the file says two things about where the head is; "
          "moving.nii.gz; choose with --xform sform or --xform qform (neuroreg convert has it too)",
          matrix(mirrored, qform=True)),
    Fault(40, "no world frame: both codes 0", 0,
          "moving.nii.gz: no world frame (sform and qform codes are 0): axes taken as they are stored, origin 0",
          header(qform_code=0, sform_code=0),
          words=(*FIRST, "--dry-run")),
    Fault(41, "unit of length unknown", 0,
          "moving.nii.gz: the unit of the voxel size is not given: millimetres assumed", header(xyzt_units=0)),
    Fault(41, "microns that are millimetres", 65,
          "no head is 0.1344 mm long (expected 50 to 600 mm), voxels are 0.0032 x 0.003 x 0.0035 mm; "
          "moving.nii.gz; correct the spacing or its unit in the header", header(xyzt_units=3)),
    Fault(41, "a head of 1.4 m", 65,
          "no head is 1344 mm long (expected 50 to 600 mm), voxels are 32 x 30 x 35 mm; moving.nii.gz; correct "
          "the spacing or its unit in the header", matrix(scaled(10.0))),
    Fault(41, "a head of 1.4 cm", 65,
          "no head is 13.44 mm long (expected 50 to 600 mm), voxels are 0.32 x 0.3 x 0.35 mm; moving.nii.gz; "
          "correct the spacing or its unit in the header", matrix(scaled(0.1))),
    Fault(42, "a mirrored brain", 3, "the verdict is fail and names the image, whichever it is", play=mirrored_brain),
    Fault(42, "unlike handedness where a header is in doubt", 0,
          "the axes of the two images have different handedness and a header leaves left and right in doubt; "
          "make sure that left is left in both", other_handedness,
          words=(*FIRST, "--dry-run")),
    Fault(43, "no overlap: 2 m apart", 65,
          "the brains of the two images do not overlap: 0 % after the affine; moving.nii.gz; check that both "
          "images show the same organ and that their headers are right", far_apart),
    Fault(43, "2 m apart, with an affine", 0, "brought together from their centres, with a warning", play=centred),
    Fault(44, "another contrast", 3, "no pass; the reasons name the contrast", play=other_contrast),
    Fault(45, "labels on another grid", 65,
          "the grid (42, 40, 36) differs from the (38, 44, 34) of fixed.nii.gz; moving_seg.nii.gz; labels and "
          "masks must lie on the grid of their image", labels_elsewhere, words=EXCHANGED),
    Fault(46, "a label missing on one side", 0, "its row says so, Dice 0, distances blank", play=missing_label),
    Fault(47, "fixed and moving are one file", 0,
          "fixed and moving are the same image",
          lambda f: (f / MOVING).write_bytes((f / "fixed.nii.gz").read_bytes())),
    Fault(48, "an output that is an input", 2, "refused, by whatever name and with --overwrite too",
          play=over_an_input),
)  # fmt: skip
