"""neuroreg, the flagship: one small step network shared by all scales.

One network is applied coarse to fine, several times at each scale. Every step sees the fixed image and the
moving image warped so far and adds a bounded update, as a Gauss-Newton step would; because all scales share the
weights and nothing in them knows a scale, weights trained at 2 mm also run at 1 mm by one more level of the
recursion. The design is the project's own (learned form of ``gaussnewton``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from neuroreg import field
from neuroreg.box import bounding_box
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.nn.anatomy import AnatomyNetwork
from neuroreg.nn.step import StepNetwork
from neuroreg.parallel import workers

_ANATOMY_MM = 2.0  # spacing of the images the parcellation network reads
_PARCEL_VOXELS = 30000  # brain voxels it learns from at each step
_MOST_MARGIN = 10  # voxels
_BRAIN = 0.02  # intensity: smoothing spreads a little beyond the brain
_BOX_MARGIN = 6  # voxels about the brain in which the finest level works


class NeuroregConfig(MethodConfig):
    """Options of ``neuroreg``."""

    spacing_mm: float = Field(1.0, gt=0, description="Spacing of the network grid, mm; trained at 2")
    plan: tuple[tuple[float, int], ...] = Field(
        ((16.0, 1), (8.0, 2), (4.0, 2), (2.0, 2), (1.0, 2)),
        description="(image spacing in mm, steps), coarse to fine; rows finer than spacing_mm are skipped",
    )
    finest_mm: float = Field(
        0.0, ge=0, description="Rows of the plan finer than this are skipped: a refinement does their work"
    )
    features: int = Field(16, ge=4, description="Channels of the encoder")
    width: int = Field(32, ge=8, multiple_of=8, description="Channels of the head")
    codes: int = Field(
        0, ge=0, description="Channels of the anatomy codes; 0: the network is never shown labels"
    )
    anatomy_widths: tuple[int, ...] = Field(
        (12, 32, 64, 96), description="Channels of the parcellation network, fine to coarse"
    )
    anatomy_features: int = Field(16, ge=4, multiple_of=4, description="Channels it classifies voxels by")
    anatomy_steps: int = Field(
        0, ge=0, description="Training steps that go to the parcellation network, first"
    )
    anatomy_rate: float = Field(2e-3, gt=0, description="Peak learning rate of these")
    coarse_weight: float = Field(0.25, ge=0, description="Weight of each level's loss above the finest")
    smoothness: float = Field(
        0.05, ge=0, description="Weight of the diffusion of the field, voxels per voxel"
    )
    folding: float = Field(0.0, ge=0, description="Weight of relu(0.1 - det J) at the finest level")
    dice: float = Field(0.3, ge=0, description="Weight of 1 - soft Dice over randomly chosen regions")
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")

    @model_validator(mode="after")
    def _a_level_is_left(self) -> "NeuroregConfig":
        least = max(self.spacing_mm, self.finest_mm)
        if not any(spacing_mm >= least and count > 0 for spacing_mm, count in self.plan):
            raise ValueError(f"the plan has no steps on images of {least:g} mm or coarser")
        return self


@dataclass(frozen=True)
class _ImageView:
    """What the steps read of one image, by pyramid level."""

    images: Mapping[int, Tensor]
    """(B, 1, ...)"""
    codes: Mapping[int, Tensor]
    """(B, K, ...); empty without a parcellation network"""
    regions: Tensor | None = None
    """(B, 1, ...) int64 at the parcellation network's level; not while training"""


