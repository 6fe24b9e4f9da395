"""The verb apply, compared with SimpleITK."""

from pathlib import Path

import numpy as np
import pipeline_phantoms as phantoms
import pytest
import SimpleITK as sitk
import torch

from neuroreg.errors import CannotCreateError, DataError, UsageError
from neuroreg.io.transforms import write_field, write_transform
from neuroreg.pipeline.apply import ApplyConfig, apply, split_files
from neuroreg.transforms import Affine, Chain, DisplacementField, total_field


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("apply")
    phantoms.save_pair(made)
    phantoms.save_labels(made)
    bend, shift = maps()
    write_transform(bend, made / "bend.h5")
    write_transform(shift, made / "shift.mat")
    write_field(total_field(Chain((bend, shift)), phantoms.grid()), made / "both.nii.gz")
    return made


def maps() -> tuple[DisplacementField, Affine]:
    """A bend with another slope along each axis, and an affine."""
    grid = phantoms.grid()
    points = grid.points() - grid.centre_mm
    u = torch.stack((0.05 * points[..., 1], -0.04 * points[..., 2], 0.03 * points[..., 0])).to(torch.float32)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 1], matrix[:3, 3] = 0.1, torch.tensor(phantoms.SHIFT_MM, dtype=torch.float64)
    return DisplacementField(u, grid), Affine(matrix)


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("names", [("bend.h5", "shift.mat"), ("shift.mat", "bend.h5"), ("both.nii.gz",)])
def test_the_first_transform_acts_first_on_the_point(
    folder: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    out = tmp_path / "out.nii.gz"
    paths = tuple(folder / name for name in names)
    done = apply(ApplyConfig(paths, (folder / "moving.nii.gz",), folder / "fixed.nii.gz", out))
    assert done.outputs == (out,)
    chain = sitk.CompositeTransform(3)
    for path in reversed(paths):  # ITK: what was added last acts first
        if path.suffix == ".gz":
            chain.AddTransform(
                sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
            )
        else:
            chain.AddTransform(sitk.ReadTransform(str(path)))
    fixed, moving = (
        sitk.ReadImage(str(folder / f"{n}.nii.gz"), sitk.sitkFloat64) for n in ("fixed", "moving")
    )
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, chain, sitk.sitkLinear, 0.0))
    assert (np.abs(array(out) - theirs) > 1e-2).sum() <= 5


def test_labels_keep_their_ids(folder: Path, tmp_path: Path) -> None:
    done = apply(
        ApplyConfig(
            (folder / "shift.mat",),
            (folder / "moving_seg.nii.gz",),
            folder / "fixed.nii.gz",
            tmp_path,
            labels=True,
        )
    )
    assert set(np.unique(array(done.outputs[0]))) == {0, 4, 23, 16_777_217}


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    chain = (folder / "bend.h5", folder / "shift.mat")
    out = tmp_path / "back.nii.gz"
    apply(ApplyConfig(chain, (folder / "fixed.nii.gz",), folder / "moving.nii.gz", out, inverse=True))
    again = tmp_path / "again.nii.gz"
    apply(ApplyConfig(chain, (out,), folder / "fixed.nii.gz", again))
    inner = (slice(12, 22), slice(14, 30), slice(12, 26))
    assert (
        np.corrcoef(array(again)[inner].ravel(), array(folder / "fixed.nii.gz")[inner].ravel())[0, 1] > 0.98
    )


def test_transforms_and_images_are_told_apart(folder: Path) -> None:
    names = ["bend.h5", "both.nii.gz", "moving.nii.gz", "moving_seg.nii.gz"]
    transforms, images = split_files([folder / name for name in names])
    assert [p.name for p in transforms] == names[:2]
    assert [p.name for p in images] == names[2:]
    with pytest.raises(UsageError, match=r"a transform is missing, this is none; moving\.nii\.gz"):
        split_files([folder / "moving.nii.gz"])
    with pytest.raises(UsageError, match="an image to move is missing"):
        split_files([folder / "bend.h5"])
    with pytest.raises(UsageError, match="among the images"):
        split_files([folder / "bend.h5", folder / "moving.nii.gz", folder / "shift.mat"])


def test_outputs_are_checked_first(folder: Path, tmp_path: Path) -> None:
    chain, moving, fixed = (folder / "shift.mat",), folder / "moving.nii.gz", folder / "fixed.nii.gz"
    with pytest.raises(UsageError, match="overwrite an input"):
        apply(ApplyConfig(chain, (moving,), fixed, moving, overwrite=True))
    with pytest.raises(UsageError, match="cannot go into one file"):
        apply(ApplyConfig(chain, (moving, fixed), fixed, tmp_path / "o.nii.gz"))
    with pytest.raises(UsageError, match="same name"):
        apply(ApplyConfig(chain, (moving, moving), fixed, tmp_path))
    (tmp_path / "there.nii.gz").write_text("x")
    with pytest.raises(CannotCreateError, match="--overwrite"):
        apply(ApplyConfig(chain, (moving,), fixed, tmp_path / "there.nii.gz"))


def test_of_several_images_all_are_moved_or_none(folder: Path, tmp_path: Path) -> None:
    chain, fixed = (folder / "shift.mat",), folder / "fixed.nii.gz"
    (tmp_path / "torn.nii.gz").write_bytes((folder / "moving.nii.gz").read_bytes()[:-9])
    images = (folder / "moving.nii.gz", tmp_path / "torn.nii.gz")
    with pytest.raises(DataError):
        apply(ApplyConfig(chain, images, fixed, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_an_empty_result_is_remarked(folder: Path, tmp_path: Path) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 3] = 900.0
    write_transform(Affine(matrix), tmp_path / "far.mat")
    fixed = folder / "fixed.nii.gz"
    done = apply(
        ApplyConfig((tmp_path / "far.mat",), (folder / "moving.nii.gz",), fixed, tmp_path / "o.nii.gz")
    )
    assert any("nothing but zeros" in warning for warning in done.warnings)


def test_labels_moved_as_an_image_are_said(folder: Path, tmp_path: Path) -> None:
    def config(name: str, **options: bool) -> ApplyConfig:
        images = (folder / "moving_seg.nii.gz",)
        return ApplyConfig(
            (folder / "shift.mat",), images, folder / "fixed.nii.gz", tmp_path / name, **options
        )

    assert any("--labels keeps them" in note for note in apply(config("a.nii.gz")).warnings)
    assert not any("--labels" in note for note in apply(config("b.nii.gz", labels=True)).warnings)
    plain = ApplyConfig(
        (folder / "shift.mat",), (folder / "moving.nii.gz",), folder / "fixed.nii.gz", tmp_path / "c.nii.gz"
    )
    assert apply(plain).warnings == ()


def test_a_map_that_mirrors_is_said(folder: Path, tmp_path: Path) -> None:
    write_transform(
        Affine(torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))), tmp_path / "m.mat"
    )
    config = ApplyConfig(
        (tmp_path / "m.mat",), (folder / "moving.nii.gz",), folder / "fixed.nii.gz", tmp_path / "a.nii.gz"
    )
    assert any("it makes left right" in note for note in apply(config).warnings)
