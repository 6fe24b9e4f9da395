"""apply, compose, invert, jacobian, convert and evaluate: a map known by its formula, files written by SimpleITK."""

import csv
import json
from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.cli import run

PAIRS = [(order, (29 * order + 5) % 48) for order in range(48)]
"""Every order as the fixed image's, and every one as the moving image's"""


def go(*words: object) -> None:
    assert run([*map(str, words), "-q"]) == 0


def save_pair(folder: Path, fixed: int, moving: int, *, degrees: float = 11.0) -> tuple[Path, Path, Path]:
    """The fixed head, the moving one on another grid, and the moving one's labels; ``true_map`` leads from fixed to
    moving."""
    grids = phantoms.grid(fixed, degrees=-degrees), phantoms.grid(moving, degrees=degrees)
    still = phantoms.image(grids[0], through=phantoms.true_map)
    paths = folder / "fixed.nii.gz", folder / "moving.nii", folder / "moving_seg.nrrd"
    phantoms.save_nifti(still, paths[0], form=("qform", "sform", "both")[fixed % 3])
    phantoms.save_nifti(phantoms.image(grids[1]), paths[1], form=("sform", "both", "qform")[moving % 3])
    phantoms.save(phantoms.image(grids[1], phantoms.labels), paths[2])
    return paths


def try_apply(folder: Path, orders: tuple[int, int], suffix: str) -> None:
    fixed, moving, regions = save_pair(folder, *orders)
    phantoms.check(fixed, through=phantoms.true_inverse)
    phantoms.check(moving)
    sitk.WriteTransform(phantoms.itk_affine(), str(folder / "true.tfm"))
    go("apply", folder / "true.tfm", moving, "--to", fixed, "-o", folder / f"moved{suffix}", "--overwrite")
    phantoms.check(folder / f"moved{suffix}", through=phantoms.true_inverse)
    words = ["apply", folder / "true.tfm", regions, "--to", fixed, "--labels", "--overwrite"]
    go(*words, "-o", folder / f"seg{suffix}")
    phantoms.check_labels(folder / f"seg{suffix}", through=phantoms.true_inverse)


@pytest.mark.parametrize(("fixed", "moving"), [PAIRS[8]])
def test_apply_keeps_the_right_on_the_right(fixed: int, moving: int, tmp_path: Path) -> None:
    try_apply(tmp_path, (fixed, moving), ".nii.gz")


@pytest.mark.oracle
def test_apply_in_all_48_orders(tmp_path: Path) -> None:
    for number, orders in enumerate(PAIRS):
        try_apply(tmp_path, orders, (".nii.gz", ".mha", ".nrrd")[number % 3])


@pytest.mark.faults
@pytest.mark.parametrize(("fixed", "moving"), [PAIRS[3], PAIRS[46]])
def test_apply_goes_back_with_inverse(fixed: int, moving: int, tmp_path: Path) -> None:
    _, still, regions = save_pair(tmp_path, fixed, moving)
    sitk.WriteTransform(phantoms.itk_affine().GetInverse(), str(tmp_path / "back.tfm"))
    words = ["apply", tmp_path / "back.tfm", "--inverse", "--to", tmp_path / "fixed.nii.gz"]
    go(*words, still, "-o", tmp_path / "moved.mha")
    go(*words, regions, "--labels", "-o", tmp_path / "seg.mha")
    phantoms.check(tmp_path / "moved.mha", through=phantoms.true_inverse)
    phantoms.check_labels(tmp_path / "seg.mha", through=phantoms.true_inverse)


def test_compose_joins_in_the_order_said(tmp_path: Path) -> None:
    fixed, moving, _ = save_pair(tmp_path, 12, 35)
    turn, rest = sitk.AffineTransform(3), sitk.AffineTransform(3)
    turn.SetMatrix(phantoms.TURN.reshape(-1).tolist())
    rest.SetTranslation(phantoms.SHIFT_LPS.tolist())
    sitk.WriteTransform(turn, str(tmp_path / "turn.mat"))
    sitk.WriteTransform(rest, str(tmp_path / "shift.tfm"))
    for name in ("both.h5", "both.mat", "both.tfm", "both.nii.gz"):
        to = ["--to", fixed] if name.endswith(".gz") else []
        go("compose", tmp_path / "turn.mat", tmp_path / "shift.tfm", "-o", tmp_path / name, *to)
        found = phantoms.itk_points(phantoms.read_itk(tmp_path / name), phantoms.PLACES)
        assert found == pytest.approx(phantoms.true_map(phantoms.PLACES), abs=1e-3)
    go("apply", tmp_path / "both.nii.gz", moving, "--to", fixed, "-o", tmp_path / "moved.nrrd")
    phantoms.check(tmp_path / "moved.nrrd", through=phantoms.true_inverse)


