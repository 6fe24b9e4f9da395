"""Refinement: the gaussnewton engine started from any prediction, on the 1 mm grid. Network frame, knows no file."""

from torch import Tensor

from neuroreg.errors import UsageError
from neuroreg.methods.base import Prediction
from neuroreg.methods.gaussnewton import GaussNewton, Iterations, Weights, optimise
from neuroreg.registry import unknown_name

ITERATIONS: dict[str, Iterations] = {
    "fast": (4, 8, 0, 3),
    "mid": (12, 10, 6, 8),
    "std": (20, 14, 12, 11),
    "best": (30, 20, 20, 15),
}
"""of every preset; a few of the cheap 4 mm iterations help even from a network's field"""

_CONFIG = {"fast": GaussNewton.Config(guide_mm=2.0)}
"""where not the defaults: in three iterations guides beside the 1 mm images cost more than they bring"""


def settings(preset: str = "mid", iterations: int | None = None) -> tuple[GaussNewton.Config, Iterations]:
    """The engine's options and plan; ``iterations`` as in ``refine``. Raises UsageError."""
    if iterations is not None:
        if iterations < 0:
            raise UsageError(
                f"the number of refinement iterations cannot be negative, got {iterations}",
                remedy="give 0 or more",
            )
        return GaussNewton.Config(), (0, 0, iterations, iterations)
    if preset not in ITERATIONS:
        raise UsageError(
            unknown_name("refinement", preset, ITERATIONS), remedy="see neuroreg register --help"
        )
    return _CONFIG.get(preset, GaussNewton.Config()), ITERATIONS[preset]


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
    config, plan = settings(preset, iterations)
    return optimise(config, plan, fixed, moving, prediction, weights=weights)
