"""Joint affine and deformable registration of unaligned pairs (Zhu et al. 2020).

An encoder and an affine head align the moving image; the encoder reads the aligned pair again and a decoder gives the
displacement. Both maps are composed and the moving image is read once.

``head: points`` is what the shipped weights use, since a pooled head stalls on large rotations: the encoder reads each
image by itself, a heat map per brain region gives its centre, and the affine follows from the two sets of centres in
closed form, the more often (``passes``) the better aligned what it reads.

Filled in, because the paper does not say: LeakyReLU slope 0.2, instance normalisation (one pair a step would mix the
unaligned and the aligned one in a batch's statistics), width 32 and eight groups in the dilated block, decoder widths
32, 32, 16 with group normalisation, zero start of the affine head, which acts about the grid's centre after centres of
mass are on each other, the local correlation averaged inside the fixed brain, AdamW and one cycle of the rate (in the
paper Adam, its rate halved every ten epochs). Its weight 1000 of the smoothness is 0.11 for displacements in voxels.

Read otherwise than printed: the local correlation is squared and normalised, the global one is the plain coefficient,
which tells a negative from a positive match. Beyond the paper: ``centres``, the distance of region centres after the
affine, is learned from labels too (0 takes it away); the shipped weights have an encoder for each part (``encoder:
separate``), so that Dice reaches the field alone.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain as joined
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from neuroreg import field
from neuroreg.box import bounding_box
from neuroreg.losses import labels, regularity, similarity
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.methods.jointaffine_finish import Finish
from neuroreg.nn.blocks import local_normalise
from neuroreg.nn.joint import Decoder, Encoder, Norm, PointHead, PooledHead, grid_head
from neuroreg.nn.points import FRONT, Sighting, centroids, chain, fit_affine

# The regions of the training labels (DLMUSE) that every complete map holds, without vessels and unnamed ones.
_REGIONS = (
    4, 11, 23, *range(30, 33), *range(35, 42), *range(47, 53), *range(55, 63), *range(71, 74), 75, 76,
    *range(81, 96), *range(100, 110), *range(112, 126), 128, 129, *range(132, 158), *range(160, 188),
    *range(190, 208),
)  # fmt: skip
_MARGIN = 2  # voxels of air about it
_LEAST_VOXELS = 3  # of a region, for its centre to be known


class JointAffineConfig(MethodConfig):
    """Options of ``jointaffine``."""

    spacing_mm: float = Field(2.0, gt=0, description="Spacing of the network grid, mm")
    affine: Literal["on", "off"] = Field("on", description="off: deformable part alone (ablation)")
    head: Literal["pooled", "grid", "points"] = Field(
        "pooled",
        description="pooled: one mean per channel, then linear (the paper); grid: 64 means; points: region centres "
        "in each image, then least squares",
    )
    encoder: Literal["shared", "separate"] = Field(
        "shared", description="shared: one for both parts (the paper); separate: one each"
    )
    passes: int = Field(1, ge=1, le=8, description="How often the affine is found, each time from the last")
    affine_level: int = Field(0, ge=0, le=2, description="Pyramid level of the images the affine part reads")
    field_level: Literal[0, 1] = Field(0, description="Pyramid level of the displacement")
    norm: Norm = Field("instance", description="Normalisation in the encoder")
    widths: tuple[int, int, int, int] = Field(
        (16, 32, 32, 32), description="Encoder channels, fine to coarse"
    )
    decoder_widths: tuple[int, int, int] = Field((32, 32, 16), description="Decoder channels, coarse to fine")
    normalised_input: bool = Field(
        False, description="Also read each image locally normalised (not in the paper: learns much sooner)"
    )
    window: int = Field(9, ge=3, le=15, description="Side of the LNCC window, voxels")
    smoothness: float = Field(0.11, ge=0, description="Weight of the diffusion of the displacement")
    correlation: float = Field(1.0, ge=0, description="Weight of 1 - NCC after the affine")
    dice: float = Field(
        1.0,
        ge=0,
        description="Weight of 1 - soft Dice of the whole map; 0: no anatomical loss of the field (ablation)",
    )
    dice_rois: int = Field(8, ge=1, description="Regions drawn at each training step")
    centres: float = Field(
        1.0, ge=0, description="Weight of the distance of region centres after the affine (not in the paper)"
    )
    points: float = Field(
        1.0, ge=0, description="Weight of the distance of each point from its region's (points)"
    )
    heat: float = Field(
        1.0, ge=0, description="Weight of the heat maps' cross entropy with the regions (points)"
    )
    affine_share: float = Field(0.6, gt=0, lt=1, description="Share of the steps for the affine part alone")
    affine_rate: float = Field(1.0, gt=0, description="Learning rate of these, as a multiple of the recipe's")
    regions: tuple[int, ...] = Field(_REGIONS, min_length=4, description="Ids with a point each (points)")
    heat_level: int = Field(1, ge=0, le=2, description="Level of the heat maps below the image (points)")
    tolerance: float = Field(1.0, gt=0, description="Misfit at which a point counts half, voxels (points)")
    settle: int = Field(
        0,
        ge=0,
        description="How often the affine takes in that of the decoder's field (points; brains without a skull)",
    )
    polish: int = Field(
        0,
        ge=0,
        description="Gauss-Newton steps on local correlation after the network's affine, inside the brain",
    )
    rounds: int = Field(10, ge=0, description="How often the points are weighed anew (points)")


@dataclass(frozen=True)
class JointPrediction(Prediction):
    """Also what the affine part's losses need."""

    found_affine: bool = False
    """whether the affine is this network's own"""
    sightings: tuple[tuple[Sighting, Sighting], ...] = ()
    """regions seen in the fixed and in the moving image of each pair, voxels of level 0"""


