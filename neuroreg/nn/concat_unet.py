"""The U-Net of VoxelMorph: skips concatenated, from two images to one field. Tensors (B, C, D, H, W)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from neuroreg import field
from neuroreg.nn.blocks import conv3, flow_head, local_normalise

SLOPE = 0.2
"""of every LeakyReLU"""


class ConcatUNet(nn.Module):
    """Four halvings, five decoder groups; what each group upsampled meets the encoder's map of the same size.

    ``encoder``: channels of the four maps; with ``down`` "stride" they lie at sides /2 to /16 and the input itself is
    the skip of the finest group, with "pool" they are made at sides /1 to /8, each then max-pooled, and all four are
    skips. ``decoder``: channels of the convolutions of each group, at sides /16 to /1. Upsampling is linear and
    aligned by index.

    ``bottleneck`` makes, from the channels, a module for the coarsest map. ``guide`` makes, from the channels of a
    skip and of the decoder map, a module (skip, upsampled decoder map) -> skip, for the three coarser skips. Both
    are made after the plain layers, which therefore draw the same first weights with and without them.
    """

    def __init__(
        self,
        in_channels: int,
        encoder: Sequence[int],
        decoder: Sequence[Sequence[int]],
        *,
        down: Literal["stride", "pool"] = "stride",
        bottleneck: Callable[[int], nn.Module] | None = None,
        guide: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.down = down
        stride = 2 if down == "stride" else 1
        self.encoder = nn.ModuleList(
            [_convolution(a, b, stride=stride) for a, b in pairwise((in_channels, *encoder))]
        )
        skips = (encoder if down == "pool" else (in_channels, *encoder[:-1]))[::-1]
        inputs = [encoder[-1], *(group[-1] + skip for group, skip in zip(decoder, skips, strict=False))]
        self.decoder = nn.ModuleList([_group(a, group) for a, group in zip(inputs, decoder, strict=True)])
        self.out_channels = decoder[-1][-1]
        self.bottleneck = nn.Identity() if bottleneck is None else bottleneck(encoder[-1])
        self.guides = nn.ModuleList(
            [] if guide is None else [guide(s, g[-1]) for s, g in zip(skips[:3], decoder[:3], strict=True)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, D, H, W), any sides -> (B, out_channels, D, H, W)."""
        skips = []
        for layer in self.encoder:
            if self.down == "pool":
                skips.append(layer(x))
                x = nn.functional.max_pool3d(skips[-1], 2, ceil_mode=True)
            else:
                skips.append(x)
                x = layer(x)
        x = self.decoder[0](self.bottleneck(x))
        for number, skip in enumerate(reversed(skips)):
            x = field.upsample(x, tuple(skip.shape[2:]))
            if number < len(self.guides):
                skip = self.guides[number](skip, x)
            x = self.decoder[number + 1](torch.cat((x, skip.to(x.dtype)), dim=1))
        return x


class RegistrationUNet(nn.Module):
    """A pair of images through one U-Net to three linear components. ``body`` makes the U-Net from its input channels.

    With ``normalised_input`` it also reads both images locally normalised; ``stride`` 2 makes the components for every
    second voxel alone.
    """

    def __init__(self, body: Callable[[int], ConcatUNet], *, normalised_input: bool, stride: int = 1) -> None:
        super().__init__()
        self.normalised_input = normalised_input
        self.body = body(4 if normalised_input else 2)
        self.flow = flow_head(self.body.out_channels)
        self.flow.stride = (stride,) * 3

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(B, 1, D, H, W) twice -> (B, 3, D, H, W) float32, or half the sides with ``stride`` 2."""
        images = torch.cat((moving, fixed), dim=1)
        if self.normalised_input:
            images = torch.cat((images, local_normalise(images)), dim=1)
        out: Tensor = self.flow(self.body(images)).float()
        return out


def _group(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(_convolution(a, b) for a, b in pairwise((in_channels, *widths))))


def _convolution(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution with He-normal weights and zero bias, LeakyReLU."""
    convolution = conv3(in_channels, out_channels, stride=stride)
    nn.init.kaiming_normal_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE))
