"""Affine registration by Gauss-Newton on local correlation, from many starts.

Centres of mass and a ball of start rotations are tried together on a coarse grid with global correlation; the best
few are refined at half, the best at full resolution with local correlation. Each step solves 12 x 12 normal equations
(Levenberg-Marquardt): sums over the image of gradient products times monomials of the position. Steps that do not
raise the metric are not taken. Everything is in network voxels, from the fixed to the moving grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.losses.newton import Similarity, global_correlation, local_correlation, mutual_information
from neuroreg.methods.affine_starts import moments, skew, starting
from neuroreg.methods.base import MethodConfig, Prediction
from neuroreg.parallel import Workers, workers

Metric = Literal["lncc", "mi"]
Dof = Literal[6, 7, 9, 12]

# The first factor on a step, its growth with every step that is taken, and its limit.
_STRETCH = (1.5, 1.4, 3.0)
_AT_ONCE = 4  # starts that one thread works on together
_COARSE_SIDE = 28  # voxels: the search runs on the first pyramid level whose longest side is no longer


class AffineConfig(MethodConfig):
    """Options of ``affine``."""

    dof: Dof = Field(12, description="6 rigid, 7 and one scale, 9 and a scale per axis, 12 and shears")
    metric: Metric = Field(
        "lncc", description="lncc: local correlation; mi: mutual information (other contrasts)"
    )
    windows: tuple[int, ...] = Field((5,), description="sides of the LNCC windows, voxels, odd")
    search_iterations: int = Field(8, ge=0, description="Gauss-Newton steps for every start, coarsest grid")
    survivor_iterations: int = Field(8, ge=0, description="steps with at most 7 parameters, half resolution")
    half_iterations: int = Field(12, ge=0, description="steps at half resolution for the best of them")
    full_iterations: int = Field(2, ge=0, description="steps at full resolution")
    survivors: int = Field(3, ge=1, description="starts taken to half resolution")
    spacing_mm: float = Field(2.0, gt=0, description="spacing of the network grid, mm")


@dataclass(frozen=True)
class _Level:
    """A pair on one pyramid level, with what does not change between steps."""

    fixed: Tensor
    """(1, 1, D, H, W)"""
    moving: Tensor
    """(1, 1, d, h, w)"""
    weight: Tensor
    """(1, 1, D, H, W): 1 where the metric counts"""
    moving_weight: Tensor | None
    """(1, 1, d, h, w)"""
    index: Tensor
    """(1, 3, D, H, W) level-0 voxels"""
    step: int
    """level-0 voxels between neighbours"""
    frame: "_Frame"


@dataclass(frozen=True)
class _Frame:
    """Fixed positions are q = (p - centre) / radius, so that all twelve parameters weigh alike."""

    centre: Tensor
    """(3,) float64 level-0 voxels"""
    radius: float


@dataclass(frozen=True)
class _Normal:
    """The metric of B affines and its normal equations."""

    value: Tensor
    """(B,)"""
    matrix: Tensor
    """(B, 12, 12) float64"""
    vector: Tensor
    """(B, 12) float64"""


class AffineMethod:
    """See the module. Ignores a start's displacement; a start's affine replaces the search."""

    Config: ClassVar[type[AffineConfig]] = AffineConfig
    divisor: int = 4

    def __init__(self, config: AffineConfig | None = None) -> None:
        self.config = config or AffineConfig()
        self.spacing_mm = self.config.spacing_mm

    def predict(
        self,
        fixed: Tensor,
        moving: Tensor,
        start: Prediction | None = None,
        *,
        fixed_mask: Tensor | None = None,
        moving_mask: Tensor | None = None,
        turn: Tensor | None = None,
    ) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> Prediction with an affine and no displacement.

        Masks (B, 1, ...) bool limit where the metric counts; they may be true in the background. The search goes around
        the rotation ``turn`` (3, 3) float64, by default none. Raises DataError for an image without contrast.
        """
        affines = []
        with workers(fixed.device) as team:  # also: sums do not depend on the number of threads
            for b in range(len(fixed)):
                one = slice(b, b + 1)
                masks = (_one(fixed_mask, b), _one(moving_mask, b))
                given = None if start is None else start.affine
                first = None if given is None else given[one].cpu().to(torch.float64)
                affines.append(self._register(fixed[one], moving[one], masks, first, team, turn))
        affine = torch.cat(affines).to(fixed.device, torch.float32)
        zero = torch.zeros(len(fixed), 3, *fixed.shape[2:], device=fixed.device)
        return Prediction(zero, inverse=zero, affine=affine)

    def _register(
        self,
        fixed: Tensor,
        moving: Tensor,
        masks: tuple[Tensor | None, Tensor | None],
        first: Tensor | None,
        team: Workers,
        turn: Tensor | None,
    ) -> Tensor:
        c, (mask, moving_mask) = self.config, masks
        for name, image in (("fixed", fixed), ("moving", moving)):
            if not bool(image.std() > 0):
                raise DataError(f"the {name} image has no contrast", remedy="check that it is not empty")
        levels = _pyramid(fixed, moving, mask, moving_mask)
        low_dof: Dof = 6 if c.dof == 6 else 7
        if (affine := first) is None:
            middle = levels[0].frame.centre
            starts = starting(_within(fixed, mask), _within(moving, moving_mask), middle, turn)
            if mask is not None or moving_mask is not None:  # they may be of unlike parts: try the whole, too
                starts = torch.cat((starts, starting(fixed, moving, middle, turn)))
            everywhere = torch.ones_like(levels[-1].weight) if mask is None else mask
            while everywhere.shape != levels[-1].weight.shape:
                everywhere = field.downsample(everywhere)
            coarse = replace(levels[-1], weight=everywhere)
            search = mutual_information if c.metric == "mi" else global_correlation
            find = partial(
                _optimise, similarity=search, dof=low_dof, steps=c.search_iterations, stretch=False
            )
            affine, value = _shared(team, coarse, starts, _AT_ONCE, find)
            affine = affine[_distinct(affine, value, c.survivors)]
        half, similarity = levels[min(1, len(levels) - 1)], _similarity(c, power=2)
        # Similarity transforms first: twelve parameters at once wander on whole heads whose necks differ.
        find = partial(_optimise, similarity=similarity, dof=low_dof, steps=c.survivor_iterations)
        affine, value = _shared(team, half, affine, 1, find)
        affine = affine[value.argmax()][None]
        affine = _optimise(half, affine, similarity, c.dof, c.half_iterations)[0]
        return _optimise(levels[0], affine, _similarity(c, power=4), c.dof, c.full_iterations)[0]


