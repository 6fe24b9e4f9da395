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

from neuroreg.io import files
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
    scene.patch.setattr(files, "available_memory", lambda: 1_000_000)
    answer = scene.register()
    assert answer.code == 75
    assert answer.error.startswith("reading it needs 0.0 GiB of memory, 0.0 GiB are free; fixed.nii.gz; ")
    scene.patch.setattr(files, "available_memory", lambda: 10_000_000)
    answer = scene.register()  # enough to read, not to register
    assert answer.code == 75
    assert "an image of 56848 voxels" in answer.error
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
    Fault(30, "a single slice", 65, "", array(phantom((33, 30, 1)))),
    Fault(30, "a 2-D image", 65, "", array(np.ones((33, 30), "i2"))),
    Fault(31, "4-D with one frame", 0, "", frames(1)),
    Fault(31, "4-D with many frames", 65, "", frames(3)),
    Fault(31, "4-D with many frames, and --frame", 0, "the chosen volume, with a note", play=chosen_frame),
    Fault(32, "three voxels a side", 65, "", array(np.arange(27, dtype="i2").reshape(3, 3, 3))),
    Fault(33, "eight voxels a side", 65, "", array(phantom((8, 8, 8)))),
    Fault(34, "more than memory holds", 75, "refused before any work, with the GiB it would take",
          play=short_of_memory),
    Fault(35, "negative pixdim", 0, "", header(pixdim=NEGATIVE)),
    Fault(35, "negative pixdim and nothing else to go by", 65, "",
          header(pixdim=NEGATIVE, qform_code=0, sform_code=0)),
    Fault(36, "a voxel size of zero", 65, "", header(pixdim=[1, 3.2, 0, 3.5, 1, 1, 1, 1])),
    Fault(36, "a voxel size of NaN", 65, "", header(pixdim=[1, 3.2, float("nan"), 3.5, 1, 1, 1, 1])),
    Fault(37, "sheared axes, cosine .02", 65, "", matrix(shear(0.02))),
    Fault(37, "sheared axes, cosine .0008", 0, "", matrix(shear(0.0008))),
    Fault(38, "a singular matrix", 65, "", matrix(FLAT)),
    Fault(39, "sform and qform 5 mm apart", 65, "", matrix(shifted(5.0), qform=True)),
    Fault(39, "sform and qform .3 mm apart", 0, "", matrix(shifted(0.3), qform=True)),
    Fault(39, "sform a mirror of the qform", 65, "", matrix(mirrored, qform=True)),
    Fault(40, "no world frame: both codes 0", 0, "", header(qform_code=0, sform_code=0),
          words=(*FIRST, "--dry-run")),
    Fault(41, "unit of length unknown", 0, "", header(xyzt_units=0)),
    Fault(41, "microns that are millimetres", 65, "", header(xyzt_units=3)),
    Fault(41, "a head of 1.4 m", 65, "", matrix(scaled(10.0))),
    Fault(41, "a head of 1.4 cm", 65, "", matrix(scaled(0.1))),
    Fault(42, "a mirrored brain", 3, "the verdict is fail and names the image, whichever it is", play=mirrored_brain),
    Fault(42, "unlike handedness where a header is in doubt", 0, "", other_handedness,
          words=(*FIRST, "--dry-run")),
    Fault(43, "no overlap: 2 m apart", 65, "", far_apart),
    Fault(43, "2 m apart, with an affine", 0, "brought together from their centres, with a warning", play=centred),
    Fault(44, "another contrast", 3, "no pass; the reasons name the contrast", play=other_contrast),
    Fault(45, "labels on another grid", 65, "", labels_elsewhere, words=EXCHANGED),
    Fault(46, "a label missing on one side", 0, "its row says so, Dice 0, distances blank", play=missing_label),
    Fault(47, "fixed and moving are one file", 0, "",
          lambda f: (f / MOVING).write_bytes((f / "fixed.nii.gz").read_bytes())),
    Fault(48, "an output that is an input", 2, "refused, by whatever name and with --overwrite too",
          play=over_an_input),
)  # fmt: skip
