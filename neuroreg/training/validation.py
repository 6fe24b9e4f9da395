"""Overlap and folding on fixed validation pairs."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels
from neuroreg.methods.base import TrainableMethod
from neuroreg.training.data import PackedSet, halved_image


def validation_pairs(subjects: int, pairs: int) -> list[tuple[int, int]]:
    """``pairs`` fixed ordered pairs that use every subject equally: i with i + 1, then i with i + 2, ..."""
    ordered = [(i, (i + gap) % subjects) for gap in range(1, subjects) for i in range(subjects)]
    return ordered[:pairs]


@torch.no_grad()
def validate(
    method: TrainableMethod, data: PackedSet, pairs: int, device: torch.device, *, coarse: bool = False
) -> tuple[float, float]:
    """Mean Dice (mean over ROIs, then pairs; nearest-neighbour labels) and percent of det J <= 0 in the brain.

    ``coarse``: the network sees the images at twice the spacing; its field still moves the labels at full size.
    """
    method.network.eval()
    scores, folds = [], []
    for fixed_row, moving_row in validation_pairs(len(data), pairs):
        fixed, moving = data.image(fixed_row).to(device), data.image(moving_row).to(device)
        if coarse:
            prediction = method.predict(halved_image(fixed), halved_image(moving))
            prediction = replace(prediction, level=prediction.level + 1)
        else:
            prediction = method.predict(fixed, moving)
        u = prediction.at_level(0, tuple(fixed.shape[2:]))
        moved = field.warp(data.label(moving_row).to(device), u, mode="nearest")
        scores.append(labels.mean_dice(data.label(fixed_row).to(device), moved))
        determinant = field.jacobian_determinant(u)[:, None][fixed > 0]
        folds.append(100 * float((determinant <= 0).float().mean()))
    return sum(scores) / len(scores), sum(folds) / len(folds)


@torch.no_grad()
def validate_images(
    network: nn.Module,
    score: Callable[[Tensor, Tensor], float],
    data: PackedSet,
    device: torch.device,
    *,
    coarse: bool = False,
) -> float:
    """Mean of ``score`` (image, labels) over all subjects; ``coarse``: at twice the spacing."""
    network.eval()
    scores = []
    for row in range(len(data)):
        image, regions = data.image(row).to(device), data.label(row).to(device)
        if coarse:
            image, regions = halved_image(image), regions[..., ::2, ::2, ::2]
        scores.append(score(image, regions))
    return sum(scores) / len(scores)
