"""What is said of a file before it is used: facts from bytes made by hand, by law, or by nibabel."""

import gzip
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nifti_bytes import TURN, nifti, patched, phantom, save
from safetensors.torch import save_file

from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.io.transforms import write_transform
from neuroreg.pipeline.doctor_files import Examined, examine_files, orientation
from neuroreg.transforms import Affine, Chain, DisplacementField
from neuroreg.volume import Geometry


def look(path: Path, **reading: object) -> Examined:
    (found,) = examine_files([path], **reading)
    return found


def facts(path: Path, **reading: object):
    found = look(path, **reading)
    assert found.error is None, found.error
    assert found.image is not None
    return found.image


def test_an_image(tmp_path: Path) -> None:
    found = facts(save(tmp_path / "a.nii.gz", nifti(phantom())))
    values = phantom()
    assert (found.grid.size, found.pixel_type, found.frames) == ((33, 30, 27), "int16", 1)
    assert found.grid.field_of_view_mm == pytest.approx((66, 51, 64.8))
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.zero_percent == pytest.approx(100 * np.mean(values == 0))
    assert (found.invalid_percent, found.label_ids, found.sides_in_doubt) == (0, None, False)
    # the matrix is a turn by 25 degrees: each column's largest cosine is on the diagonal
    assert found.grid.axes == "RAS"
    assert found.grid.oblique_degrees == pytest.approx(math.degrees(math.acos(min(np.diag(TURN)))), abs=1e-4)


def test_what_is_no_number_is_counted(tmp_path: Path) -> None:
    values = phantom(dtype="f4")
    values[0, 0, :10] = np.nan
    values[1, 1, :5] = 0.0
    path = save(tmp_path / "a.nii", nifti(values))
    found, count = facts(path), values.size
    assert found.invalid_percent == pytest.approx(1000 / count)
    assert found.zero_percent == pytest.approx(100 * np.count_nonzero(values == 0) / count)
    assert any("NaN" in note for note in look(path).notes)


def test_label_maps_are_told_from_images_and_counted_exactly(tmp_path: Path) -> None:
    labels = np.zeros((32, 32, 32), "i4")
    labels[4:20, 4:20, 4:20] = 16777216
    labels[20:28, 4:20, 4:20] = 16777217  # the same number in single precision
    labels[4:20, 20:28, 4:20] = 3
    found = facts(save(tmp_path / "a.nii.gz", nifti(labels)))
    assert (found.content, found.label_ids, found.maximum) == ("labels", 3, 16777217)
    assert facts(save(tmp_path / "b.nii.gz", nifti(phantom(dtype="u1")))).label_ids is None


def test_brains_and_heads(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for radius, content in ((7, "little"), (12, "brain"), (20, "head")):
        grid = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij")) - 23.5
        ball = np.linalg.norm(grid, axis=0) < radius  # voxels of 5 mm: 0.18, 0.9 and 4.2 litres
        values = (ball * generator.uniform(50, 100, ball.shape)).astype("f4")
        assert (
            facts(save(tmp_path / "a.nii", nifti(values, np.diag([5.0, 5, 5, 1]), qform_code=0))).content
            == content
        )


def test_a_header_that_leaves_the_sides_in_doubt(tmp_path: Path) -> None:
    content = patched(nifti(phantom()), qform_code=0, sform_code=0)
    assert facts(save(tmp_path / "a.nii", content)).sides_in_doubt


def test_frames_and_limits_are_those_of_the_commands(tmp_path: Path) -> None:
    two = save(tmp_path / "a.nii", nifti(np.stack((phantom(), phantom(seed=1)), axis=-1)))
    assert isinstance(look(two).error, DataError)
    assert facts(two, frame=1).frames == 2
    assert isinstance(look(two, frame=2).error, UsageError)
    one = save(tmp_path / "b.nii", nifti(phantom()))
    assert isinstance(look(one, frame=1).error, UsageError)
    assert isinstance(look(one, max_voxels=1000).error, DataError)


def test_one_bad_file_never_stops_the_others(tmp_path: Path) -> None:
    good = save(tmp_path / "a.nii.gz", nifti(phantom()))
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:-9])
    (tmp_path / "words.csv").write_text("id,fixed\n")
    paths = [tmp_path / "cut.nii.gz", tmp_path / "none.nii", tmp_path, tmp_path / "words.csv", good]
    found = list(examine_files(paths))
    errors = [type(one.error) for one in found]
    assert errors == [DataError, NoInputError, UsageError, UsageError, type(None)]
    assert found[-1].image is not None


