"""The slopes of the Gauss-Newton similarities are derivatives; their values are what other code says."""

import pytest
import torch
from torch import Tensor

from neuroreg.losses.newton import Similarity, global_correlation, local_correlation, mutual_information
from neuroreg.losses.similarity import lncc_map


def images() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    fixed = torch.rand(1, 1, 12, 10, 14, generator=generator)
    moved = (0.6 * fixed + 0.4 * torch.rand(2, 1, 12, 10, 14, generator=generator)).clamp(0, 1)
    weight = (torch.rand(2, 1, 12, 10, 14, generator=generator) > 0.3).float()
    return fixed, moved, weight


@pytest.mark.parametrize(
    "similarity",
    [global_correlation, local_correlation(5), local_correlation(3, 7, power=4), mutual_information],
)
def test_the_slope_is_the_derivative(similarity: Similarity) -> None:
    fixed, moved, weight = images()
    change = (
        1e-2
        * torch.randn(moved.shape, generator=torch.Generator().manual_seed(1))
        * (moved > 0.05)
        * (moved < 0.9)
    )
    change[:, :, 0, 0, 0] = 0.0
    ends = [similarity(fixed, moved + sign * change / 2, weight).value.double() for sign in (1, -1)]
    slope = (similarity(fixed, moved, weight).slope * change).sum(dim=(1, 2, 3, 4)).double()
    torch.testing.assert_close(slope, ends[0] - ends[1], rtol=0.02, atol=1e-5)


def test_the_value_is_the_mean_of_the_lncc_map() -> None:
    fixed, moved, weight = images()
    for b in range(2):
        expected = (lncc_map(fixed, moved[b : b + 1], window=5, eps=1e-5) * weight[b]).sum() / weight[b].sum()
        torch.testing.assert_close(
            local_correlation(5)(fixed, moved, weight).value[b], expected, rtol=1e-4, atol=1e-5
        )


def test_correlation_keeps_its_sign() -> None:
    fixed, _, weight = images()
    assert float(global_correlation(fixed, fixed, weight[:1]).value) == pytest.approx(1.0, abs=0.01)
    assert float(global_correlation(fixed, 1 - fixed, weight[:1]).value) == pytest.approx(-1.0, abs=0.01)


def test_information_of_a_function_is_higher_than_of_noise() -> None:
    fixed, _, weight = images()
    noise = torch.rand(fixed.shape, generator=torch.Generator().manual_seed(9))
    same = mutual_information(fixed, (1 - fixed) ** 2, weight[:1]).value
    assert float(same) > float(mutual_information(fixed, noise, weight[:1]).value) + 0.5


def test_flat_images_have_no_slope() -> None:
    fixed, _, weight = images()
    flat = torch.full_like(fixed, 0.5)
    weight[..., :2], weight[..., -2:] = 0, 0  # the outside counts as 0, so windows on the rim are not flat
    weight[..., :2, :], weight[..., -2:, :], weight[:, :, :2], weight[:, :, -2:] = 0, 0, 0, 0
    for similarity in (global_correlation, local_correlation(5)):
        terms = similarity(fixed, flat, weight[:1])
        assert float(terms.value.abs().max()) < 1e-2
        assert bool(torch.isfinite(terms.slope).all())
        assert float(terms.curvature.min()) >= 0.0