class Network(nn.Module):
    """Encoder, affine head and decoder; a second encoder where they are separate."""

    def __init__(self, config: JointAffineConfig) -> None:
        super().__init__()
        self.normalised_input = config.normalised_input
        channels, widths = (4 if config.normalised_input else 2), config.widths
        self.encoder = Encoder(channels, widths, config.norm)
        self.decoder = Decoder(widths, config.decoder_widths, config.field_level)
        self.head: PointHead | PooledHead | None = None
        if config.affine == "on":
            if config.head == "points":
                self.head = PointHead(widths, len(config.regions), config.heat_level, config.norm)
            else:
                self.head = PooledHead(widths[-1], 1) if config.head == "pooled" else grid_head(widths[-1])
        apart = config.affine == "on" and config.encoder == "separate"
        self.affine_encoder = Encoder(channels, widths, config.norm) if apart else None

    @property
    def aligner(self) -> Encoder:
        """What the affine head reads."""
        return self.affine_encoder or self.encoder

    def channels(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """What an encoder reads of two images (B, 1, D, H, W)."""
        images = [fixed, moving]
        if self.normalised_input:
            normal = local_normalise(fixed)
            images += [normal, normal if moving is fixed else local_normalise(moving)]
        return torch.cat(images, dim=1)

    def field(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """The displacement between aligned images (B, 1, D, H, W), on the decoder's level."""
        out: Tensor = self.decoder(self.encoder(self.channels(fixed, moved)))
        return out


class JointAffine:
    """See the module. A start's affine is taken as it is; without a start the network aligns the pair itself."""

    Config: ClassVar[type[JointAffineConfig]] = JointAffineConfig
    divisor = 8

    def __init__(self, config: JointAffineConfig) -> None:
        self.config = config
        self.spacing_mm = config.spacing_mm
        self._parts = Network(config)
        self.network: nn.Module = self._parts

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> JointPrediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> affine and residual on the fixed grid."""
        if start is None and self.config.affine == "on":
            start = self.predict_affine(fixed, moving)
        moved = align_moving(moving, tuple(fixed.shape[2:]), start)
        with _convolutions(fixed.device):
            u = self._parts.field(fixed, moved)
        if isinstance(start, JointPrediction):
            return replace(start, displacement=u, level=self.config.field_level)
        affine = None if start is None else start.affine
        return JointPrediction(u, affine=affine, level=self.config.field_level)

    def predict_affine(self, fixed: Tensor, moving: Tensor) -> JointPrediction:
        """The affine part alone: one look at images (B, 1, ...) in any pose -> an affine and no displacement."""
        affine, sightings = self._align(fixed, moving, passes=self.config.passes)
        if not torch.is_grad_enabled() and (self.config.settle or self.config.polish):
            centres = [here.centres[0] for here, _ in sightings]
            affine = Finish(self.config.settle, self.config.polish, self._aligned)(
                fixed, moving, affine, centres
            )
        zero = torch.zeros(len(fixed), 3, *fixed.shape[2:], device=fixed.device)
        return JointPrediction(zero, affine=affine.float(), found_affine=True, sightings=sightings)

    def _align(
        self, fixed: Tensor, moving: Tensor, *, passes: int, level: int = 0
    ) -> tuple[Tensor, tuple[tuple[Sighting, Sighting], ...]]:
        """The affine (B, 3, 4) float64 and the sightings of images on pyramid level ``level``, in voxels of theirs."""
        for _ in range(self.config.affine_level - level):
            fixed, moving = field.downsample(fixed), field.downsample(moving)
        step = 2 ** max(0, self.config.affine_level - level)
        find = self._by_points if isinstance(self._parts.head, PointHead) else self._by_pooling
        with _convolutions(fixed.device):
            pairs = zip(torch.split(fixed, 1), torch.split(moving, 1), strict=True)
            found = [find(f, m, step, passes) for f, m in pairs]
        affine = torch.cat([one for one, _ in found])
        return affine, tuple(both for _, both in found if both is not None)

    def _by_pooling(self, fixed: Tensor, moving: Tensor, step: int, passes: int) -> tuple[Tensor, None]:
        """Centres of mass on each other, then what the pooled head says, ``passes`` times over."""
        head, shape = self._parts.head, tuple(fixed.shape[2:])
        assert isinstance(head, PooledHead)
        shift = _centre(moving) - _centre(fixed)
        eye = torch.eye(3, dtype=torch.float64, device=fixed.device)
        affine = torch.cat((eye, shift[:, None]), dim=1)[None]
        for _ in range(passes):
            moved = _through(moving, affine, shape)
            maps = self._parts.aligner(self._parts.channels(fixed, moved))
            affine = chain(head(maps[-1], shape), affine)
        return torch.cat((affine[:, :, :3], step * affine[:, :, 3:]), dim=2), None

    def _by_points(
        self, fixed: Tensor, moving: Tensor, step: int, passes: int
    ) -> tuple[Tensor, tuple[Sighting, Sighting]]:
        """Region centres of both images brought together; later passes look for them in the image moved so far."""
        head, config = self._parts.head, self.config
        assert isinstance(head, PointHead)
        fit = partial(
            fit_affine, weight=head.trust.exp()[None], tolerance=config.tolerance, rounds=config.rounds
        )
        here, there = self._look(fixed, step), self._look(moving, step)
        affine = fit(here.centres, there.centres)
        for _ in range(passes - 1):
            coarse = torch.cat((affine[:, :, :3], affine[:, :, 3:] / step), dim=2)
            seen = self._look(_through(moving, coarse, tuple(fixed.shape[2:])), step)
            affine = chain(fit(here.centres, seen.centres), affine)
        return affine, (here, there)

    def _look(self, image: Tensor, step: int) -> Sighting:
        """The regions in image (1, 1, D, H, W), whose voxels are ``step`` of the answer's. Air around is cut off."""
        head = self._parts.head
        assert head is not None
        box = bounding_box(image > FRONT, before=_MARGIN, after=_MARGIN)
        near = image if box is None else image[(slice(None), slice(None), *box)]
        logits = head(self._parts.aligner(self._parts.channels(near, near)))
        corner = torch.tensor([0, 0, 0] if box is None else [side.start for side in box])
        return Sighting(logits, step * corner.to(image.device), step * 2**self.config.heat_level)

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """1 - NCC after the affine, 1 - LNCC after both, soft Dice, smoothness; where centres are known, their gaps."""
        assert isinstance(prediction, JointPrediction)
        terms: dict[str, Tensor] = {}
        if prediction.found_affine:
            assert prediction.affine is not None
            terms |= self._affine_losses(prediction.affine, prediction.sightings, batch)
        config, affine = self.config, prediction.affine
        full = prediction.at_level(0, tuple(batch.fixed.shape[2:]))
        moved = field.warp(batch.moving, full, affine=affine)
        terms["lncc"] = similarity.lncc(batch.fixed, moved, window=config.window, mask=batch.fixed_mask)
        terms["smoothness"] = config.smoothness * regularity.diffusion(prediction.displacement)
        if config.dice and batch.fixed_labels is not None and batch.moving_labels is not None:
            ids = labels.draw_ids(batch.fixed_labels, config.dice_rois, batch.generator)
            lost = labels.dice_of_rois(batch.fixed_labels, batch.moving_labels, full, ids, affine=affine)
            terms["dice"] = config.dice * lost
        return terms

    def _affine_losses(
        self, affine: Tensor, sightings: tuple[tuple[Sighting, Sighting], ...], batch: Batch
    ) -> dict[str, Tensor]:
        """The terms of the affine part; affine (B, 3, 4) and sightings in voxels of the batch's images."""
        moved = _through(batch.moving, affine, tuple(batch.fixed.shape[2:]))
        terms = {"ncc": self.config.correlation * similarity.ncc(batch.fixed, moved)}
        if batch.fixed_labels is None or batch.moving_labels is None:
            return terms
        ids = torch.tensor(self.config.regions, device=affine.device)
        maps = (batch.fixed_labels, batch.moving_labels)
        (here, at_here), (there, at_there) = (centroids(side, ids) for side in maps)
        known = (at_here >= _LEAST_VOXELS, at_there >= _LEAST_VOXELS)
        carried = field.affine_index(affine, here.to(affine.dtype).mT).mT
        terms["centres"] = self.config.centres * _gap(carried, there, known[0] & known[1])
        for row, both in enumerate(sightings):
            for seen, centre, sure, side in zip(both, (here, there), known, maps, strict=True):
                one, share = slice(row, row + 1), 0.5 / len(sightings)
                gap = _gap(seen.centres, centre[one], sure[one])
                terms["points"] = terms.get("points", 0.0) + share * self.config.points * gap
                heat = seen.surprise(side[one], ids)
                terms["heat"] = terms.get("heat", 0.0) + share * self.config.heat * heat
        return terms

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """The affine part on raw poses first; then everything on raw poses, or a separate deformable part aligned."""
        config, parts = self.config, self._parts
        if parts.head is None:
            return (Stage("deformable", tuple(parts.parameters()), steps, learning_rate),)
        early = round(config.affine_share * steps)
        affine = Stage(
            "affine",
            tuple(joined(parts.aligner.parameters(), parts.head.parameters())),
            early,
            config.affine_rate * learning_rate,
            objective=self._learn_affine,
            predict=self.predict_affine,
            poses="raw",
            level=config.affine_level,
        )
        late = (steps - early, learning_rate)
        if config.encoder == "shared":
            return affine, Stage("joint", tuple(parts.parameters()), *late, poses="raw")
        rest = tuple(joined(parts.encoder.parameters(), parts.decoder.parameters()))
        return affine, Stage("deformable", rest, *late, objective=self._learn_field, predict=self._aligned)

    def _learn_affine(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images on the affine part's level. Points are learned in one pass: its other passes look at like images."""
        passes = 1 if self.config.head == "points" else self.config.passes
        affine, seen = self._align(batch.fixed, batch.moving, passes=passes, level=self.config.affine_level)
        return self._affine_losses(affine.float(), seen, batch)

    def _learn_field(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pairs that are aligned already."""
        return self.losses(self._aligned(batch.fixed, batch.moving), batch)

    def _aligned(self, fixed: Tensor, moving: Tensor) -> JointPrediction:
        """The deformable part alone."""
        with _convolutions(fixed.device):
            return JointPrediction(self._parts.field(fixed, moving), level=self.config.field_level)


def _convolutions(device: torch.device) -> AbstractContextManager[object]:
    """In training the trainer says at which precision."""
    return nullcontext() if torch.is_grad_enabled() else fast_convolutions(device)


def _through(moving: Tensor, affine: Tensor, shape: tuple[int, ...]) -> Tensor:
    """moving (B, 1, d, h, w) on the grid ``shape`` through affine (B, 3, 4); 0 outside."""
    places = field.identity(shape, device=moving.device).expand(len(moving), -1, -1, -1, -1)
    return field.sample(moving, field.affine_index(affine.float(), places), fill=0.0)


def _centre(image: Tensor) -> Tensor:
    """Centre of mass (3,) float64 of what is brighter than air in image (1, 1, D, H, W)."""
    places = (image[0, 0] > FRONT).nonzero().double()
    middle = [(n - 1) / 2 for n in image.shape[2:]]
    return places.mean(0) if len(places) else torch.tensor(middle, dtype=torch.float64, device=image.device)


def _gap(found: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """Mean distance of points (B, K, 3) along an axis, smooth below a voxel, where known (B, K)."""
    apart = F.smooth_l1_loss(found.float(), true.float(), reduction="none").mean(2)
    return (apart * known).sum() / known.sum().clamp_min(1)
