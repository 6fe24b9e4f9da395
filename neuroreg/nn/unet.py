"""A U-Net: every voxel sees fine detail and the whole head. Tensors (B, C, D, H, W)."""

from itertools import pairwise

from torch import Tensor, nn

from neuroreg import field
from neuroreg.nn.blocks import conv3


class UNet(nn.Module):
    """Convolutions down to 1 / 2**(levels - 1) of the side and back, skips added (Ronneberger et al. 2015).

    ``widths`` are the channels of every level, fine to coarse. Skips are added, not concatenated: at the finest
    level, where nearly all the work is, this halves the channels. Upsampling is linear and aligned by index.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.first = _block(in_channels, widths[0])
        self.down = nn.ModuleList(
            [nn.Sequential(_block(a, b, stride=2), _block(b, b)) for a, b in pairwise(widths)]
        )
        self.narrow = nn.ModuleList([nn.Conv3d(b, a, 1) for a, b in pairwise(widths)])
        self.up = nn.ModuleList([_block(a, a) for a in widths[1:-1]])
        self.last = _block(widths[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, out_channels, D, H, W); any sides."""
        x = self.first(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        ups = [self.last, *self.up]
        for level in range(len(skips) - 1, -1, -1):
            skip = skips[level]
            x = ups[level](skip + field.upsample(self.narrow[level](x), tuple(skip.shape[2:])))
        return x


def _block(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution, group normalisation (groups of four channels), LeakyReLU."""
    groups = max(1, out_channels // 4)
    return nn.Sequential(
        conv3(in_channels, out_channels, stride=stride), nn.GroupNorm(groups, out_channels), nn.LeakyReLU(0.2)
    )
