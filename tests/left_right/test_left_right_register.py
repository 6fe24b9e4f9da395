"""register, affine and batch on heads in unlike axis orders: every file they leave has the right on the right."""

from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk
import toy_worker

from neuroreg.cli import run
from neuroreg.cohort import process
from neuroreg.methods import METHODS
from neuroreg.registry import Entry

TOY = ("--method", "toy", "--threads", "1", "-q")
TOY_MM = 6.5  # the toy's own deformation goes 1.5 voxels of 4 mm far


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))


def go(*words: object) -> None:
    assert run([*map(str, words)]) == 0


def save_pair(folder: Path, fixed: int, moving: int) -> dict[str, Path]:
    """fixed, moving, their labels, and the true affine, by SimpleITK; ``true_map`` leads from fixed to moving."""
    folder.mkdir(exist_ok=True)
    grids = phantoms.grid(fixed, degrees=-17), phantoms.grid(moving, degrees=12)
    paths = {name: folder / f"{name}.nii.gz" for name in ("fixed", "fixed_seg", "moving", "moving_seg")}
    for where, side, through in ((grids[0], "fixed", phantoms.true_map), (grids[1], "moving", None)):
        phantoms.save_nifti(phantoms.image(where, through=through), paths[side])
        phantoms.save_nifti(phantoms.image(where, phantoms.labels, through), paths[f"{side}_seg"])
    sitk.WriteTransform(phantoms.itk_affine(), str(folder / "true.tfm"))
    return {**paths, "true": folder / "true.tfm"}


def register(paths: dict[str, Path], out: Path, *more: object) -> None:
    labels = ("--fixed-labels", paths["fixed_seg"], "--moving-labels", paths["moving_seg"])
    go("register", paths["fixed"], paths["moving"], *labels, "-o", out, *more)


def try_every_output(paths: dict[str, Path], out: Path, *, near_mm: float) -> None:
    """moved, its labels, the transform, the displacement, the inverse, the affine and the Jacobian of a run."""
    inverse = sitk.ReadTransform(str(out / "inverse.h5"))
    phantoms.check(out / "moved.nii.gz", through=phantoms.true_inverse, tolerance_mm=near_mm)
    phantoms.check_labels(out / "moved_labels.nii.gz", through=phantoms.true_inverse, tolerance_mm=near_mm)
    moved = sitk.ReadImage(str(out / "moved.nii.gz"))
    seen = phantoms.balls(sitk.GetArrayFromImage(moved), phantoms.matrix_of(moved))
    told = phantoms.itk_points(inverse, phantoms.PLACES[:2])
    assert np.array(seen) == pytest.approx(told, abs=2)  # within a voxel of where SimpleITK takes the balls
    voxels = np.array([[14, 20, 11, 1], [25, 9, 18, 1], [8, 27, 21, 1]]) @ phantoms.matrix_of(moved)[:3].T
    both = [phantoms.read_itk(out / name) for name in ("transform.h5", "displacement.nii.gz")]
    ends = [phantoms.itk_points(each, voxels) for each in both]
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)
    assert ends[0] == pytest.approx(phantoms.true_map(voxels), abs=near_mm)
    determinant = sitk.ReadImage(str(out / "jacobian.nii.gz"), sitk.sitkFloat64)
    for point, value in zip(voxels, numeric_determinants(both[0], voxels), strict=True):
        assert determinant.EvaluateAtPhysicalPoint(point.tolist()) == pytest.approx(value, abs=0.15)
    words = ["apply", out / "inverse.h5", paths["fixed_seg"], "--to", paths["moving"], "--labels", "-q"]
    go(*words, "-o", out.parent / f"{out.name}_back.nrrd")
    phantoms.check_labels(out.parent / f"{out.name}_back.nrrd", tolerance_mm=near_mm + 0.5)


def numeric_determinants(transform: sitk.Transform, points: phantoms.Array) -> list[float]:
    """By differences over 6 mm."""
    steps = 3.0 * np.eye(3)
    ends = [
        (phantoms.itk_points(transform, points + s), phantoms.itk_points(transform, points - s))
        for s in steps
    ]
    columns = np.stack([(ahead - behind) / 6.0 for ahead, behind in ends], axis=-1)
    return [float(value) for value in np.linalg.det(columns)]


@pytest.mark.parametrize(
    ("fixed", "moving"),
    [pytest.param(7, 36, marks=pytest.mark.faults), pytest.param(40, 18, marks=pytest.mark.oracle)],
)
def test_register_with_a_known_affine(fixed: int, moving: int, tmp_path: Path) -> None:
    paths = save_pair(tmp_path / "in", fixed, moving)
    register(paths, tmp_path / "out", "--affine", paths["true"], *TOY)
    found = sitk.ReadTransform(str(tmp_path / "out" / "affine.mat"))
    assert phantoms.itk_points(found, phantoms.PLACES) == pytest.approx(
        phantoms.true_map(phantoms.PLACES), abs=1e-6
    )
    try_every_output(paths, tmp_path / "out", near_mm=TOY_MM)


