"""How alike two images are. Images (B, 1, D, H, W); every loss is a float32 scalar, smaller is better."""

import torch
from torch import Tensor

from neuroreg import field


def lncc_map(fixed: Tensor, moved: Tensor, *, window: int = 9, stride: int = 1, eps: float = 1e-4) -> Tensor:
    """Squared local normalised cross-correlation in a cube of side ``window``: (B, 1, D, H, W), 0..1.

    ``stride`` 2 scores every second window along each axis: (B, 1, D/2, H/2, W/2).

    Windows where either image is flat (variance below about ``eps``) score 0. Float32 throughout:
    variances are differences of large sums, and half precision would lose them.
    """
    covariance, variance_f, variance_m = _local_moments(fixed, moved, window, stride)
    out: Tensor = covariance * covariance / ((variance_f + eps) * (variance_m + eps))
    return out


def _local_moments(fixed: Tensor, moved: Tensor, window: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance and both variances in each window, channel by channel."""
    fixed, moved = fixed.float(), moved.float()
    stack = torch.cat((fixed, moved, fixed * fixed, moved * moved, fixed * moved), dim=1)
    mean_f, mean_m, mean_ff, mean_mm, mean_fm = field.box_mean(stack, window, stride=stride).chunk(5, dim=1)
    covariance = mean_fm - mean_f * mean_m
    variance_f = (mean_ff - mean_f * mean_f).clamp_min(0)
    variance_m = (mean_mm - mean_m * mean_m).clamp_min(0)
    return covariance, variance_f, variance_m


def lncc(
    fixed: Tensor,
    moved: Tensor,
    *,
    window: int = 9,
    mask: Tensor | None = None,
    stride: int = 1,
    eps: float = 1e-4,
) -> Tensor:
    """1 - mean squared LNCC (VoxelMorph's squared form), over ``mask`` (B, 1, D, H, W) if given.

    ``stride`` 2 averages over every second window along each axis: an eighth of the work, the same expectation.
    """
    if mask is not None:
        mask = mask[:, :, ::stride, ::stride, ::stride]
    with torch.autocast(fixed.device.type, enabled=False):
        return 1.0 - masked_mean(lncc_map(fixed, moved, window=window, stride=stride, eps=eps), mask)


def lncc_of_texture(
    fixed: Tensor,
    moved: Tensor,
    *,
    window: int = 9,
    squared: bool = False,
    stride: int = 1,
    eps: float = 1e-5,
    flat: float = 1e-4,
) -> Tensor:
    """1 - mean LNCC of images (B, C, D, H, W): of each channel over the windows where ``fixed`` has texture (variance
    above ``flat``), then over the channels that have any. The correlation itself, in -1..1, unless ``squared``.

    Images that are empty over most of the grid are judged where there is something. ``stride``: see ``lncc``.
    """
    with torch.autocast(fixed.device.type, enabled=False):
        covariance, variance_f, variance_m = _local_moments(fixed, moved, window, stride)
        correlation = covariance * torch.rsqrt((variance_f + eps) * (variance_m + eps))
        texture = (variance_f > flat).float()
        windows = texture.sum((2, 3, 4))
        score = correlation * correlation if squared else correlation
        mean = (score * texture).sum((2, 3, 4)) / windows.clamp_min(1)
        return 1.0 - masked_mean(mean, windows > 0)


def ncc(fixed: Tensor, moved: Tensor, *, mask: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """1 - the correlation of all intensities (of those in ``mask``), averaged over the batch; 0..2."""
    weight = torch.ones_like(fixed) if mask is None else mask.to(torch.float32)
    total = weight.sum((1, 2, 3, 4), keepdim=True).clamp_min(1)
    f = fixed.float() - (fixed.float() * weight).sum((1, 2, 3, 4), keepdim=True) / total
    m = moved.float() - (moved.float() * weight).sum((1, 2, 3, 4), keepdim=True) / total
    covariance = (f * m * weight).sum((1, 2, 3, 4))
    variances = (f * f * weight).sum((1, 2, 3, 4)) * (m * m * weight).sum((1, 2, 3, 4))
    return 1.0 - (covariance / (variances + eps).sqrt()).mean()


def mse(fixed: Tensor, moved: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference, over ``mask`` if given."""
    return masked_mean((fixed.float() - moved.float()) ** 2, mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values (B, 1, D, H, W) where mask is True; over everything without a mask; 0 for an empty mask."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)
