"""Geometry and Volume: where voxels lie, by hand and by SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_transforms import FIXED, MOVING, turned

from neuroreg.errors import DataError
from neuroreg.volume import Geometry, Volume


def test_points_lie_where_simpleitk_says() -> None:
    image = sitk.Image(FIXED.size, sitk.sitkUInt8)
    image.SetSpacing(FIXED.spacing)
    image.SetOrigin(FIXED.origin)
    image.SetDirection(FIXED.direction)
    points = FIXED.points()
    for index in ((0, 0, 0), (39, 33, 29), (5, 20, 11)):
        x, y, z = index
        assert points[z, y, x].numpy() == pytest.approx(image.TransformIndexToPhysicalPoint(index), abs=1e-12)
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in FIXED.size])
    assert FIXED.centre_mm.numpy() == pytest.approx(centre, abs=1e-12)


def test_the_matrices_are_each_other_s_inverse() -> None:
    assert (FIXED.world_to_voxel @ FIXED.voxel_to_world).numpy() == pytest.approx(np.eye(4), abs=1e-13)
    assert FIXED.voxel_volume_mm3 == pytest.approx(2.1 * 1.6 * 2.4)
    assert float(torch.linalg.det(FIXED.voxel_to_world)) == pytest.approx(FIXED.voxel_volume_mm3)


def test_same_grid_looks_at_the_far_corner() -> None:
    # A turn of 1e-4 rad moves the far corner of an 80 mm grid by about 8 um, eight times the tolerance.
    other = Geometry(FIXED.size, FIXED.spacing, FIXED.origin, turned(0.3, -0.2, 0.5001))
    assert FIXED.same_grid(FIXED)
    assert not FIXED.same_grid(other)
    assert FIXED.same_grid(other, tolerance_mm=0.05)
    assert not FIXED.same_grid(MOVING)


def test_level_keeps_voxel_zero_and_every_second_voxel() -> None:
    coarse = FIXED.level(1)
    assert coarse.size == (20, 17, 15)
    assert Geometry((5, 4, 3), (1, 1, 1), (0, 0, 0)).level(2).size == (2, 1, 1)
    assert (coarse.points() - FIXED.points()[::2, ::2, ::2]).abs().max() < 1e-12


def test_impossible_grids_and_data_are_refused() -> None:
    for size, spacing in (
        ((0, 3, 3), (1.0, 1.0, 1.0)),
        ((3, 3, 3), (1.0, 0.0, 1.0)),
        ((3, 3, 3), (1.0, float("nan"), 1.0)),
    ):
        with pytest.raises(DataError):
            Geometry(size, spacing, (0.0, 0.0, 0.0))
    with pytest.raises(DataError, match=r"\(C, Z, Y, X\)"):
        Volume(torch.zeros(FIXED.shape), FIXED)
    with pytest.raises(DataError, match="integers"):
        Volume(torch.zeros((1, *FIXED.shape)), FIXED, is_label=True)


def test_with_data_keeps_the_rest() -> None:
    volume = Volume(torch.zeros((1, *FIXED.shape), dtype=torch.int32), FIXED, is_label=True)
    other = volume.with_data(volume.data + 1)
    assert other.is_label
    assert other.geometry is FIXED
    assert int(volume.data.max()) == 0