@pytest.mark.parametrize("order", [5, pytest.param(22, marks=pytest.mark.faults)])
def test_invert_leads_the_right_back_to_the_right(order: int, tmp_path: Path) -> None:
    fixed, moving, _ = save_pair(tmp_path, order, 47 - order)
    sitk.WriteTransform(phantoms.itk_affine(), str(tmp_path / "true.mat"))
    for name in ("back.h5", "back.mat", "back.nii.gz"):
        go(
            "invert",
            tmp_path / "true.mat",
            "-o",
            tmp_path / name,
            *(["--to", moving] if ".nii" in name else []),
        )
        found = phantoms.itk_points(phantoms.read_itk(tmp_path / name), phantoms.PLACES)
        assert found == pytest.approx(phantoms.true_inverse(phantoms.PLACES), abs=1e-3)
    go("apply", tmp_path / "back.nii.gz", fixed, "--to", moving, "-o", tmp_path / "again.nrrd")
    phantoms.check(tmp_path / "again.nrrd")


@pytest.mark.faults
@pytest.mark.parametrize("order", [19, 38])
def test_invert_of_a_field(order: int, tmp_path: Path) -> None:
    where = phantoms.grid(order, degrees=20)
    field = phantoms.save(phantoms.itk_field(where, phantoms.swollen), tmp_path / "field.nii.gz")
    moving = phantoms.save(phantoms.image(phantoms.grid(order + 7)), tmp_path / "moving.nrrd")
    go("invert", field, "-o", tmp_path / "back.h5")
    there = phantoms.swollen(phantoms.PLACES)
    assert phantoms.itk_points(phantoms.read_itk(tmp_path / "back.h5"), there) == pytest.approx(
        phantoms.PLACES, abs=0.3
    )
    go("apply", field, moving, "--to", moving, "-o", tmp_path / "moved.nrrd")
    go("apply", tmp_path / "back.h5", tmp_path / "moved.nrrd", "--to", moving, "-o", tmp_path / "again.nrrd")
    phantoms.check(tmp_path / "again.nrrd")


@pytest.mark.parametrize("order", [31, *(pytest.param(k, marks=pytest.mark.faults) for k in (0, 18, 44))])
def test_the_jacobian_has_its_growth_on_the_right(order: int, tmp_path: Path) -> None:
    fine = phantoms.grid(order, degrees=15)
    field = phantoms.save(phantoms.itk_field(fine, phantoms.swollen), tmp_path / "field.nii.gz")
    go("jacobian", field, "-o", tmp_path / "own.nii.gz")
    like = phantoms.save(phantoms.image(phantoms.grid(order + 13)), tmp_path / "like.nii.gz")
    go("jacobian", field, "--to", like, "-o", tmp_path / "on.mha")
    for name in ("own.nii.gz", "on.mha"):
        found = sitk.ReadImage(str(tmp_path / name), sitk.sitkFloat64)
        values = [found.EvaluateAtPhysicalPoint(p) for p in phantoms.PLACES[:3].tolist()]
        assert values[0] == pytest.approx(1.2**3, abs=0.12)  # the formula in the middle of each swelling
        assert values[1] == pytest.approx(0.85**3, abs=0.06)
        assert values[2] == pytest.approx(1.0, abs=0.02)  # the other side of the right one: nothing


@pytest.mark.faults
@pytest.mark.parametrize("order", [14, 45])
def test_convert_from_every_transform_format_to_every_other(order: int, tmp_path: Path) -> None:
    like = phantoms.save(phantoms.image(phantoms.grid(order, degrees=9)), tmp_path / "like.nii.gz")
    affine, names = phantoms.itk_affine(), ("a.h5", "a.mat", "a.tfm", "a.nii.gz")
    for name in names[:3]:
        sitk.WriteTransform(affine, str(tmp_path / name))
    phantoms.save(phantoms.itk_field(phantoms.grid(order), phantoms.true_map), tmp_path / "a.nii.gz")
    for source in names:
        for target in names:
            if source == "a.nii.gz" and target in ("a.mat", "a.tfm"):
                continue  # an affine file cannot hold a field: refused
            out = tmp_path / f"from_{source[2:].partition('.')[0]}_{target}"
            go("convert", tmp_path / source, out, *(["--to", like] if ".nii" in target else []))
            found = phantoms.itk_points(phantoms.read_itk(out), phantoms.PLACES)
            assert found == pytest.approx(phantoms.true_map(phantoms.PLACES), abs=1e-3), out.name


