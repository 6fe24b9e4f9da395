"""Which region of the brain each voxel belongs to, and the same as a few channels that registration can match."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuroreg import field
from neuroreg.box import bounding_box
from neuroreg.nn.blocks import local_normalise
from neuroreg.nn.unet import UNet

CLASSES = 208
"""label ids 0..207; the label set of the training data ends there"""

_CHUNK = 1 << 12  # voxels whose class probabilities exist at once
_BRAIN = 0.02  # intensity: smoothing spreads a little beyond the brain
_MARGIN = 2  # voxels of air the network is shown about the brain
_COORDINATE = 40.0  # voxels per unit of the coordinate channels


class AnatomyNetwork(nn.Module):
    """A parcellation network whose answer can be read as class probabilities or as codes.

    Every class has a fixed random unit vector; a voxel's code is the mean of these over its class probabilities.
    Two voxels have like codes where they are likely of one region, so a handful of channels stands for all regions.
    Outside the brain (image 0) the code is 0.
    """

    codebook: Tensor

    def __init__(self, widths: tuple[int, ...], features: int, codes: int) -> None:
        super().__init__()
        self.body = UNet(5, widths, features)
        self.classify = nn.Linear(features, CLASSES)
        generator = torch.Generator().manual_seed(0)
        vectors = F.normalize(torch.randn(CLASSES, codes, generator=generator), dim=1)
        vectors[0] = 0.0  # background
        self.register_buffer("codebook", vectors)

    def features(self, image: Tensor) -> Tensor:
        """image (B, 1, D, H, W), 0 outside the brain, -> (B, C, D, H, W)."""
        inputs = torch.cat((image, local_normalise(image), coordinates(image)), dim=1)
        out: Tensor = self.body(inputs)
        return out

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 1, D, H, W) -> codes (B, K, D, H, W) float32."""
        return self._read(image, lambda logits: logits.softmax(1) @ self.codebook, len(self.codebook[0]))

    def codes_and_regions(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` and ``regions`` of an image at the price of one."""

        def answer(logits: Tensor) -> Tensor:
            return torch.cat((logits.softmax(1) @ self.codebook, logits.argmax(1, keepdim=True)), dim=1)

        codes = len(self.codebook[0])
        both = self._read(image, answer, codes + 1)
        return both[:, :codes].contiguous(), both[:, codes:].long()

    def regions(self, image: Tensor) -> Tensor:
        """image (B, 1, D, H, W) -> most likely class id (B, 1, D, H, W), int64; 0 outside the brain."""
        return self._read(image, lambda logits: logits.argmax(1, keepdim=True).float(), 1).long()

    def _read(self, image: Tensor, answer: Callable[[Tensor], Tensor], channels: int) -> Tensor:
        out = torch.zeros(image.shape[0], *image.shape[2:], channels, device=image.device)
        for one, into in zip(torch.split(image, 1), out, strict=True):
            box = bounding_box(one > _BRAIN, before=_MARGIN, after=_MARGIN)
            if box is None:
                continue
            near = one[(slice(None), slice(None), *box)]
            inside = (near[0, 0] > _BRAIN).nonzero(as_tuple=True)
            rows = self.features(near)[0].movedim(0, -1)[inside]
            parts = [answer(self.classify(part).float()) for part in torch.split(rows, _CHUNK)]
            into[box][inside] = torch.cat(parts).float()
        return out.movedim(-1, 1)

    def cross_entropy(
        self, image: Tensor, labels: Tensor, voxels: int, generator: torch.Generator | None
    ) -> Tensor:
        """Mean cross entropy over ``voxels`` random brain voxels. labels (B, 1, D, H, W), ids below CLASSES."""
        inside = (image[:, 0] > _BRAIN).flatten().nonzero()[:, 0]
        drawn = torch.randint(len(inside), (voxels,), generator=generator).to(inside.device)
        chosen = inside[drawn]
        rows = self.features(image).movedim(1, -1).flatten(0, 3)[chosen]
        return F.cross_entropy(self.classify(rows).float(), labels.flatten()[chosen].long())


def coordinates(image: Tensor) -> Tensor:
    """Where each voxel lies from the centre of mass of the brain: (B, 3, D, H, W), _COORDINATE voxels a unit."""
    grid = field.identity(tuple(image.shape[2:]), device=image.device, dtype=torch.float32)
    inside = (image > _BRAIN).float()
    mass = inside.sum((2, 3, 4), keepdim=True).clamp_min(1.0)
    return (grid - (grid * inside).sum((2, 3, 4), keepdim=True) / mass) / _COORDINATE
