"""Dual-PRNet (Hu et al., MICCAI 2019): a dual-stream pyramid registration network.

One encoder reads each image by itself; a pyramid of refined feature maps is registered coarse to fine, the moving
features warped by the field so far, one convolution per level giving the update.

Filled in, because the paper does not say: encoder widths 8, 16, 32, 32 and pyramid width 32, a 3 x 3 x 3 convolution at
the end of each refine unit (the paper has an addition), batch normalisation over both images together, updates without
gradient through the feature warp and the form of the loss terms are those of the authors' released configuration, but
the correlation is averaged inside the fixed brain; the flow convolutions start at N(0, 1e-5), those of ``corr`` at
N(0, 1e-3), since with default initial weights the first step warps by random fields. AdamW and one cycle of the rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.nn.blocks import ResidualBlock, conv3, flow_head, local_normalise
from neuroreg.nn.pyramid import register_pyramid

_NEIGHBOURS = 27


class DualPRConfig(MethodConfig):
    """Options of ``dualprnet``."""

    spacing_mm: float = Field(2.0, gt=0, description="Spacing of the network grid, mm")
    header: Literal["pyramid", "single"] = Field(
        "pyramid", description="single: one field at half size (ablation)"
    )
    head: Literal["linear", "corr"] = Field(
        "linear",
        description="From both feature maps to the update: one convolution (the paper), or a local correlation "
        "in 27 directions and three convolutions (in the spirit of Dual-PRNet++)",
    )
    widths: tuple[int, int, int, int] = Field((8, 16, 32, 32), description="Encoder channels, fine to coarse")
    normalised_input: bool = Field(
        False, description="Also read each image locally normalised (not in the paper: learns much sooner)"
    )
    pyramid_width: int = Field(32, ge=4, description="Channels of the refined feature maps")
    window: int = Field(9, ge=3, le=15, description="Side of the LNCC window, voxels")
    smoothness: float = Field(1.0, ge=0, description="Weight of the diffusion of each level's update")
    dice: float = Field(
        0.0, ge=0, description="Weight of 1 - soft Dice over random regions (not in the paper)"
    )
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")


@dataclass(frozen=True)
class DualPRPrediction(Prediction):
    """Also the update of every level, coarse to fine, each in voxels of its own level: the loss smooths these."""

    updates: tuple[Tensor, ...] = ()


class Encoder(nn.Module):
    """Four stride-2 blocks, residual from the second on, and the top-down refinement of their maps."""

    def __init__(self, widths: tuple[int, int, int, int], pyramid_width: int, in_channels: int = 1) -> None:
        super().__init__()
        first = nn.Sequential(
            conv3(in_channels, widths[0], stride=2),
            nn.BatchNorm3d(widths[0]),
            nn.ReLU(),
            conv3(widths[0], widths[0]),
        )
        self.blocks = nn.ModuleList([first, *(self._block(a, b) for a, b in pairwise(widths))])
        self.lateral = nn.ModuleList([nn.Conv3d(width, pyramid_width, 1) for width in widths])
        self.refine = nn.ModuleList([conv3(pyramid_width, pyramid_width) for _ in widths])

    @staticmethod
    def _block(in_channels: int, out_channels: int) -> nn.Sequential:
        down = conv3(in_channels, out_channels, stride=2, bias=False)
        norm = nn.Sequential(nn.BatchNorm3d(in_channels), nn.ReLU())
        return nn.Sequential(norm, down, ResidualBlock(out_channels), ResidualBlock(out_channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, D, H, W) -> refined maps coarse to fine: sides /16, /8, /4, /2, ``pyramid_width`` channels."""
        maps = []
        for block in self.blocks:
            images = block(images)
            maps.append(images)
        refined: list[Tensor] = []
        for index in range(len(maps) - 1, -1, -1):
            x = self.lateral[index](maps[index])
            if refined:
                x = x + field.upsample(refined[-1].float(), tuple(x.shape[2:]))
            refined.append(self.refine[index](x))
        return refined


