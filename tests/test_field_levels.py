"""Pyramid levels: strided convolution, field resizing, image subsampling and geometry put voxel i on i * 2**level."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from neuroreg import field
from neuroreg.methods.base import Prediction
from neuroreg.nn.blocks import conv3
from neuroreg.volume import Geometry

FINE = (13, 10, 16)
COARSE = (7, 5, 8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def position() -> Tensor:
    """The full-resolution index of every voxel as an image of three channels (1, 3, *FINE)."""
    return field.identity(FINE)


def inner(x: Tensor, margin: int = 2) -> Tensor:
    """Without what a kernel's reach beyond the border has touched."""
    return x[..., margin:-margin, margin:-margin, margin:-margin]


def test_a_strided_convolution_reads_voxel_2i() -> None:
    convolution = conv3(1, 1, stride=2)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[0, 0, 1, 1, 1] = 1.0
        convolution.bias.zero_()
        out = convolution(noise(1, 1, *FINE))
    assert out.shape[2:] == COARSE
    torch.testing.assert_close(out, noise(1, 1, *FINE)[:, :, ::2, ::2, ::2])


def test_convolution_subsampling_and_geometry_agree_on_where_a_voxel_lies() -> None:
    convolution = conv3(1, 1, stride=2)
    with torch.no_grad():
        convolution.weight.fill_(1 / 27)
        convolution.bias.zero_()
        by_network = torch.cat([convolution(x) for x in position().split(1, dim=1)], dim=1)
    by_image = field.downsample(position())
    expected = 2 * field.identity(COARSE)
    torch.testing.assert_close(inner(by_network, 1), inner(expected, 1))
    torch.testing.assert_close(inner(by_image), inner(expected))

    depth, height, width = FINE
    grid = Geometry((width, height, depth), (1.5, 2.0, 0.5), (7.0, -3.0, 11.0), (0, 1, 0, 0, 0, -1, -1, 0, 0))
    assert grid.level(1).shape == COARSE
    torch.testing.assert_close(grid.level(1).points(), grid.points()[::2, ::2, ::2])


def test_downsampling_is_smoothing_and_every_second_voxel() -> None:
    image = noise(2, 1, *FINE)
    smoothed = ndimage.gaussian_filter(image.numpy(), (0, 0, 1, 1, 1), mode="nearest", radius=(0, 0, 3, 3, 3))
    np.testing.assert_allclose(field.downsample(image).numpy(), smoothed[:, :, ::2, ::2, ::2], atol=1e-6)


@pytest.mark.parametrize("finer", [FINE, (14, 9, 15)])
def test_upsampling_reads_at_half_the_index(finer: tuple[int, int, int]) -> None:
    coarse = noise(1, 2, *COARSE)
    at = field.identity(finer)[0].numpy() / 2
    expected = [ndimage.map_coordinates(x, at, order=1, mode="nearest") for x in coarse[0].numpy()]
    np.testing.assert_allclose(field.upsample(coarse, finer)[0].numpy(), expected, atol=1e-6)


def test_upsampling_undoes_subsampling_of_a_ramp_except_beyond_the_last_node() -> None:
    back = field.upsample(position()[:, :, ::2, ::2, ::2], FINE)
    last = torch.tensor([2 * (n - 1) for n in COARSE]).reshape(1, 3, 1, 1, 1)
    torch.testing.assert_close(back, torch.minimum(position(), last))


def test_a_field_is_the_same_map_on_both_levels() -> None:
    matrix = 0.05 * noise(3, 3, seed=1)
    fine_index, coarse_index = field.identity(FINE), field.identity(COARSE)
    coarse = torch.einsum("ij,bj...->bi...", matrix, coarse_index) + 0.3
    fine = field.upsample_field(coarse, FINE)
    # the map in full-resolution voxels: 2 (i/2 + u(i/2)); linear, so exact up to the last node
    expected = torch.einsum("ij,bj...->bi...", matrix, fine_index) + 0.6
    within = (slice(None), slice(None), *(slice(0, 2 * n - 1) for n in COARSE))
    torch.testing.assert_close(fine[within], expected[within])
    assert fine.shape[2:] == FINE


def test_a_prediction_moves_between_levels() -> None:
    u = torch.full((1, 3, *COARSE), 0.5) * torch.tensor([1.0, -2.0, 3.0]).reshape(1, 3, 1, 1, 1)
    prediction = Prediction(u, level=1)
    torch.testing.assert_close(prediction.at_level(1, COARSE), u)
    assert prediction.at_level(0, FINE).shape[2:] == FINE
    torch.testing.assert_close(
        prediction.at_level(0, FINE).mean((0, 2, 3, 4)), torch.tensor([1.0, -2.0, 3.0])
    )
    torch.testing.assert_close(
        prediction.at_level(2, (4, 3, 4)).mean((0, 2, 3, 4)), torch.tensor([0.25, -0.5, 0.75])
    )
    twice = Prediction(u, level=2).at_level(0, (26, 19, 31))
    assert twice.shape[2:] == (26, 19, 31)
    torch.testing.assert_close(twice.mean((0, 2, 3, 4)), torch.tensor([2.0, -4.0, 6.0]))


@pytest.mark.parametrize("sigma", [0.4, 0.7, 1.7])
def test_smoothing_is_scipys(sigma: float) -> None:
    x, reach = noise(1, 2, *FINE), int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(
        x.double().numpy(), (0, 0, *(sigma,) * 3), mode="nearest", radius=(0, 0, *(reach,) * 3)
    )
    np.testing.assert_allclose(field.smooth(x, sigma).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        field.smooth(x, sigma, stride=2).numpy(), expected[:, :, ::2, ::2, ::2], atol=1e-6
    )


@pytest.mark.parametrize("window", [1, 3, 7, 15])
def test_box_means_are_scipys(window: int) -> None:
    x = noise(1, 2, *FINE)
    expected = ndimage.uniform_filter(x.double().numpy(), (0, 0, *(window,) * 3), mode="constant", cval=0.0)
    np.testing.assert_allclose(field.box_mean(x, window).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(
        field.box_mean(x, window, stride=2).numpy(), expected[:, :, ::2, ::2, ::2], atol=1e-6
    )


def test_separable_applies_each_matrix_along_its_own_axis() -> None:
    x, matrices = noise(2, 3, 4, 5, 6), (noise(7, 4), noise(2, 5), noise(3, 6))
    expected = torch.einsum("ad,bh,cw,ijdhw->ijabc", *matrices, x)
    torch.testing.assert_close(field.separable(x, matrices), expected)


def test_separable_keeps_float32_under_autocast_and_float64_as_it_is() -> None:
    x = 1.0 + 1e-4 * noise(1, 1, 4, 5, 6)  # bfloat16 keeps three digits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = field.smooth(x, 1.0)
    assert under.dtype == torch.float32
    assert torch.equal(under, field.smooth(x, 1.0))
    assert field.smooth(x.double(), 1.0).dtype == torch.float64


def test_gradients_pass_through_resizing() -> None:
    # separable is linear, so its gradient is its transpose: <A x, y> = <x, A' y>
    x, y = noise(1, 3, *COARSE).requires_grad_(), noise(1, 3, *FINE, seed=2)
    out = field.upsample_field(x, FINE)
    (out * y).sum().backward()
    torch.testing.assert_close((x.grad * x).sum(), (out * y).sum())
