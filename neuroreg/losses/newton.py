"""Similarities with what a Gauss-Newton step needs: slope and curvature by the moved intensity at each voxel.

Each takes fixed, moved and weight, (B, 1, D, H, W) each, and returns ``Terms``. If the moved image changes by d, the
metric changes by about sum(slope d) - sum(curvature d^2) / 2. More is better; sums run over ``weight``, which also
says where windows are centred.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuroreg import field

# Added to variances of intensities 0..1. At 1e-4 flat windows bought correlation with variance: equal images came
# out .3 % smaller; at 1e-5 it is .03 %.
_EPS = 1e-5
_BINS = 32  # of fixed intensity
_CLASS_VARIANCE = 1e-4  # least variance within a bin: intensities are not known to better than .01


class Terms(NamedTuple):
    """A similarity and its derivatives by the moved intensity."""

    value: Tensor
    """(B,)"""
    slope: Tensor
    """(B, 1, D, H, W)"""
    curvature: Tensor
    """(B, 1, D, H, W), not negative"""


Similarity = Callable[[Tensor, Tensor, Tensor], Terms]


def global_correlation(fixed: Tensor, moved: Tensor, weight: Tensor) -> Terms:
    """Squared correlation over all of ``weight``, with the sign of the correlation; value in -1..1."""
    total = _sum(weight).clamp_min(1.0)
    i = fixed - _sum(weight * fixed) / total
    j = moved - _sum(weight * moved) / total
    covariance = _sum(weight * i * j) / total
    variance_i = _sum(weight * i * i) / total + _EPS
    variance_j = _sum(weight * j * j) / total + _EPS
    a = 2 * covariance / (variance_i * variance_j)
    w = a * covariance / variance_j
    value = covariance * covariance.abs() / (variance_i * variance_j)
    return Terms(value.reshape(-1), weight * (a * i - w * j) / total, weight * w / total)


def local_correlation(*windows: int, power: int = 2) -> Similarity:
    """Local correlation to an even power in cubes of these odd sides, averaged over windows; value in 0..1.

    Power 4 gives more say to where the images agree already: robust to what cannot be matched.

    The slope is exact: a voxel counts in every window that holds it. The curvature leaves out the change of the
    windows' means, which makes steps a little short.
    """

    def terms(fixed: Tensor, moved: Tensor, weight: Tensor) -> Terms:
        weight = weight / (_sum(weight).clamp_min(1.0) * len(windows))
        fixed = fixed.expand_as(moved)
        products = torch.cat((fixed, moved, fixed * fixed, moved * moved, fixed * moved), dim=1)
        value = torch.zeros(len(moved), device=moved.device)
        slope, curvature = torch.zeros_like(moved), torch.zeros_like(moved)
        for window in windows:
            mean_i, mean_j, mean_ii, mean_jj, mean_ij = field.box_mean(products, window).chunk(5, dim=1)
            variance_i = (mean_ii - mean_i * mean_i).clamp_min(0) + _EPS
            variance_j = (mean_jj - mean_j * mean_j).clamp_min(0) + _EPS
            covariance = mean_ij - mean_i * mean_j
            square = covariance * covariance / (variance_i * variance_j)
            rise = weight * square ** (power // 2 - 1)
            value += (rise * square).sum(dim=(1, 2, 3, 4))
            a = power * rise * covariance / (variance_i * variance_j)
            w = a * covariance / variance_j
            # zeros outside make the mean its own adjoint, so it also gathers the windows that hold a voxel
            back = field.box_mean(torch.cat((a, w, w * mean_j - a * mean_i), dim=1), window)
            slope += fixed * back[:, 0:1] - moved * back[:, 1:2] + back[:, 2:3]
            curvature += back[:, 1:2]
        return Terms(value, slope, curvature)

    return terms


def mutual_information(fixed: Tensor, moved: Tensor, weight: Tensor) -> Terms:
    """Mutual information (nats) of moved intensities taken as Gaussian within bins of fixed intensity; value >= 0.

    For other contrasts: any function of the fixed intensity will do. With Gaussians the slope is a residual and the
    curvature its precision, as in least squares; joint histograms gave noisy curvatures and very short steps.
    """
    rows = (fixed / fixed.max() * (_BINS - 1)).round().long().clamp(0, _BINS - 1).reshape(-1)
    weight = weight / _sum(weight).clamp_min(1.0)
    w, j = weight.flatten(1).expand(len(moved), -1), moved.flatten(1)
    # about the overall mean, or the variances would lose digits
    mean = (w * j).sum(dim=1, keepdim=True)
    j = j - mean
    empty = torch.zeros(len(j), _BINS, dtype=j.dtype, device=j.device)
    mass, first, second = (empty.index_add(1, rows, x) for x in (w, w * j, w * j * j))
    centres = first / mass.clamp_min(1e-9)
    variances = (second / mass.clamp_min(1e-9) - centres * centres).clamp_min(0) + _CLASS_VARIANCE
    variance = (w * j * j).sum(dim=1, keepdim=True) + _CLASS_VARIANCE
    value = 0.5 * (variance.log() - (mass * variances.log()).sum(dim=1, keepdim=True))
    precision = 1 / variances[:, rows]
    slope = w * ((centres[:, rows] - j) * precision + j / variance)
    return Terms(value[:, 0], slope.reshape(moved.shape), (w * precision).reshape(moved.shape))


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=(1, 2, 3, 4), keepdim=True)
