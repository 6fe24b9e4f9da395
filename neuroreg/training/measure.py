"""Methods on the pairs of a packed split, one pair at a time: overlap, folds, seconds. Network frame, no files read."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from neuroreg import checkpoints, field
from neuroreg.errors import DataError
from neuroreg.losses.labels import mean_dice
from neuroreg.methods import METHODS
from neuroreg.methods.base import Batch, Method, Prediction, flush_denormal
from neuroreg.preprocess.intensity import scale
from neuroreg.preprocess.synthesis import fewer_slices
from neuroreg.registry import find
from neuroreg.training.data import PackedSet, halved_image
from neuroreg.training.recipe import Recipe
from neuroreg.training.run import build
from neuroreg.training.validation import finer

Change = Callable[[Batch], Batch]
Lie = Callable[[PackedSet, int, int], Batch]
_RAW_SHAPE = (96, 112, 96)  # holds any brain at 2 mm, every side a multiple of 16
_AP = 3  # the front-to-back axis of a packed image (1, 1, D, H, W)


@dataclass(frozen=True)
class PairFigures:
    """One method on one pair. Dice: the mean over the regions of the fixed labels, read by nearest neighbour."""

    fixed: str
    moving: str
    dice_before: float
    """as the two images lie"""
    dice_affine: float
    """by the affine part of the result alone; without one as they lie"""
    dice: float
    folded_percent: float
    """det J <= 0 of the residual field, inside the fixed brain"""
    seconds: float
    """wall seconds of the method alone"""


def trained_method(recipe: Recipe, weights: Path) -> tuple[Method, bool]:
    """The method of a recipe as it was trained, with these weights; and whether it saw coarse images alone.

    The options are those the file names, without those meant for use on other images. Raises NoInputError, DataError.
    """
    record = checkpoints.find(weights)
    recipe = recipe.as_trained(checkpoints.read_metadata(weights))
    own = {name: value for name, value in record.config.items() if name not in recipe.inference}
    config = {**own, **{name: recipe.config[name] for name in recipe.inference if name in recipe.config}}
    method = build(recipe.model_copy(update={"config": config, "initial": None}))
    checkpoints.load_into(method.network, record)
    method.network.eval()
    lengths = [stage.steps for stage in method.stages(recipe.steps, recipe.learning_rate)]
    return method, recipe.coarse_by_stage(lengths)[-1] >= lengths[-1]


def untrained_method(name: str, options: dict[str, object]) -> Method:
    """A method without weights. Raises UsageError, UnavailableError (its package is not there)."""
    kind: Any = find(METHODS, name, kind="method").load()
    method: Method = kind(kind.Config.model_validate(options))
    return method


def measure_pairs(
    method: Method,
    data: PackedSet,
    pairs: Sequence[tuple[int, int]],
    *,
    lie: Lie | None = None,
    change: Change | None = None,
    coarse: bool = False,
) -> Iterator[PairFigures]:
    """One result per pair of rows (fixed, moving), each made when it is asked for.

    ``lie`` says how the two lie to one another (default: as packed), ``change`` alters the pair beforehand.
    ``coarse``: the method sees the images at twice the spacing. Raises DataError when a result is not finite.
    """
    for fixed, moving in pairs:
        pair = (lie or packed_pair)(data, fixed, moving)
        pair = pair if change is None else change(pair)
        yield _measure(method, pair, data.ids[fixed], data.ids[moving], coarse)


def with_fewer_slices(keep: int) -> Change:
    """The moving image known at ``keep`` slices from front to back alone, its labels whole."""
    return lambda pair: replace(pair, moving=fewer_slices(pair.moving, _AP, keep=keep))


def packed_pair(data: PackedSet, fixed: int, moving: int) -> Batch:
    """Two subjects as they lie in the pack."""
    images, labels = (data.image(fixed), data.image(moving)), (data.label(fixed), data.label(moving))
    return Batch(images[0], images[1], labels[0], labels[1], images[0] > 0)


def raw_pair(heads: PackedSet, fixed: int, moving: int) -> Batch:
    """Two subjects of a pack of whole heads in the poses they were scanned in: stripped, the brains' centres together.

    No voxel is interpolated: each brain is cut out about its centre of mass.
    """
    cut = [_brain(heads.image(row), heads.label(row)) for row in (fixed, moving)]
    (fixed_image, fixed_labels), (moving_image, moving_labels) = cut
    return Batch(fixed_image, moving_image, fixed_labels, moving_labels, fixed_labels > 0)


def _brain(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The brain (labels above 0) and its labels on a grid of ``_RAW_SHAPE``, centre of mass in the middle."""
    brain = labels > 0
    centre = brain[0, 0].nonzero().double().mean(0).round().long().tolist()
    pads, cuts = [], []
    for size, side, middle in zip(image.shape[2:], _RAW_SHAPE, centre, strict=True):
        first = middle - side // 2
        before, after = max(0, -first), max(0, first + side - size)
        pads.append((before, after))
        cuts.append(slice(first + before, first + before + side))
    flat = [n for pair in reversed(pads) for n in pair]
    where = (slice(None), slice(None), *cuts)
    stripped, labels = (pad(x, flat)[where] for x in (scale(image * brain), labels))
    return stripped, labels


@torch.inference_mode()
def _measure(method: Method, pair: Batch, fixed_id: str, moving_id: str, coarse: bool) -> PairFigures:
    assert pair.fixed_labels is not None
    assert pair.fixed_mask is not None
    fixed, moving = (halved_image(image) if coarse else image for image in (pair.fixed, pair.moving))
    with flush_denormal():
        begun = time.perf_counter()
        found = method.predict(fixed, moving)
        seconds = time.perf_counter() - begun
    if coarse:
        found = finer(found)
    u = found.at_level(0, tuple(pair.fixed.shape[2:])).float()
    if not bool(torch.isfinite(u).all()):
        raise DataError(
            f"{moving_id} to {fixed_id}: the method found no usable field",
            remedy="train it for longer, or use other weights",
        )
    before, affine, dice = (mean_dice(pair.fixed_labels, moved) for moved in _moved_labels(pair, found, u))
    folded = field.jacobian_determinant(u)[:, None][pair.fixed_mask] <= 0
    percent = 100 * float(folded.float().mean())
    return PairFigures(fixed_id, moving_id, before, affine, dice, percent, seconds)


def _moved_labels(pair: Batch, found: Prediction, u: Tensor) -> Iterator[Tensor]:
    """The moving labels as they lie, through the affine alone, and through the whole map, on the fixed grid."""
    assert pair.moving_labels is not None
    index = field.identity(tuple(pair.fixed.shape[2:]))
    for maps in (index, _whole(found, index), _whole(found, index + u)):
        yield field.sample(pair.moving_labels, maps, mode="nearest", fill=0)


def _whole(found: Prediction, index: Tensor) -> Tensor:
    return index if found.affine is None else field.affine_index(found.affine, index)
