"""Is left left? Brains are not symmetric, in nearly everybody the same way; a mirrored one shows.

The asymmetry of the brain (``nn/sides.py``) is compared with that of the training subjects by a linear discriminant, a
ridge regression without a constant: about 1 for brains as they are and -1 for mirrored ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg import checkpoints
from neuroreg.errors import DataError
from neuroreg.memory import Memory
from neuroreg.metrics.image import correlation
from neuroreg.nn.sides import asymmetry, place
from neuroreg.pipeline.engine import Aligner

DEFAULT = "sides-ixi2mm"
_LEAST_ASYMMETRIC = 3.0  # length of the map; brains have 11 to 13, the mean brain 6, a symmetric one 0
_LEAST_ALIKE = 0.72  # NCC with the template; below, the affine has not found the brain
_SCORES: Memory[float | None] = Memory(10_000)


@dataclass(frozen=True)
class Sides:
    """What the score needs."""

    template: Tensor
    """(1, 1, D, H, W) float32, odd sides, 2 mm, equal to its own mirror image along W"""
    weights: Tensor
    """(N,) float32, for ``asymmetry``"""


def load_sides(name: str = DEFAULT) -> Sides:
    """The discriminant of that name in the manifest, verified. Raises UsageError, UnavailableError, DataError."""
    record = checkpoints.find(name)
    if record.kind != "sides":
        raise DataError(
            f"{name!r} does not tell left from right", file=record.path, remedy="see neuroreg models list"
        )
    tensors, said = checkpoints.load_tensors(record), checkpoints.read_metadata(record.path)
    try:
        template = tensors["template"].to(torch.float32)[None, None] / float(said["intensity_step"])
        return Sides(template, tensors["weights"].to(torch.float32))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"the file is damaged: {error}", file=record.path, remedy="install neuroreg again"
        ) from error


@torch.inference_mode()
def sides_score(image: Tensor, sides: Sides, aligner: Aligner, *, whole_head: bool = False) -> float | None:
    """About 1 for a brain whose left is left, about -1 for a mirrored one; None for one that is symmetric, as some
    templates are.

    image (1, 1, D, H, W), 0..1, on a 2 mm grid along the image's axes. Of a ``whole_head`` what lies inside the
    template is judged; ``aligner`` must then be one that finds a brain in its head. Raises DataError where the affine
    finds no brain.
    """

    def align(fixed: Tensor, moving: Tensor) -> Tensor:
        affine = aligner.predict(fixed, moving).affine
        assert affine is not None
        return affine

    inside = sides.template > 0
    placed = place(image, sides.template, align, halved=not whole_head)
    if not correlation(sides.template, placed, inside) >= _LEAST_ALIKE:
        raise DataError("no brain was found", remedy="give a mask of the brain")
    found = asymmetry(placed * inside if whole_head else placed)
    return float(found @ sides.weights) if float(found.norm()) >= _LEAST_ASYMMETRIC else None


def remembered_score(
    image: Tensor, sides: Sides, aligner: Callable[[], Aligner], *, whole_head: bool = False
) -> float | None:
    """``sides_score``, worked out once for an image however many pairs it is in: it depends on nothing else.

    ``aligner`` makes the aligner when it is needed. Remembered by content, so that a changed image is judged anew.
    """
    parts = (whole_head, image, sides.template, sides.weights)
    return _SCORES.recall(parts, lambda: sides_score(image, sides, aligner(), whole_head=whole_head))
