"""Images with a known answer: smooth random deformations, bias fields, other contrasts, noise.

Network frame: images (B, 1, D, H, W), displacements (B, 3, D, H, W) in voxels. Everything random comes from the
generator that is passed in.
"""

import math

import torch
from torch import Tensor

from neuroreg import field


def smooth_noise(
    shape: tuple[int, ...], channels: int, *, sigma: float, generator: torch.Generator
) -> Tensor:
    """Gaussian noise smoothed over ``sigma`` voxels, each channel with standard deviation 1: (1, C, D, H, W)."""
    rim = math.ceil(
        3 * sigma
    )  # smoothing repeats the border, which would make the noise there larger and steeper
    noise = torch.randn(1, channels, *(n + 2 * rim for n in shape), generator=generator)
    noise = field.smooth(noise, sigma)
    for axis, size in enumerate(shape):
        noise = noise.narrow(axis + 2, rim, size)
    return noise / noise.std(dim=(2, 3, 4), keepdim=True)


def random_displacement(
    shape: tuple[int, ...], *, sigma: float, size: float, generator: torch.Generator
) -> Tensor:
    """A smooth displacement (1, 3, D, H, W) voxels: features of about ``sigma``, root mean square length ``size``.

    Not bound to be free of folds; for Gaussian noise ``size`` below about a third of ``sigma`` is.
    """
    return smooth_noise(shape, 3, sigma=sigma, generator=generator) * (size / 3**0.5)


def bias_field(
    shape: tuple[int, ...], *, sigma: float, strength: float, generator: torch.Generator
) -> Tensor:
    """A smooth factor around 1, (1, 1, D, H, W); ``strength`` is the standard deviation of its logarithm."""
    return torch.exp(strength * smooth_noise(shape, 1, sigma=sigma, generator=generator))


def recontrast(image: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Another contrast: 0..1 cut into equal parts whose ends become ``levels``, straight lines between.

    ``levels`` that rise keep the order of tissues, as two T1 sequences do; values above 1 keep the last slope.
    """
    parts = len(levels) - 1
    place = image * parts
    lower = place.floor().clamp(0, parts - 1)
    table = torch.tensor(levels, dtype=image.dtype)
    first, last = table[lower.long()], table[lower.long() + 1]
    return first + (place - lower) * (last - first)


def add_rician_noise(image: Tensor, *, sd: float, generator: torch.Generator) -> Tensor:
    """The magnitude of the image plus complex Gaussian noise of standard deviation ``sd``, as scanners make it."""
    real = image + sd * torch.randn(image.shape, generator=generator)
    imaginary = sd * torch.randn(image.shape, generator=generator)
    return torch.hypot(real, imaginary)


def fewer_slices(image: Tensor, axis: int, *, keep: int) -> Tensor:
    """The image known at ``keep`` evenly spaced slices across ``axis`` alone, the first and the last among them.

    Between them it is interpolated linearly, which keeps the grid. Same shape, float32. At least two are kept.
    """
    size = image.shape[axis]
    known = torch.linspace(0, size - 1, max(2, min(keep, size))).round()
    place = torch.arange(size, dtype=torch.float32)
    after = torch.searchsorted(known, place).clamp(min=1)
    low, high = known[after - 1], known[after]
    share = ((place - low) / (high - low)).reshape(
        [-1 if a == axis % image.ndim else 1 for a in range(image.ndim)]
    )
    slices = image.to(torch.float32)
    return (
        slices.index_select(axis, low.long()) * (1 - share) + slices.index_select(axis, high.long()) * share
    )