@pytest.mark.faults
def test_affine_finds_the_sides_itself(tmp_path: Path) -> None:
    paths = save_pair(tmp_path / "in", 29, 4)
    go("affine", paths["fixed"], paths["moving"], "--moving-labels", paths["moving_seg"], "-o", tmp_path / "out",
       "--threads", "1", "-q")  # fmt: skip
    phantoms.check(tmp_path / "out" / "moved.nii.gz", through=phantoms.true_inverse, tolerance_mm=2.5)
    phantoms.check_labels(
        tmp_path / "out" / "moved_labels.nii.gz", through=phantoms.true_inverse, tolerance_mm=3
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "fixed", "moving"),
    [("gaussnewton", 11, 42), ("demons", 25, 6), ("syn", 38, 13), ("greedy", 3, 32)],
)
def test_methods_without_weights(method: str, fixed: int, moving: int, tmp_path: Path) -> None:
    needs = {"syn": "ants", "greedy": "picsl_greedy"}
    if method in needs:
        pytest.importorskip(needs[method])
    paths = save_pair(tmp_path / "in", fixed, moving)
    register(paths, tmp_path / "out", "--method", method, "--threads", 1, "-q")
    try_every_output(paths, tmp_path / "out", near_mm=3)


@pytest.mark.slow
def test_all_48_orders_registered(tmp_path: Path) -> None:
    for order in range(48):
        paths = save_pair(tmp_path / "in", order, (29 * order + 5) % 48)
        register(paths, tmp_path / "out", "--affine", paths["true"], "--overwrite", *TOY)
        try_every_output(paths, tmp_path / "out", near_mm=TOY_MM)
        (tmp_path / "out_back.nrrd").unlink()


@pytest.mark.slow
def test_a_batch_keeps_the_sides_of_every_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PROGRAM", toy_worker.PROGRAM)
    cases = {f"c{fixed}": save_pair(tmp_path / f"c{fixed}", fixed, 47 - fixed) for fixed in (1, 23, 30)}
    rows = ["id,fixed,moving,moving_labels,fixed_labels"]
    for name, paths in cases.items():
        files = (paths[key].name for key in ("fixed", "moving", "moving_seg", "fixed_seg"))
        rows.append(",".join((name, *(f"{name}/{file}" for file in files))))
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    words = ["batch", tmp_path / "cohort.csv", "-o", tmp_path / "out", "--method", "toy", "--jobs", 1, "-q"]
    go(*words, "--affine", next(iter(cases.values()))["true"], "--outputs", "standard")
    for name, paths in cases.items():
        try_every_output(paths, tmp_path / "out" / name, near_mm=TOY_MM)


@pytest.mark.slow
def test_bids_keeps_the_sides_of_every_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bids_phantoms import describe

    monkeypatch.setattr(process, "PROGRAM", toy_worker.PROGRAM)
    raw = describe(tmp_path / "raw")
    for session, order in ((1, 9), (2, 34)):
        folder = raw / "sub-01" / f"ses-{session}" / "anat"
        folder.mkdir(parents=True)
        made = phantoms.image(phantoms.grid(order, degrees=8.0 * session))
        phantoms.save_nifti(made, folder / f"sub-01_ses-{session}_T1w.nii.gz")
    words = [
        "bids",
        raw,
        tmp_path / "out",
        "participant",
        "--to",
        "first-session",
        "--method",
        "toy",
        "--affine",
    ]
    go(*words, "none", "--jobs", 1, "-q")
    found = sorted((tmp_path / "out").rglob("*space-*T1w.nii.gz"))
    assert len(found) == 1
    phantoms.check(found[0], tolerance_mm=TOY_MM)  # both heads lie in one place: only the toy moves


@pytest.mark.slow
def test_the_benchmark_scores_the_right_against_the_right(tmp_path: Path) -> None:
    import csv

    paths = save_pair(tmp_path / "in", 15, 44)
    keys = ("fixed", "moving", "fixed_seg", "moving_seg")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "fixed,moving,fixed_labels,moving_labels\n" + ",".join(str(paths[key]) for key in keys) + "\n"
    )
    out = tmp_path / "out"
    go("benchmark", table, "--methods", "affine", "-o", out, "--threads", 1, "--keep", "-q")
    with (out / "rows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["dice"]) > 0.8, "a left ball on a right one has no overlap at all"
    moved = [path for path in out.rglob("moved*.nii.gz") if "label" not in path.name]
    assert moved
    for path in moved:
        phantoms.check(path, through=phantoms.true_inverse, tolerance_mm=2.5)
