"""Voxel-frame calculus: laws, hand-made cases and independent libraries, on grids with three different sides."""

import pytest
import torch
from scipy import ndimage

from neuroreg import field
from neuroreg.inverse import invert

SHAPE = (14, 12, 10)


def noise(channels: int, seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.rand(
        (1, channels, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def smooth_field(amplitude: float, seed: int = 0) -> torch.Tensor:
    u = field.smooth(noise(3, seed) - 0.5, 2.0)
    return (
        u / u.abs().max() * torch.tensor([amplitude, 0.7 * amplitude, 1.3 * amplitude]).reshape(1, 3, 1, 1, 1)
    )


def test_sampling_agrees_with_scipy_inside_and_repeats_the_border() -> None:
    image, index = noise(1, 0), noise(3, 1) * 20 - 4  # also outside
    expected = ndimage.map_coordinates(image[0, 0].numpy(), index[0].numpy(), order=1, mode="nearest")
    assert field.sample(image, index)[0, 0].numpy() == pytest.approx(expected, abs=1e-12)
    points = index.reshape(3, -1).clone()
    assert field.sample_points(image[0], points)[0].numpy() == pytest.approx(expected.reshape(-1), abs=1e-12)
    single = field.sample_points(image[0].float(), index.reshape(3, -1).clone())[
        0
    ]  # float64 places, float32 values
    assert single.numpy() == pytest.approx(expected.reshape(-1), abs=1e-6)


def test_nearest_rounds_halves_up_and_keeps_large_ids() -> None:
    image = torch.arange(16_777_210, 16_777_210 + 5).reshape(1, 1, 5, 1, 1)
    index = torch.zeros(1, 3, 5, 1, 1, dtype=torch.float64)
    index[0, 0, :, 0, 0] = torch.tensor([0.5, 1.49, 2.5, 3.999, 9.0])
    assert (field.sample(image, index, mode="nearest") - 16_777_210).flatten().tolist() == [1, 1, 3, 4, 4]


def test_the_fill_begins_half_a_voxel_outside() -> None:
    index = torch.zeros(1, 3, 4, 1, 1)
    index[0, 0, :, 0, 0] = torch.tensor([-0.5, -0.51, 13.49, 13.5])
    assert field.sample(torch.ones(1, 1, *SHAPE), index, fill=-1.0).flatten().tolist() == [1, -1, 1, -1]


def test_a_shift_moves_each_axis_by_its_own_amount() -> None:
    image = noise(1, 2)
    u = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64).reshape(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    assert torch.allclose(field.warp(image, u)[..., :-1, :-2, 3:], image[..., 1:, 2:, :-3])


def test_composing_is_warping_twice() -> None:
    outer, inner = smooth_field(1.2, 3), smooth_field(0.9, 4)
    ramp = field.identity(SHAPE, dtype=torch.float64)  # linear, so that interpolation is exact
    twice = field.warp(field.warp(ramp, outer), inner)
    inside = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    assert torch.allclose(twice[inside], field.warp(ramp, field.compose(outer, inner))[inside], atol=1e-12)


def test_an_inverse_undoes_its_field() -> None:
    u = smooth_field(1.0)
    left = field.compose(u, invert(u))
    assert left[..., 3:-3, 3:-3, 3:-3].abs().max() < 1e-6


def test_the_exponential_of_a_negated_velocity_is_the_inverse() -> None:
    v = smooth_field(0.8)
    left = field.compose(field.exponential(v), field.exponential(-v))
    assert left[..., 3:-3, 3:-3, 3:-3].abs().max() < 0.02  # linear interpolation between seven squarings


def test_upsampling_puts_voxel_i_on_voxel_2i() -> None:
    x = noise(2, 5)
    for shape in ((28, 24, 20), (27, 23, 19)):
        up = field.upsample(x, shape)
        assert torch.equal(up[..., ::2, ::2, ::2], x)
        between = (x[:, :, 1:] + x[:, :, :-1]) / 2
        assert torch.allclose(up[:, :, 1 : 2 * between.shape[2] : 2, ::2, ::2], between)
        assert torch.equal(field.upsample_field(x, shape), 2 * up)


def test_downsampling_keeps_a_ramp() -> None:
    ramp = field.identity(SHAPE, dtype=torch.float64)
    half = field.downsample(ramp)
    assert torch.allclose(
        half[..., 2:-2, 2:-2, 2:-2], 2 * field.identity((7, 6, 5), dtype=torch.float64)[..., 2:-2, 2:-2, 2:-2]
    )


def test_the_jacobian_of_a_linear_map_is_its_matrix() -> None:
    matrix = torch.tensor([[1.1, 0.2, 0.0], [-0.1, 0.9, 0.05], [0.0, 0.3, 1.2]], dtype=torch.float64)
    grid = field.identity(SHAPE, dtype=torch.float64)
    u = torch.einsum("ij,bjdhw->bidhw", matrix, grid) - grid
    assert torch.allclose(field.jacobian(u), matrix.reshape(1, 3, 3, 1, 1, 1).expand(1, 3, 3, *SHAPE))
    assert torch.allclose(field.jacobian_determinant(u), torch.linalg.det(matrix).expand(1, *SHAPE))


def test_an_affine_in_the_voxel_frame() -> None:
    affine = torch.tensor([[[0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, -1.0], [0.0, 0.0, 1.0, 0.5]]])
    index = torch.tensor([3.0, 4.0, 5.0]).reshape(1, 3, 1, 1, 1)
    assert field.affine_index(affine, index).flatten().tolist() == [6.0, 2.0, 5.5]


def test_what_a_registration_keeps_a_training_can_use() -> None:
    with torch.inference_mode():
        field.upsample(torch.zeros(1, 1, 7, 9, 11), (14, 18, 22))
        field.smooth(torch.zeros(1, 1, 7, 9, 11), 1.3)
        field.box_mean(torch.zeros(1, 1, 7, 9, 11), 5)
    x = torch.randn(1, 1, 7, 9, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total = field.upsample(x, (14, 18, 22)).sum() + field.smooth(x, 1.3).sum() + field.box_mean(x, 5).sum()
    (slope,) = torch.autograd.grad(total, x)
    assert bool((slope > 0).all())
