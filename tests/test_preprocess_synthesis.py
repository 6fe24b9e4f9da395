"""Synthesis keeps its promises on sizes, smoothness and order."""

import math

import pytest
import torch

from neuroreg import field
from neuroreg.preprocess import synthesis

SHAPE = (26, 33, 29)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_a_random_displacement_has_the_size_asked_for_and_does_not_fold() -> None:
    u = synthesis.random_displacement(SHAPE, sigma=4.0, size=1.3, generator=_generator())
    assert u.shape == (1, 3, *SHAPE)
    assert float(u.square().sum(dim=1).mean().sqrt()) == pytest.approx(1.3, rel=0.1)
    assert float(field.jacobian_determinant(u).min()) > 0.1
    again = synthesis.random_displacement(SHAPE, sigma=4.0, size=1.3, generator=_generator())
    assert torch.equal(u, again)


def test_a_bias_field_is_a_smooth_factor_around_one() -> None:
    bias = synthesis.bias_field(SHAPE, sigma=6.0, strength=0.2, generator=_generator())
    assert float(bias.log().std()) == pytest.approx(0.2, rel=1e-4)
    steps = torch.cat([g.flatten() for g in torch.gradient(bias.log()[0, 0])])
    # A Gaussian process of width s after white noise has gradients of sd strength / (s sqrt 2).
    assert float(steps.std()) == pytest.approx(0.2 / (6.0 * math.sqrt(2)), rel=0.3)


def test_a_contrast_goes_through_its_levels_and_keeps_order() -> None:
    levels = (0.0, 0.5, 0.6, 1.0)
    image = torch.tensor([0.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 1.0, 1.1]).reshape(1, 1, 1, 1, 7)
    made = synthesis.recontrast(image, levels).flatten()
    assert made.tolist() == pytest.approx([0.0, 0.25, 0.5, 0.55, 0.6, 1.0, 1.12], abs=1e-5)


def test_noise_is_rician() -> None:
    dark, bright = torch.zeros(1, 1, 40, 40, 40), torch.full((1, 1, 40, 40, 40), 5.0)
    # Rayleigh: mean sd sqrt(pi / 2); far from zero the magnitude is Gaussian with mean a + sd^2 / (2 a).
    assert float(synthesis.add_rician_noise(dark, sd=0.3, generator=_generator()).mean()) == pytest.approx(
        0.3 * math.sqrt(math.pi / 2), rel=0.01
    )
    noisy = synthesis.add_rician_noise(bright, sd=0.3, generator=_generator())
    assert float(noisy.mean()) == pytest.approx(5.0 + 0.09 / 10, abs=0.004)
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.02)


def test_fewer_slices_are_interpolated_linearly_between_those_that_are_kept() -> None:
    ramp = torch.arange(13.0)[None, :, None].expand(2, 13, 5)
    assert torch.allclose(synthesis.fewer_slices(ramp, 1, keep=4), ramp)  # slices 0, 4, 8 and 12
    square = ramp**2
    thick = synthesis.fewer_slices(square, -2, keep=4)
    assert torch.equal(thick[:, ::4], square[:, ::4])
    assert thick[0, 5, 0] == pytest.approx(16 + (64 - 16) / 4)
    assert torch.equal(synthesis.fewer_slices(square, 1, keep=99), square)
    assert synthesis.fewer_slices((square > 20).to(torch.uint8), 1, keep=3).dtype == torch.float32
