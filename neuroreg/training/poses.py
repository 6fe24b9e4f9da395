"""Pairs in any pose: each head turned, scaled, sheared and shifted by itself, with or without its skull."""

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from neuroreg import field
from neuroreg.methods.base import Batch
from neuroreg.training.data import Augmentation, PackedSet, vary

_CEILING = 1.275
_RAGGED, _TIGHTNESS = (
    0.1,
    0.35,
)  # of a smoothed mask: how its threshold varies in space, and from image to image
_BRIGHT = 0.99  # quantile of the brain that becomes intensity 1, as for stripped images


class Poses(BaseModel):
    """How far a head may lie from how it was scanned. Each image of a pair draws its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    degrees: float = Field(45.0, ge=0, le=180, description="Largest rotation, about any axis")
    scale: float = Field(1.25, ge=1, description="Largest factor of size; the smallest is its inverse")
    shear: float = Field(
        0.05, ge=0, description="Standard deviation of the entries of a matrix near identity"
    )
    shift: float = Field(4.0, ge=0, description="Standard deviation of the shift along each axis, voxels")
    stripped: float = Field(0.5, ge=0, le=1, description="Probability that a pair has lost its skulls")
    rim: float = Field(
        1.5,
        ge=0,
        description="How loosely or tightly they are stripped, each as it comes: about so many voxels",
    )


def draw_raw_pair(
    data: PackedSet, poses: Poses, augmentation: Augmentation, generator: torch.Generator, *, level: int = 0
) -> Batch:
    """A random ordered pair of two subjects, each in a pose of its own; everything random is from ``generator``.

    On pyramid level ``level`` of the pack's grid: smoothed first, labels as they lie there. The mask is the brain.
    """
    rows = torch.randperm(len(data), generator=generator)[:2].tolist()
    flips = bool(torch.rand((), generator=generator) < augmentation.mirror)
    stripped = bool(torch.rand((), generator=generator) < poses.stripped)
    drawn = []
    for row in rows:
        image, labels = data.image(row), data.label(row)
        if stripped:
            image = _strip(image, labels, poses.rim, generator)
        if flips:
            image, labels = image.flip(4), data.mirror[labels.flip(4).long()]
        affine = placement(labels, draw_pose(poses, generator), poses.shift, generator)
        image, labels = view(image, labels, affine, level=level)
        drawn.append((vary(image, augmentation, generator), labels))
    (fixed, fixed_labels), (moving, moving_labels) = drawn
    return Batch(fixed, moving, fixed_labels, moving_labels, fixed_labels > 0, generator)


def draw_pose(poses: Poses, generator: torch.Generator) -> Tensor:
    """A random linear map (3, 3): a rotation about any axis, small ones more often, times a size and a little shear."""
    axis = F.normalize(torch.randn(3, generator=generator), dim=0)
    angle = math.radians(poses.degrees) * float(torch.rand((), generator=generator)) ** 2
    x, y, z = (angle * axis).tolist()
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
    size = poses.scale ** (2 * float(torch.rand((), generator=generator)) - 1)
    pose: Tensor = turn @ (size * torch.eye(3) + poses.shear * torch.randn(3, 3, generator=generator))
    return pose


def _strip(image: Tensor, labels: Tensor, rim: float, generator: torch.Generator) -> Tensor:
    """The brain alone, some of its rim lost or some of what is around it left, scaled as stripped images are."""
    brain = labels > 0
    if rim:
        coarse = _RAGGED * torch.randn(1, 1, 6, 6, 6, generator=generator)
        ragged = F.interpolate(coarse, size=image.shape[2:], mode="trilinear", align_corners=True)
        tightness = 0.5 + _TIGHTNESS * (2 * float(torch.rand((), generator=generator)) - 1)
        brain = field.smooth(brain.float(), rim) + ragged > tightness
    values = image[brain]
    rank = max(1, round(_BRIGHT * len(values)))
    bright = float(values.kthvalue(rank).values) if len(values) else 1.0
    return (image * brain / max(bright, 1e-3)).clamp(0, _CEILING)


def placement(labels: Tensor, pose: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """The affine (1, 3, 4) from a grid to the head on a grid of the same shape: ``pose`` about the brain's centre.

    That centre comes to lie near the grid's, ``shift`` voxels (standard deviation) off along each axis.
    """
    middle = (torch.tensor(labels.shape[2:], dtype=torch.float32) - 1) / 2
    inside = (labels[0, 0] > 0).nonzero().float()
    brain = inside.mean(0) if len(inside) else middle
    seen = middle + shift * torch.randn(3, generator=generator)
    return torch.cat((pose, (brain - pose @ seen)[:, None]), dim=1)[None]


def view(image: Tensor, labels: Tensor, affine: Tensor, *, level: int = 0) -> tuple[Tensor, Tensor]:
    """Image and labels (1, 1, D, H, W) read through affine (1, 3, 4) at the voxels of pyramid level ``level``."""
    places = field.identity(tuple(-(-n // 2**level) for n in image.shape[2:])) * 2**level
    index = field.affine_index(affine, places)
    for done in range(level):
        image = field.smooth(image, float(2**done))
    return field.sample(image, index, fill=0.0), field.sample(labels, index, mode="nearest", fill=0)
