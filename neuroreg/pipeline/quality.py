"""How good a registration is: figures measured on the coarse pair, and the reasons not to trust it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.losses.similarity import lncc_map
from neuroreg.methods.base import Method
from neuroreg.metrics import deformation
from neuroreg.metrics.image import correlation
from neuroreg.parallel import workers
from neuroreg.pipeline.align import Alignment
from neuroreg.pipeline.record import Quality
from neuroreg.transforms import Transform, world_to_index
from neuroreg.volume import Geometry

WINDOW = 9
"""Side of the LNCC window on the coarse grid, voxels."""

_MAX_FOLDED_PERCENT = 0.5
_BINS = 12
_LEAST_MONOTONE = 0.5
_MIRROR_GAIN = 0.03


@dataclass(frozen=True)
class Findings:
    """Figures by name (None: not defined), warnings, and the verdict."""

    figures: dict[str, float | None]
    warnings: tuple[str, ...]
    quality: Quality

    def with_figure(self, name: str, value: float | None) -> "Findings":
        """The same findings and one figure more."""
        return replace(self, figures={**self.figures, name: value})


@torch.inference_mode()
def judge(
    alignment: Alignment, inverse: Transform | None, aligner: Method, *, doubts: Sequence[str] = ()
) -> Findings:
    """Similarity before and after, regularity, size of the map, consistency with the inverse, inside the brain.

    ``aligner`` finds affine maps; it looks for a mirrored head. ``doubts`` about the inputs count against the result.
    """
    with workers(alignment.coarse.fixed.device) as team:
        measured, warnings = team.both(
            lambda: _measure(alignment, inverse), lambda: _suspicions(alignment, aligner)
        )
    figures = {k: v if v is not None and math.isfinite(v) else None for k, v in measured.items()}
    return Findings(figures, warnings, verdict(figures, (*doubts, *warnings)))


def _measure(alignment: Alignment, inverse: Transform | None) -> dict[str, float | None]:
    """Every figure by name."""
    pair = alignment.coarse
    grid, mask = pair.fixed_grid, pair.fixed_mask
    points = grid.points()
    ends = {"before": points, "affine": alignment.affine(points), "after": alignment.transform(points)}
    figures: dict[str, float | None] = {}
    for name, end in ends.items():
        image = _read(pair.moving, end, pair.moving_grid)
        figures[f"ncc_{name}"] = correlation(pair.fixed, image, mask)
        figures[f"lncc_{name}"] = float(lncc_map(pair.fixed, image, window=WINDOW)[mask].mean())
    inside = mask[0, 0]
    for name, lengths in (
        ("displacement", (ends["after"] - points).norm(dim=-1)[inside]),
        ("residual", (ends["after"] - ends["affine"]).norm(dim=-1)[inside]),
    ):
        figures[f"{name}_mean_mm"], figures[f"{name}_max_mm"] = float(lengths.mean()), float(lengths.max())
    figures.update(_regularity(alignment, inside))
    if inverse is not None:
        mean, largest = deformation.inverse_consistency_mm(alignment.transform, inverse, grid, inside)
        figures["inverse_consistency_mean_mm"], figures["inverse_consistency_max_mm"] = mean, largest
    return figures


def _read(image: Tensor, points: Tensor, grid: Geometry) -> Tensor:
    """image (1, 1, ...) on ``grid`` at points (D, H, W, 3) LPS mm; 0 outside. (1, 1, D, H, W)."""
    return field.sample(image, world_to_index(points, grid).to(torch.float32), fill=0.0)


def _regularity(alignment: Alignment, inside: Tensor) -> dict[str, float | None]:
    """Folds, NDV and SD log J of the residual; an affine neither folds nor changes the last."""
    residual = alignment.residual
    if residual is None:
        return {"folded_percent": 0.0, "ndv_percent": 0.0, "sd_log_jacobian": 0.0}
    points = residual.geometry.points()
    mask = _read(inside.to(torch.float32)[None, None], points, alignment.coarse.fixed_grid)[0, 0] > 0.5
    found = deformation.deformation_figures(residual, mask)
    return {
        "folded_percent": found.folded_percent,
        "ndv_percent": found.ndv_percent,
        "sd_log_jacobian": found.sd_log_jacobian,
    }


def _suspicions(alignment: Alignment, aligner: Method) -> tuple[str, ...]:
    """Other contrast, or a mirrored head: what a good number can hide. Judged after the affine."""
    pair = alignment.coarse.blanked()
    fixed, mask = pair.fixed, pair.fixed_mask
    moved = _read(pair.moving, alignment.affine(pair.fixed_grid.points()), pair.moving_grid)
    found = []
    if monotone(fixed[mask], moved[mask]) < _LEAST_MONOTONE:
        found.append(
            "the two images seem to have different contrast; the method compares images of one contrast"
        )
    if mirror_gain(fixed, moved, mask, aligner) > _MIRROR_GAIN:
        found.append("the mirrored moving image fits better; check left and right in both headers")
    return tuple(found)


def monotone(fixed: Tensor, moved: Tensor) -> float:
    """Rank correlation (-1..1) between fixed intensity and the mean moved intensity there; 1 for one contrast.

    From the joint histogram: ``fixed`` and ``moved`` (N,) are cut into bins of equal count along ``fixed``.
    """
    order = fixed.argsort()
    means = torch.stack([part.mean() for part in moved[order].chunk(min(_BINS, len(order)))])
    ranks = means.argsort().argsort().to(torch.float64)
    if len(ranks) < 3:
        return 1.0
    return float(torch.corrcoef(torch.stack((ranks, torch.arange(len(ranks), dtype=torch.float64))))[0, 1])


def mirror_gain(fixed: Tensor, moved: Tensor, mask: Tensor, aligner: Method) -> float:
    """How much better (in NCC) the moved image fits when mirrored left to right; both are aligned anew at half size.

    images (1, 1, D, H, W), mask bool. On ten pairs of other people's brains, one in two mirrored: -0.018 to 0.008 (two
    brains differ more than two sides of one); scans of one person: -0.08 as they are, 0.08 with one of them mirrored.
    """
    fixed, moved, mask = field.downsample(fixed), field.downsample(moved), mask[..., ::2, ::2, ::2]
    mirrored = _fit(fixed, moved.flip(-1), mask, aligner)
    gain = mirrored - correlation(fixed, moved, mask)
    return gain if gain <= _MIRROR_GAIN else mirrored - _fit(fixed, moved, mask, aligner)


def _fit(fixed: Tensor, moved: Tensor, mask: Tensor, aligner: Method) -> float:
    """NCC after an affine alignment."""
    found = aligner.predict(fixed, moved).affine
    assert found is not None
    index = field.affine_index(found.to(torch.float32), field.identity(tuple(fixed.shape[2:])))
    return correlation(fixed, field.sample(moved, index, fill=0.0), mask)


def verdict(figures: dict[str, float | None], warnings: Sequence[str]) -> Quality:
    """Passed, or the reasons against it."""
    reasons = list(warnings)
    before, after, folded = (figures.get(name) for name in ("lncc_before", "lncc_after", "folded_percent"))
    if after is None or (before is not None and after < before - 0.01):
        reasons.append("the images are less alike after the registration than before")
    if folded is None or folded > _MAX_FOLDED_PERCENT:
        reasons.append(
            f"the map folds in {'an unknown part' if folded is None else f'{folded:.2f} %'} of the brain"
        )
    return Quality(passed=not reasons, reasons=tuple(reasons))
