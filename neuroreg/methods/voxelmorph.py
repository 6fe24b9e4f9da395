"""VoxelMorph (Balakrishnan et al., CVPR and TMI 2018; Dalca et al., MedIA 2019): one U-Net from a pair to its field.

``vm1`` and ``vm2`` are the two networks of 2018, which give the displacement; ``vm2019`` gives a stationary velocity
at half resolution, integrated by seven squarings.

Filled in, because the papers do not say, or where this grid asks for it: upsampling is linear and aligned by index
(the released code of 2018 repeats voxels); ``vm2`` is the default; weights start He-normal as in 2018 in ``vm2019``
too; its velocity is computed at every second voxel, which is where a resized one is read, in voxels of the half
grid, and its diffusion is the regulariser; the similarity is averaged inside the fixed brain; ``smoothness`` is 1 for
LNCC (0.01 is usual for ``mse``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.nn.concat_unet import ConcatUNet, RegistrationUNet

_ENCODER = (16, 32, 32, 32)
_DECODER: dict[str, tuple[tuple[int, ...], ...]] = {
    "vm1": ((32,), (32,), (32,), (32, 8), (8,)),
    "vm2": ((32,), (32,), (32,), (32, 32), (16, 16)),
    "vm2019": ((32,), (32,), (32,), (32,), (32, 16, 16)),
}
_SQUARINGS = 7


class VoxelMorphConfig(MethodConfig):
    """Options of ``voxelmorph``."""

    spacing_mm: float = Field(2.0, gt=0, description="Spacing of the network grid, mm")
    variant: Literal["vm1", "vm2", "vm2019"] = Field(
        "vm2",
        description="vm1, vm2: a displacement (2018); vm2019: a velocity at half resolution, integrated",
    )
    directions: Literal["forward", "both"] = Field(
        "forward",
        description="Images the similarity compares: fixed and moved, or (vm2019) also moving and fixed",
    )
    normalised_input: bool = Field(
        False, description="Also read each image locally normalised (not in the paper: learns much sooner)"
    )
    similarity: Literal["lncc", "mse"] = Field("lncc", description="What makes two images alike")
    window: int = Field(9, ge=3, le=15, description="Side of the LNCC window, voxels")
    smoothness: float = Field(1.0, ge=0, description="Weight of the diffusion of the field or velocity")
    dice: float = Field(
        0.0, ge=0, description="Weight of 1 - soft Dice over random regions (not in the first paper)"
    )
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")

    @model_validator(mode="after")
    def _inverse_is_known(self) -> "VoxelMorphConfig":
        if self.directions == "both" and self.variant != "vm2019":
            raise ValueError("directions 'both' needs the inverse field, which variant vm2019 alone makes")
        return self


@dataclass(frozen=True)
class VoxelMorphPrediction(Prediction):
    """Also what the smoothness term looks at."""

    smooth: Tensor | None = None
    """(B, 3, ...): the velocity, in voxels of the half grid, where there is one, else the displacement"""


class VoxelMorph:
    """One network pass. The field lives on the fixed grid, that of ``vm2019`` on level 1, with its inverse."""

    Config: ClassVar[type[VoxelMorphConfig]] = VoxelMorphConfig
    divisor = 16

    def __init__(self, config: VoxelMorphConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        integrated = config.variant == "vm2019"

        def body(channels: int) -> ConcatUNet:
            down: Literal["stride", "pool"] = "pool" if integrated else "stride"
            return ConcatUNet(channels, _ENCODER, _DECODER[config.variant], down=down)

        self.network: nn.Module = RegistrationUNet(
            body, normalised_input=config.normalised_input, stride=2 if integrated else 1
        )

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> VoxelMorphPrediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> field on the fixed grid or on its level 1."""
        moving = align_moving(moving, tuple(fixed.shape[2:]), start)
        if torch.is_grad_enabled():
            out = self.network(fixed, moving)
        else:
            with fast_convolutions(fixed.device):
                out = self.network(fixed, moving)
        affine = None if start is None else start.affine
        if self.config.variant != "vm2019":
            return VoxelMorphPrediction(out, affine=affine, smooth=out)
        u, inverse = (field.exponential(v, steps=_SQUARINGS) for v in (out, -out))
        return VoxelMorphPrediction(u, inverse=inverse, affine=affine, level=1, smooth=out)

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """Similarity of the images (of both pairs, if asked), diffusion of field or velocity, optionally soft Dice."""
        assert isinstance(prediction, VoxelMorphPrediction)
        assert prediction.smooth is not None
        config, shape = self.config, tuple(batch.fixed.shape[2:])
        full = prediction.at_level(0, shape)
        alike = self._similarity(batch.fixed, field.warp(batch.moving, full), batch.fixed_mask)
        if config.directions == "both" and prediction.inverse is not None:
            back = field.warp(batch.fixed, field.upsample_field(prediction.inverse, shape))
            alike = (alike + self._similarity(batch.moving, back, batch.moving > 0)) / 2
        terms = {
            config.similarity: alike,
            "smoothness": config.smoothness * regularity.diffusion(prediction.smooth),
        }
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            terms["dice"] = config.dice * labels.dice_of_rois(
                batch.fixed_labels, batch.moving_labels, full, ids
            )
        return terms

    def _similarity(self, fixed: Tensor, moved: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.similarity == "mse":
            return similarity.mse(fixed, moved, mask=mask)
        return similarity.lncc(fixed, moved, window=self.config.window, mask=mask)

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """One stage: everything learns."""
        return (Stage("all", tuple(self.network.parameters()), steps, learning_rate),)
