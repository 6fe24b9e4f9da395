"""gaussnewton: deformable registration by local Gauss-Newton steps on a two-window squared LNCC. No training.

Coarse to fine over image spacings 4, 2 and 1 mm. An iteration reads the moving image at affine(i + u(i)), forms the
local 3 x 3 normal equations of the squared local correlation (centre-voxel form), smooths them, solves them in
closed form, composes the step with the field and smooths the field. The 2 mm images move a 4 mm field first, a
quarter of the work of a 2 mm field; the 1 mm images move a field that stays on the 2 mm grid, which is what is
returned (level 1). The project's own method; no publication.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from neuroreg import field
from neuroreg.box import bounding_box, dilate
from neuroreg.errors import DataError
from neuroreg.methods.base import MethodConfig, Prediction, flush_denormal
from neuroreg.methods.gaussnewton_guide import GuideImages
from neuroreg.methods.gaussnewton_level import Level, LevelImages, LevelSpec
from neuroreg.parallel import Workers, workers

Preset = Literal["fast", "mid", "std", "best"]

Iterations = tuple[int, int, int, int]
"""how many at 4 mm, at 2 mm with the field still at 4 mm, at 2 mm, and at 1 mm with the field at 2 mm"""

ITERATIONS: dict[str, Iterations] = {
    "fast": (8, 8, 0, 3),
    "mid": (12, 10, 3, 5),
    "std": (20, 12, 10, 8),
    "best": (30, 20, 20, 15),
}
"""of every preset"""

_LEVELS = ((2, 1), (1, 2), (1, 1), (0, 2))  # (image level, field spacing / image spacing)
_MARGIN = 6  # voxels kept around the region of interest
# field voxels around the region of interest whose data count: the edge of the brain is contrast too
_HALO = 2
_RELAX_EVERY = 2  # iterations between looks at the folds
_NEAR_FOLD = 0.1  # determinants below this are smoothed away at those looks


@dataclass(frozen=True)
class Weights:
    """Where data count. All may be None: then the region of interest is where the fixed image is above 0."""

    fixed_mask: Tensor | None = None
    """(B, 1, D, H, W) bool, the region of interest"""
    fixed_weight: Tensor | None = None
    """(B, 1, D, H, W) 0..1; 0 keeps a lesion from pulling"""
    moving_weight: Tensor | None = None
    """(B, 1, d, h, w) 0..1, on the moving grid"""


class GaussNewton:
    """The training-free engine. ``start`` may carry an affine and a first field."""

    class Config(MethodConfig):
        """Options; the defaults are preset ``mid``."""

        preset: Preset = Field("mid", description="How many iterations: fast, mid, std or best")
        iterations: Iterations | None = Field(
            None, description="Instead of the preset's: at 4 mm, 2 mm (4 mm field), 2 mm, 1 mm (2 mm field)"
        )
        windows: tuple[int, ...] = Field(
            (5, 19), description="Sides of the correlation windows, image voxels, odd"
        )
        damping_mm2: float = Field(0.02, gt=0, description="Damping of the normal equations, per mm squared")
        sigma_update: float = Field(
            1.7, gt=0.6, description="Smoothing of the normal equations, image voxels"
        )
        guide_weight: float = Field(
            1.5,
            ge=0,
            description="Weight of the squared differences of guide channels, if the start brings them",
        )
        guide_mm: float = Field(
            1.0, gt=0, description="Spacing of the finest images beside which guide channels are matched"
        )
        sigma_field: float = Field(0.35, gt=0, description="Smoothing of the total field, field voxels")

    divisor: ClassVar[int] = 8
    spacing_mm: ClassVar[float] = 1.0

    def __init__(self, config: "GaussNewton.Config | None" = None) -> None:
        self.config = config or GaussNewton.Config()

    def predict(
        self,
        fixed: Tensor,
        moving: Tensor,
        start: Prediction | None = None,
        *,
        weights: Weights | None = None,
    ) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 1 mm, 0..1 -> Prediction with level 1 (2 mm field).

        Sides are multiples of 8. Raises DataError for other shapes and for an empty fixed image.
        """
        iterations = self.config.iterations or ITERATIONS[self.config.preset]
        return optimise(self.config, iterations, fixed, moving, start, weights=weights)


