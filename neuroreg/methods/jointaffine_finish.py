"""What ``jointaffine`` may do with the affine of its points: take in the decoder's, or polish it without a network."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg.methods.affine import AffineConfig, AffineMethod
from neuroreg.methods.base import Prediction, align_moving
from neuroreg.nn.points import FRONT, brain_around, chain, fit_affine

_EVERY = 11  # of the brain's voxels this many-th one is asked
_TOLERANCE, _ROUNDS = 0.5, 20  # voxels at which a displacement that the affine leaves over counts half


@dataclass(frozen=True)
class Finish:
    """``settle``, then ``polish``, as often as it says."""

    settling: int
    polishing: int
    deform: Callable[[Tensor, Tensor], Prediction]
    """aligned images -> the displacement between them"""

    def __call__(self, fixed: Tensor, moving: Tensor, affine: Tensor, points: list[Tensor]) -> Tensor:
        """The better affine (B, 3, 4); points (K, 3) of each fixed image, if there are any, say where its brain is.

        The decoder has learned from brains alone: an image that shows a skull is not settled.
        """
        images, others = torch.split(fixed, 1), torch.split(moving, 1)
        masks = [brain_around(found, image) for found, image in zip(points, images, strict=False)]
        affines = list(torch.split(affine, 1))
        for row, mask in enumerate(masks if self.settling else ()):
            if bool(mask.all()):
                affines[row] = settle(images[row], others[row], affines[row], self.deform, self.settling)
        affine = torch.cat(affines)
        if not self.polishing:
            return affine
        return polish(fixed, moving, affine, torch.cat(masks) if masks else None, self.polishing)


def settle(
    fixed: Tensor, moving: Tensor, affine: Tensor, deform: Callable[[Tensor, Tensor], Prediction], times: int
) -> Tensor:
    """affine (1, 3, 4) and, ``times`` over, the affine that most of the brain's displacements agree on.

    ``deform`` gives the displacement between fixed (1, 1, D, H, W) and the moving image aligned so far. What regions of
    unlike shape do to their centres does not lead it astray, and it sees every voxel.
    """
    places = (fixed[0, 0] > FRONT).nonzero()[::_EVERY]
    if len(places) == 0:
        return affine
    shape = tuple(fixed.shape[2:])
    here, weight = places[None].double(), torch.ones(1, len(places), device=fixed.device)
    for _ in range(times):
        start = Prediction(torch.zeros_like(fixed).expand(-1, 3, -1, -1, -1), affine=affine.float())
        u = deform(fixed, align_moving(moving, shape, start)).at_level(0, shape)
        there = here + u[0][:, places[:, 0], places[:, 1], places[:, 2]].mT[None]
        rest = fit_affine(here, there, weight, tolerance=_TOLERANCE, rounds=_ROUNDS)
        affine = chain(rest, affine.double())
    return affine


def polish(fixed: Tensor, moving: Tensor, affine: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """affine (B, 3, 4) after steps of method ``affine`` on local correlation in mask (B, 1, D, H, W)."""
    engine = AffineMethod(AffineConfig(survivor_iterations=0, half_iterations=steps, full_iterations=0))
    start = Prediction(torch.zeros_like(fixed).expand(-1, 3, -1, -1, -1), affine=affine)
    found = engine.predict(fixed, moving, start, fixed_mask=mask).affine
    assert found is not None
    return found