class UpdateHead(nn.Module):
    """One convolution from both feature maps to the update: Dual-PRNet's whole matching."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.flow = flow_head(2 * channels)

    def forward(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """(B, C, D, H, W) twice -> (B, 3, D, H, W) voxels of the level."""
        out: Tensor = self.flow(torch.cat((fixed, moved), dim=1))
        return out


class CorrelationHead(nn.Module):
    """Both feature maps and their correlation with every neighbour, two non-linear convolutions, then the update."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.match = nn.Sequential(
            conv3(2 * channels + _NEIGHBOURS, channels),
            nn.LeakyReLU(0.2),
            conv3(channels, channels),
            nn.LeakyReLU(0.2),
        )
        self.flow = flow_head(
            channels, sd=1e-3
        )  # behind two more layers 1e-5 gives them no gradient to learn by

    def forward(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """(B, C, D, H, W) twice -> (B, 3, D, H, W) voxels of the level."""
        features = torch.cat((fixed, moved, local_correlation(fixed, moved)), dim=1)
        out: Tensor = self.flow(self.match(features))
        return out


def local_correlation(fixed: Tensor, moved: Tensor) -> Tensor:
    """Mean over channels of fixed(i) moved(i + o) for the 27 offsets o in {-1, 0, 1}^3: (B, 27, D, H, W).

    Offsets run with the last axis fastest; outside the grid ``moved`` is 0.
    """
    sides = fixed.shape[2:]
    padded = nn.functional.pad(moved, (1,) * 6)
    shifted = (
        padded[:, :, d : d + sides[0], h : h + sides[1], w : w + sides[2]]
        for d, h, w in product(range(3), repeat=3)
    )
    return torch.stack([(fixed * m).mean(1) for m in shifted], dim=1)


class Network(nn.Module):
    """Encoder and one head per level."""

    def __init__(self, config: DualPRConfig) -> None:
        super().__init__()
        self.normalised_input = config.normalised_input
        self.encoder = Encoder(config.widths, config.pyramid_width, 2 if config.normalised_input else 1)
        levels = 4 if config.header == "pyramid" else 1
        head = UpdateHead if config.head == "linear" else CorrelationHead
        self.heads = nn.ModuleList([head(config.pyramid_width) for _ in range(levels)])

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(B, 1, D, H, W) twice -> (field at half size, all fields, all updates), see ``register_pyramid``."""
        images = torch.cat((fixed, moving))
        if self.normalised_input:
            images = torch.cat((images, local_normalise(images)), dim=1)
        maps = self.encoder(images)[-len(self.heads) :]
        pairs = [features.chunk(2) for features in maps]
        return register_pyramid([f for f, _ in pairs], [m for _, m in pairs], list(self.heads))


class DualPRNet:
    """Dual-stream pyramid registration; the field lives at half the grid (level 1)."""

    Config: ClassVar[type[DualPRConfig]] = DualPRConfig
    divisor = 16

    def __init__(self, config: DualPRConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        self.network: nn.Module = Network(config)

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> DualPRPrediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> field on level 1 of the fixed grid."""
        moving = align_moving(moving, tuple(fixed.shape[2:]), start)
        if torch.is_grad_enabled():
            u, fields, updates = self.network(fixed, moving)
        else:
            with fast_convolutions(fixed.device):
                u, fields, updates = self.network(fixed, moving)
        affine = None if start is None else start.affine
        return DualPRPrediction(u, affine=affine, levels=fields, level=1, updates=updates)

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """1 - mean squared LNCC, the diffusion of every level's update, optionally soft Dice."""
        assert isinstance(prediction, DualPRPrediction)
        config = self.config
        full = prediction.at_level(0, tuple(batch.fixed.shape[2:]))
        moved = field.warp(batch.moving, full)
        terms = {
            "lncc": similarity.lncc(batch.fixed, moved, window=config.window, mask=batch.fixed_mask),
            "smoothness": config.smoothness
            * torch.stack([regularity.diffusion(update) for update in prediction.updates]).sum(),
        }
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            terms["dice"] = config.dice * labels.dice_of_rois(
                batch.fixed_labels, batch.moving_labels, full, ids
            )
        return terms

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """One stage: everything learns."""
        return (Stage("all", tuple(self.network.parameters()), steps, learning_rate),)
