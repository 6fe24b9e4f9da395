"""The U-Net of VoxelMorph: sizes, what its plugs are handed, and that they change nothing else."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from neuroreg.nn.concat_unet import ConcatUNet, RegistrationUNet

ENCODER = (3, 4, 5, 6)
DECODER = ((7,), (8,), (9,), (10, 11), (12, 13))
Down = Literal["stride", "pool"]


class Plug(nn.Module):
    """Notes what it was made from and handed, and returns ``factor`` times its first input."""

    def __init__(self, *channels: int, factor: float = 1.0) -> None:
        super().__init__()
        self.channels, self.factor = channels, factor
        self.extra = nn.Linear(2, 2)  # draws from the generator, as a real module does
        self.seen: list[tuple[int, ...]] = []

    def forward(self, *maps: Tensor) -> Tensor:
        self.seen = [tuple(x.shape) for x in maps]
        return self.factor * maps[0]


def unet(down: Down = "stride", **plugs: object) -> ConcatUNet:
    torch.manual_seed(0)
    return ConcatUNet(2, ENCODER, DECODER, down=down, **plugs)  # type: ignore[arg-type]


@pytest.mark.parametrize("down", ["stride", "pool"])
@pytest.mark.parametrize("shape", [(16, 24, 32), (13, 18, 9)])
def test_every_side_comes_back(shape: tuple[int, int, int], down: Down) -> None:
    assert unet(down)(torch.zeros(2, 2, *shape)).shape == (2, 13, *shape)


@pytest.mark.parametrize("down", ["stride", "pool"])
def test_gradients_reach_every_parameter(down: Down) -> None:
    network = unet(down)
    network(torch.randn(1, 2, 16, 16, 32)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("down", "skips"), [("stride", (5, 4, 3)), ("pool", (6, 5, 4))], ids=["stride", "pool"]
)
def test_the_plugs_see_the_coarsest_map_and_the_three_coarser_skips(
    down: Down, skips: tuple[int, ...]
) -> None:
    network = unet(down, bottleneck=Plug, guide=Plug)
    network(torch.zeros(1, 2, 32, 48, 64))
    assert network.bottleneck.channels == (6,)
    assert network.bottleneck.seen == [(1, 6, 2, 3, 4)]
    for number, (guide, skip) in enumerate(zip(network.guides, skips, strict=True)):
        sides = tuple(n * 2**number for n in (4, 6, 8))
        assert guide.channels == (skip, 7 + number)  # type: ignore[union-attr]
        assert guide.seen == [(1, skip, *sides), (1, 7 + number, *sides)]  # type: ignore[union-attr]


def test_plugs_that_do_nothing_change_nothing() -> None:
    x = torch.randn(1, 2, 16, 16, 16)
    plain = unet()
    plugged = unet(bottleneck=Plug, guide=Plug)
    torch.testing.assert_close(plugged(x), plain(x), rtol=0, atol=0)
    for factors in (
        {"bottleneck": lambda c: Plug(c, factor=0.5)},
        {"guide": lambda a, b: Plug(a, b, factor=0.5)},
    ):
        assert float((unet(**factors)(x) - plain(x)).detach().abs().max()) > 1e-3


def test_one_linear_layer_passes_through_as_its_weights_say() -> None:
    """With every other path closed, the finest group's first convolution reads the input in place."""
    network = unet()
    x = torch.rand(1, 2, 16, 16, 16)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first, second = network.decoder[-1][0][0], network.decoder[-1][1][0]
        first.weight[0, 11 + 1, 1, 1, 1] = 2.0  # eleven decoder channels, then the two of the input
        second.weight[4, 0, 1, 1, 1] = 3.0
    out = network(x)
    torch.testing.assert_close(out[:, 4], 6.0 * x[:, 1])
    assert not out[:, [c for c in range(13) if c != 4]].any()


def test_the_moving_image_comes_first_and_normalised_images_last() -> None:
    torch.manual_seed(0)
    network = RegistrationUNet(lambda c: ConcatUNet(c, ENCODER, DECODER), normalised_input=True)
    seen: list[Tensor] = []
    network.body.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    fixed, moving = torch.rand(2, 1, 16, 16, 16), torch.rand(2, 1, 16, 16, 16)
    assert network(fixed, moving).shape == (2, 3, 16, 16, 16)
    assert seen[0].shape == (2, 4, 16, 16, 16)
    torch.testing.assert_close(seen[0][:, :2], torch.cat((moving, fixed), dim=1))


def test_stride_2_reads_the_full_field_at_every_second_voxel() -> None:
    torch.manual_seed(0)
    network = RegistrationUNet(lambda c: ConcatUNet(c, ENCODER, DECODER), normalised_input=False)
    pair = torch.rand(1, 1, 16, 16, 18), torch.rand(1, 1, 16, 16, 18)
    full = network(*pair)
    network.flow.stride = (2, 2, 2)
    torch.testing.assert_close(network(*pair), full[..., ::2, ::2, ::2], atol=1e-9, rtol=1e-4)
