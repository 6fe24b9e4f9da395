"""Overlap and folds of trained weights on a packed split, on the grid they were trained on, and of the affine alone.

python examples/measure_weights.py weights/neuroreg-ixi2mm.safetensors runs/ixi2mm-test.npz [pairs]
"""

import json
import sys
from pathlib import Path

import torch

from neuroreg import checkpoints
from neuroreg.losses.labels import mean_dice
from neuroreg.training.data import PackedSet, load_pack
from neuroreg.training.recipe import load_recipe
from neuroreg.training.run import build
from neuroreg.training.validation import validate, validate_images, validation_pairs


def unregistered(data: PackedSet, pairs: int) -> float:
    """Mean Dice of the pairs as they lie in the pack: affinely aligned by their region centroids."""
    chosen = validation_pairs(len(data), pairs)
    return sum(mean_dice(data.label(i), data.label(j)) for i, j in chosen) / len(chosen)


def main(weights: Path, pack: Path, pairs: int) -> dict[str, object]:
    """{pairs, dice_affine, dice, folded_percent}, and the Dice of a parcellation network that was trained first."""
    recipe = load_recipe(weights.with_suffix(".yaml"))
    method = build(recipe.model_copy(update={"initial": None}))  # the weights hold everything
    checkpoints.load_into(method.network, checkpoints.find(weights))
    data = load_pack(pack)
    stages, cpu = method.stages(recipe.steps, recipe.learning_rate), torch.device("cpu")
    lengths = [stage.steps for stage in stages]
    only = [
        a >= b for a, b in zip(recipe.coarse_by_stage(lengths), lengths, strict=True)
    ]  # coarse images alone
    dice, folded = validate(method, data, pairs, cpu, coarse=only[-1])
    affine = unregistered(data, pairs)
    parcellation = {
        f"{stage.name}_dice": round(validate_images(method.network, stage.score, data, cpu, coarse=coarse), 4)
        for stage, coarse in zip(stages, only, strict=True)
        if stage.score is not None
    }
    return {
        "weights": weights.name,
        "pack": pack.name,
        "pairs": pairs,
        "dice_affine": round(affine, 4),
        "dice": round(dice, 4),
        "folded_percent": round(folded, 4),
        **parcellation,
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    count = int(arguments[2]) if len(arguments) > 2 else 100
    sys.stdout.write(json.dumps(main(Path(arguments[0]), Path(arguments[1]), count), indent=2) + "\n")
