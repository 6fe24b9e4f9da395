"""How good a registration is: figures measured on the coarse pair, inside the brain, and maps of them."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, UnavailableError, UsageError
from neuroreg.losses.similarity import lncc_map
from neuroreg.metrics import deformation
from neuroreg.metrics.image import correlation
from neuroreg.parallel import workers
from neuroreg.pipeline.align import Alignment
from neuroreg.pipeline.engine import Aligner
from neuroreg.pipeline.record import Quality
from neuroreg.pipeline.sides import load_sides, remembered_score
from neuroreg.pipeline.verdict import Kind, verdict
from neuroreg.preprocess import intensity
from neuroreg.preprocess.conform import Conformed
from neuroreg.transforms import Affine, Transform, world_to_index
from neuroreg.volume import Geometry, Volume

WINDOW = 9
"""Side of the LNCC window on the coarse grid, voxels."""

_BINS = 12
_REGION_MM = 26.0  # side of the cubes whose worst is named

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Findings:
    """The verdict with its figures, and maps on the coarse fixed grid."""

    quality: Quality
    maps: dict[str, Volume]
    """"lncc": local similarity at the end, "inverse": inverse consistency error in mm; (1, Z, Y, X) float32"""

    def with_figure(self, name: str, value: float | None) -> "Findings":
        """The same findings and one figure more."""
        figures = {**self.quality.figures, name: value}
        return replace(self, quality=self.quality.model_copy(update={"figures": figures}))


@torch.inference_mode()
def judge(
    alignment: Alignment,
    inverse: Transform | None,
    aligner: Callable[[], Aligner],
    *,
    doubts: Sequence[str] = (),
    whole_head: bool = False,
    one_contrast: bool = True,
) -> Findings:
    """Similarity, regularity, size and sanity of the map, consistency with the inverse, and the verdict over all.

    ``aligner`` makes what lays both images on the template that tells left from right; for a ``whole_head`` one that
    finds the brain in it. ``doubts`` count against the result; what is known of brains alone is not
    judged of whole heads, and contrast only where the method needs ``one_contrast``.
    """
    with workers(alignment.coarse.fixed.device) as team:
        (figures, maps, place), (sides, unchecked) = team.both(
            lambda: _measure(alignment, inverse),
            lambda: _sides(alignment.coarse, aligner, whole_head=whole_head),
        )
    figures.update(sides)
    if not one_contrast:
        figures["contrast"] = None
    kind: Kind = "brains" if alignment.residual is None else "deformed brains"
    quality = verdict(figures, (*doubts, *unchecked), kind="heads" if whole_head else kind, place=place)
    return Findings(quality, maps)


@torch.inference_mode()
def measured_maps(alignment: Alignment, inverse: Transform | None) -> dict[str, Volume]:
    """The maps of ``Findings`` alone."""
    return _measure(alignment, inverse)[1]


def _measure(
    alignment: Alignment, inverse: Transform | None
) -> tuple[Figures, dict[str, Volume], tuple[float, float, float] | None]:
    """Every figure by name, the maps, and where the images are least alike (LPS mm)."""
    pair = alignment.coarse
    grid, mask = pair.fixed_grid, pair.fixed_mask
    points = grid.points()
    ends = {"before": points, "affine": alignment.affine(points), "after": alignment.transform(points)}
    figures: Figures = {}
    for name, end in ends.items():
        image = _read(pair.moving, end, pair.moving_grid)
        likeness = lncc_map(pair.fixed, image, window=WINDOW)
        figures[f"ncc_{name}"] = correlation(pair.fixed, image, mask)
        figures[f"lncc_{name}"] = float(likeness[mask].mean())
    worst, index = worst_region(likeness, mask, round(_REGION_MM / grid.spacing[0]))
    figures["lncc_worst"] = worst
    figures["mask_overlap"] = _overlap(pair, ends["after"])
    figures["contrast"] = monotone(*_blanked(pair, ends["affine"]))
    inside = mask[0, 0]
    for name, lengths in (
        ("displacement", (ends["after"] - points).norm(dim=-1)[inside]),
        ("residual", (ends["after"] - ends["affine"]).norm(dim=-1)[inside]),
    ):
        figures[f"{name}_mean_mm"], figures[f"{name}_max_mm"] = float(lengths.mean()), float(lengths.max())
    figures["residual_global_mm"] = global_part_mm(points[inside], (ends["after"] - ends["affine"])[inside])
    figures.update(affine_figures(alignment.affine))
    figures.update(_regularity(alignment, inside))
    figures["dice_estimated"] = alignment.dice_estimated
    maps = {"lncc": Volume(likeness[0], grid)}
    if inverse is not None:
        errors = deformation.inverse_errors_mm(alignment.transform, inverse, grid, inside)
        figures["inverse_consistency_mean_mm"] = float(errors.mean())
        known = bool(torch.isfinite(errors).all())
        figures["inverse_consistency_p95_mm"] = intensity.percentile(errors, 95.0) if known else math.nan
        figures["inverse_consistency_max_mm"] = float(errors.max())
        maps["inverse"] = Volume(_painted(errors, inside)[None], grid)
    z, y, x = index
    place = (grid.voxel_to_world @ torch.tensor([x, y, z, 1], dtype=torch.float64))[:3].tolist()
    return figures, maps, (place[0], place[1], place[2])


def _painted(values: Tensor, inside: Tensor) -> Tensor:
    """values (N,) at the voxels set in inside (D, H, W), NaN elsewhere."""
    out = torch.full(inside.shape, math.nan)
    out[inside] = values.to(torch.float32)
    return out


def _read(image: Tensor, points: Tensor, grid: Geometry) -> Tensor:
    """image (1, 1, ...) on ``grid`` at points (D, H, W, 3) LPS mm; 0 outside. (1, 1, D, H, W)."""
    return field.sample(image, world_to_index(points, grid).to(torch.float32), fill=0.0)


def worst_region(likeness: Tensor, mask: Tensor, side: int) -> tuple[float, tuple[int, int, int]]:
    """The lowest mean of likeness (1, 1, D, H, W) inside mask over cubes of ``side`` voxels at least half in the mask,
    and the middle voxel (d, h, w) of that cube. Without such a cube: the mean over the mask and the grid's middle."""
    weight = mask.to(torch.float32)
    share = field.box_mean(weight, side)
    mean = field.box_mean(likeness * weight, side) / share.clamp_min(1e-6)
    mean = torch.where((share >= 0.5) & mask, mean, torch.inf)[0, 0]
    if not bool(torch.isfinite(mean).any()):
        middle = [n // 2 for n in mean.shape]
        return float(likeness[mask].mean()), (middle[0], middle[1], middle[2])
    d, h, w = (int(i) for i in torch.unravel_index(mean.argmin(), mean.shape))
    return float(mean.min()), (d, h, w)


def _overlap(pair: Conformed, end: Tensor) -> float:
    """Dice of the fixed mask and the moved moving mask, where neither image has something that its mask leaves out."""

    def moved(mask: Tensor) -> Tensor:
        return _read(mask.to(torch.float32), end, pair.moving_grid) > 0.5

    judged = torch.ones_like(pair.fixed_mask)
    if pair.fixed_rest is not None:
        judged = judged & ~pair.fixed_rest
    if pair.moving_rest is not None:
        judged = judged & ~moved(pair.moving_rest)
    first, second = pair.fixed_mask & judged, moved(pair.moving_mask) & judged
    return 2 * float((first & second).sum()) / max(1.0, float(first.sum() + second.sum()))


def global_part_mm(points: Tensor, residual: Tensor) -> float:
    """Mean length, mm, of the affine map that fits residual (N, 3) at points (N, 3) best: what an affine left over."""
    step = max(1, len(points) // 20_000)
    p, r = points[::step].to(torch.float64), residual[::step].to(torch.float64)
    design = torch.cat((p - p.mean(dim=0), torch.ones(len(p), 1, dtype=torch.float64)), dim=1)
    fitted = design @ torch.linalg.lstsq(design, r).solution
    return float(fitted.norm(dim=1).mean())


def affine_figures(affine: Affine) -> Figures:
    """Smallest and largest scale (singular values), shear (degrees from a right angle), rotation (degrees) and the
    sign of the determinant of an affine: A = R U, R the nearest rotation, U symmetric."""
    matrix = affine.matrix[:3, :3]
    left, scales, right = torch.linalg.svd(matrix)
    turn = left @ right
    cosine = float((turn.trace() * torch.linalg.det(turn).sign() - 1) / 2)
    columns = F.normalize(matrix, dim=0)
    angles = [float((columns[:, a] * columns[:, b]).sum().abs()) for a, b in ((0, 1), (0, 2), (1, 2))]
    return {
        "affine_scale_min": float(scales.min()),
        "affine_scale_max": float(scales.max()),
        "affine_shear_deg": math.degrees(math.asin(min(1.0, max(angles)))),
        "affine_rotation_deg": math.degrees(math.acos(min(1.0, max(-1.0, cosine)))),
        "affine_determinant": float(torch.linalg.det(matrix)),
    }


def _regularity(alignment: Alignment, inside: Tensor) -> Figures:
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


def _sides(
    pair: Conformed, aligner: Callable[[], Aligner], *, whole_head: bool
) -> tuple[Figures, tuple[str, ...]]:
    """The scores of both images, see ``pipeline/sides.py``; without the weights for it none, and a doubt."""
    pair = pair.blanked()
    figures: Figures = {"sides_fixed": None, "sides_moving": None}
    aligner, doubts = functools.cache(aligner), []
    try:
        sides = load_sides()
        for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
            try:
                figures[f"sides_{side}"] = remembered_score(image, sides, aligner, whole_head=whole_head)
            except DataError:
                doubts.append(
                    f"left and right of the {side} image could not be checked: it does not look like a brain"
                )
    except (UsageError, UnavailableError) as error:
        return figures, (f"left and right could not be checked: {error}",)
    return figures, tuple(doubts)


def _blanked(pair: Conformed, end: Tensor) -> tuple[Tensor, Tensor]:
    """Intensities (N,) of the fixed and the moved image inside the fixed mask, without what masks leave out."""
    pair = pair.blanked()
    return pair.fixed[pair.fixed_mask], _read(pair.moving, end, pair.moving_grid)[pair.fixed_mask]


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