@pytest.mark.faults
def test_vectors_in_ras_are_turned(tmp_path: Path) -> None:
    field = phantoms.itk_field(phantoms.grid(20, degrees=25), phantoms.true_map)
    voxels = sitk.GetArrayFromImage(field) * (-1, -1, 1)
    turned = sitk.GetImageFromArray(voxels, isVector=True)
    turned.CopyInformation(field)
    source = phantoms.save(turned, tmp_path / "ras.nii")
    content = bytearray(source.read_bytes())
    content[68:70] = (0).to_bytes(2, "little")  # the header does not tell
    source.write_bytes(content)
    assert run(["convert", str(source), str(tmp_path / "out.h5"), "-q"]) == 65
    go("convert", source, tmp_path / "out.h5", "--vectors", "ras")
    found = phantoms.itk_points(phantoms.read_itk(tmp_path / "out.h5"), phantoms.PLACES)
    assert found == pytest.approx(phantoms.true_map(phantoms.PLACES), abs=1e-3)


def save_points(path: Path, points: phantoms.Array) -> Path:
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("name", "x", "y", "z"))
        table.writerows((f"p{k}", *point) for k, point in enumerate(points.tolist()))
    return path


@pytest.mark.parametrize("space", ["lps", "ras"])
def test_evaluate_knows_the_side_of_landmarks(
    space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = phantoms.grid(33)
    regions = phantoms.save(phantoms.image(where, phantoms.labels), tmp_path / "seg.nii.gz")
    sitk.WriteTransform(phantoms.itk_affine(), str(tmp_path / "true.tfm"))
    sides = (phantoms.PLACES, phantoms.true_map(phantoms.PLACES))
    files = [
        save_points(tmp_path / f"{k}.csv", phantoms.lps(p) if space == "ras" else p)
        for k, p in enumerate(sides)
    ]
    words = [
        "evaluate",
        regions,
        regions,
        "--transform",
        tmp_path / "true.tfm",
        "--fixed-landmarks",
        files[0],
    ]
    words += ["--moving-landmarks", files[1], "--landmarks-space", space, "--json"]
    assert run([*map(str, words)]) == 0
    told = capsys.readouterr().out
    assert json.loads(told)["landmarks_mapped"]["max_mm"] < 1e-3
    other = "ras" if space == "lps" else "lps"
    assert run([*map(str, words[:-2]), other, "--json"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told)["landmarks_mapped"]["max_mm"] > 10  # the wrong frame shows


@pytest.mark.faults
@pytest.mark.parametrize("order", [0, 13, 29])
def test_evaluate_gives_every_label_its_own_side(order: int, tmp_path: Path) -> None:
    where = phantoms.grid(order, degrees=5)
    fixed = phantoms.image(where, phantoms.labels)
    aside = np.array([4.0, 0.0, -3.0])
    moved = phantoms.image(
        where, lambda p: phantoms.labels(p - aside * (p[..., :1] < 0))
    )  # the right one alone
    phantoms.save(fixed, tmp_path / "fixed.nii.gz")
    phantoms.save(moved, tmp_path / "moved.nrrd")
    words = ["evaluate", tmp_path / "fixed.nii.gz", tmp_path / "moved.nrrd", "--csv", tmp_path / "rois.csv"]
    go(*words)
    with (tmp_path / "rois.csv").open() as stream:
        rows = {int(row["id"]): row for row in csv.DictReader(stream)}
    assert float(rows[phantoms.RIGHT_ID]["centroid_shift_mm"]) == pytest.approx(5.0, abs=0.5)
    for label in (phantoms.LEFT_ID, phantoms.LARGE_ID):
        assert float(rows[label]["centroid_shift_mm"]) == pytest.approx(0.0, abs=1e-6)
        assert float(rows[label]["dice"]) == pytest.approx(1.0)