def _one(mask: Tensor | None, b: int) -> Tensor | None:
    return None if mask is None else mask[b : b + 1].to(torch.float32)


def _within(image: Tensor, mask: Tensor | None) -> Tensor:
    return image if mask is None else image * mask


def _similarity(config: AffineConfig, *, power: int) -> Similarity:
    # Power 4 at the end is more robust to what does not match (mean Dice +.0004 on 20 pairs), power 2 reaches farther.
    return mutual_information if config.metric == "mi" else local_correlation(*config.windows, power=power)


def _pyramid(fixed: Tensor, moving: Tensor, mask: Tensor | None, moving_mask: Tensor | None) -> list[_Level]:
    """The pair (1, 1, ...) from full resolution down to the coarse level of the search."""
    weight = _within(_importance(_within(fixed, mask)), mask)
    centre, covariance = moments(_within(fixed, mask))
    frame = _Frame(centre, float(covariance.diagonal().sum().sqrt()))
    levels: list[_Level] = []
    step = 1
    while True:
        index = field.identity(fixed.shape[2:], device=fixed.device) * step
        levels.append(_Level(fixed, moving, weight, moving_mask, index, step, frame))
        if max(fixed.shape[2:]) <= _COARSE_SIDE or min(*fixed.shape[2:], *moving.shape[2:]) < 8:
            return levels
        fixed, moving, weight = (field.downsample(x) for x in (fixed, moving, weight))
        moving_mask = None if moving_mask is None else field.downsample(moving_mask)
        step *= 2


def _importance(fixed: Tensor) -> Tensor:
    """1 within two voxels of the head or brain, 3 from about six voxels below its surface on, 0 elsewhere.

    Borders count, but less: skull stripping and outer folds differ most (mean Dice +.0016 on 20 pairs).
    """
    front = (fixed > 0.1).to(fixed.dtype)
    return (field.smooth(front, 1.0) > 0.01).to(fixed.dtype) + 2.0 * (field.smooth(front, 3.0) > 0.97)


