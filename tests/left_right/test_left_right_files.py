"""Files in every axis order and format: what neuroreg writes of them has the right on the right, says SimpleITK."""

import itertools
import json
from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.cli import run
from neuroreg.io.images import read_image, read_labels

ODD = Path(__file__).resolve().parents[3] / "shared" / "data" / "odd"
WRITTEN = (".nii", ".nii.gz", ".mha", ".nrrd")
READ = (*WRITTEN, ".hdr", ".mhd", ".nhdr")
OBLIQUE = ((0, 17.0), (13, 44.0), (22, 31.0), (37, -45.0), (46, 63.0), (9, 95.0), (30, 171.0))
"""Orders and degrees by which they are turned: up to 45, and beyond."""


def convert(source: Path, out: Path, *more: str) -> Path:
    assert run(["convert", str(source), str(out), "-q", *more]) == 0
    return out


def test_the_phantom_tells_all_48_orders_apart() -> None:
    # Balls read with another order's matrix are elsewhere, in every one of the 48 x 47 cases.
    cube = phantoms.Grid(np.eye(3), (29, 29, 29), (5.0, 5.0, 5.0))
    voxels = phantoms.head(cube.points())
    seen = [
        np.concatenate(phantoms.balls(voxels, phantoms.Grid(d, cube.size, cube.spacing).matrix))
        for d in phantoms.orders()
    ]
    apart = [np.abs(one - two).max() for one, two in itertools.combinations(seen, 2)]
    assert min(apart) > 8


@pytest.mark.parametrize("order", [0, 11, 26, 41])  # every order in the faults suite, below
def test_an_axis_order_is_read_and_written(order: int, tmp_path: Path) -> None:
    where = phantoms.grid(order)
    source = phantoms.save_nifti(
        phantoms.image(where), tmp_path / "in.nii", form=("qform", "sform")[order % 2]
    )
    phantoms.check(convert(source, tmp_path / f"out{WRITTEN[order % 4]}"))
    ours = read_image(source).volume
    large, small = phantoms.balls(ours.data[0].numpy(), ours.geometry.voxel_to_world.numpy())
    assert large == pytest.approx(phantoms.lps(phantoms.RIGHT), abs=1)
    assert small == pytest.approx(phantoms.lps(phantoms.FRONT_TOP_LEFT), abs=1)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(8))
