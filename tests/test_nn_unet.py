"""The U-Net: shapes, alignment between levels, gradients."""

import pytest
import torch

from neuroreg.nn.unet import UNet


@pytest.mark.parametrize("shape", [(16, 24, 8), (13, 18, 9)])
def test_every_side_comes_back(shape: tuple[int, int, int]) -> None:
    assert UNet(2, (4, 8, 8), 5)(torch.zeros(2, 2, *shape)).shape == (2, 5, *shape)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    network = UNet(1, (4, 8, 8, 12), 4)
    network(torch.randn(1, 1, 16, 16, 24)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_block_of_the_finest_level_alone_would_not_see_as_far() -> None:
    torch.manual_seed(0)
    wide, narrow = UNet(1, (4, 8, 8, 12), 4), UNet(1, (4, 8), 4)
    image = torch.randn(1, 1, 8, 8, 64)
    far = image.clone().requires_grad_()
    for network, reach in ((wide, 40), (narrow, 12)):
        for (
            module
        ) in network.modules():  # normalisation joins all voxels: only the convolutions are asked here
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x  # type: ignore[method-assign]
        (slope,) = torch.autograd.grad(network(far)[..., 0].sum(), far)
        seen = slope.abs().amax((0, 1, 2, 3)).nonzero().max()
        assert (int(seen) > 20) == (reach == 40)
