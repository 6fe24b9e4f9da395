"""How regular a map is: folds, volume that is not diffeomorphic, spread of the Jacobian, inverse consistency.

Determinants are taken in the voxel frame of the field's own grid: a world-frame gradient that forgets the grid's
direction reports folds that do not exist. A field is a ``DisplacementField`` (mm) or a tensor (1, 3, D, H, W) in
voxels; masks are bool (D, H, W) or (1, D, H, W), and None means the whole grid.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.transforms import DisplacementField, Transform
from neuroreg.volume import Geometry

_SLAB_VOXELS = 1_000_000  # voxels measured at once: about 100 MB of intermediates
_POINTS = 1_000_000


@dataclass(frozen=True)
class DeformationFigures:
    """The regularity of one map inside a mask. The last two are None when no inverse was given."""

    folded_percent: float
    ndv_percent: float
    sd_log_jacobian: float
    inverse_mean_mm: float | None = None
    inverse_max_mm: float | None = None


def deformation_figures(
    displacement: DisplacementField | Tensor, mask: Tensor | None = None
) -> DeformationFigures:
    """Folds, NDV and SD log J of one field, the determinant computed once. Raises DataError on NaN or an empty mask."""
    determinant = _masked_determinant(displacement, mask)
    return DeformationFigures(
        folded_percent=_folded(determinant),
        ndv_percent=ndv(displacement, mask),
        sd_log_jacobian=_sd_log(determinant),
    )


def percent_folded(displacement: DisplacementField | Tensor, mask: Tensor | None = None) -> float:
    """Percent of the mask's voxels with det J <= 0, by central differences (one-sided at the rim of the grid)."""
    return _folded(_masked_determinant(displacement, mask))


def sd_log_jacobian(displacement: DisplacementField | Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of log det J over the mask's voxels with det J > 0. 0 for any affine map."""
    return _sd_log(_masked_determinant(displacement, mask))


def ndv(displacement: DisplacementField | Tensor, mask: Tensor | None = None) -> float:
    """Non-diffeomorphic volume, percent of the mask's volume.

    Each cube of eight voxels is split into five tetrahedra, in both of the two mirrored ways; the map, linear on
    each tetrahedron, is one-to-one exactly where every signed volume is positive. Summed are the sizes of the
    negative ones, halved for the two ways, over the tetrahedra whose right-angled (or first) corner is in the mask.
    Liu et al., On finite difference Jacobian computation in deformable image registration, IJCV 2024.
    """
    u, inside = _crop(_voxels(displacement), mask)
    depth, height, width = u.shape[2:]
    rows = max(1, _SLAB_VOXELS // (height * width))
    position = field.identity((depth, height, width), device=u.device, dtype=u.dtype) + u
    negative = 0.0
    for start in range(0, depth - 1, rows):
        stop = min(start + rows, depth - 1) + 1
        negative += _negative_volume(position[0, :, start:stop], inside[start:stop])
    return 100.0 * negative / int(inside.sum())


def inverse_errors_mm(
    forward: Transform, inverse: Transform, geometry: Geometry, mask: Tensor | None = None
) -> Tensor:
    """Distance of inverse(forward(p)) from p at the masked voxels of ``geometry``, in their order: (N,) float64 mm."""
    points = geometry.points()
    points = points.reshape(-1, 3) if mask is None else points[_mask(mask, geometry.shape)]
    if not len(points):
        raise DataError("the mask is empty")
    return torch.cat([(inverse(forward(part)) - part).norm(dim=-1) for part in torch.split(points, _POINTS)])


def inverse_consistency_mm(
    forward: Transform, inverse: Transform, geometry: Geometry, mask: Tensor | None = None
) -> tuple[float, float]:
    """Distance of inverse(forward(p)) from p over the masked voxels of ``geometry``: (mean, largest), mm."""
    distance = inverse_errors_mm(forward, inverse, geometry, mask)
    return float(distance.mean()), float(distance.max())


def _voxels(displacement: DisplacementField | Tensor) -> Tensor:
    u = displacement.to_voxels() if isinstance(displacement, DisplacementField) else displacement
    if u.ndim != 5 or u.shape[:2] != (1, 3):
        raise DataError(f"expected one field (1, 3, D, H, W), got {tuple(u.shape)}")
    if not bool(torch.isfinite(u).all()):
        raise DataError("the displacement field holds values that are not finite")
    return u


def _mask(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    inside = mask.reshape(mask.shape[-3:]).to(torch.bool)
    if tuple(inside.shape) != tuple(shape):
        raise DataError(f"the mask {tuple(inside.shape)} and the field {tuple(shape)} differ in size")
    return inside


def _crop(u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The field and the mask (D, H, W), cut to the mask's box and one voxel around it."""
    inside = _mask(mask, tuple(u.shape[2:])).to(u.device)
    found = inside.nonzero()
    if not len(found):
        raise DataError("the mask is empty")
    low = (found.min(dim=0).values - 1).clamp(min=0).tolist()
    high = (found.max(dim=0).values + 2).tolist()
    d, h, w = (slice(a, b) for a, b in zip(low, high, strict=True))
    return u[:, :, d, h, w], inside[d, h, w]


def _masked_determinant(displacement: DisplacementField | Tensor, mask: Tensor | None) -> Tensor:
    """det J at the voxels of the mask: (N,)."""
    u, inside = _crop(_voxels(displacement), mask)
    if min(u.shape[2:]) < 2:
        raise DataError(f"a Jacobian needs at least two voxels along each axis, got {tuple(u.shape[2:])}")
    return field.jacobian_determinant(u)[0][inside]


def _folded(determinant: Tensor) -> float:
    return 100.0 * int((determinant <= 0).sum()) / len(determinant)


def _sd_log(determinant: Tensor) -> float:
    positive = determinant[determinant > 0].to(torch.float64)
    return float(positive.log().std(correction=0)) if len(positive) else float("nan")


def _negative_volume(position: Tensor, inside: Tensor) -> float:
    """Half the sum of the sizes of the negative tetrahedra of a slab: position (3, D, H, W), inside (D, H, W)."""

    def corner(bits: tuple[int, ...], values: Tensor) -> Tensor:
        d, h, w = (slice(bit, n - 1 + bit) for bit, n in zip(bits, values.shape[-3:], strict=True))
        return values[..., d, h, w]

    def negative(apex: tuple[int, ...], others: list[tuple[int, ...]], sign: int) -> float:
        start = corner(apex, position)
        edges = torch.stack([corner(other, position) - start for other in others], dim=1)[None]
        sixfold = sign * field.determinant(edges)[0]
        return float((-sixfold.clamp(max=0)[corner(apex, inside)]).sum(dtype=torch.float64)) / 6.0

    total = 0.0
    for apex in itertools.product((0, 1), repeat=3):
        others = [tuple(bit ^ (axis == k) for k, bit in enumerate(apex)) for axis in range(3)]
        # An edge towards a lower index is -e_a on the identity map: the sign makes every determinant +1 there.
        total += negative(apex, others, -1 if sum(apex) % 2 else 1)
    total += negative((0, 0, 0), [(0, 1, 1), (1, 0, 1), (1, 1, 0)], 1)
    total += negative((1, 1, 1), [(1, 0, 0), (0, 1, 0), (0, 0, 1)], -1)
    return 0.5 * total
