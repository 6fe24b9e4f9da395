"""Regularity of linear maps, where every derivative is known by hand."""

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.losses import regularity

SHAPE = (6, 7, 9)
SLOPES = torch.tensor([[0.10, -0.02, 0.03], [0.04, 0.20, 0.05], [-0.06, 0.01, -0.30]])


def linear(slopes: Tensor, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """u_i = sum_j slopes[i, j] * index_j + i: (1, 3, *shape)."""
    offset = torch.arange(3.0).reshape(1, 3, 1, 1, 1)
    return torch.einsum("ij,bj...->bi...", slopes, field.identity(shape)) + offset


def test_diffusion_of_a_linear_field_is_the_mean_square_of_its_slopes() -> None:
    assert float(regularity.diffusion(linear(SLOPES))) == pytest.approx(float((SLOPES**2).mean()), rel=1e-4)


def test_diffusion_averages_each_axis_before_the_axes() -> None:
    # one step of height 1 in one component along the short axis: 1 of 5 differences, 1 of 3 components, 1 of 3 axes
    u = torch.zeros(1, 3, *SHAPE)
    u[:, 1, 3:] = 1.0
    assert float(regularity.diffusion(u)) == pytest.approx(1 / 5 / 3 / 3)


def test_diffusion_is_free_of_units_and_blind_to_shifts() -> None:
    coarse = linear(SLOPES, (5, 6, 7))
    fine = field.upsample_field(coarse, (9, 11, 13))
    torch.testing.assert_close(regularity.diffusion(fine), regularity.diffusion(coarse))
    assert float(regularity.diffusion(torch.full((2, 3, 4, 5, 6), 3.7))) == 0.0


def test_an_axis_of_one_voxel_counts_as_smooth() -> None:
    u = torch.zeros(1, 3, 1, 1, 4, requires_grad=True)
    loss = regularity.diffusion(u + torch.arange(4.0))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 3)
    assert float(regularity.diffusion(torch.ones(1, 3, 1, 1, 1))) == 0.0


def test_folding_is_zero_for_invertible_maps_and_counts_the_determinant_below_the_margin() -> None:
    assert float(regularity.folding(torch.zeros(1, 3, *SHAPE))) == 0.0
    assert float(regularity.folding(linear(SLOPES))) == 0.0
    for stretch, expected in ((-2.0, 1.1), (-0.95, 0.05), (-0.9, 0.0)):  # det = 1 + stretch; margin 0.1
        slopes = torch.diag(torch.tensor([0.0, stretch, 0.0]))
        assert float(regularity.folding(linear(slopes))) == pytest.approx(expected, abs=1e-5)
    squeezed = torch.diag(torch.tensor([-0.5, -0.5, 0.0]))  # det 0.25
    assert float(regularity.folding(linear(squeezed), margin=0.3)) == pytest.approx(0.05, abs=1e-5)


def test_both_are_float32_for_half_precision_fields() -> None:
    u = linear(SLOPES).bfloat16()
    assert regularity.diffusion(u).dtype == torch.float32
    assert regularity.folding(u).dtype == torch.float32
