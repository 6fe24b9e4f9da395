"""A toy data set and a toy method for the training tests: sides 16, 18, 20; lateralised regions; textured heads."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage
from neuroreg.training.data import Augmentation, PackedSet
from neuroreg.training.recipe import Recipe
from neuroreg.volume import Geometry

SHAPE = (16, 18, 20)
LEFT, RIGHT, MIDDLE = 5, 3, 4
"""Region ids; LEFT and RIGHT are partners that differ by more than one, the left the larger number."""

NO_AUGMENTATION = Augmentation(
    shared_affine=0, moving_affine=0, moving_shift=0, mirror=0, gamma=0, bias=0, noise=0
)


def mirror() -> Tensor:
    table = torch.arange(256, dtype=torch.uint8)
    table[LEFT], table[RIGHT] = RIGHT, LEFT
    return table


def subject(shift: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """(image, labels) uint8 (D, H, W): an ellipsoid with unlike blobs left (high w), right and in the middle."""
    d, h, w = (axis - (n - 1) / 2 for axis, n in zip(field.identity(SHAPE)[0], SHAPE, strict=True))
    d, h, w = d - shift[0], h - shift[1], w - shift[2]
    brain = (d / 6.5) ** 2 + (h / 7.5) ** 2 + (w / 8.5) ** 2 < 1
    image = 0.6 + 0.2 * torch.sin(0.9 * d + 0.4 * h) * torch.cos(0.7 * w - 0.3 * d)
    labels = torch.ones(SHAPE)
    for region, centre, value in ((LEFT, 4.0, 0.3), (RIGHT, -4.0, 0.2), (MIDDLE, 0.0, -0.3)):
        blob = (d / 3.5) ** 2 + ((h + 1) / 4) ** 2 + ((w - centre) / 2.2) ** 2 < 1
        labels[blob] = region
        image = image + value * blob
    return (200 * image * brain).round().to(torch.uint8), (labels * brain).to(torch.uint8)


def toy_set(count: int = 3) -> PackedSet:
    shifts = [(0.0, 0.0, 0.0), (1.0, -0.5, 0.6), (-0.7, 1.0, -0.8), (0.5, 0.4, 1.2)][:count]
    images, labels = zip(*(subject(shift) for shift in shifts), strict=True)
    depth, height, width = SHAPE
    geometry = Geometry((width, height, depth), (2.0,) * 3, (-19.0, -17.0, -15.0))
    ids = tuple(f"s{i}" for i in range(count))
    return PackedSet(torch.stack(images), torch.stack(labels), ids, geometry, mirror())


def save_pack(data: PackedSet, path: Path) -> Path:
    """The file that ``prepare.pack`` would write, written by hand."""
    geometry = (
        '{"size": [20, 18, 16], "spacing": [2.0, 2.0, 2.0], "origin": [-19.0, -17.0, -15.0],'
        ' "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}'
    )
    np.savez(
        path, images=data.images.numpy(), labels=data.labels.numpy(), ids=np.array(data.ids),
        geometry=np.array(geometry), mirror=data.mirror.numpy(),
    )  # fmt: skip
    return path


def recipe(**changes: object) -> Recipe:
    """Six float32 steps of a small ``neuroreg`` network."""
    options: dict[str, object] = {
        "name": "toy",
        "method": "neuroreg",
        "config": {"spacing_mm": 2.0, "plan": [[4, 1], [2, 1]], "features": 4, "width": 8, "dice_rois": 2},
        "data": {"train": "train.npz", "val": "val.npz"},
        "seed": 3,
        "steps": 6,
        "learning_rate": 1e-3,
        "precision": "float32",
        "validate_every": 3,
        "val_pairs": 2,
    }
    return Recipe.model_validate(options | changes)


class ToyConfig(MethodConfig):
    """No options."""


class ToyMethod:
    """One constant displacement per component, learned by mean squares: the cheapest thing that can be trained."""

    Config: ClassVar[type[ToyConfig]] = ToyConfig
    divisor = 1
    spacing_mm = 2.0

    def __init__(self) -> None:
        self.network: nn.Module = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(3))})

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        shift: Tensor = self.network["shift"]  # type: ignore[index]
        return Prediction(shift.reshape(1, 3, 1, 1, 1).expand(len(fixed), 3, *fixed.shape[2:]))

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        moved = field.warp(batch.moving, prediction.displacement)
        return {
            "mse": similarity.mse(batch.fixed, moved),
            "smoothness": regularity.diffusion(prediction.displacement),
        }

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        return (Stage("all", tuple(self.network.parameters()), steps, learning_rate),)
