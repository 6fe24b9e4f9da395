"""Which voxels simcnn looks at, and the dense field through what it found there."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator, make_interp_spline
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError

_FULL_EDGE = 0.99  # the quantile of gradient magnitudes that counts as a full edge
_ENOUGH = 50_000  # voxels that tell the quantile
_ROBUST_SD = 1.4826  # standard deviations per median absolute deviation
_LEAST_SPREAD = 0.05  # voxels: neighbours that agree more closely than this still leave some room
_REACH = 2.0  # lattice spacings from an active point within which the field is interpolated, not repeated
_BISECTIONS = 25


def edges(image: Tensor) -> Tensor:
    """Gradient magnitude of image (D, H, W) in 0..1, I(u) of Eq. 1; 1 is its 99th percentile where there is any."""
    d, h, w = torch.gradient(image.float())
    magnitude: Tensor = (d.square_() + h.square_() + w.square_()).sqrt_()
    some = magnitude[magnitude > 0]
    if len(some) == 0:
        return magnitude
    some = some[:: 1 + len(some) // _ENOUGH]
    full = some.kthvalue(max(1, math.ceil(_FULL_EDGE * len(some)))).values
    return torch.clamp(magnitude / full, max=1.0)


def keep_probability(size: Tensor, edge: Tensor, *, tau: float, omega: float) -> Tensor:
    """Eq. 1: exp(-omega / (size / tau * edge)), 0 where a displacement of ``size`` voxels exceeds ``tau``."""
    product = torch.where(size <= tau, size / tau * edge, torch.zeros_like(size))
    return torch.exp(-omega / product)  # exp(-inf) = 0 where the product is 0


def omega_for(size: Tensor, edge: Tensor, *, tau: float, count: float) -> float:
    """The omega with which Eq. 1 keeps ``count`` points on average; nearly 0 where there are no more than that."""
    product = torch.where(size <= tau, size / tau * edge, torch.zeros_like(size))
    product = product[product > 0]
    low, high = -30.0, 10.0  # logarithms
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(torch.exp(-math.exp(middle) / product).sum()) > count:
            low = middle
        else:
            high = middle
    return math.exp(low)


def equalise(probability: Tensor, size: Tensor, *, width: float) -> Tensor:
    """Weights with which displacements of every size are as likely: bins of ``width`` voxels weigh the same.

    Eq. 1 by itself does not do that. The probabilities' proportions within a bin stay.
    """
    bins = (size / width).ceil().long()
    total = torch.bincount(bins.flatten(), probability.flatten().double())
    return torch.where(probability > 0, probability / total[bins].to(probability).clamp_min(1e-20), 0.0)


def draw(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` different indices into weights (N,), drawn in their proportion, fewer if not as many have a weight.

    Drawn on the CPU, so that every device draws the same.
    """
    on_cpu = weights.cpu()
    some = on_cpu.nonzero()[:, 0]
    if len(some) == 0:
        return some.to(weights.device)
    return some[torch.multinomial(on_cpu[some], min(count, len(some)), generator=generator)].to(
        weights.device
    )


def draw_voxels(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """``draw`` from weights (D, H, W): (N, 3) integer voxels."""
    chosen = draw(weights.flatten(), count, generator)
    return torch.stack(torch.unravel_index(chosen, weights.shape), dim=1)


def clip_outliers(
    points: NDArray[np.float64], values: NDArray[np.float64], *, neighbours: int, bound: float
) -> NDArray[np.float64]:
    """values (N, 3) at points (N, 3), each component within ``bound`` robust deviations of its neighbours' median.

    The neighbours are the nearest other points.
    """
    count = min(neighbours + 1, len(points))
    near = cKDTree(points).query(points, k=count)[1].reshape(len(points), count)[:, 1:]
    around = values[near]
    median = np.median(around, axis=1)
    spread = _ROBUST_SD * np.median(np.abs(around - median[:, None]), axis=1)
    room = bound * np.maximum(spread, _LEAST_SPREAD)
    return np.asarray(np.clip(values, median - room, median + room))


def interpolate(
    points: NDArray[np.float64],
    values: NDArray[np.float64],
    shape: tuple[int, ...],
    *,
    spacing: int,
    neighbours: int,
    smoothing: float,
) -> Tensor:
    """A dense field (3, D, H, W) float32 through values (N, 3) at points (N, 3) voxels.

    A thin-plate spline, in 3-D the kernel r with a linear polynomial, through the nearest points of every
    ``spacing``-th voxel; cubic B-splines between these. Far from all points the nearest such value is repeated.
    Raises DataError for points that do not span space.
    """
    lattice = tuple(max(4, math.ceil((n - 1) / spacing) + 1) for n in shape)
    nodes = np.moveaxis(np.indices(lattice, dtype=np.float64), 0, -1) * spacing
    near = cKDTree(points).query(nodes)[0] <= _REACH * spacing
    try:
        spline = RBFInterpolator(
            points, values, neighbors=min(neighbours, len(points)), smoothing=smoothing, kernel="linear", degree=1
        )  # fmt: skip
        found = np.zeros((*lattice, 3))
        found[near] = spline(nodes[near])
    except (np.linalg.LinAlgError, ValueError) as error:
        raise DataError(
            f"{len(points)} points do not span space", remedy="check that the fixed image shows a brain"
        ) from error
    nearest = distance_transform_edt(~near, return_distances=False, return_indices=True)
    coarse = torch.from_numpy(found[tuple(nearest)]).float().movedim(-1, 0)[None]
    d, h, w = (torch.from_numpy(_cubic(n, size, spacing)) for n, size in zip(lattice, shape, strict=True))
    return field.separable(coarse, (d, h, w))[0]


@lru_cache(maxsize=64)
def _cubic(nodes: int, size: int, spacing: int) -> NDArray[np.float32]:
    """(size, nodes): the cubic spline through values at 0, spacing, 2 spacing, ..., read at 0, 1, 2, ..."""
    spline = make_interp_spline(np.arange(nodes) * float(spacing), np.eye(nodes), k=3)
    return np.asarray(spline(np.arange(size, dtype=np.float64)), dtype=np.float32)
