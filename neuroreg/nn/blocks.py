"""Small blocks shared by the networks. Tensors (B, C, D, H, W)."""

import torch
from torch import Tensor, nn

from neuroreg import field


def conv3(in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> nn.Conv3d:
    """A 3x3x3 convolution whose stride-2 outputs sit on input voxels 0, 2, 4, ..."""
    return nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


def flow_head(in_channels: int, *, sd: float = 1e-5) -> nn.Conv3d:
    """The last, linear convolution to three displacement components: weights N(0, sd), zero bias."""
    head = conv3(in_channels, 3)
    nn.init.normal_(head.weight, std=sd)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return head


class ResidualBlock(nn.Module):
    """BN-ReLU-conv3-BN-ReLU-conv3 + identity, convolutions without bias (Dual-PRNet's unit)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            conv3(channels, channels, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            conv3(channels, channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> the same shape."""
        out: Tensor = x + self.body(x)
        return out


def local_normalise(image: Tensor, *, window: int = 7, eps: float = 1e-3) -> Tensor:
    """(x - mean) / sqrt(var + eps) in a cube of side ``window``, float32: contrast without the bias field."""
    image = image.float()
    mean, square = field.box_mean(torch.cat((image, image * image), dim=1), window).chunk(2, dim=1)
    return (image - mean) * torch.rsqrt((square - mean * mean).clamp_min(0) + eps)
