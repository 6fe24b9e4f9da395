"""Patches of a pair around chosen voxels, and how alike the template's centre is to every place of the subject's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroreg import field

_FLAT_VARIANCE = 1e-5  # added per voxel: windows flatter than this are like nothing
_FLAT_DEVIATION = 0.01  # the least standard deviation a pair of patches is divided by


class PairPatches:
    """Network inputs cut from one pair. Beyond the grid everything is background, 0.

    A patch of side P around voxel v covers v - P // 2 to v + (P - 1) // 2 on every axis. Cutting is one indexing of
    a strided view, without a loop over patches.
    """

    def __init__(
        self,
        fixed: Tensor,
        moved: Tensor,
        *,
        side: int,
        kernels: tuple[int, ...],
        centred: bool,
        many: bool = False,
    ) -> None:
        """fixed and moved (D, H, W) float32; ``kernels``: odd sides of the similarity kernels.

        ``many``: thousands of patches will be cut, so what the similarity divides by is made for all voxels at once.
        """
        self._side, self._kernels, self._centred = side, kernels, centred
        self._reach = max(kernels, default=1) // 2
        around = (side // 2 + self._reach, (side - 1) // 2 + self._reach)
        template, subject = (F.pad(image.float(), around * 3) for image in (fixed, moved))
        self._templates = _windows(template, side)
        self._centres = _windows(template, 2 * self._reach + 1)
        self._subjects = _windows(subject, side + 2 * self._reach)
        self._norms = [
            _windows(window_norm(subject[None], k, centred=centred)[0], side) if many else None
            for k in kernels
        ]

    def cut(self, points: Tensor) -> Tensor:
        """points (N, 3) voxels, integer -> (N, 2 + kernels, P, P, P): both patches, normalised together, and the maps.

        The template patch comes first.
        """
        reach = self._reach
        at = points.unbind(1)
        inner = tuple(index + reach for index in at)
        subject = self._subjects[at]
        core = slice(reach, reach + self._side)
        pair = torch.stack((self._templates[inner], subject[:, core, core, core]), dim=1)
        centre = self._centres[tuple(index + self._side // 2 for index in at)]
        maps = []
        for k, norms in zip(self._kernels, self._norms, strict=True):
            if norms is None:
                norm = window_norm(subject, k, centred=self._centred)[:, core, core, core]
            else:
                norm = norms[inner]
            maps.append(similarity_map(centre, subject, norm, k, centred=self._centred))
        return torch.cat((normalise_together(pair), *(m[:, None] for m in maps)), dim=1)


def similarity_map(centre: Tensor, subject: Tensor, norm: Tensor, kernel: int, *, centred: bool) -> Tensor:
    """The cosine of the template's centre and the subject around every voxel of a patch (Eq. 2): (N, P, P, P).

    centre (N, C, C, C), of which the inner ``kernel`` voxels a side are compared; subject (N, P + C - 1, ...); norm
    (N, P, P, P), the root of the sum of squares of the subject in a cube of side ``kernel`` around each voxel.
    ``centred``: of what deviates from the local means, which is the correlation coefficient.

    It correlates: the paper's convolution with a reversed kernel is the same thing.
    """
    side, spare = norm.shape[-1], (centre.shape[-1] - kernel) // 2
    inner, outer = slice(spare, spare + kernel), slice(spare, spare + side + kernel - 1)
    block, read = centre[:, inner, inner, inner].float(), subject[:, outer, outer, outer].float()
    if centred:
        block = block - block.mean((1, 2, 3), keepdim=True)
    length = (block.square().sum((1, 2, 3)) + kernel**3 * _FLAT_VARIANCE).sqrt()
    with torch.autocast(read.device.type, enabled=False):  # a cosine is near 1: half precision would lose it
        product = F.conv3d(read[None], block[:, None], groups=len(block))[0]  # a group for every patch
    out: Tensor = product / (length[:, None, None, None] * norm)
    return out


def normalise_together(pair: Tensor) -> Tensor:
    """pair (N, 2, P, P, P) -> less their common mean, over their common standard deviation."""
    mean = pair.mean((1, 2, 3, 4), keepdim=True)
    deviation = (pair - mean).square().mean((1, 2, 3, 4), keepdim=True).sqrt()
    return (pair - mean) / (deviation + _FLAT_DEVIATION)


def window_norm(images: Tensor, kernel: int, *, centred: bool) -> Tensor:
    """(N, D, H, W): the root of the sum of squares (of deviations from the mean) in a cube around every voxel."""
    mean, square = field.box_mean(torch.stack((images, images * images), dim=1), kernel).unbind(1)
    if centred:
        square = (square - mean * mean).clamp_min(0)
    out: Tensor = (kernel**3 * (square.clamp_min(0) + _FLAT_VARIANCE)).sqrt()
    return out


def _windows(image: Tensor, side: int) -> Tensor:
    """A view (d, h, w, side, side, side) of every cube of an image (D, H, W); nothing is copied."""
    return image.unfold(0, side, 1).unfold(1, side, 1).unfold(2, side, 1)
