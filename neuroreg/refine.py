"""Refinement: the gaussnewton engine started from any prediction, on the 1 mm grid. Network frame, knows no file."""

from torch import Tensor

from neuroreg.errors import UsageError
from neuroreg.methods.base import Prediction
from neuroreg.methods.gaussnewton import GaussNewton, Iterations, Weights, optimise
from neuroreg.registry import unknown_name

ITERATIONS: dict[str, Iterations] = {
    "fast": (4, 4, 0, 4),
    "mid": (8, 8, 2, 5),
    "std": (12, 12, 8, 8),
    "best": (30, 20, 20, 15),
}
"""of every preset; a few of the cheap 4 mm iterations help even from a network's field"""


def refine(
    prediction: Prediction,
    fixed: Tensor,
    moving: Tensor,
    *,
    preset: str = "mid",
    iterations: int | None = None,
    weights: Weights | None = None,
) -> Prediction:
    """Improve ``prediction`` on 1 mm images; the result lives on level 1 (2 mm field) and has no folds.

    fixed (B, 1, D, H, W) and moving (B, 1, d, h, w) lie on the grids the prediction refers to, intensities 0..1.
    ``iterations``: that many at 2 mm and as many at 1 mm, instead of the preset's. 0 only removes folds and puts
    the field on level 1. Raises UsageError for an unknown preset or a negative count, DataError for bad shapes.
    """
    if iterations is None:
        if preset not in ITERATIONS:
            raise UsageError(unknown_name("refinement", preset, ITERATIONS))
        plan = ITERATIONS[preset]
    elif iterations < 0:
        raise UsageError(f"the number of refinement iterations cannot be negative, got {iterations}")
    else:
        plan = (0, 0, iterations, iterations)
    return optimise(GaussNewton.Config(), plan, fixed, moving, prediction, weights=weights)
