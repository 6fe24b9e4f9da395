"""The battery can fail: a head that is truly mirrored is found out by every check, and by the verdict on its sides."""

import json
from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk
import toy_worker
from left_right_sides import check_sides, lateral_pairs

from neuroreg.cli import run
from neuroreg.cohort import process
from neuroreg.io.images import write_image
from neuroreg.methods import METHODS
from neuroreg.pipeline.template import load_template
from neuroreg.registry import Entry

MARKER = np.array([34.0, -22.0, 8.0])
"""RAS mm from the middle of the template: a bright ball in its right hemisphere"""
NETWORKS = (
    "neuroreg",
    "voxelmorph",
    "jointaffine",
    "dualflow",
    "dualprnet",
    "ldgnet",
    "simcnn",
    "gaussnewton",
)


@pytest.mark.parametrize("order", [0, 34])
def test_a_mirrored_image_and_a_mirrored_header_fail_the_check(order: int, tmp_path: Path) -> None:
    made = phantoms.image(phantoms.grid(order))
    phantoms.check(phantoms.save(made, tmp_path / "right.nrrd"))
    with pytest.raises(AssertionError, match="right at LPS"):
        phantoms.check(phantoms.save(phantoms.mirrored(made), tmp_path / "mirrored.nrrd"))
    made.SetDirection(
        (np.diag([-1.0, 1.0, 1.0]) @ np.reshape(made.GetDirection(), (3, 3))).reshape(-1).tolist()
    )
    made.SetOrigin((np.array(made.GetOrigin()) * (-1, 1, 1)).tolist())
    with pytest.raises(AssertionError, match="right at LPS"):
        phantoms.check(phantoms.save(made, tmp_path / "header.nrrd"))


@pytest.mark.parametrize("order", [28])
def test_exchanged_labels_fail_the_check(order: int, tmp_path: Path) -> None:
    made = phantoms.image(phantoms.grid(order), phantoms.labels)
    phantoms.check_labels(phantoms.save(made, tmp_path / "right.nrrd"))
    exchange = {phantoms.RIGHT_ID: phantoms.LEFT_ID, phantoms.LEFT_ID: phantoms.RIGHT_ID}
    swapped = sitk.ChangeLabel(made, exchange)
    for name, wrong in (("mirrored", phantoms.mirrored(made)), ("swapped", swapped)):
        with pytest.raises(AssertionError, match="at LPS"):
            phantoms.check_labels(phantoms.save(wrong, tmp_path / f"{name}.nrrd"))


@pytest.mark.faults
def test_a_transform_of_the_other_frame_fails_the_check(tmp_path: Path) -> None:
    # What becomes of a map whose numbers are taken for RAS: the mistake that all of this is about.
    where = phantoms.grid(14)
    moving = phantoms.save(phantoms.image(where), tmp_path / "moving.nrrd")
    flip = np.diag([-1.0, -1.0, 1.0])
    wrong = sitk.AffineTransform(3)
    wrong.SetMatrix((flip @ phantoms.TURN @ flip).reshape(-1).tolist())
    wrong.SetTranslation((flip @ phantoms.SHIFT_LPS).tolist())
    sitk.WriteTransform(wrong, str(tmp_path / "wrong.tfm"))
    words = ["apply", tmp_path / "wrong.tfm", moving, "--to", moving, "-o", tmp_path / "moved.nrrd", "-q"]
    assert run([*map(str, words)]) == 0
    with pytest.raises(AssertionError, match="right at LPS"):
        phantoms.check(tmp_path / "moved.nrrd", through=phantoms.true_inverse, tolerance_mm=4.5)


def save_brains(folder: Path, order: int) -> dict[str, Path]:
    """The template in one axis order; turned, shifted and marked in another; that one mirrored; its labels."""
    template = load_template()
    images = {}
    for name in ("image", "labels"):
        write_image(getattr(template, name), folder / f"{name}.nrrd")
        images[name] = sitk.ReadImage(str(folder / f"{name}.nrrd"))
    middle = template.image.geometry.centre_mm.numpy()
    there = sitk.AffineTransform(3)  # moving -> fixed points
    there.SetMatrix(np.linalg.inv(phantoms.TURN).reshape(-1).tolist())
    there.SetCenter(middle.tolist())
    there.SetTranslation([3.0, -6.0, 4.0])
    points = template.image.geometry.points().numpy()
    ball = np.exp(-((points - middle - phantoms.lps(MARKER)) ** 2).sum(-1) / (2 * 3.5**2))
    marked = sitk.GetImageFromArray(sitk.GetArrayFromImage(images["image"]) + 2.0 * ball.astype(np.float32))
    marked.CopyInformation(images["image"])
    grids = [_around(middle, k, degrees) for k, degrees in ((order, -8.0), (47 - order, 11.0))]
    still = sitk.Resample(images["image"], grids[0])
    moving = sitk.Resample(marked, grids[1], there)
    seg = sitk.Resample(images["labels"], grids[1], there, sitk.sitkNearestNeighbor)
    made = {"fixed": still, "moving": moving, "mirrored": phantoms.mirrored(moving), "moving_seg": seg}
    return {name: phantoms.save(image, folder / f"{name}.nii.gz") for name, image in made.items()}


