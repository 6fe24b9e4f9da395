"""Dual-FlowNet: a region flow between segmented images, then a global flow, made consistent with each other.

A segmentation network turns each image into one image per group of regions: the intensities times the probability
of the group. A first registration network aligns these (region flow), a second one the moving image warped by the
first flow to the fixed one (global flow). The fixed image, pulled back by the inverse of the global flow, must look
like the moving image after the region flow (region consistency).

Filled in, because the paper does not say: the channel widths; groups of four channels in the normalisation, at least
two groups; the deep supervision weights 1, 1/2, 1/4; pooling over 3 voxels, so that each voxel of a level lies on
every second one of the finer level, and linear upsampling on the same alignment; flow convolutions that start at
N(0, 1e-5) and are linear (the text would put a normalisation behind them); independent weights of the two
registration networks; a correlation window of 9 voxels; the seven groups of regions; the segmentation network
learning first and alone, and its loss, which Eq. 12 leaves out, staying at weight 1 after; no gradient of the
registration to the segmentation. AdamW and one cycle of the rate; of the paper's augmentation, mirrors from left to
right alone (the brain's other halves differ), and a random matrix instead of rotations by up to 25 degrees.

Read otherwise than printed: the denominator of Eqs. 3 and 6 is the root of the product of two sums, the correlation
coefficient; both compare with the warped image; every correlation is averaged over the windows that have texture in
the fixed image, or the empty background would hide the brain; the inverse of Eq. 9 is iterated to a fixed point
(``inverse: literal`` is u -> -u(x + u(x)), worse than -u); the moving image is warped once, by the composed flow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.methods.dualflow_regions import RoiMode, class_of_label, classes
from neuroreg.nn.blocks import conv3, local_normalise

Ablation = Literal["full", "global", "region", "both"]
Inverse = Literal["fixed_point", "literal"]


class DualFlowConfig(MethodConfig):
    """Options of ``dualflow``; the defaults are the paper's."""

    spacing_mm: float = Field(2.0, gt=0, description="Spacing of the network grid, mm")
    wide: bool = Field(
        False, description="Twice the channels: 16 to 128 and 16 to 256, not 8 to 64 and 8 to 128"
    )
    slope: float = Field(
        0.0, ge=0, lt=1, description="Slope of the rectifiers below 0 (the paper: 0; so narrow, those die)"
    )
    roi_mode: RoiMode = Field(
        "grouped", description="Region images: 7 groups of regions, merged into 1, or all 145 regions"
    )
    ablation: Ablation = Field(
        "full", description="global or region: that flow alone; both: the two without region consistency"
    )
    inverse: Inverse = Field("fixed_point", description="Of the global flow; literal: as printed")
    inverse_iterations: int = Field(5, ge=1, le=20, description="Fixed-point iterations of the inverse")
    window: int = Field(9, ge=3, le=15, description="Side of the LNCC window, voxels")
    stride: int = Field(1, ge=1, le=4, description="Score every such window along each axis, to save time")
    squared: bool = Field(False, description="Squared LNCC (VoxelMorph's form), not the correlation itself")
    alpha: float = Field(1.0, ge=0, description="Weight of the diffusion of the region flow")
    beta: float = Field(1.0, ge=0, description="Weight of the diffusion of the global flow")
    gamma: float = Field(
        1.0, ge=0, description="Weight of the diffusion of the inverse global flow, times eta"
    )
    eta: float = Field(0.5, ge=0, description="Weight of region consistency")
    segmentation: float = Field(1.0, ge=0, description="Weight of the segmentation loss beside registration")
    segment_steps: int = Field(
        2000, ge=0, description="First training steps, of the segmentation network alone"
    )
    segment_rate: float = Field(1e-4, gt=0, description="Peak learning rate of these steps")
    detach_masks: bool = Field(True, description="No gradient from the registration to the segmentation")
    normalised_input: bool = Field(
        False, description="Every network also reads its images locally normalised (not in the paper)"
    )
    dice: float = Field(
        0.0, ge=0, description="Weight of 1 - soft Dice over random regions (not in the paper)"
    )
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")