def test_a_fault_of_ours_is_one_file_s_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii", nifti(phantom()))
    monkeypatch.setattr("neuroreg.pipeline.doctor_files.read_image", lambda *_, **__: 1 / 0)
    error = look(path).error
    assert error is not None
    assert error.exit_code == 70
    assert error.__traceback__ is not None


GRID = Geometry((9, 8, 7), (2.0, 2.0, 3.0), (-5.0, 4.0, 3.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))


def test_a_chain_part_by_part(tmp_path: Path) -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.tensor([[1.1, 0, 0, 3.0], [0, 0.9, 0, 4.0], [0, 0, 1.0, 0]], dtype=torch.float64)
    points = GRID.points()
    u = 0.1 * (points - GRID.centre_mm)  # a scaling by 1.1: det J 1.331 wherever it is measured
    field = DisplacementField(u.movedim(-1, 0).float(), GRID)
    write_transform(Chain((Affine(matrix), field)), tmp_path / "t.h5")
    found = look(tmp_path / "t.h5").transform
    assert found is not None
    affine, moved = found
    assert (affine.kind, affine.largest_mm, affine.grid) == ("affine", pytest.approx(5.0), None)
    assert affine.determinant == pytest.approx((0.99, 0.99))
    assert moved.grid is not None
    assert (moved.grid.size, moved.grid.axes) == ((9, 8, 7), "RAS")  # towards -x of LPS is towards right
    assert moved.determinant == pytest.approx((1.331, 1.331), rel=1e-4)
    corner = 0.1 * math.dist((0, 0, 0), (8, 7, 9))  # half the sides of the grid, mm
    assert (moved.largest_mm, moved.folded_percent) == (pytest.approx(corner, rel=1e-5), 0)


def test_folds_and_mirrors_are_said(tmp_path: Path) -> None:
    u = torch.zeros(3, *GRID.shape)
    u[0] = -2 * (GRID.points()[..., 0] - GRID.centre_mm[0])  # x -> -x: everything folds
    write_transform(DisplacementField(u.float(), GRID), tmp_path / "t.nii.gz")
    found = look(tmp_path / "t.nii.gz")
    assert found.transform is not None
    assert found.transform[0].folded_percent == 100
    assert found.notes == ("t.nii.gz: 100 % of the field folds",)
    sitk.WriteTransform(
        sitk.AffineTransform([-1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0]), str(tmp_path / "a.tfm")
    )
    assert "mirrors" in look(tmp_path / "a.tfm").notes[0]


def test_a_volume_change_beyond_all_numbers_is_refused(tmp_path: Path) -> None:
    sitk.WriteTransform(
        sitk.AffineTransform([1e200, 0, 0, 0, 1e200, 0, 0, 0, 1], [0, 0, 0]), str(tmp_path / "a.tfm")
    )
    assert isinstance(look(tmp_path / "a.tfm").error, DataError)


def test_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(3)}, path, metadata={"method": "voxelmorph", "config": "{}"})
    found = look(path).weights
    assert found is not None
    assert (found.method, found.published, found.tensors) == ("voxelmorph", False, 1)
    (tmp_path / "w.pt").write_bytes(b"PK\3\4 whatever")
    assert isinstance(look(tmp_path / "w.pt").error, DataError)


def test_the_letters_of_all_48_ways() -> None:
    """By hand: letter k is the end of the world axis that voxel axis k runs along, L, P or S for +x, +y, +z."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            letters = "".join(("RL", "AP", "IS")[w][s > 0] for w, s in zip(order, signs, strict=True))
            assert orientation(replace(GRID, direction=tuple(matrix.reshape(-1)))) == (letters, 0.0)


@pytest.mark.oracle
def test_the_letters_are_nibabel_s() -> None:
    nibabel = pytest.importorskip("nibabel")
    generator = np.random.default_rng(0)
    for _ in range(200):
        turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        letters, oblique = orientation(replace(GRID, direction=tuple(turn.reshape(-1))))
        if oblique > 40:  # nearer to halfway the two ways of choosing may differ
            continue
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.block([[turn, np.zeros((3, 1))], [0, 0, 0, 1]])
        assert letters == "".join(nibabel.aff2axcodes(affine))


def test_a_twin_whose_voxels_itk_would_give_is_said(tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.nii.gz", nifti(phantom())), save(tmp_path / "a.nii", nifti(phantom(seed=1)))
    assert np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(one))).T, phantom(seed=1)
    )  # not what it holds
    assert any("the voxels of a.nii in the same folder" in note for note in look(one).notes)
    assert facts(one).maximum == phantom().max()
    assert look(two).notes == ()


def test_a_gzip_bomb_ends_at_its_declared_size(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti(phantom()) + bytes(50_000_000)))
    assert "goes on beyond" in str(look(tmp_path / "a.nii.gz").error)
