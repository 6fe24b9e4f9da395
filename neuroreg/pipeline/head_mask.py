"""Where the brain is in a whole head: the template is laid on it, and its mask comes along.

The affine part of method ``jointaffine`` finds brains in their heads. The mask it brings is grown a little, because
what is cut off is lost to a registration, and a rim of skull is not.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg import checkpoints
from neuroreg.errors import DataError
from neuroreg.memory import Memory
from neuroreg.metrics.image import correlation
from neuroreg.pipeline.config import BRAIN_FINDER
from neuroreg.pipeline.engine import head_referee
from neuroreg.pipeline.template import DEFAULT, Template, load_template
from neuroreg.preprocess import brain
from neuroreg.preprocess.conform import affine_to_world, conform
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Volume

LEAST_ALIKE = 0.65
"""Correlation of the template and the placed head inside the template's mask, from where on a brain was found.

Of 15 heads of IXI (validation) it is 0.78 to 0.82, turned by 40 degrees 0.80 to 0.84, and of one that is shaded from
0.4 to 1.6 across 0.67. Of the same heads without their right, front, back or lower half it is at most 0.57, back to
front 0.47, of noise in the shape of the head 0.15. Upside down it is below 0.45, or the map mirrors: refused too.
"""

_SPACING_MM = 2.0  # as for every affine
_GROWN_VOXELS = 1  # of the template, 2 mm: without, the Dice of a registration is 0.02 lower
_MASKS: Memory[NDArray[np.uint8]] = Memory(4)  # one bit a voxel: 2 MB of a head of 256 cubed


class NoBrainError(DataError):
    """The image holds no head in which the template finds its place."""


def find_brain(head: Volume) -> Volume:
    """The mask of the brain in a whole head (1, Z, Y, X): uint8, 0 and 1, on the head's own grid.

    Remembered by content, so that an image of many pairs is searched once. Raises NoBrainError where the template
    does not fit, UnavailableError or DataError without a good template or weights of ``jointaffine``.
    """
    used = checkpoints.find(DEFAULT).sha256, checkpoints.default_for(BRAIN_FINDER).sha256
    parts = (head.geometry, head.data, used)
    packed = _MASKS.recall(parts, lambda: np.packbits(_search(head).numpy()))
    bits = np.unpackbits(packed, count=head.data.numel())
    return Volume(torch.from_numpy(bits).reshape(head.data.shape), head.geometry, is_label=True)


@torch.inference_mode()
def _search(head: Volume) -> torch.Tensor:
    """(1, Z, Y, X) bool. Raises as ``find_brain``."""
    template = load_template()
    affine = _lay(template, head)
    grown = brain.grow(template.mask.data > 0, voxels=_GROWN_VOXELS)
    soft = Volume(grown.to(torch.float32), template.mask.geometry)
    return resample(soft, affine.inverse(), head.geometry).data >= 0.5


def _lay(template: Template, head: Volume) -> Affine:
    """The affine from the template to the head, LPS mm. Raises NoBrainError where the two are not alike."""
    aligner = head_referee()
    try:
        pair = conform(template.image, head, spacing_mm=_SPACING_MM, divisor=aligner.divisor)
    except DataError as error:
        raise NoBrainError(error.what) from error
    found = aligner.predict(pair.fixed, pair.moving).affine
    assert found is not None
    affine = affine_to_world(found, pair.fixed_grid, pair.moving_grid)
    coarse = Volume(pair.moving[0], pair.moving_grid)
    placed = resample(coarse, affine, template.image.geometry)
    alike = correlation(template.image.data, placed.data, template.mask.data)
    if not alike >= LEAST_ALIKE:
        raise NoBrainError(
            f"the template does not fit (correlation {alike:.2f}, heads have {LEAST_ALIKE:g} and more)"
        )
    if float(torch.linalg.det(affine.matrix[:3, :3])) <= 0:
        raise NoBrainError("the template fits only mirrored; check the axes in the header")
    return affine
