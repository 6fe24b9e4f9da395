"""LDGNet (Sun and Du): VoxelMorph with guided skips and an enhanced bottleneck, for large deformations.

``modules`` chooses the paper's ablations: "none" is VoxelMorph (its ``vm2``, and the same network as method
``voxelmorph``), "guidance" adds attention at the three feature skips, "enhancement" three dilated convolutions at the
coarsest map, "both" is LDGNet.

Filled in, because the paper does not say: LeakyReLU 0.2 behind each convolution of the enhancement; a guided skip
keeps the skip's width, so the attention joins both maps to that many channels; the second attention pools over
channels (the text's "height and width" would leave nothing to attend to); the skip of the input images is not
guided; He-normal weights in the enhancement, as in VoxelMorph's layers; LNCC window 9 inside the fixed brain,
smoothness 1; AdamW and one cycle of the rate; the perceptron of ``mlp`` has a quarter of the channels; upsampling is
linear and aligned by index. At 2 mm the coarsest map is about 5 x 6 x 5 voxels, where dilations of 6, 12 and 18 see
one voxel each: the default dilations are 1, 2 and 4.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.nn.concat_unet import SLOPE, ConcatUNet, RegistrationUNet

_ENCODER = (16, 32, 32, 32)
_DECODER = ((32,), (32,), (32,), (32, 32), (16, 16))
DILATIONS = {"literal": (6, 12, 18), "scaled": (1, 2, 4)}
_REDUCTION = 4


class LDGConfig(MethodConfig):
    """Options of ``ldgnet``."""

    spacing_mm: float = Field(2.0, gt=0, description="Spacing of the network grid, mm")
    modules: Literal["none", "guidance", "enhancement", "both"] = Field(
        "both", description="What is added to VoxelMorph: the paper's ablations A, B, C and D"
    )
    dilations: Literal["literal", "scaled"] = Field(
        "scaled", description="Of the enhancement: 6, 12, 18 (the paper, at 1 mm) or 1, 2, 4 (for 2 mm)"
    )
    residual: bool = Field(False, description="Add the enhancement to its input (not in the paper)")
    mlp: bool = Field(
        False, description="A shared perceptron behind each pooling of the guidance, as in CBAM"
    )
    normalised_input: bool = Field(
        False, description="Also read each image locally normalised (not in the paper: learns much sooner)"
    )
    window: int = Field(9, ge=3, le=15, description="Side of the LNCC window, voxels")
    smoothness: float = Field(1.0, ge=0, description="Weight of the diffusion of the field")
    dice: float = Field(
        0.0, ge=0, description="Weight of 1 - soft Dice over random regions (not in the paper)"
    )
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")


class Enhancement(nn.Module):
    """Three dilated convolutions side by side, joined back to the input's width."""

    def __init__(self, channels: int, dilations: tuple[int, ...], *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.branches = nn.ModuleList(
            [nn.Conv3d(channels, channels, 3, padding=d, dilation=d) for d in dilations]
        )
        self.join = nn.Conv3d(len(dilations) * channels, channels, 1)
        for layer in (*self.branches, self.join):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> the same shape."""
        wide = torch.cat([nn.functional.leaky_relu(branch(x), SLOPE) for branch in self.branches], dim=1)
        out: Tensor = nn.functional.leaky_relu(self.join(wide), SLOPE)
        return x + out if self.residual else out


class Guidance(nn.Module):
    """Two gates on a skip: one per channel, asked of the skip and the decoder map together, then one per voxel."""

    def __init__(self, skip_channels: int, decoder_channels: int, *, mlp: bool) -> None:
        super().__init__()
        self.join = nn.Conv3d(skip_channels + decoder_channels, skip_channels, 1)
        self.mlp = _perceptron(skip_channels) if mlp else nn.Identity()
        self.voxel = nn.Conv3d(2, 1, 1)

    def forward(self, skip: Tensor, decoded: Tensor) -> Tensor:
        """(B, S, D, H, W), (B, U, D, H, W) -> the skip, gated (B, S, D, H, W)."""
        z = self.join(torch.cat((skip, decoded.to(skip.dtype)), dim=1))
        skip = (
            skip
            * torch.sigmoid(self.mlp(z.mean((2, 3, 4))) + self.mlp(z.amax((2, 3, 4))))[..., None, None, None]
        )
        pooled = torch.cat((skip.mean(1, keepdim=True), skip.amax(1, keepdim=True)), dim=1)
        return skip * torch.sigmoid(self.voxel(pooled))


def _perceptron(channels: int) -> nn.Sequential:
    hidden = channels // _REDUCTION
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))


class LDGNet:
    """One network pass; the field lives on the fixed grid."""

    Config: ClassVar[type[LDGConfig]] = LDGConfig
    divisor = 16

    def __init__(self, config: LDGConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        self.network: nn.Module = RegistrationUNet(self._body, normalised_input=config.normalised_input)

    def _body(self, channels: int) -> ConcatUNet:
        config = self.config

        def enhancement(width: int) -> nn.Module:
            return Enhancement(width, DILATIONS[config.dilations], residual=config.residual)

        def guidance(skip: int, decoder: int) -> nn.Module:
            return Guidance(skip, decoder, mlp=config.mlp)

        return ConcatUNet(
            channels,
            _ENCODER,
            _DECODER,
            bottleneck=enhancement if config.modules in ("enhancement", "both") else None,
            guide=guidance if config.modules in ("guidance", "both") else None,
        )

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> field on the fixed grid."""
        moving = align_moving(moving, tuple(fixed.shape[2:]), start)
        if torch.is_grad_enabled():
            u = self.network(fixed, moving)
        else:
            with fast_convolutions(fixed.device):
                u = self.network(fixed, moving)
        return Prediction(u, affine=None if start is None else start.affine)

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """1 - mean squared LNCC, the diffusion of the field, optionally soft Dice."""
        config, u = self.config, prediction.displacement
        moved = field.warp(batch.moving, u)
        terms = {
            "lncc": similarity.lncc(batch.fixed, moved, window=config.window, mask=batch.fixed_mask),
            "smoothness": config.smoothness * regularity.diffusion(u),
        }
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            terms["dice"] = config.dice * labels.dice_of_rois(batch.fixed_labels, batch.moving_labels, u, ids)
        return terms

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """One stage: everything learns."""
        return (Stage("all", tuple(self.network.parameters()), steps, learning_rate),)