@dataclass(frozen=True)
class DualFlowPrediction(Prediction):
    """Also what the losses compare; parts that an ablation leaves out are None or empty."""

    region: Tensor | None = None
    """(B, 3, D, H, W) the region flow"""
    whole: Tensor | None = None
    """(B, 3, D, H, W) the global flow, from the fixed image to the moving image after the region flow"""
    rois: tuple[Tensor, Tensor] | None = None
    """(B, N - 1, D, H, W) region images of the fixed and the moving image"""
    logits: tuple[Tensor, ...] = ()
    """(2 B, N, ...) of the fixed, then the moving images, at levels 0, 1, 2"""


class SegCNN(nn.Module):
    """Four levels down by strided convolutions and up by transposed ones, skips concatenated, a classifier at each
    level but the coarsest."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], outputs: int, slope: float = 0.0) -> None:
        super().__init__()
        unit = partial(_unit, slope=slope)
        entries = (in_channels, *widths[1:-1])
        self.enter = nn.ModuleList([unit(a, b) for a, b in zip(entries, widths[:-1], strict=True)])
        self.down = nn.ModuleList([unit(a, b, stride=2) for a, b in pairwise(widths)])
        self.bottom = nn.Sequential(unit(widths[-1], widths[-1]), unit(widths[-1], widths[-1]))
        self.up = nn.ModuleList(
            [nn.ConvTranspose3d(b, a, 3, stride=2, padding=1) for a, b in pairwise(widths)]
        )
        self.norm = nn.ModuleList([_norm(a, slope) for a in widths[:-1]])
        self.fuse = nn.ModuleList([unit(2 * a, a) for a in widths[:-1]])
        self.classify = nn.ModuleList([nn.Conv3d(a, outputs, 1) for a in widths[:-1]])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, D, H, W), any sides -> logits (B, N, ...) of levels 0, 1, 2."""
        skips = []
        for enter, down in zip(self.enter, self.down, strict=True):
            skips.append(enter(images))
            images = down(skips[-1])
        images, logits = self.bottom(images), []
        for level in range(len(skips) - 1, -1, -1):
            skip = skips[level]
            images = self.norm[level](self.up[level](images, output_size=list(skip.shape[2:])))
            images = self.fuse[level](torch.cat((images, skip), dim=1))
            logits.append(self.classify[level](images))
        return tuple(reversed(logits))