def test_any_rotation_at_all(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    axis, degrees = draw.normal(size=3), float(draw.uniform(-45, 45) if seed < 4 else draw.uniform(45, 180))
    where = phantoms.grid(int(draw.integers(48)), degrees=degrees, axis=tuple(axis))
    source = phantoms.save_nifti(phantoms.image(where), tmp_path / "in.nii", form=("both", "qform")[seed % 2])
    phantoms.check(source)
    phantoms.check(convert(source, tmp_path / f"out{WRITTEN[seed % 4]}"))


def test_a_file_of_the_same_name_that_itk_reads_instead_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = phantoms.image(phantoms.grid(0))
    source = phantoms.save(made, tmp_path / "source.nrrd")
    phantoms.save(phantoms.mirrored(made), tmp_path / "t1.nii")
    assert run(["convert", str(source), str(tmp_path / "t1.nii.gz"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["warnings"]
    assert told.startswith(
        "t1.nii.gz: ANTs, Slicer and SimpleITK read the voxels of t1.nii in the same folder"
    )
    with pytest.raises(AssertionError, match="right at LPS"):
        phantoms.check(tmp_path / "t1.nii.gz")  # SimpleITK does: were it mended there, the warning could go
    (tmp_path / "t1.nii").unlink()
    phantoms.check(tmp_path / "t1.nii.gz")
    phantoms.save(made, tmp_path / "field.nii")
    sitk.WriteTransform(phantoms.itk_affine(), str(tmp_path / "a.tfm"))
    for command in ("compose", "invert", "convert", "jacobian"):
        words = [command, str(tmp_path / "a.tfm"), *(["-o"] if command != "convert" else [])]
        words += [str(tmp_path / "field.nii.gz"), "--to", str(source), "--overwrite", "--json"]
        assert run(words) == 0
        (told,) = json.loads(capsys.readouterr().out)["warnings"]
        assert "field.nii in the same folder" in told


@pytest.mark.faults
@pytest.mark.parametrize("suffix", READ)
def test_every_pair_of_formats(suffix: str, tmp_path: Path) -> None:
    for number, (order, degrees) in enumerate(OBLIQUE):
        if number % 3 != READ.index(suffix) % 3:
            continue  # each pair of formats with two or three of the directions
        made = phantoms.image(phantoms.grid(order, degrees=degrees))
        regions = phantoms.image(phantoms.grid(order, degrees=degrees), phantoms.labels)
        for kind, data in (("image", made), ("labels", regions)):
            source = tmp_path / f"{kind}{number}{suffix}"
            if suffix in (".nii", ".nii.gz", ".hdr"):
                phantoms.save_nifti(data, source, form=("both", "qform", "sform")[number % 3])
            else:
                phantoms.save(data, source)
            for target in WRITTEN:
                name = tmp_path / f"{kind}{number}-{suffix[1:]}{target}"
                if kind == "image":
                    phantoms.check(convert(source, name))
                else:
                    phantoms.check_labels(convert(source, name, "--labels"))


@pytest.mark.oracle
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("form", ["qform", "sform", "both"])
def test_every_axis_order_by_every_form_of_nifti(version: int, form: str, tmp_path: Path) -> None:
    for order in range(48):
        made = phantoms.image(phantoms.grid(order, degrees=order - 24.0))
        source = phantoms.save_nifti(made, tmp_path / f"{order}.nii", form=form, version=version)
        phantoms.check(convert(source, tmp_path / f"out{order}{WRITTEN[order % 4]}"))


@pytest.mark.oracle
def test_labels_keep_their_sides_in_every_order(tmp_path: Path) -> None:
    for order in range(48):
        made = phantoms.image(phantoms.grid(order, degrees=7.0), phantoms.labels)
        source = phantoms.save_nifti(made, tmp_path / f"{order}.nii")
        ours = read_labels(source).volume
        points = np.asarray(ours.geometry.points())
        for label, place in phantoms.LABELS.items():
            at = points[ours.data[0].numpy() == label].mean(axis=0)
            assert at == pytest.approx(phantoms.lps(place), abs=1.5)
        if order % 5 == 0:
            phantoms.check_labels(convert(source, tmp_path / f"{order}.nrrd", "--labels"))


@pytest.mark.oracle
@pytest.mark.parametrize("version", [1, 2])
def test_nibabel_sees_the_same_sides(version: int, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")

    def seen(path: Path) -> tuple[phantoms.Array, phantoms.Array]:
        """RAS mm of the two balls."""
        file = nibabel.load(path)
        return phantoms.balls(np.transpose(np.asarray(file.dataobj)), file.affine)

    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    for order in range(48):
        made = phantoms.image(phantoms.grid(order, degrees=40.0 - 3 * order))
        ours = phantoms.save_nifti(
            made, tmp_path / "a.nii", version=version, form=("qform", "sform")[order % 2]
        )
        theirs = kind(*(getattr(nibabel.load(ours), name) for name in ("dataobj", "affine")))
        nibabel.save(theirs, tmp_path / "b.nii.gz")
        for source in (ours, tmp_path / "b.nii.gz"):
            out = convert(source, tmp_path / "out.nii.gz", "--overwrite")
            for path in (source, out):
                right, small = seen(path)
                assert right == pytest.approx(phantoms.RIGHT, abs=1)
                assert small == pytest.approx(phantoms.FRONT_TOP_LEFT, abs=1)
            phantoms.check(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LIA", "LPS", "PIR", "RAS", "RPI", "SAR"])
def test_real_files_in_other_orders_show_the_same_head(name: str, tmp_path: Path) -> None:
    if not ODD.is_dir():
        pytest.skip("no ../shared/data/odd here")
    source, reference = ODD / f"axes_{name}.nii.gz", ODD / "axes_RAS.nii.gz"
    same = tuple(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS") for path in (source, reference))
    out = sitk.DICOMOrient(sitk.ReadImage(str(convert(source, tmp_path / "out.nrrd"))), "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(out), sitk.GetArrayFromImage(same[0]).astype("f4"))
    assert phantoms.matrix_of(out) == pytest.approx(phantoms.matrix_of(same[0]), abs=1e-3)
    moved = tmp_path / "moved.nii.gz"
    sitk.WriteTransform(sitk.TranslationTransform(3), str(tmp_path / "still.tfm"))
    words = [
        "apply",
        str(tmp_path / "still.tfm"),
        str(source),
        "--to",
        str(reference),
        "-o",
        str(moved),
        "-q",
    ]
    assert run(words) == 0
    shown = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype("f8") for path in (moved, reference)]
    assert np.corrcoef(*(one.reshape(-1) for one in shown))[0, 1] > 0.99
    turned = np.corrcoef(shown[0].reshape(-1), np.flip(shown[1], axis=2).reshape(-1))[0, 1]
    assert turned < 0.97, "the head is too symmetric to tell"
