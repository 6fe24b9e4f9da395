"""The blocks: initial values, shapes, and what they leave unchanged."""

import numpy as np
import pytest
import torch
from torch import nn

from neuroreg.nn.blocks import ResidualBlock, conv3, flow_head, local_normalise


@pytest.mark.parametrize(("side", "stride", "out"), [(7, 1, 7), (7, 2, 4), (8, 2, 4), (1, 2, 1)])
def test_conv3_keeps_or_halves_the_side(side: int, stride: int, out: int) -> None:
    layer = conv3(2, 5, stride=stride, bias=False)
    assert layer.bias is None
    assert layer(torch.zeros(1, 2, side, side, side)).shape == (1, 5, out, out, out)


def test_a_flow_head_starts_near_zero_and_is_linear() -> None:
    torch.manual_seed(0)
    head = flow_head(16, sd=1e-3)
    assert head.out_channels == 3
    assert float(head.bias.detach().abs().max()) == 0.0
    assert float(head.weight.detach().std()) == pytest.approx(1e-3, rel=0.1)
    x = torch.randn(1, 16, 4, 5, 6)
    torch.testing.assert_close(head(-2 * x), -2 * head(x))  # linear: no norm, no activation behind it


def test_a_residual_block_is_the_identity_when_its_last_convolution_is_zero() -> None:
    block = ResidualBlock(4)
    x = torch.randn(2, 4, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(block(x), x)
    nn.init.zeros_(block.body[-1].weight)
    assert torch.equal(block(x), x)
    assert [m.bias for m in block.body if isinstance(m, nn.Conv3d)] == [None, None]


def test_local_normalisation_is_the_z_score_in_the_window() -> None:
    image = torch.rand(2, 1, 10, 9, 11, generator=torch.Generator().manual_seed(0))
    found = local_normalise(image, window=5, eps=1e-3)
    for b, d, h, w in ((0, 2, 2, 2), (1, 5, 4, 6), (1, 7, 6, 8)):
        cube = image[b, 0, d - 2 : d + 3, h - 2 : h + 3, w - 2 : w + 3].double().numpy()
        expected = (float(image[b, 0, d, h, w]) - cube.mean()) / np.sqrt(cube.var() + 1e-3)
        assert float(found[b, 0, d, h, w]) == pytest.approx(expected, abs=1e-4)


def test_local_normalisation_removes_gain_and_offset_and_survives_flat_images() -> None:
    image = torch.rand(1, 1, 11, 11, 11, generator=torch.Generator().manual_seed(0))
    inside = (slice(None), slice(None), *(slice(3, -3),) * 3)
    torch.testing.assert_close(
        local_normalise(0.5 * image + 0.2, eps=1e-7)[inside],
        local_normalise(image, eps=1e-7)[inside],
        atol=2e-3, rtol=0,
    )  # fmt: skip
    assert float(local_normalise(torch.zeros(1, 1, 8, 8, 8)).abs().max()) == 0.0
    assert float(local_normalise(torch.full((1, 1, 11, 11, 11), 0.8))[inside].abs().max()) < 1e-3


def test_local_normalisation_is_float32_under_autocast() -> None:
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(local_normalise(image), local_normalise(image.float()))
    assert local_normalise(image.bfloat16()).dtype == torch.float32
