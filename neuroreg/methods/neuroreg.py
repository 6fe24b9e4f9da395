"""neuroreg, the flagship: one small step network shared by all scales.

One network is applied coarse to fine, several times at each scale. Every step sees the fixed image and the
moving image warped so far and adds a bounded update, as a Gauss-Newton step would; because all scales share the
weights and nothing in them knows a scale, weights trained at 2 mm also run at 1 mm by one more level of the
recursion. The design is the project's own (learned form of ``gaussnewton``).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.nn.blocks import conv3, flow_head, local_normalise


class NeuroregConfig(MethodConfig):
    """Options of ``neuroreg``."""

    spacing_mm: float = Field(1.0, gt=0, description="Spacing of the network grid, mm; trained at 2")
    plan: tuple[tuple[float, int], ...] = Field(
        ((16.0, 1), (8.0, 2), (4.0, 2), (2.0, 2), (1.0, 2)),
        description="(image spacing in mm, steps), coarse to fine; rows finer than spacing_mm are skipped",
    )
    features: int = Field(16, ge=4, description="Channels of the encoder")
    width: int = Field(32, ge=8, multiple_of=8, description="Channels of the head")
    coarse_weight: float = Field(0.25, ge=0, description="Weight of each level's loss above the finest")
    smoothness: float = Field(
        0.05, ge=0, description="Weight of the diffusion of the field, voxels per voxel"
    )
    folding: float = Field(0.0, ge=0, description="Weight of relu(0.1 - det J) at the finest level")
    dice: float = Field(0.3, ge=0, description="Weight of 1 - soft Dice over randomly chosen regions")
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")


class StepNetwork(nn.Module):
    """One update from a fixed and a warped moving image, at any scale."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv3(2, features, stride=2),
            nn.LeakyReLU(0.2),
            conv3(features, features),
            nn.LeakyReLU(0.2),
            conv3(features, features),
        )
        self.head = nn.Sequential(
            conv3(3 * features, width),
            nn.GroupNorm(4, width),
            nn.LeakyReLU(0.2),
            conv3(width, width),
            nn.LeakyReLU(0.2),
            conv3(width, width),
            nn.GroupNorm(4, width),
            nn.LeakyReLU(0.2),
        )
        # 1e-2, not the usual 1e-5: the shared weights must see a useful gradient at every scale from the start.
        self.flow = flow_head(width, sd=1e-2)

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 1, D, H, W) -> features (B, C, D/2, H/2, W/2)."""
        out: Tensor = self.encoder(torch.cat((image, local_normalise(image)), dim=1))
        return out

    def forward(self, fixed_features: Tensor, moved: Tensor) -> Tensor:
        """Features of the fixed image and the moving image warped so far -> update (B, 3, D/2, H/2, W/2),
        voxels of the half grid, each component within (-1, 1)."""
        m = self.encode(moved)
        hidden = self.head(torch.cat((fixed_features, m, fixed_features - m), dim=1))
        return torch.tanh(self.flow(hidden).float())


class NeuroregMethod:
    """Coarse-to-fine recursion of one step network. The field lives on twice the image spacing (level 1)."""

    Config: ClassVar[type[NeuroregConfig]] = NeuroregConfig
    divisor = 16

    def __init__(self, config: NeuroregConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        self.network: nn.Module = StepNetwork(config.features, config.width)

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> Prediction with a field on level 1.

        ``levels`` holds the field after every level, coarse to fine. Without gradients the few voxels where the
        last one folds are relaxed until none does.
        """
        if not torch.is_grad_enabled():
            with fast_convolutions(fixed.device):
                prediction = self._predict(fixed, moving, start)
            return replace(prediction, displacement=field.unfold(prediction.displacement))
        return self._predict(fixed, moving, start)

    def _predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None) -> Prediction:
        moving = align_moving(moving, fixed, start)
        steps = self.steps_by_level()
        fixed_pyramid, moving_pyramid = _pyramid(fixed, max(steps)), _pyramid(moving, max(steps))
        u: Tensor | None = None
        fields: list[Tensor] = []
        for level in sorted(steps, reverse=True):
            u = self._level(fixed_pyramid[level], moving_pyramid[level], u, steps[level])
            fields.append(u)
        assert u is not None
        return Prediction(u, affine=None if start is None else start.affine, levels=tuple(fields), level=1)

    def steps_by_level(self) -> dict[int, int]:
        """Pyramid level -> number of steps there, from the plan in mm."""
        steps = {}
        for spacing_mm, count in self.config.plan:
            level = round(torch.tensor(spacing_mm / self.spacing_mm).log2().item())
            if level >= 0 and count > 0:
                steps[level] = count
        return steps

    def _level(self, fixed: Tensor, moving: Tensor, u: Tensor | None, steps: int) -> Tensor:
        """Run ``steps`` updates at one scale. u (B, 3, ...) on this level's half grid, or None for zero."""
        features = self.network.encode(fixed)  # type: ignore[operator]  # a StepNetwork, perhaps wrapped
        if u is None:
            u = torch.zeros(fixed.shape[0], 3, *features.shape[2:], device=fixed.device)
        elif u.shape[2:] != features.shape[2:]:
            u = field.upsample_field(u, tuple(features.shape[2:]))
        for _ in range(steps):
            moved = field.warp(moving, field.upsample_field(u, tuple(moving.shape[2:])))
            u = field.compose(u, self.network(features, moved))
        return u

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """Weighted terms: LNCC (mean of windows 5 and 9, inside the fixed brain) and diffusion at every level,
        folding and soft Dice of random regions at the finest."""
        config, levels = self.config, sorted(self.steps_by_level(), reverse=True)
        fixed, moving = _pyramid(batch.fixed, levels[0]), _pyramid(batch.moving, levels[0])
        terms: dict[str, Tensor] = {}
        for level, u in zip(levels, prediction.levels, strict=True):
            weight = 1.0 if level == levels[-1] else config.coarse_weight
            full = field.upsample_field(u, tuple(fixed[level].shape[2:]))
            moved, mask, stride = field.warp(moving[level], full), fixed[level] > 0.02, 2 if level == 0 else 1
            windows = [
                similarity.lncc(fixed[level], moved, window=w, mask=mask, stride=stride) for w in (5, 9)
            ]
            _add(terms, "lncc", weight * 0.5 * (windows[0] + windows[1]))
            _add(terms, "smoothness", weight * config.smoothness * regularity.diffusion(u))
        if config.folding:
            terms["folding"] = config.folding * regularity.folding(prediction.levels[-1])
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            terms["dice"] = config.dice * labels.dice_of_rois(
                batch.fixed_labels, batch.moving_labels, full, ids
            )
        return terms

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """One stage: everything learns."""
        return (Stage("all", tuple(self.network.parameters()), steps, learning_rate),)


def _pyramid(image: Tensor, top: int) -> list[Tensor]:
    images = [image]
    for _ in range(top):
        images.append(field.downsample(images[-1]))
    return images


def _add(terms: dict[str, Tensor], name: str, value: Tensor) -> None:
    terms[name] = terms[name] + value if name in terms else value
