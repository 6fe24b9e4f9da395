"""Our transforms applied by antspyx, SimpleITK and nitransforms, and theirs by us: the right stays on the right."""

from pathlib import Path
from typing import Any

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.cli import run
from neuroreg.io.transforms import read_transform, write_transform
from neuroreg.transforms import Affine, Chain

pytestmark = pytest.mark.oracle
ORDERS = ((2, 41), (17, 28), (33, 12))
SMALL_ID = 300  # antspyx and nitransforms hold labels in float32
WRITTEN = ("transform.h5", "displacement.nii.gz", "affine.mat", "affine.tfm", "nonlinear.h5")


def both(points: phantoms.Array) -> phantoms.Array:
    """An affine with an asymmetric turn after a deformation of its own in either half."""
    return phantoms.true_map(phantoms.swollen(points))


def both_back(points: phantoms.Array) -> phantoms.Array:
    """Its inverse, by iteration on the formula."""
    target = phantoms.true_inverse(points)
    found = np.array(target)
    for _ in range(60):
        found = found - (phantoms.swollen(found) - target)
    return found


def small_labels(points: phantoms.Array) -> Any:
    return phantoms.labels(points, large=SMALL_ID)


def check_labels(path: Path, *, through: phantoms.Map) -> None:
    """A deformed ball's middle is not quite where the map takes the ball's middle: hence within half a voxel."""
    phantoms.check_labels(path, through=through, tolerance_mm=2.1, large=SMALL_ID)