def optimise(
    config: GaussNewton.Config,
    iterations: Iterations,
    fixed: Tensor,
    moving: Tensor,
    start: Prediction | None,
    *,
    weights: Weights | None = None,
) -> Prediction:
    """Run ``iterations`` from ``start``; shapes and errors as ``GaussNewton.predict``.

    The result has no folds. Where the iterations did not raise the correlation at their last level, the start
    comes back, without its folds; or no displacement at all, where that fits better still: a scan onto itself.
    """
    _check(fixed, moving, start)
    if start is None:
        start = Prediction(fixed.new_zeros((fixed.shape[0], 3, *(n // 2 for n in fixed.shape[2:]))), level=1)
    specs = schedule(config, iterations, GaussNewton.spacing_mm)
    base = start.at_level(1, tuple(n // 2 for n in fixed.shape[2:]))
    fields = []
    with torch.no_grad(), flush_denormal(), workers(fixed.device, flush_denormal=True) as team:
        for index in range(fixed.shape[0]):
            one = _Pair(config, fixed, moving, start, weights or Weights(), index, team)
            fields.append(one.register(specs, base[index : index + 1].float()))
    return start.with_displacement(torch.cat(fields), level=1)


def schedule(config: GaussNewton.Config, iterations: Iterations, spacing_mm: float) -> list[LevelSpec]:
    """Iterations -> the levels that have any, with mm turned into field voxels."""
    specs = []
    for (image_level, ratio), count in zip(_LEVELS, iterations, strict=True):
        spacing = 2 ** (image_level + ratio - 1) * spacing_mm
        block = (ratio**2 - 1) / 12  # variance of the block average, which is part of the smoothing
        spec = LevelSpec(
            image_level=image_level,
            ratio=ratio,
            iterations=count,
            # windows of blocks: 5 and 19 image voxels become 3 and 9 blocks of 2
            windows=tuple(w if ratio == 1 else 2 * (w // 4) + 1 for w in config.windows),
            damping=config.damping_mm2 * spacing**2,
            sigma_update=(config.sigma_update**2 - block) ** 0.5 / ratio,
            sigma_field=config.sigma_field,
        )
        if count > 0:
            specs.append(spec)
    return specs


class _Pair:
    """One pair, cropped to its region of interest: image pyramids, weights, and the loop over levels."""

    def __init__(
        self,
        config: GaussNewton.Config,
        fixed: Tensor,
        moving: Tensor,
        start: Prediction,
        weights: Weights,
        index: int,
        team: Workers,
    ) -> None:
        self._config, self._team = config, team
        fixed, moving = fixed[index, 0].float(), moving[index, 0].float()
        mask = fixed > 0.0 if weights.fixed_mask is None else weights.fixed_mask[index, 0] > 0
        self._shape = fixed.shape
        box = bounding_box(mask, before=_MARGIN, after=_MARGIN, multiple=4)
        if box is None:
            raise DataError(
                "the fixed image has no voxel above 0 in the region of interest", remedy="check the mask"
            )
        self._box = box
        self._mask = mask[self._box].to(torch.float32)[None, None]
        self._weight = (
            None if weights.fixed_weight is None else weights.fixed_weight[index : index + 1, :, *self._box]
        )
        images = [fixed[self._box], moving]
        if weights.moving_weight is not None:
            images.append(weights.moving_weight[index, 0].float())
        self._fixed, self._moving, *rest = team.map(_pyramid, images)
        self._moving_weight = rest[0] if rest else None
        self._guides = _guide_levels(start, index, team) if config.guide_weight else {}
        affine = start.affine
        matrix = (
            torch.eye(3, 4, dtype=torch.float64) if affine is None else affine[index].to("cpu", torch.float64)
        )
        corner = torch.tensor([side.start for side in self._box], dtype=torch.float64)
        self._rotation, self._shift = matrix[:, :3], matrix[:, :3] @ corner + matrix[:, 3]

    def register(self, specs: list[LevelSpec], base: Tensor) -> Tensor:
        """base (1, 3, D/2, H/2, W/2) -> the field on the same grid."""
        d, h, w = (slice(side.start // 2, side.stop // 2) for side in self._box)
        first = base[0, :, d, h, w].clone()
        fine = tuple(first.shape[1:])
        u, at = first.clone(), 1
        for number, spec in enumerate(specs):
            u, at = _move(u, at, spec.field_level, fine), spec.field_level
            level = Level(spec, self._images(spec), self._team)
            for turn in range(spec.iterations):
                u, _ = level.step(u)
                if at == 1 and turn % _RELAX_EVERY == _RELAX_EVERY - 1 and turn < spec.iterations - 1:
                    field.relax_folds(u, floor=_NEAR_FOLD, rounds=2)  # later steps mend the match
            if number == len(specs) - 1:
                tried = [(u, at), (first.clone(), 1), (torch.zeros_like(first), 1)]
                scores = [float(level.score(_move(v, on, spec.field_level, fine))) for v, on in tried]
                u, at = tried[scores.index(max(scores))]
        u = field.unfold(_move(u, at, 1, fine)[None])
        pad: list[int] = []  # last axis first, as F.pad wants it
        for side, size in zip(self._box[::-1], self._shape[::-1], strict=True):
            pad += [side.start // 2, (size - side.stop) // 2]
        return base + F.pad(u - first[None], pad, mode="replicate")

    def _images(self, spec: LevelSpec) -> LevelImages:
        step = 2**spec.field_level
        weight = F.max_pool3d(self._mask, step, stride=step)
        weight = dilate(weight, _HALO)[0, 0]
        if self._weight is not None:
            weight = weight * F.avg_pool3d(self._weight.to(weight), step, stride=step)[0, 0]
        matrix = torch.cat((self._rotation * step, self._shift[:, None]), dim=1) / 2**spec.image_level
        extra = None if self._moving_weight is None else self._moving_weight[spec.image_level][None]
        return LevelImages(
            fixed=self._fixed[spec.image_level],
            moving=self._moving[spec.image_level][None],
            to_moving=matrix.to(weight),
            weight=weight,
            moving_weight=extra,
            guides=self._guides_for(spec),
        )

    def _guides_for(self, spec: LevelSpec) -> GuideImages | None:
        level = spec.field_level
        if level not in self._guides or 2**spec.image_level * GaussNewton.spacing_mm < self._config.guide_mm:
            return None
        fixed, moving = self._guides[level]
        box = [slice(side.start // 2**level, side.stop // 2**level) for side in self._box]
        corner = tuple(side.start for side in box)
        return GuideImages(fixed[:, *box].contiguous(), moving, corner, self._config.guide_weight)


def _guide_levels(start: Prediction, index: int, team: Workers) -> dict[int, tuple[Tensor, Tensor]]:
    """Level -> guide channels (K, d, h, w) of fixed and moving on the whole fixed lattice, from the level they come
    on up to 2. Empty without guides."""
    if start.guides is None:
        return {}
    levels = range(start.guide_level, 3)

    def pyramid(guide: Tensor) -> list[Tensor]:
        out = [guide[index : index + 1].float()]
        for _ in levels[1:]:
            out.append(field.downsample(out[-1]))
        return [channels[0].contiguous() for channels in out]

    fixed, moving = team.map(pyramid, start.guides)
    return {level: (fixed[i], moving[i]) for i, level in enumerate(levels)}


def _move(u: Tensor, at: int, to: int, fine: tuple[int, ...]) -> Tensor:
    """u (3, d, h, w) from pyramid level ``at`` to ``to``, of 1 (shape ``fine``) and 2."""
    if at == to:
        return u
    moved = field.upsample_field(u[None], fine) if to < at else field.downsample(u[None]) * 0.5
    return moved[0].contiguous()


def _pyramid(image: Tensor) -> list[Tensor]:
    """(D, H, W) -> images at 1, 2 and 4 voxels, each smoothed by half its spacing in all."""
    levels = [image.contiguous()]
    for sigma in (1.0, 0.75**0.5):  # the second on top of the first: 2 of the finest voxels in all
        levels.append(field.smooth(levels[-1][None, None], sigma, stride=2)[0, 0].contiguous())
    return levels


def _check(fixed: Tensor, moving: Tensor, start: Prediction | None) -> None:
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.ndim != 5 or image.shape[1] != 1 or any(n % 8 for n in image.shape[2:]):
            shape = tuple(image.shape)
            raise DataError(
                f"expected {name} (B, 1, D, H, W) with sides that are multiples of 8, got {shape}"
            )
    if fixed.shape[0] != moving.shape[0]:
        raise DataError(
            f"expected as many moving as fixed images, got {moving.shape[0]} and {fixed.shape[0]}"
        )
    if (start is None or start.affine is None) and fixed.shape != moving.shape:
        raise DataError("without an affine both images lie on one grid", remedy="pass start with an affine")