def _around(middle: phantoms.Array, order: int, degrees: float) -> sitk.Image:
    """An empty image of 2 mm around a point, in one of the 48 orders, turned."""
    direction = phantoms.rotation((0.3, -0.4, 0.8), degrees) @ phantoms.orders()[order]
    image = sitk.Image([104, 112, 108], sitk.sitkFloat32)
    image.SetSpacing((1.9, 2.1, 2.0))
    image.SetDirection(direction.reshape(-1).tolist())
    half = direction @ ((np.array(image.GetSize()) - 1) / 2 * image.GetSpacing())
    image.SetOrigin((middle - half).tolist())
    return image


def marker_at(path: Path) -> phantoms.Array:
    """RAS mm of the marker from the middle of the template."""
    image = sitk.ReadImage(str(path))
    bright = np.maximum(sitk.GetArrayFromImage(image) - 1.5, 0.0)
    index = np.argwhere(bright > 0)[:, ::-1]
    weight = bright[bright > 0]
    matrix = phantoms.matrix_of(image)
    world = (weight @ index) / weight.sum() @ matrix[:3, :3].T + matrix[:3, 3]
    return phantoms.lps(world - load_template().image.geometry.centre_mm.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "method"), list(enumerate(NETWORKS)))
def test_every_method_leaves_the_marker_on_the_right(number: int, method: str, tmp_path: Path) -> None:
    paths = save_brains(tmp_path, (5 + 11 * number) % 48)
    words = ["register", paths["fixed"], paths["moving"], "--moving-labels", paths["moving_seg"], "-o",
             tmp_path / "out", "--method", method, "--threads", 1, "-q"]  # fmt: skip
    assert run([*map(str, words)]) == 0
    assert marker_at(tmp_path / "out" / "moved.nii.gz") == pytest.approx(MARKER, abs=5)
    moved = sitk.ReadImage(str(tmp_path / "out" / "moved_labels.nii.gz"))
    check_sides(moved, load_template().names, least=60)
    figures = json.loads((tmp_path / "out" / "run.json").read_text())["qc"]
    assert figures["sides_fixed"] > 0.3
    assert figures["sides_moving"] > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_the_verdict_finds_out_a_mirrored_brain(role: str, tmp_path: Path) -> None:
    paths = save_brains(tmp_path, 26)
    pair = (paths["mirrored"], paths["fixed"]) if role == "fixed" else (paths["fixed"], paths["mirrored"])
    words = ["affine", *pair, "-o", tmp_path / "out", "--threads", 1, "-q", "--strict-qc"]
    assert run([*map(str, words)]) == 3
    found = json.loads((tmp_path / "out" / "run.json").read_text())["qc"]
    assert found["verdict"] in ("look", "fail")
    assert any(role in reason and "left and right exchanged" in reason for reason in found["reasons"])
    other = {"fixed": "moving", "moving": "fixed"}[role]
    assert found[f"sides_{role}"] < -0.3 < 0.3 < found[f"sides_{other}"]


@pytest.mark.slow
def test_the_templates_regions_are_carried_to_their_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # README: a cohort onto the template, then its labels on every subject by inverse.h5.
    monkeypatch.setattr(process, "PROGRAM", toy_worker.PROGRAM)
    monkeypatch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))
    paths = save_brains(tmp_path, 33)
    (tmp_path / "cohort.csv").write_text("id,moving\n001,moving.nii.gz\n")
    out = tmp_path / "out"
    assert (
        run([*map(str, ("batch", tmp_path / "cohort.csv", "-o", out, "--method", "toy", "--jobs", 1, "-q"))])
        == 0
    )
    assert marker_at(out / "001" / "moved.nii.gz") == pytest.approx(MARKER, abs=8)
    labels = out / "template" / "template-ixi2mm_labels.nii.gz"
    words = ["apply", out / "001" / "inverse.h5", "--to", paths["moving"], labels, "--labels", "-q"]
    assert run([*map(str, words), "-o", str(tmp_path / "carried.nii.gz")]) == 0
    carried, own = (sitk.ReadImage(str(p)) for p in (tmp_path / "carried.nii.gz", paths["moving_seg"]))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.Cast(own, sitk.sitkInt32), sitk.Cast(carried, sitk.sitkInt32))
    middles = []
    for image in (carried, own):
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(sitk.Cast(image, sitk.sitkInt32))
        middles.append({label: np.array(shapes.GetCentroid(label)) for label in shapes.GetLabels()})
    for right, left in lateral_pairs(load_template().names):
        # The subject is turned by 14 degrees: from left to right is what it is in its own labels.
        there, truly = (at[right] - at[left] for at in middles)
        assert there @ truly > 0, f"label {right} is on the side of {left}"
    assert overlap.GetDiceCoefficient() > 0.5
