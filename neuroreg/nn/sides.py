"""What of a brain is not symmetric: laid on a symmetric template, normalised, less its own mirror image. Network frame.

Every step treats left and right alike: the map of a mirrored brain is that of the brain with the other sign, up to
interpolation. The template and all grids have the same spacing; its sides are odd, so that it can be mirrored exactly.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.nn.blocks import local_normalise

Aligner = Callable[[Tensor, Tensor], Tensor]
"""fixed (1, 1, D, H, W), moving (1, 1, d, h, w) -> affine (1, 3, 4) from fixed to moving voxels"""

_SIGMA = 2.0  # voxels: finer asymmetry differs from brain to brain


def place(image: Tensor, template: Tensor, align: Aligner, *, halved: bool = True) -> Tensor:
    """image (1, 1, d, h, w) on the grid of the template (1, 1, D, H, W) after an affine, found on halved images or
    not."""
    fixed, moving = (field.downsample(x) if halved else x for x in (template, image))
    affine = align(fixed, moving).to(torch.float32)
    full = torch.cat((affine[..., :3], (2 if halved else 1) * affine[..., 3:]), dim=-1)
    index = field.affine_index(full, field.identity(tuple(template.shape[2:])))
    return field.sample(image, index, fill=0.0)


def asymmetry(image: Tensor) -> Tensor:
    """image (1, 1, D, H, W), all sides odd -> (N,): the smoothed right half less the mirrored left one, every second
    voxel."""
    smooth = field.smooth(local_normalise(image), _SIGMA)[..., ::2, ::2, ::2]
    half = smooth.shape[-1] // 2
    return (smooth - smooth.flip(-1))[..., :half].flatten()
