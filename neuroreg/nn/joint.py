"""The parts of networks that align two images in any pose and then deform one: encoder, affine heads, decoder."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroreg import field
from neuroreg.nn.blocks import conv3, flow_head

Norm = Literal["instance", "group", "batch"]

_GRID = 4  # cells a side of the pooled grid
_START = 0.1  # of the pooled heads' linear part: first steps turn little


def norm(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer with a scale and a shift per channel; group: groups of four channels."""
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    return nn.GroupNorm(channels if kind == "instance" else max(1, channels // 4), channels)


class DilatedBlock(nn.Sequential):
    """Four convolutions with dilations 1, 2, 4, 8, each with ReLU and group normalisation: (B, C, D, H, W) stays."""

    def __init__(self, channels: int) -> None:
        parts: list[nn.Module] = []
        for dilation in (1, 2, 4, 8):
            conv = nn.Conv3d(channels, channels, 3, padding=dilation, dilation=dilation)
            parts += [conv, nn.ReLU(), nn.GroupNorm(min(8, channels), channels)]
        super().__init__(*parts)


class Encoder(nn.Module):
    """Four blocks of convolution, LeakyReLU and norm, a stride-2 convolution between each two."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], kind: Norm) -> None:
        super().__init__()
        sides = zip((in_channels, *widths[:-1]), widths, strict=True)
        self.blocks = nn.ModuleList(
            [nn.Sequential(conv3(a, b), nn.LeakyReLU(0.2), norm(kind, b)) for a, b in sides]
        )
        self.down = nn.ModuleList(
            [nn.Sequential(conv3(a, a, stride=2), nn.LeakyReLU(0.2)) for a in widths[:-1]]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, D, H, W) -> maps fine to coarse: sides 1, 1/2, 1/4, 1/8."""
        maps = [self.blocks[0](x)]
        for down, block in zip(self.down, list(self.blocks)[1:], strict=True):
            maps.append(block(down(maps[-1])))
        return maps


class Up(nn.Module):
    """The next finer map: upsampled, joined with the encoder's, a convolution and a residual unit."""

    def __init__(self, below: int, skip: int, channels: int) -> None:
        super().__init__()
        self.join = conv3(below + skip, channels)
        groups = max(1, channels // 4)
        self.residual = nn.Sequential(
            conv3(channels, channels),
            nn.GroupNorm(groups, channels),
            nn.LeakyReLU(0.2),
            conv3(channels, channels),
            nn.GroupNorm(groups, channels),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, C, d, h, w), skip (B, c, D, H, W) -> (B, ., D, H, W)."""
        x = self.join(torch.cat((field.upsample(x.float(), tuple(skip.shape[2:])), skip.float()), dim=1))
        return F.leaky_relu(x + self.residual(x), 0.2)


class Decoder(nn.Module):
    """The dilated block, then upwards with skips to a displacement on ``level``."""

    def __init__(self, widths: tuple[int, ...], channels: tuple[int, ...], level: int) -> None:
        super().__init__()
        self.context = DilatedBlock(widths[-1])
        below, skips = (widths[-1], *channels[:-1]), widths[-2::-1]
        parts = [Up(b, s, c) for b, s, c in zip(below, skips, channels, strict=True)]
        self.up = nn.ModuleList(parts[: len(parts) - level])
        self.flow = flow_head(channels[len(self.up) - 1])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps fine to coarse -> (B, 3, D, H, W) voxels of its level."""
        x = self.context(maps[-1])
        for up, skip in zip(self.up, maps[-2::-1], strict=False):
            x = up(x, skip)
        out: Tensor = self.flow(x)
        return out.float()


class PooledHead(nn.Module):
    """The coarsest map pooled to ``cells`` a side, one linear layer, twelve numbers: an affine about the centre.

    Starts at the identity.
    """

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.linear = nn.Linear(channels * cells**3, 12)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, coarsest: Tensor, shape: tuple[int, ...]) -> Tensor:
        """coarsest (B, C, d, h, w) of a grid ``shape`` -> (B, 3, 4) float64, voxels of that grid."""
        pooled = F.adaptive_avg_pool3d(coarsest.float(), self.cells).flatten(1)
        with torch.autocast(coarsest.device.type, enabled=False):
            change = self.linear(pooled).reshape(-1, 3, 4).double()
        centre = (torch.tensor(shape, dtype=torch.float64, device=change.device) - 1) / 2
        linear = torch.eye(3, dtype=torch.float64, device=change.device) + _START * change[:, :, :3]
        shift = change[:, :, 3] * (max(shape) - 1) / 2
        return torch.cat((linear, (centre + shift - linear @ centre)[..., None]), dim=2)


class PointHead(nn.Module):
    """From an encoder's maps to K heat maps on pyramid level ``level`` of its input, and how far to trust each.

    The coarsest map passes a dilated block and is led back up, the encoder's maps joining in.
    """

    def __init__(self, widths: tuple[int, ...], points: int, level: int, kind: Norm) -> None:
        super().__init__()
        width, above = widths[-1], widths[level:-1]
        self.context = DilatedBlock(width)
        self.lateral = nn.ModuleList([nn.Conv3d(w, width, 1) for w in above])
        self.merge = nn.ModuleList(
            [nn.Sequential(conv3(width, width), nn.LeakyReLU(0.2), norm(kind, width)) for _ in above]
        )
        self.heat = nn.Conv3d(width, points, 1, bias=False)  # a bias would change no softmax over space
        self.trust = nn.Parameter(torch.zeros(points))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps fine to coarse, sides 1, 1/2, ... -> logits (B, K, D, H, W)."""
        x = self.context(maps[-1])
        below = len(maps) - 1 - len(self.lateral)
        for k in range(len(self.lateral) - 1, -1, -1):
            skip = self.lateral[k](maps[below + k])
            x = self.merge[k](skip + field.upsample(x.float(), tuple(skip.shape[2:])))
        out: Tensor = self.heat(x)
        return out


def grid_head(channels: int) -> PooledHead:
    """Pooled to 4 x 4 x 4 cells: it knows where things lie."""
    return PooledHead(channels, _GRID)
