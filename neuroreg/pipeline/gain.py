"""Whether a deformation brings images closer that fit already: a scan registered to itself must stay where it is."""

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.losses.similarity import lncc_map
from neuroreg.preprocess.conform import Conformed
from neuroreg.transforms import Transform, world_to_index

FITS = 0.9
"""Mean local correlation from which on two images count as the same brain: unlike brains reach half of it."""


def makes_worse(pair: Conformed, affine: Transform, whole: Transform) -> bool:
    """Whether images that fit by the affine alone fit less by the whole map. Maps: fixed to moving, LPS mm.

    A network deforms whatever it sees, by half a mm on average even a scan onto itself. Of unlike brains this is
    never asked: what their affine leaves is what a deformation is for.
    """
    before = _likeness(pair, affine)
    return before >= FITS and _likeness(pair, whole) < before


def _likeness(pair: Conformed, transform: Transform) -> float:
    """Mean local correlation over the fixed brain of the fixed image and the moved one."""
    index = world_to_index(transform(pair.fixed_grid.points()), pair.moving_grid).to(torch.float32)
    moved: Tensor = field.sample(pair.moving, index, fill=0.0)
    return float(lncc_map(pair.fixed, moved)[pair.fixed_mask].mean())