class NeuroregMethod:
    """Coarse-to-fine recursion of one step network. The field lives on twice the image spacing (level 1)."""

    Config: ClassVar[type[NeuroregConfig]] = NeuroregConfig
    divisor = 16

    def __init__(self, config: NeuroregConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        anatomy = None
        if config.codes:
            anatomy = AnatomyNetwork(config.anatomy_widths, config.anatomy_features, config.codes)
        self.network: nn.Module = StepNetwork(config.features, config.width, anatomy)

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> Prediction, its field one level above the finest
        images of the plan.

        ``levels`` holds the field after every level, coarse to fine. ``guides`` are the codes, the moving ones of the
        image after the affine, on the fixed grid; ``labels`` the regions, likewise. Without gradients the few voxels
        where the last field folds are relaxed until none does.
        """
        if not torch.is_grad_enabled():
            with fast_convolutions(fixed.device):
                prediction = self._predict(fixed, moving, start)
            return replace(prediction, displacement=field.unfold(prediction.displacement))
        return self._predict(fixed, moving, start)

    def _predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None) -> Prediction:
        steps = self.steps_by_level()
        f, m = self._views(fixed, moving, start)
        u: Tensor | None = None
        fields: list[Tensor] = []
        for level in sorted(steps, reverse=True):
            here = None if not f.codes else (f.codes[level + 1], m.codes[level + 1])
            last = level == min(steps) and u is not None and not torch.is_grad_enabled()
            run = self._level_in_boxes if last else self._level
            u = run(f.images[level], m.images[level], here, u, steps[level])
            fields.append(u)
        assert u is not None
        affine = None if start is None else start.affine
        level, at = min(steps) + 1, self._anatomy_level
        guides = (f.codes[at], m.codes[at]) if f.codes else None
        labels = None if f.regions is None or m.regions is None else (f.regions, m.regions)
        return Prediction(
            u, None, affine, tuple(fields), labels, level, guides=guides, guide_level=at, label_level=at
        )

    def _views(
        self, fixed: Tensor, moving: Tensor, start: Prediction | None
    ) -> tuple["_ImageView", "_ImageView"]:
        """What the steps read of the fixed image and, after the affine, of the moving one; at inference each image
        is worked out by a thread of its own."""
        steps = self.steps_by_level()
        finest, top = min(min(steps), self._anatomy_level), max(steps)
        shape = tuple(-(-n // 2**finest) for n in fixed.shape[2:])

        def view(image: Tensor, to: Prediction | None) -> _ImageView:
            for _ in range(finest):  # what no step reads at full size need not be aligned there
                image = field.downsample(image)
            images = _pyramid(align_moving(image, shape, to), finest, top)
            codes, regions = self._parcelled(images[self._anatomy_level])
            found = {} if codes is None else _pyramid(codes, self._anatomy_level, top + 1)
            return _ImageView(images, found, regions)

        place = None if start is None else _coarser(start, finest)
        if torch.is_grad_enabled():
            return view(fixed, None), view(moving, place)
        with workers(fixed.device) as team:
            return team.both(lambda: view(fixed, None), lambda: view(moving, place))

    def steps_by_level(self) -> dict[int, int]:
        """Pyramid level -> number of steps there, from the plan in mm."""
        steps = {}
        for spacing_mm, count in self.config.plan:
            level = self._level_of(spacing_mm)
            if level >= 0 and count > 0 and spacing_mm >= self.config.finest_mm:
                steps[level] = count
        return steps

    def _level_of(self, spacing_mm: float) -> int:
        return round(math.log2(spacing_mm / self.spacing_mm))

    @property
    def _anatomy_level(self) -> int:
        return max(0, self._level_of(_ANATOMY_MM))

    @torch.no_grad()
    def _parcelled(self, image: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Anatomy codes and regions of an image at the parcellation network's level, if there is one."""
        anatomy = getattr(self.network, "anatomy", None)
        if anatomy is None:
            return None, None
        codes, regions = anatomy.codes_and_regions(image)
        return codes, regions

    def _level(
        self,
        fixed: Tensor,
        moving: Tensor,
        codes: tuple[Tensor, Tensor] | None,
        u: Tensor | None,
        steps: int,
    ) -> Tensor:
        """Run ``steps`` updates at one scale. u (B, 3, ...) on this level's half grid, or None for zero."""
        features = self.network.encode(fixed)  # type: ignore[operator]  # a StepNetwork, perhaps wrapped
        if u is None:
            u = torch.zeros(fixed.shape[0], 3, *features.shape[2:], device=fixed.device)
        elif u.shape[2:] != features.shape[2:]:
            u = field.upsample_field(u, tuple(features.shape[2:]))
        for _ in range(steps):
            moved = field.warp(moving, field.upsample_field(u, tuple(moving.shape[2:])))
            here = None if codes is None else (codes[0], field.warp(codes[1], u))
            u = field.compose(u, self.network(features, moved, here))
        return u

    def _level_in_boxes(
        self,
        fixed: Tensor,
        moving: Tensor,
        codes: tuple[Tensor, Tensor] | None,
        u: Tensor | None,
        steps: int,
    ) -> Tensor:
        """``_level`` where each pair has brain in either image; beyond, the update at the rim of that box goes on."""
        assert u is not None
        u = field.upsample_field(u, tuple(-(-n // 2) for n in fixed.shape[2:]))
        fields = []
        for b in range(len(fixed)):
            row = slice(b, b + 1)
            here = None if codes is None else (codes[0][row], codes[1][row])
            fields.append(self._level_in_box(fixed[row], moving[row], here, u[row], steps))
        return torch.cat(fields)

    def _level_in_box(
        self, fixed: Tensor, moving: Tensor, codes: tuple[Tensor, Tensor] | None, u: Tensor, steps: int
    ) -> Tensor:
        inside = torch.maximum(fixed, moving) > _BRAIN
        box = bounding_box(inside, before=_BOX_MARGIN, after=_BOX_MARGIN, multiple=2)
        if box is None:
            return u
        whole = (slice(None), slice(None))
        half = (*whole, *(slice(side.start // 2, side.stop // 2) for side in box))
        here = None if codes is None else (codes[0][half], codes[1][half])
        change = self._level(fixed[(*whole, *box)], moving[(*whole, *box)], here, u[half], steps) - u[half]
        pad: list[int] = []  # last axis first, as F.pad wants it
        for side, size in zip(box[::-1], u.shape[:1:-1], strict=True):
            pad += [side.start // 2, size - side.stop // 2]
        return u + F.pad(change, pad, mode="replicate")

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """Weighted terms: LNCC (mean of windows 5 and 9, inside the fixed brain) and diffusion at every level,
        folding and soft Dice of random regions at the finest."""
        config, levels = self.config, sorted(self.steps_by_level(), reverse=True)
        fixed, moving = _pyramid(batch.fixed, 0, levels[0]), _pyramid(batch.moving, 0, levels[0])
        terms: dict[str, Tensor] = {}
        for level, u in zip(levels, prediction.levels, strict=True):
            weight = 1.0 if level == levels[-1] else config.coarse_weight
            full = field.upsample_field(u, tuple(fixed[level].shape[2:]))
            moved, mask, stride = (
                field.warp(moving[level], full),
                fixed[level] > _BRAIN,
                2 if level == 0 else 1,
            )
            windows = [
                similarity.lncc(fixed[level], moved, window=w, mask=mask, stride=stride) for w in (5, 9)
            ]
            _add(terms, "lncc", weight * 0.5 * (windows[0] + windows[1]))
            _add(terms, "smoothness", weight * config.smoothness * regularity.diffusion(u))
        if config.folding:
            terms["folding"] = config.folding * regularity.folding(prediction.levels[-1])
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            terms["dice"] = config.dice * labels.dice_of_rois(
                batch.fixed_labels, batch.moving_labels, full, ids
            )
        return terms

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """The parcellation network, if there is one and it has steps; then the step network."""
        config, anatomy = self.config, getattr(self.network, "anatomy", None)
        own = tuple(p for name, p in self.network.named_parameters() if not name.startswith("anatomy."))
        if anatomy is None:
            return (Stage("steps", own, steps, learning_rate),)
        return (
            Stage(
                "anatomy",
                tuple(anatomy.parameters()),
                config.anatomy_steps,
                config.anatomy_rate,
                objective=self._parcellation_loss,
                score=self._parcellation_dice,
            ),
            Stage("steps", own, steps - config.anatomy_steps, learning_rate),
        )

    def _parcellation_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """Cross entropy of the moving image, which is varied more, cropped about the brain to a random margin."""
        assert batch.moving_labels is not None
        box = _random_box(batch.moving, batch.generator)
        image, regions = batch.moving[box], batch.moving_labels[box]
        anatomy = self.network.anatomy
        return {"entropy": anatomy.cross_entropy(image, regions, _PARCEL_VOXELS, batch.generator)}  # type: ignore[operator, union-attr]

    def _parcellation_dice(self, image: Tensor, regions: Tensor) -> float:
        return labels.mean_dice(regions, self.network.anatomy.regions(image))  # type: ignore[operator, union-attr]


def _coarser(start: Prediction, level: int) -> Prediction:
    """``start`` with its affine in voxels of ``level`` of both grids."""
    if start.affine is None:
        return start
    return replace(start, affine=torch.cat((start.affine[..., :3], start.affine[..., 3:] / 2**level), dim=-1))


def _random_box(image: Tensor, generator: torch.Generator | None) -> tuple[slice, ...]:
    """The box of what is above 0 in (1, 1, D, H, W) and a random margin: grids differ in how much air they hold."""
    tight = bounding_box(image > 0, before=0, after=0)
    assert tight is not None
    box = [slice(None), slice(None)]
    for side in tight:
        low, high = torch.randint(0, _MOST_MARGIN, (2,), generator=generator).tolist()
        box.append(slice(max(0, side.start - low), side.stop + high))
    return tuple(box)


def _pyramid(image: Tensor, level: int, top: int) -> dict[int, Tensor]:
    """``image``, which lies on ``level``, and its coarser versions up to level ``top``."""
    images = {level: image}
    for coarser in range(level + 1, top + 1):
        images[coarser] = field.downsample(images[coarser - 1])
    return images


def _add(terms: dict[str, Tensor], name: str, value: Tensor) -> None:
    terms[name] = terms[name] + value if name in terms else value
