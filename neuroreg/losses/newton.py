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

_EPS = 1e-4  # variance (of intensities 0..1) below which a window counts as flat
_MI_BINS = 24


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


def local_correlation(*windows: int) -> Similarity:
    """Squared local correlation in cubes of these odd sides, averaged over windows; value in 0..1.

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
            mean_i, mean_j, mean_ii, mean_jj, mean_ij = field.box_mean(products, window).split(1, dim=1)
            variance_i = (mean_ii - mean_i * mean_i).clamp_min(0) + _EPS
            variance_j = (mean_jj - mean_j * mean_j).clamp_min(0) + _EPS
            covariance = mean_ij - mean_i * mean_j
            a = 2 * weight * covariance / (variance_i * variance_j)
            w = a * covariance / variance_j
            value += 0.5 * (a * covariance).sum(dim=(1, 2, 3, 4))
            # zeros outside make the mean its own adjoint, so it also gathers the windows that hold a voxel
            back = field.box_mean(torch.cat((a, w, w * mean_j - a * mean_i), dim=1), window)
            slope += fixed * back[:, 0:1] - moved * back[:, 1:2] + back[:, 2:3]
            curvature += back[:, 1:2]
        return Terms(value, slope, curvature)

    return terms


def mutual_information(fixed: Tensor, moved: Tensor, weight: Tensor) -> Terms:
    """Mutual information (nats) of joint histograms, for other contrasts.

    The slope is the score of p(moved | fixed) against p(moved); the curvature its square, whose mean is the true
    curvature where the histogram is the true density (Berndt, Hall, Hall and Hausman 1974).
    """
    rows = (fixed / fixed.max() * (_MI_BINS - 1)).round().long().clamp(0, _MI_BINS - 1).reshape(-1)
    parts = [_information(rows, moved[b].reshape(-1), weight[b].reshape(-1)) for b in range(len(moved))]
    value, slope, curvature = (torch.stack(x) for x in zip(*parts, strict=True))
    return Terms(value, slope.reshape(moved.shape), curvature.reshape(moved.shape))


def _information(rows: Tensor, moved: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    k = _MI_BINS
    weight = weight / weight.sum().clamp_min(1.0)
    gain = (k - 1) / moved.max().clamp_min(1e-3)
    place = moved * gain
    low = place.floor().long().clamp(0, k - 2)
    part = place - low
    cell = rows * k + low
    joint = torch.zeros(k * k, device=moved.device).index_add(0, cell, weight * (1 - part))
    joint = joint.index_add(0, cell + 1, weight * part)
    joint = field.smooth(joint.reshape(1, 1, 1, k, k), 1.0).reshape(k, k) + 1e-7
    joint = joint / joint.sum()
    ratio = (joint / (joint.sum(dim=0, keepdim=True) * joint.sum(dim=1, keepdim=True))).log()
    score = (ratio.reshape(-1)[cell + 1] - ratio.reshape(-1)[cell]) * gain
    return (joint * ratio).sum(), weight * score, weight * score * score


def _sum(x: Tensor) -> Tensor:
    return x.sum(dim=(1, 2, 3, 4), keepdim=True)
