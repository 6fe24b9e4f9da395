"""Whether an image is a label map, by its voxels alone: what a file is meant for stands in no header."""

import torch
from torch import Tensor

_FLAT = 0.5
"""Of the voxels that are not 0, the share with an equal neighbour: tissue has noise, regions have none."""


def looks_labelled(data: Tensor) -> bool:
    """Whether data (1, Z, Y, X) are whole numbers, none below 0, in regions of equal ones."""
    if float(data.min()) < 0 or not all(torch.equal(slab, slab.round()) for slab in data[0]):
        return False
    here, beside = data[..., :-1], data[..., 1:]
    front = (here != 0).logical_and_(beside != 0)
    count = int(front.count_nonzero())
    return count > 0 and int(front.logical_and_(here == beside).count_nonzero()) >= _FLAT * count
