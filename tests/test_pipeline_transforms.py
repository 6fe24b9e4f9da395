"""compose, invert, jacobian and convert: laws on an oblique, anisotropic grid with three different sides."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from neuroreg.errors import CannotCreateError, DataError, UsageError
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.transforms import read_field, read_transform, write_field, write_transform
from neuroreg.pipeline.transforms import (
    compose_files,
    convert_file,
    fit_affine,
    invert,
    invert_file,
    jacobian_file,
)
from neuroreg.transforms import Affine, Chain, DisplacementField, total_field
from neuroreg.volume import Geometry, Volume

INTENT_OFFSET = 68  # of intent_code in a NIfTI-1 header, two bytes


def rotation(degrees: float, axis: tuple[float, float, float]) -> torch.Tensor:
    x, y, z = (torch.tensor(axis, dtype=torch.float64) / math.dist(axis, (0, 0, 0))).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(cross * math.radians(degrees))


GRID = Geometry(
    size=(20, 18, 16),
    spacing=(3.0, 3.5, 4.1),
    origin=(-40.0, 25.0, 7.0),
    direction=tuple(rotation(25.0, (1, 2, 3)).flatten().tolist()),
)


def affine(degrees: float = 8.0, shift_mm: tuple[float, float, float] = (3.0, -2.0, 5.0)) -> Affine:
    """A rotation about the middle of GRID with unequal scales, and a shift."""
    matrix = torch.eye(4, dtype=torch.float64)
    scale = torch.diag(torch.tensor([1.05, 0.97, 1.1], dtype=torch.float64))
    matrix[:3, :3] = rotation(degrees, (3, -1, 2)) @ scale
    middle = GRID.centre_mm
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + torch.tensor(shift_mm, dtype=torch.float64)
    return Affine(matrix)


def bumps(peak_mm: float = 4.0) -> DisplacementField:
    """A smooth field that vanishes at the rim; each component differs and depends on all axes differently."""
    z, y, x = (torch.linspace(0, math.pi, n) for n in GRID.shape)
    window = z.sin()[:, None, None] * y.sin()[None, :, None] * x.sin()[None, None, :]
    along_x = 0.6 + 0.4 * torch.cos(x)[None, None, :].expand_as(window)
    along_y = 0.8 - 0.5 * torch.cos(y)[None, :, None].expand_as(window)
    along_z = -0.5 + 0.3 * torch.cos(z)[:, None, None].expand_as(window)
    return DisplacementField(peak_mm * window * torch.stack((along_x, along_y, along_z)), GRID)


def points(count: int = 500) -> torch.Tensor:
    """Random points inside GRID, LPS mm."""
    generator = torch.Generator().manual_seed(3)
    index = torch.rand(count, 3, dtype=torch.float64, generator=generator)
    index = index * (torch.tensor(GRID.size, dtype=torch.float64) - 1)
    matrix = GRID.voxel_to_world
    return index @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """bumps.h5, affine.mat and fixed.nii.gz, an image on GRID."""
    write_transform(bumps(), tmp_path / "bumps.h5")
    write_transform(affine(), tmp_path / "affine.mat")
    data = torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(1))
    write_image(Volume(data, GRID), tmp_path / "fixed.nii.gz")
    return tmp_path


def apply_with_itk(path: Path, at: torch.Tensor) -> torch.Tensor:
    transform = sitk.ReadTransform(str(path))
    return torch.tensor([transform.TransformPoint(p) for p in at.tolist()], dtype=torch.float64)


def test_the_first_transform_named_acts_first(folder: Path) -> None:
    compose_files([folder / "bumps.h5", folder / "affine.mat"], folder / "both.h5")
    wanted = affine()(bumps()(points()))
    assert (read_transform(folder / "both.h5")(points()) - wanted).norm(dim=1).max() < 1e-9
    assert (apply_with_itk(folder / "both.h5", points()) - wanted).norm(dim=1).max() < 1e-4
    other_way = bumps()(affine()(points()))
    assert (wanted - other_way).norm(dim=1).max() > 0.3  # the order is visible


def test_affines_join_into_one_affine(folder: Path) -> None:
    write_transform(affine(-20.0), folder / "second.tfm")
    compose_files([folder / "affine.mat", folder / "second.tfm"], folder / "joined.mat")
    joined = read_transform(folder / "joined.mat")
    assert isinstance(joined, Affine)
    assert torch.allclose(joined.matrix, affine(-20.0).matrix @ affine().matrix, atol=1e-10)


def test_a_chain_becomes_one_field_on_the_grid_of_an_image(folder: Path) -> None:
    paths = [folder / "bumps.h5", folder / "affine.mat"]
    compose_files(paths, folder / "field.nii.gz", to=folder / "fixed.nii.gz")
    written = read_field(folder / "field.nii.gz")
    at = GRID.points().reshape(-1, 3)
    assert (written(at) - affine()(bumps()(at))).norm(dim=1).max() < 1e-4
    with pytest.raises(UsageError, match="no grid of its own.*--to"):
        compose_files(paths, folder / "other.nii.gz")
    with pytest.raises(UsageError, match="--to is for displacement fields"):
        compose_files(paths, folder / "other.h5", to=folder / "fixed.nii.gz")


def test_an_affine_is_inverted_exactly(folder: Path) -> None:
    found = invert_file(folder / "affine.mat", folder / "back.mat")
    assert (found.mean_mm, found.p99_mm) == (0.0, 0.0)
    back = read_transform(folder / "back.mat")
    assert (back(affine()(points())) - points()).norm(dim=1).max() < 1e-9


# Between its voxels a stored inverse is linear: it misses by h^2/8 times the curvature, here up to
# 4.1^2/8 * 3 * 2 mm * (pi/62 mm)^2 = 0.03 mm along one axis, and less than 0.1 mm in all.
LINEAR_MM = 0.1


def test_at_its_voxels_an_inverse_is_exact() -> None:
    nodes = GRID.points()
    inside = nodes[2:-2, 2:-2, 2:-2].reshape(-1, 3)
    back = invert(bumps()).transform
    assert (bumps()(back(inside)) - inside).norm(dim=1).max() < 1e-3


def test_a_chain_is_inverted_part_by_part() -> None:
    chain = Chain((bumps(2.0), affine(35.0)))
    found = invert(chain)
    missed = (found.transform(chain(points())) - points()).norm(dim=1)
    assert missed.quantile(0.99) < LINEAR_MM
    assert 0.5 < float(missed.quantile(0.99)) / found.p99_mm < 2.0  # what is reported is what happens


@pytest.mark.parametrize("degrees", [10.0, 40.0, 120.0])
def test_a_field_that_holds_a_large_affine_is_inverted_too(degrees: float) -> None:
    whole = total_field(Chain((bumps(2.0), affine(degrees, (30.0, -20.0, 10.0)))), GRID)
    assert torch.allclose(fit_affine(whole).matrix[:3, :3], affine(degrees).matrix[:3, :3], atol=0.05)
    found = invert(whole)
    assert found.p99_mm < LINEAR_MM
    assert (found.transform(whole(points())) - points()).norm(dim=1).quantile(0.95) < LINEAR_MM


def test_a_fold_has_no_inverse(tmp_path: Path) -> None:
    folded = DisplacementField(bumps(60.0).data, GRID)
    write_field(folded, tmp_path / "folded.nii.gz")
    with pytest.raises(DataError, match=r"folds and has no inverse.*folded\.nii\.gz"):
        invert_file(tmp_path / "folded.nii.gz", tmp_path / "back.h5")
    assert not (tmp_path / "back.h5").exists()


def test_a_rough_inverse_is_written_where_nothing_folds_and_refused_where_it_is_useless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_field(bumps(), tmp_path / "smooth.nii.gz")
    exact = invert(bumps())
    for missed, written in ((0.2, True), (2.0, True), (6.0, False)):
        rough = replace(exact, p99_mm=missed)
        monkeypatch.setattr("neuroreg.pipeline.transforms.invert", lambda _, found=rough: found)
        target = tmp_path / f"{missed}.h5"
        if written:
            assert invert_file(tmp_path / "smooth.nii.gz", target).rough == (missed > 1)
        else:
            with pytest.raises(DataError, match="no usable inverse.*6.00 mm"):
                invert_file(tmp_path / "smooth.nii.gz", target)
        assert target.exists() == written


def test_the_jacobian_of_an_affine_is_its_determinant(folder: Path) -> None:
    figures = jacobian_file(folder / "affine.mat", folder / "jac.nii.gz", to=folder / "fixed.nii.gz")
    wanted = 1.05 * 0.97 * 1.1
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "jac.nii.gz")))
    assert abs(written - wanted).max() < 1e-4
    assert figures.minimum == pytest.approx(wanted, abs=1e-4)
    assert figures.maximum == pytest.approx(wanted, abs=1e-4)
    assert figures.folded_percent == 0.0
    with pytest.raises(UsageError, match="no grid of its own"):
        jacobian_file(folder / "affine.mat", folder / "other.nii.gz")


def test_a_mirrored_map_is_all_folds(tmp_path: Path) -> None:
    # p -> middle + diag(1, 1, -1.5) (p - middle): the determinant is -1.5 everywhere
    offset = GRID.points() - GRID.centre_mm
    data = torch.zeros(3, *GRID.shape)
    data[2] = -2.5 * offset[..., 2]
    write_field(DisplacementField(data, GRID), tmp_path / "mirror.nii.gz")
    figures = jacobian_file(tmp_path / "mirror.nii.gz", tmp_path / "jac.mha")
    assert figures.folded_percent == 100.0
    assert figures.mean == pytest.approx(-1.5, abs=1e-4)


def test_the_jacobian_agrees_with_itk_inside(tmp_path: Path) -> None:
    write_field(bumps(), tmp_path / "bumps.nii.gz")
    jacobian_file(tmp_path / "bumps.nii.gz", tmp_path / "jac.nii.gz")
    # ITK's filter takes no account of the grid's direction: give it the components along the grid's own axes
    vectors = torch.einsum("ji,jzyx->izyx", torch.tensor(GRID.direction).reshape(3, 3), bumps().data)
    image = sitk.GetImageFromArray(vectors.movedim(0, -1).double().numpy(), isVector=True)
    image.SetSpacing(GRID.spacing)
    wanted = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "jac.nii.gz")))
    assert abs(written - wanted)[1:-1, 1:-1, 1:-1].max() < 1e-5
    assert written.std() > 0.05


@pytest.mark.parametrize("steps", [["a.nii.gz", "b.h5", "c.nii"], ["a.nii", "b.h5", "c.nii.gz"]])
def test_a_field_survives_every_format(folder: Path, steps: list[str]) -> None:
    before = folder / "bumps.h5"
    for name in steps:
        convert_file(before, folder / name)
        before = folder / name
    last = read_transform(before)
    assert isinstance(last, DisplacementField)
    assert torch.equal(last.data, bumps().data)
    assert last.geometry.same_grid(GRID)


@pytest.mark.parametrize("suffix", [".tfm", ".mat", ".h5"])
def test_an_affine_survives_every_format(folder: Path, suffix: str) -> None:
    convert_file(folder / "affine.mat", folder / f"other{suffix}")
    last = read_transform(folder / f"other{suffix}")
    assert isinstance(last, Affine)
    assert torch.allclose(last.matrix, affine().matrix, rtol=1e-14, atol=1e-13)


def test_a_deformation_does_not_fit_into_an_affine_file(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mat holds affines only"):
        convert_file(folder / "bumps.h5", folder / "bumps.mat")


@pytest.mark.parametrize(("vectors", "signs"), [("lps", (1, 1, 1)), ("ras", (-1, -1, 1))])
def test_a_field_whose_header_does_not_tell_needs_to_be_told(
    tmp_path: Path, vectors: str, signs: tuple[int, int, int]
) -> None:
    write_field(bumps(), tmp_path / "field.nii")
    data = bytearray((tmp_path / "field.nii").read_bytes())
    assert int.from_bytes(data[INTENT_OFFSET : INTENT_OFFSET + 2], "little") == 1007
    data[INTENT_OFFSET : INTENT_OFFSET + 2] = b"\0\0"
    (tmp_path / "silent.nii").write_bytes(data)
    with pytest.raises(DataError, match=r"header does not say.*--vectors"):
        convert_file(tmp_path / "silent.nii", tmp_path / "out.nii.gz")
    convert_file(tmp_path / "silent.nii", tmp_path / "out.nii.gz", vectors=vectors)
    wanted = bumps().data * torch.tensor(signs).reshape(3, 1, 1, 1)
    assert torch.equal(read_field(tmp_path / "out.nii.gz").data, wanted)


def test_images_and_labels_change_format_without_loss(folder: Path) -> None:
    convert_file(folder / "fixed.nii.gz", folder / "fixed.nrrd")
    first, second = read_image(folder / "fixed.nii.gz").volume, read_image(folder / "fixed.nrrd").volume
    assert torch.equal(first.data, second.data)
    assert first.geometry.same_grid(second.geometry)
    ids = torch.zeros(1, *GRID.shape, dtype=torch.int32)
    ids[0, 3:9, 4:8, 5:15] = 16_777_217  # not a float32
    write_image(Volume(ids, GRID, is_label=True), folder / "labels.mha")
    convert_file(folder / "labels.mha", folder / "labels.nii.gz", labels=True)
    assert torch.equal(read_labels(folder / "labels.nii.gz").volume.data.to(torch.int32), ids)


def test_what_cannot_be_meant_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="one of the inputs"):
        compose_files([folder / "affine.mat"], folder / "affine.mat", overwrite=True)
    with pytest.raises(CannotCreateError, match="--overwrite"):
        convert_file(folder / "affine.mat", folder / "bumps.h5")
    with pytest.raises(UsageError, match="--to is for transforms"):
        convert_file(folder / "fixed.nii.gz", folder / "x.nrrd", to=folder / "fixed.nii.gz")
    with pytest.raises(UsageError, match="--vectors is for displacement fields"):
        convert_file(folder / "affine.mat", folder / "x.h5", vectors="ras")


def test_convert_takes_one_frame_of_a_series(tmp_path: Path) -> None:
    ramp = np.arange(64 * 16 * 16, dtype=np.float32).reshape(64, 16, 16)
    frames = [sitk.GetImageFromArray(ramp + k) for k in (0, 7)]
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / "series.nii.gz"))
    with pytest.raises(DataError, match="neuroreg convert"):
        convert_file(tmp_path / "series.nii.gz", tmp_path / "one.nii.gz")
    convert_file(tmp_path / "series.nii.gz", tmp_path / "one.nii.gz", frame=1)
    assert np.array_equal(read_image(tmp_path / "one.nii.gz").volume.data[0].numpy(), ramp + 7)
