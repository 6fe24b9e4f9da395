"""Folds, NDV, Jacobian spread and inverse consistency against cases worked out by hand."""

import math

import pytest
import torch

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.metrics.deformation import (
    deformation_figures,
    inverse_consistency_mm,
    ndv,
    percent_folded,
    sd_log_jacobian,
)
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import Geometry

SHAPE = (7, 6, 8)
OBLIQUE = Geometry(
    size=(8, 6, 7),
    spacing=(1.0, 2.5, 0.8),
    origin=(-31.0, 12.5, 7.0),
    direction=(0.8, 0.6, 0.0, 0.6, -0.8, 0.0, 0.0, 0.0, 1.0),  # a reflection: y runs backwards
)


def linear(matrix: list[list[float]], shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """The displacement of i -> matrix i."""
    index = field.identity(shape)
    return torch.einsum("ij,bj...->bi...", torch.tensor(matrix), index) - index


def one_voxel_moved(amount: float) -> torch.Tensor:
    u = torch.zeros(1, 3, *SHAPE)
    u[0, 0, 3, 2, 4] = amount
    return u


def test_an_affine_map_has_no_folds_and_no_spread() -> None:
    u = linear([[1.1, 0.2, 0.0], [0.0, 0.9, 0.3], [0.1, 0.0, 1.2]])
    figures = deformation_figures(u)
    assert figures.folded_percent == 0.0
    assert figures.ndv_percent == 0.0
    assert figures.sd_log_jacobian == pytest.approx(0.0, abs=1e-5)


def test_a_mirror_is_all_fold() -> None:
    u = linear([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    assert percent_folded(u) == 100.0
    # Every cell of the grid turns inside out: its whole volume, (n - 1) cells for n voxels along each axis.
    assert ndv(u) == pytest.approx(100.0 * (6 * 5 * 7) / (7 * 6 * 8), rel=1e-6)


def test_one_voxel_pushed_past_its_neighbours() -> None:
    # Voxel p moves 2.5 along d. Central differences: only at p + d is det = 1 - 2.5 / 2 < 0.
    # Tetrahedra: with their right angle at p (towards +d, 4 of them) and at p + d (towards p, 4 of them)
    # det = 1 - 2.5; the central tetrahedra of the four cells on the +d side have det = 2 - 2.5.
    u = one_voxel_moved(2.5)
    assert percent_folded(u) == pytest.approx(100.0 / math.prod(SHAPE))
    expected = 0.5 * (8 * 1.5 + 4 * 0.5) / 6
    assert ndv(u) == pytest.approx(100.0 * expected / math.prod(SHAPE), rel=1e-6)


def test_tetrahedra_see_what_central_differences_miss() -> None:
    u = one_voxel_moved(1.5)
    assert percent_folded(u) == 0.0
    assert ndv(u) == pytest.approx(100.0 * 0.5 * 8 * 0.5 / 6 / math.prod(SHAPE), rel=1e-6)


def test_the_mask_chooses_the_voxels() -> None:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[4, 2, 4] = True  # p + d: the folded voxel alone
    u = one_voxel_moved(2.5)
    assert percent_folded(u, mask) == 100.0
    # The four corner tetrahedra whose right angle is at p + d; the central ones start at other corners of their
    # cells, except where p + d is the cell's even or odd corner, and those do not contain p.
    assert ndv(u, mask) == pytest.approx(100.0 * 0.5 * 4 * 1.5 / 6, rel=1e-6)
    assert percent_folded(u, ~mask) == 0.0


def test_slabs_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    u = 1.2 * torch.randn(1, 3, *SHAPE, generator=generator)
    whole = ndv(u)
    monkeypatch.setattr("neuroreg.metrics.deformation._SLAB_VOXELS", 6 * 8 * 2)
    assert whole > 1.0
    assert ndv(u) == pytest.approx(whole, rel=1e-6)


def test_spread_of_a_known_stretch() -> None:
    # d -> d + a d^2 / 2 has det = 1 + a d, exactly so under central differences away from the rim.
    a = 0.05
    index = field.identity(SHAPE)
    u = torch.zeros(1, 3, *SHAPE)
    u[:, 0] = a * index[:, 0] ** 2 / 2
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[1:-1] = True
    logs = torch.log(1 + a * torch.arange(1, SHAPE[0] - 1, dtype=torch.float64))
    assert sd_log_jacobian(u, mask) == pytest.approx(float(logs.std(correction=0)), rel=1e-5)


def test_the_direction_of_the_grid_is_undone() -> None:
    # A random field measured in voxels and the same one carried in mm on a mirrored, oblique, anisotropic grid.
    generator = torch.Generator().manual_seed(7)
    u = field.smooth(3.0 * torch.randn(1, 3, *SHAPE, generator=generator), 1.0)
    carried = DisplacementField.from_voxels(u, OBLIQUE)
    assert percent_folded(u) > 0
    assert percent_folded(carried) == percent_folded(u)
    assert ndv(carried) == pytest.approx(ndv(u), rel=1e-4)
    assert sd_log_jacobian(carried) == pytest.approx(sd_log_jacobian(u), rel=1e-4)


def test_inverse_consistency_of_affines() -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.tensor([[0.9, 0.2, 0.0, 5.0], [-0.2, 1.1, 0.1, -3.0], [0.0, 0.0, 1.0, 2.0]])
    forward = Affine(matrix)
    off = forward.inverse().matrix.clone()
    off[:3, 3] += torch.tensor([1.0, 2.0, 2.0])
    mean, largest = inverse_consistency_mm(forward, forward.inverse(), OBLIQUE)
    assert mean == pytest.approx(0.0, abs=1e-9)
    assert largest == pytest.approx(0.0, abs=1e-9)
    mask = torch.zeros(1, *SHAPE, dtype=torch.bool)
    mask[0, 2:4, 1:3, 5] = True
    mean, largest = inverse_consistency_mm(forward, Affine(off), OBLIQUE, mask)
    assert mean == pytest.approx(3.0)
    assert largest == pytest.approx(3.0)


def test_unusable_fields_are_refused() -> None:
    u = torch.zeros(1, 3, *SHAPE)
    with pytest.raises(DataError, match="empty"):
        ndv(u, torch.zeros(SHAPE, dtype=torch.bool))
    with pytest.raises(DataError, match="differ in size"):
        percent_folded(u, torch.ones(5, 5, 5, dtype=torch.bool))
    u[0, 1, 2, 2, 2] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        percent_folded(u)