@pytest.fixture(scope="module", params=ORDERS, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moving head with labels, a fixed grid, and maps written by neuroreg: affine alone, and with a deformation."""
    fixed, moving = request.param
    folder = tmp_path_factory.mktemp("oracle")
    where = phantoms.grid(fixed, degrees=-13)
    phantoms.save(phantoms.image(where), folder / "fixed.nii.gz")
    phantoms.save(phantoms.image(phantoms.grid(moving, degrees=21)), folder / "moving.nii.gz")
    phantoms.save(phantoms.image(phantoms.grid(moving, degrees=21), small_labels), folder / "seg.nii.gz")
    affine = phantoms.itk_affine()
    sitk.WriteTransform(affine, str(folder / "their_affine.tfm"))
    wide = phantoms.Grid(where.direction, tuple(n + 6 for n in where.size), where.spacing)  # type: ignore[arg-type]
    phantoms.save(phantoms.itk_field(wide, phantoms.swollen), folder / "their_field.nii.gz")
    rigid, field = read_transform(folder / "their_affine.tfm"), read_transform(folder / "their_field.nii.gz")
    assert isinstance(rigid, Affine)
    for name in ("affine.mat", "affine.tfm"):
        write_transform(rigid, folder / name)
    write_transform(Chain((field, rigid)), folder / "transform.h5")
    write_transform(field, folder / "nonlinear.h5")
    words = ["convert", "transform.h5", "displacement.nii.gz", "--to", "fixed.nii.gz"]
    assert run([w if w.startswith("-") or w == "convert" else str(folder / w) for w in words]) == 0
    return folder


def maps_of(name: str) -> tuple[phantoms.Map, phantoms.Map]:
    """What a file must do with points, and back."""
    if name.startswith("affine"):
        return phantoms.true_map, phantoms.true_inverse
    if name.startswith("nonlinear"):
        return phantoms.swollen, lambda p: both_back(phantoms.true_map(p))
    return both, both_back


@pytest.mark.parametrize("name", WRITTEN)
def test_simpleitk_puts_them_where_we_do(made: Path, name: str, tmp_path: Path) -> None:
    forward, back = maps_of(name)
    transform = phantoms.read_itk(made / name)
    ours = np.asarray(read_transform(made / name)(as_tensor(phantoms.PLACES)))
    theirs = phantoms.itk_points(transform, phantoms.PLACES)
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert ours == pytest.approx(forward(phantoms.PLACES), abs=0.5)  # a field is linear between its voxels
    fixed = sitk.ReadImage(str(made / "fixed.nii.gz"))
    for source, kind, check in (
        ("moving", sitk.sitkLinear, phantoms.check), ("seg", sitk.sitkNearestNeighbor, check_labels)
    ):  # fmt: skip
        image = sitk.ReadImage(str(made / f"{source}.nii.gz"))
        sitk.WriteImage(sitk.Resample(image, fixed, transform, kind), str(tmp_path / f"{source}_theirs.nrrd"))
        ours_at = tmp_path / f"{source}_ours.nrrd"
        words = [
            "apply",
            made / name,
            made / f"{source}.nii.gz",
            "--to",
            made / "fixed.nii.gz",
            "-o",
            ours_at,
        ]
        assert run([*map(str, words), *(["--labels"] if source == "seg" else [])]) == 0
        for path in (ours_at, tmp_path / f"{source}_theirs.nrrd"):
            check(path, through=back)


@pytest.mark.parametrize("name", WRITTEN)
def test_ants_puts_them_where_we_do(made: Path, name: str, tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    back = maps_of(name)[1]
    fixed = ants.image_read(str(made / "fixed.nii.gz"))
    given = str(made / name)
    for source, kind, check in (
        ("moving", "linear", phantoms.check), ("seg", "nearestNeighbor", check_labels)
    ):  # fmt: skip
        image = ants.image_read(
            str(made / f"{source}.nii.gz"), pixeltype="float" if source == "moving" else "double"
        )
        moved = ants.apply_transforms(fixed=fixed, moving=image, transformlist=[given], interpolator=kind)
        ants.image_write(moved, str(tmp_path / f"{source}.nii.gz"))
        check(tmp_path / f"{source}.nii.gz", through=back)
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(phantoms.PLACES, columns=["x", "y", "z"])
    found = ants.apply_transforms_to_points(3, table, [given])[["x", "y", "z"]].to_numpy()
    ours = np.asarray(read_transform(made / name)(as_tensor(phantoms.PLACES)))
    assert found == pytest.approx(ours, abs=1e-3)


@pytest.mark.parametrize("name", ["affine.tfm", "displacement.nii.gz", "transform.h5"])
def test_nitransforms_puts_them_where_we_do(made: Path, name: str, tmp_path: Path) -> None:
    nibabel, nitransforms = pytest.importorskip("nibabel"), pytest.importorskip("nitransforms")
    from nitransforms.resampling import apply

    if name == "affine.tfm":
        found: Any = nitransforms.linear.load(made / name, fmt="itk")
    elif name == "transform.h5":
        found = nitransforms.manip.load(made / name, fmt="itk")
    else:
        found = nitransforms.nonlinear.load(made / name, fmt="itk")
    # At voxels: nitransforms reads a field by cubic splines, all others linearly.
    voxels = phantoms.matrix_of(sitk.ReadImage(str(made / "fixed.nii.gz")))
    places = np.array([[14, 20, 11, 1], [25, 9, 18, 1], [8, 27, 21, 1]]) @ voxels[:3].T
    ours = np.asarray(read_transform(made / name)(as_tensor(places)))
    mapped = phantoms.lps(np.asarray(found.map(phantoms.lps(places))))  # RAS, as nitransforms has points
    assert mapped == pytest.approx(ours, abs=1e-3)
    for source, order, check in (("moving", 1, phantoms.check), ("seg", 0, check_labels)):
        image = nibabel.load(made / f"{source}.nii.gz")
        moved = apply(found, image, reference=nibabel.load(made / "fixed.nii.gz"), order=order)
        if source == "seg":
            moved = nibabel.Nifti1Image(np.asarray(moved.dataobj).round().astype("i4"), moved.affine)
        nibabel.save(moved, tmp_path / f"{source}.nii.gz")
        check(tmp_path / f"{source}.nii.gz", through=maps_of(name)[1])


@pytest.mark.parametrize("writer", ["simpleitk", "ants"])
def test_what_they_write_we_apply_alike(made: Path, writer: str, tmp_path: Path) -> None:
    field = phantoms.read_itk(made / "their_field.nii.gz")
    chain = sitk.CompositeTransform([phantoms.itk_affine(), field])
    if writer == "simpleitk":
        sitk.WriteTransform(chain, str(tmp_path / "chain.h5"))
        sitk.WriteTransform(phantoms.itk_affine(), str(tmp_path / "affine.mat"))
    else:
        ants = pytest.importorskip("ants")
        centre = np.array([3.0, -8.0, 5.0])
        linear = ants.create_ants_transform(
            transform_type="AffineTransform", precision="double", dimension=3, matrix=phantoms.TURN,
            center=centre.tolist(), translation=(phantoms.true_map(centre) - centre).tolist(),
        )  # fmt: skip
        ants.write_transform(linear, str(tmp_path / "affine.mat"))
        moved = ants.apply_transforms(
            fixed=ants.image_read(str(made / "fixed.nii.gz")), moving=ants.image_read(str(made / "moving.nii.gz")),
            transformlist=[str(made / "their_field.nii.gz"), str(tmp_path / "affine.mat")],
            whichtoinvert=[False, False], compose=str(tmp_path / "chain"),
        )  # fmt: skip
        (tmp_path / "chain.nii.gz").write_bytes(Path(moved).read_bytes())
    chained = tmp_path / ("chain.h5" if writer == "simpleitk" else "chain.nii.gz")
    for path, back in ((tmp_path / "affine.mat", phantoms.true_inverse), (chained, both_back)):
        ours = np.asarray(read_transform(path)(as_tensor(phantoms.PLACES)))
        assert ours == pytest.approx(phantoms.itk_points(phantoms.read_itk(path), phantoms.PLACES), abs=1e-3)
        for source, check in (("moving", phantoms.check), ("seg", check_labels)):
            out = tmp_path / f"{path.name}_{source}.nrrd"
            words = ["apply", path, made / f"{source}.nii.gz", "--to", made / "fixed.nii.gz", "-o", out]
            assert run([*map(str, words), *(["--labels"] if source == "seg" else [])]) == 0
            check(out, through=back)


def as_tensor(points: phantoms.Array) -> Any:
    import torch

    return torch.from_numpy(np.array(points))
