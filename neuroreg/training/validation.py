"""Overlap and folding on fixed validation pairs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuroreg import field
from neuroreg.losses import labels
from neuroreg.methods.base import Batch, Prediction, TrainableMethod
from neuroreg.training.data import Augmentation, PackedSet, halved_image
from neuroreg.training.fields import StoredFields
from neuroreg.training.poses import Poses, draw_raw_pair

_PLAIN = Augmentation(mirror=0, gamma=0, bias=0, noise=0)


def validation_pairs(subjects: int, pairs: int) -> list[tuple[int, int]]:
    """``pairs`` fixed ordered pairs that use every subject equally: i with i + 1, then i with i + 2, ..."""
    ordered = [(i, (i + gap) % subjects) for gap in range(1, subjects) for i in range(subjects)]
    return ordered[:pairs]


@torch.no_grad()
def validate(
    method: TrainableMethod,
    data: PackedSet,
    pairs: int,
    device: torch.device,
    *,
    coarse: bool = False,
    predict: Callable[[Tensor, Tensor], Prediction] | None = None,
) -> tuple[float, float]:
    """Mean Dice (mean over ROIs, then pairs; nearest-neighbour labels) and percent of det J <= 0 in the brain.

    ``coarse``: the network sees the images at twice the spacing; its field still moves the labels at full size.
    ``predict``: what is measured instead of the method's own.
    """
    predict = predict or method.predict
    method.network.eval()
    scores, folds = [], []
    for fixed_row, moving_row in validation_pairs(len(data), pairs):
        fixed, moving = data.image(fixed_row).to(device), data.image(moving_row).to(device)
        images = (halved_image(fixed), halved_image(moving)) if coarse else (fixed, moving)
        prediction = finer(predict(*images)) if coarse else predict(*images)
        u = prediction.at_level(0, tuple(fixed.shape[2:]))
        label = data.label(moving_row).to(device)
        moved = field.warp(label, u, affine=prediction.affine, mode="nearest")
        scores.append(labels.mean_dice(data.label(fixed_row).to(device), moved))
        determinant = field.jacobian_determinant(u)[:, None][fixed > 0]
        folds.append(100 * float((determinant <= 0).float().mean()))
    return sum(scores) / len(scores), sum(folds) / len(folds)


def finer(prediction: Prediction) -> Prediction:
    """The same map of a grid whose level 0 is finer by one level."""
    affine = prediction.affine
    if affine is not None:
        affine = torch.cat((affine[:, :, :3], 2 * affine[:, :, 3:]), dim=2)
    return replace(prediction, level=prediction.level + 1, affine=affine)


@torch.no_grad()
def validate_raw(
    predict: Callable[[Tensor, Tensor], Prediction],
    network: nn.Module,
    data: PackedSet,
    pairs: int,
    device: torch.device,
    *,
    poses: Poses,
) -> tuple[float, float]:
    """``validate`` on ``pairs`` fixed pairs in raw poses, one in two stripped; labels moved by the whole map."""
    network.eval()
    scores, folds = [], []
    for number in range(pairs):
        drawn = poses.model_copy(update={"stripped": float(number % 2)})
        pair = draw_raw_pair(data, drawn, _PLAIN, torch.Generator().manual_seed(number))
        assert pair.fixed_labels is not None
        assert pair.moving_labels is not None
        found = predict(pair.fixed.to(device), pair.moving.to(device))
        u = found.at_level(0, tuple(pair.fixed.shape[2:]))
        affine, inside = found.affine, pair.fixed_labels.to(device) > 0
        moved = field.warp(pair.moving_labels.to(device), u, affine=affine, mode="nearest", fill=0)
        scores.append(labels.mean_dice(pair.fixed_labels.to(device), moved))
        folds.append(100 * float((field.jacobian_determinant(u)[:, None][inside] <= 0).float().mean()))
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


@torch.no_grad()
def validate_batches(network: nn.Module, score: Callable[[Batch], float], batches: Iterable[Batch]) -> float:
    """Mean of ``score`` over batches."""
    network.eval()
    scores = [score(batch) for batch in batches]
    return sum(scores) / len(scores)


def fixed_batches(data: PackedSet, pairs: int, fields: StoredFields | None) -> Iterator[Batch]:
    """The first ``pairs`` of ``fields`` with their displacements, or the fixed validation pairs; always the same.

    Each brings its own source of random choices, which begins anew every time.
    """
    rows = validation_pairs(len(data), pairs) if fields is None else fields.pairs[:pairs].tolist()
    for number, (fixed_row, moving_row) in enumerate(rows):
        fixed = data.image(fixed_row)
        yield Batch(
            fixed,
            data.image(moving_row),
            data.label(fixed_row),
            data.label(moving_row),
            fixed > 0,
            torch.Generator().manual_seed(number),
            None if fields is None else fields.displacement(number),
        )