def _shared(
    team: Workers,
    level: _Level,
    affine: Tensor,
    at_once: int,
    optimise: Callable[[_Level, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """``optimise`` of affine (B, 3, 4), so many at once in each thread; on a graphics card all of them."""
    size = at_once if level.fixed.device.type == "cpu" else len(affine)
    found = team.map(lambda part: optimise(level, part), torch.split(affine, size))
    return torch.cat([one for one, _ in found]), torch.cat([value for _, value in found])


def _distinct(affine: Tensor, value: Tensor, count: int) -> list[int]:
    """The best ``count`` of affine (B, 3, 4) by ``value`` (B,), leaving out what ends where a better one ended."""
    chosen: list[int] = []
    for i in value.argsort(descending=True).tolist():
        if len(chosen) < count and all((affine[i, :, :3] - affine[j, :, :3]).norm() > 0.1 for j in chosen):
            chosen.append(i)
    return chosen


def _optimise(
    level: _Level, affine: Tensor, similarity: Similarity, dof: Dof, steps: int, *, stretch: bool = True
) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt on affines (B, 3, 4), each on its own. Returns the best ones and their values (B,).

    ``stretch`` lengthens the steps for as long as that pays: the curvature of local metrics is estimated too high
    (on whole heads the error shrank by a tenth to a third a step), so the plain step is short.
    """
    best = _evaluate(level, affine, similarity)
    damping = torch.full_like(best.value, 1e-3, dtype=torch.float64)
    first, growth, limit = _STRETCH if stretch else (1.0, 1.0, 1.0)
    length = torch.full_like(damping, first)
    for _ in range(steps):
        trial = _advance(affine, best, damping, dof, level.frame, length)
        new = _evaluate(level, trial, similarity)
        better = new.value > best.value
        affine = torch.where(better[:, None, None], trial, affine)
        damping = torch.where(better, damping * 0.3, damping * 10).clamp(1e-6, 1e3)
        length = torch.where(better, (length * growth).clamp(max=limit), 1.0)
        best = _Normal(
            torch.where(better, new.value, best.value),
            torch.where(better[:, None, None], new.matrix, best.matrix),
            torch.where(better[:, None], new.vector, best.vector),
        )
    return affine, best.value


def _evaluate(level: _Level, affine: Tensor, similarity: Similarity) -> _Normal:
    """Metric and normal equations of affine (B, 3, 4); images stay on their device, small matrices on the CPU."""
    count = len(affine)
    places = level.index.expand(count, -1, -1, -1, -1)
    index = field.affine_index(affine.to(places.device, torch.float32), places) / level.step
    moved = field.sample(level.moving.expand(count, -1, -1, -1, -1), index)
    weight = level.weight * field.inside(index, level.moving.shape[2:])
    if level.moving_weight is not None:
        weight = weight * field.sample(level.moving_weight.expand(count, -1, -1, -1, -1), index)
    value, slope, curvature = similarity(level.fixed, moved, weight)
    # What leaves the moving image scores 0: it must not pay to push the worst matches out.
    share = weight.sum(dim=(1, 2, 3, 4)) / level.weight.sum().clamp_min(1.0)
    gradient = torch.cat(torch.gradient(moved, dim=(2, 3, 4)), dim=1) / level.step
    pairs = [(k, m) for k in range(3) for m in range(k, 3)]
    products = [slope * gradient] + [
        curvature * gradient[:, k : k + 1] * gradient[:, m : m + 1] for k, m in pairs
    ]
    matrix, vector = _assemble(_position_moments(torch.cat(products, dim=1), level))
    radius = level.frame.radius
    return _Normal((value * share).cpu(), matrix * radius**2, vector * radius)


def _position_moments(x: Tensor, level: _Level) -> Tensor:
    """Sums of x (B, 9, D, H, W) times q_d^a q_h^b q_w^c, a, b, c = 0..2: (B, 9, 3, 3, 3) float64 on the CPU."""
    powers = []
    for axis, size in enumerate(x.shape[2:]):
        q = torch.arange(size, dtype=torch.float64) * level.step
        q = (q - level.frame.centre[axis]) / level.frame.radius
        powers.append(torch.stack((torch.ones_like(q), q, q * q), dim=1))
    rows = (x @ powers[2].to(x.device, x.dtype)).cpu().to(torch.float64)
    out: Tensor = torch.einsum("nkdhc,da,hb->nkabc", rows, powers[0], powers[1])
    return out


_PARAMETERS = [(k, i) for k in range(3) for i in range(4)]  # component k of the step, times q_i (q_3 = 1)
_EXPONENT = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))


def _assemble(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (B, 9, 3, 3, 3) of 3 slope and 6 curvature products -> matrix (B, 12, 12), vector (B, 12)."""
    which = {(0, 0): 3, (0, 1): 4, (0, 2): 5, (1, 1): 6, (1, 2): 7, (2, 2): 8}
    vector = torch.stack([moments[:, k, *_EXPONENT[i]] for k, i in _PARAMETERS], dim=1)
    rows = []
    for k, i in _PARAMETERS:
        for m, j in _PARAMETERS:
            a, b, c = (s + t for s, t in zip(_EXPONENT[i], _EXPONENT[j], strict=True))
            rows.append(moments[:, which[min(k, m), max(k, m)], a, b, c])
    return torch.stack(rows, dim=1).reshape(-1, 12, 12), vector


def _advance(
    affine: Tensor, normal: _Normal, damping: Tensor, dof: Dof, frame: _Frame, length: Tensor
) -> Tensor:
    """affine (B, 3, 4) o (id + ``length`` (B,) times the damped Gauss-Newton step), kept within ``dof``'s family."""
    linear = affine[:, :, :3]
    basis = _basis(linear, dof)  # (B, 12, dof)
    matrix = basis.mT @ normal.matrix @ basis
    vector = (basis.mT @ normal.vector[..., None])[..., 0]
    scale = matrix.diagonal(dim1=1, dim2=2)
    ridge = damping[:, None] * scale + 1e-9 * scale.amax(dim=1, keepdim=True) + 1e-12
    theta = torch.linalg.solve(matrix + torch.diag_embed(ridge), vector) * length[:, None]
    step = (basis @ theta[..., None])[..., 0].reshape(-1, 3, 4)
    if dof == 9:  # rotation times scales is no group: each factor is advanced by itself
        sizes = linear.norm(dim=1)
        turned = linear / sizes[:, None] @ torch.linalg.matrix_exp(skew(theta[:, :3]))
        moved = turned * (sizes * theta[:, 3:6].exp())[:, None]
    else:
        moved = linear @ torch.linalg.matrix_exp(step[:, :, :3])
    # The fixed centre goes where affine takes it after the shift; the linear part acts about it.
    at_centre = field.affine_index(affine, (frame.centre + step[:, :, 3] * frame.radius)[..., None])[..., 0]
    return torch.cat((moved, (at_centre - (moved @ frame.centre))[..., None]), dim=2)


def _basis(linear: Tensor, dof: Dof) -> Tensor:
    """The steps (B, 12, dof) in the row-major 3 x 4 form that ``dof`` allows at linear (B, 3, 3)."""
    count = len(linear)
    if dof == 12:
        return torch.eye(12, dtype=linear.dtype).expand(count, 12, 12)
    turn = skew(torch.eye(3, dtype=linear.dtype)).expand(count, 3, 3, 3)
    scales = torch.diag_embed(torch.eye(3, dtype=linear.dtype)).expand(count, 3, 3, 3)
    if dof == 9:
        sizes = linear.norm(dim=1)
        turn = turn * sizes[:, None, None, :] / sizes[:, None, :, None]
    parts = {6: [turn], 7: [turn, scales.sum(dim=1, keepdim=True)], 9: [turn, scales]}[dof]
    shapes = torch.cat(parts, dim=1)
    shapes = torch.nn.functional.pad(shapes, (0, 1))
    shifts = torch.zeros(count, 3, 3, 4, dtype=linear.dtype)
    shifts[:, range(3), range(3), 3] = 1.0
    return torch.cat((shapes, shifts), dim=1).flatten(2).mT