class RegCNN(nn.Module):
    """A U-Net of five levels: one convolution each on the way down, one and then two on the way up; a linear flow."""

    def __init__(self, in_channels: int, widths: tuple[int, ...], slope: float = 0.0) -> None:
        super().__init__()
        unit = partial(_unit, slope=slope)
        self.down = nn.ModuleList([unit(a, b) for a, b in pairwise((in_channels, *widths))])
        self.pool = nn.MaxPool3d(3, stride=2, padding=1)
        self.up = nn.ModuleList(
            [
                nn.Sequential(unit(a + b, a), *([unit(a, a)] if level < 2 else []))
                for level, (a, b) in enumerate(pairwise(widths))
            ]
        )
        self.flow = nn.Conv3d(widths[0], 3, 1)
        nn.init.normal_(self.flow.weight, std=1e-5)
        assert self.flow.bias is not None
        nn.init.zeros_(self.flow.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, D, H, W), any sides -> displacement (B, 3, D, H, W) float32, voxels."""
        skips = []
        for level, unit in enumerate(self.down):
            images = unit(images if level == 0 else self.pool(images))
            skips.append(images)
        for level in range(len(skips) - 2, -1, -1):
            images = field.upsample(images, tuple(skips[level].shape[2:]))
            images = self.up[level](torch.cat((images, skips[level]), dim=1))
        flow: Tensor = self.flow(images)
        return flow.float()


class Network(nn.Module):
    """The networks that the ablation keeps."""

    def __init__(self, config: DualFlowConfig) -> None:
        super().__init__()
        self.config = config
        factor, extra = (2 if config.wide else 1), (2 if config.normalised_input else 1)
        widths, rois = tuple(factor * 8 * 2**level for level in range(5)), classes(config.roi_mode) - 1
        self.segment = self.region = self.whole = None
        if config.ablation != "global":
            self.segment = SegCNN(extra, widths[:4], rois + 1, config.slope)
            self.region = RegCNN(2 * rois + 2 * (extra - 1), widths, config.slope)
        if config.ablation != "region":
            self.whole = RegCNN(2 * extra, widths, config.slope)

    def forward(self, fixed: Tensor, moving: Tensor) -> DualFlowPrediction:
        """(B, 1, D, H, W) twice, on one grid -> the composed field and its parts."""
        region = rois = shares = None
        logits: tuple[Tensor, ...] = ()
        moved = moving
        if self.segment is not None and self.region is not None:
            logits = self.segmented(fixed, moving)
            shares = logits[0].float().softmax(1)
            masks = shares[:, 1:].detach() if self.config.detach_masks else shares[:, 1:]
            rois = _halves(masks * torch.cat((fixed, moving)))
            region = self.region(torch.cat((*rois, *self._normalised(fixed, moving)), dim=1))
            moved = field.warp(moving, region)
        whole = None
        if self.whole is not None:
            whole = self.whole(torch.cat((fixed, moved, *self._normalised(fixed, moved)), dim=1))
        return DualFlowPrediction(
            _composed(region, whole),
            labels=None if shares is None else _halves(shares),
            region=region,
            whole=whole,
            rois=rois,
            logits=logits,
        )

    def segmented(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, ...]:
        """Logits (2 B, N, ...) of the fixed, then the moving images, at levels 0, 1, 2."""
        assert self.segment is not None
        images = torch.cat((fixed, moving))
        logits: tuple[Tensor, ...] = self.segment(torch.cat((images, *self._normalised(images)), dim=1))
        return logits

    def _normalised(self, *images: Tensor) -> list[Tensor]:
        return [local_normalise(image) for image in images] if self.config.normalised_input else []


class DualFlow:
    """See the module. The field lives on the full network grid."""

    Config: ClassVar[type[DualFlowConfig]] = DualFlowConfig
    divisor = 16

    def __init__(self, config: DualFlowConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        self.network: nn.Module = Network(config)
        self._classes = class_of_label(config.roi_mode)

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> DualFlowPrediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> field on the fixed grid.

        ``labels`` are the class probabilities (background first) of the fixed image and of the moving image after
        the affine, both on the fixed grid.
        """
        moving = align_moving(moving, tuple(fixed.shape[2:]), start)
        if torch.is_grad_enabled():
            prediction: DualFlowPrediction = self.network(fixed, moving)
        else:
            with fast_convolutions(fixed.device):
                prediction = self.network(fixed, moving)
        return prediction if start is None else replace(prediction, affine=start.affine)

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """Eqs. 2 to 12: 1 - LNCC of the region images (``regions``), of the whole images (``lncc``) and of region
        consistency, the diffusion of each flow, cross-entropy of the segmentations; optionally soft Dice."""
        assert isinstance(prediction, DualFlowPrediction)
        config, terms = self.config, dict[str, Tensor]()
        moved = batch.moving
        if prediction.region is not None and prediction.rois is not None:
            fixed_rois, moving_rois = prediction.rois
            terms["regions"] = self._unlike(fixed_rois, field.warp(moving_rois, prediction.region))
            terms["smooth_region"] = config.alpha * regularity.diffusion(prediction.region)
            moved = field.warp(batch.moving, prediction.region)
        if prediction.whole is not None:
            terms["lncc"] = self._unlike(batch.fixed, field.warp(batch.moving, prediction.displacement))
            terms["smooth_global"] = config.beta * regularity.diffusion(prediction.whole)
        if config.ablation == "full" and config.eta and prediction.whole is not None:
            back = inverse(prediction.whole, config.inverse, config.inverse_iterations)
            terms["consistency"] = config.eta * self._unlike(field.warp(batch.fixed, back), moved)
            terms["smooth_inverse"] = config.eta * config.gamma * regularity.diffusion(back)
        if config.segmentation and prediction.logits:
            terms |= {"segmentation": config.segmentation * self._cross_entropy(prediction.logits, batch)}
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            terms["dice"] = config.dice * labels.dice_of_rois(
                batch.fixed_labels, batch.moving_labels, prediction.displacement, ids
            )
        return terms

    def _unlike(self, fixed: Tensor, moved: Tensor) -> Tensor:
        config = self.config
        return similarity.lncc_of_texture(
            fixed, moved, window=config.window, stride=config.stride, squared=config.squared
        )

    def _cross_entropy(self, logits: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Eq. 2 at levels 0, 1, 2 with weights 1, 1/2, 1/4, over the images whose labels are known; else 0."""
        known = [maps for maps in (batch.fixed_labels, batch.moving_labels) if maps is not None]
        if not known:
            return 0.0 * logits[0].float().sum()
        half = len(logits[0]) // 2
        rows = slice(
            0 if batch.fixed_labels is not None else half, None if batch.moving_labels is not None else half
        )
        wanted = self._classes.to(logits[0].device)[torch.cat(known)[:, 0].long()]
        terms = []
        for level, each in enumerate(logits):
            terms.append(0.5**level * F.cross_entropy(each[rows].float(), wanted))
            wanted = wanted[:, ::2, ::2, ::2]
        return torch.stack(terms).sum()

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """The segmentation network, if there is one and it has steps; then everything."""
        network, first = self.network, min(self.config.segment_steps, steps)
        everything = tuple(network.parameters())
        if network.segment is None or not first:
            return (Stage("joint", everything, steps, learning_rate),)
        alone = Stage(
            "segment",
            tuple(network.segment.parameters()),  # type: ignore[union-attr]  # a SegCNN
            first,
            self.config.segment_rate,
            objective=self._segmentation_loss,
            score=self._segmentation_dice,
        )
        return (alone, Stage("joint", everything, steps - first, learning_rate))

    def _segmentation_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        logits = self.network.segmented(batch.fixed, batch.moving)  # type: ignore[operator]  # a Network
        return {"entropy": self._cross_entropy(logits, batch)}

    def _segmentation_dice(self, image: Tensor, regions: Tensor) -> float:
        """Mean Dice of the classes but the background."""
        found = self.network.segmented(image, image[:0])[0].argmax(1, keepdim=True)  # type: ignore[operator]
        wanted = self._classes.to(image.device)[regions.long()]
        return labels.mean_dice(wanted + 1, found + 1)  # which counts ids from 2 on


def inverse(u: Tensor, how: Inverse, iterations: int) -> Tensor:
    """An approximate inverse of u (B, 3, D, H, W) voxels, with gradient: v = -u(i + v), iterated from v = -u.

    ``literal``: the one evaluation -u(i + u) that the paper's Eq. 9 amounts to, kept for comparison.
    """
    if how == "literal":
        return -field.warp(u, u)
    v = -u
    for _ in range(iterations):
        v = -field.warp(u, v)
    return v


def _composed(region: Tensor | None, whole: Tensor | None) -> Tensor:
    """The image warped by ``region`` first, the result by ``whole``: whole(i) + region(i + whole(i))."""
    if region is None or whole is None:
        only = whole if region is None else region
        assert only is not None
        return only
    return field.compose(region, whole)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2)
    return first, second


def _norm(channels: int, slope: float) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(max(2, channels // 4), channels), nn.LeakyReLU(slope))


def _unit(in_channels: int, out_channels: int, *, stride: int = 1, slope: float = 0.0) -> nn.Sequential:
    """Convolution, group normalisation (groups of four channels), rectifier."""
    return nn.Sequential(conv3(in_channels, out_channels, stride=stride), *_norm(out_channels, slope))
