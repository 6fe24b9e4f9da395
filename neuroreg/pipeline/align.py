"""From two volumes to the maps between them: conform, affine, method, refinement, back to the world."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from neuroreg import field
from neuroreg.device import choose_device
from neuroreg.errors import BusyError, DataError
from neuroreg.io.transforms import read_transform
from neuroreg.methods.base import Method, Prediction
from neuroreg.methods.gaussnewton import Weights
from neuroreg.pipeline import resources
from neuroreg.pipeline.config import AFFINES, REFINE_PRESETS, RegisterConfig
from neuroreg.pipeline.engine import AffinePart, Engine
from neuroreg.pipeline.gain import makes_worse
from neuroreg.pipeline.inputs import Inputs
from neuroreg.pipeline.record import Clock
from neuroreg.preprocess.conform import (
    Conformed,
    affine_to_voxels,
    affine_to_world,
    conform,
    residual_to_world,
)
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform, resample, total_field
from neuroreg.volume import Geometry, Volume

COARSE_MM = 2.0
"""Spacing of the pair on which the affine is found and the quality is measured."""

REFINE_MM = 1.0
DIVISOR = 8  # of the grids for the affine, the quality and the refinement
_FAR_MM = 100.0
_LEAST_OVERLAP = 0.1
_NO_REFINEMENT = "--refine is left out: an affine map alone has nothing to refine"
_NO_GAIN = "the images fit by the affine alone, and better than with the deformation: it was left out"


@dataclass(frozen=True)
class Alignment:
    """The maps that were found. Whole map: p -> affine(residual(p)), LPS mm, fixed to moving."""

    affine: Affine
    residual: DisplacementField | None
    """None for an affine registration"""
    coarse: Conformed
    """the pair at COARSE_MM"""
    device: str
    warnings: tuple[str, ...] = ()
    dice_estimated: float | None = None
    """mean Dice of the method's own segmentations of the two images, moved by the map; None: it makes none"""

    @property
    def transform(self) -> Transform:
        """The whole map, fixed to moving."""
        return self.affine if self.residual is None else Chain((self.residual, self.affine))

    def inverse(self) -> Transform:
        """The whole map, moving to fixed: the inverse affine, then the inverse residual on its native grid."""
        back = self.affine.inverse()
        return back if self.residual is None else Chain((back, self.residual.inverse()))


def align(config: RegisterConfig, inputs: Inputs, engine: Engine, clock: Clock) -> Alignment:
    """Find the map. With ``--device auto`` a full graphics card sends the run to the CPU, and says so."""
    device = choose_device(config.device)
    try:
        return _align_on(device, config, inputs, engine, clock)
    except RuntimeError as error:
        if not resources.is_cuda_oom(error):
            raise
        if config.device != "auto":
            raise BusyError("the graphics card ran out of memory", remedy="use --device cpu") from error
    torch.cuda.empty_cache()
    done = _align_on(torch.device("cpu"), config, inputs, engine, clock)
    return replace(done, warnings=(*done.warnings, "the graphics card ran out of memory; the CPU was used"))


@torch.inference_mode()
def _align_on(
    device: torch.device, config: RegisterConfig, inputs: Inputs, engine: Engine, clock: Clock
) -> Alignment:
    """Conform, affine, predict, refine on one device; the maps come back on the CPU."""
    pair = partial(
        conform, inputs.fixed, inputs.moving, fixed_mask=inputs.fixed_mask, moving_mask=inputs.moving_mask
    )
    method = engine.method
    with clock("conform"):
        coarse = pair(spacing_mm=COARSE_MM, divisor=DIVISOR)
    with clock("affine"):
        affine = find_affine(config, engine, coarse, device)
    found = Alignment(affine, None, coarse, str(device), check_overlap(coarse, affine, config.moving))
    if engine.name == "affine":
        return found if config.refine is None else replace(found, warnings=(*found.warnings, _NO_REFINEMENT))
    with clock("conform"):
        same = method.spacing_mm == COARSE_MM and DIVISOR % method.divisor == 0
        fine = coarse if same else pair(spacing_mm=method.spacing_mm, divisor=method.divisor)
    with clock(engine.name):
        prediction = _run(method, fine, _start(fine, affine, device), device)
        segmented = _segmentations(prediction, fine.fixed_grid)
    if config.refine is not None:
        with clock("refine"):
            same = method.spacing_mm == REFINE_MM and method.divisor % DIVISOR == 0
            finest = fine if same else pair(spacing_mm=REFINE_MM, divisor=DIVISOR)
            prediction = prediction if same else _transfer(prediction, fine, finest)
            fine, prediction = finest, _refine(prediction, finest, config.refine, device)
    with clock("maps"):
        done = _to_world(prediction, fine, found)
        return _estimated(_without_harm(done, engine), segmented)


def _without_harm(found: Alignment, engine: Engine) -> Alignment:
    """No displacement where the affine alone had brought the images together and the deformation drives them apart."""
    if found.residual is None or not engine.one_contrast:
        return found
    if not makes_worse(found.coarse, found.affine, found.transform):
        return found
    still = DisplacementField(torch.zeros_like(found.residual.data), found.residual.geometry)
    return replace(found, residual=still, warnings=(*found.warnings, _NO_GAIN))


def _segmentations(prediction: Prediction, grid: Geometry) -> tuple[Volume, Volume] | None:
    """The method's own label maps of the fixed image and of the moving one after the affine, if it makes them."""
    if prediction.labels is None:
        return None
    hard = (x if x.shape[1] == 1 else x.argmax(1, keepdim=True) for x in prediction.labels)
    on = grid.level(prediction.label_level)
    first, second = (Volume(x[0].to("cpu", torch.int64), on, is_label=True) for x in hard)
    return first, second


def _estimated(found: Alignment, segmented: tuple[Volume, Volume] | None) -> Alignment:
    """With the overlap of the segmentations, the second one moved by the residual."""
    if segmented is None or found.residual is None:
        return found
    from neuroreg.metrics.segmentation import mean_dice  # scipy, only when needed

    fixed, moving = segmented
    moved = resample(moving, found.residual, fixed.geometry)
    dice = mean_dice(fixed.data, moved.data)
    return replace(found, dice_estimated=dice if math.isfinite(dice) else None)


def find_affine(config: RegisterConfig, engine: Engine, coarse: Conformed, device: torch.device) -> Affine:
    """The affine part, LPS mm, fixed to moving: computed, read from a file, or the identity.

    Method ``affine`` starts from the file; the others take it as it is. A network that aligns needs no start.
    """
    if config.affine == "none":
        return Affine(torch.eye(4, dtype=torch.float64))
    start = None
    if config.affine not in AFFINES:
        given = _only_affine(read_transform(Path(config.affine)), Path(config.affine))
        if engine.name != "affine":
            return given
        start = _start(coarse, given, device)
    found = _run(engine.affine, coarse, start, device)
    assert found.affine is not None
    return affine_to_world(found.affine, coarse.fixed_grid, coarse.moving_grid)


def _only_affine(transform: Transform, path: Path) -> Affine:
    parts = transform.parts if isinstance(transform, Chain) else (transform,)
    matrix = torch.eye(4, dtype=torch.float64)
    for part in parts:
        if not isinstance(part, Affine):
            raise DataError(
                "expected an affine, the file holds a deformation", file=path, remedy="give affine.mat"
            )
        matrix = part.matrix @ matrix
    if float(torch.linalg.det(matrix[:3, :3])) <= 0:
        raise DataError(
            "the affine mirrors or flattens the head: its determinant is not above 0",
            file=path,
            remedy="check left and right in the headers of both images",
        )
    return Affine(matrix)


def check_overlap(coarse: Conformed, affine: Affine, moving: Path) -> tuple[str, ...]:
    """A warning when the images lay far apart. Raises DataError when the brains do not meet after the affine."""
    apart_mm = float((coarse.fixed_grid.centre_mm - coarse.moving_grid.centre_mm).norm())
    matrix = affine_to_voxels(affine, coarse.fixed_grid, coarse.moving_grid).to(torch.float32)
    index = field.affine_index(matrix, field.identity(coarse.fixed_grid.shape))
    reached = field.sample(coarse.moving_mask.to(torch.float32), index, fill=0.0) > 0.5
    covered = float((reached & coarse.fixed_mask).sum()) / max(1.0, float(coarse.fixed_mask.sum()))
    if covered < _LEAST_OVERLAP:
        raise DataError(
            f"the brains of the two images do not overlap: {100 * covered:.0f} % after the affine",
            file=moving,
            remedy="check that both images show the same organ and that their headers are right",
        )
    if apart_mm > _FAR_MM:
        return (f"the images lie {apart_mm:.0f} mm apart in the scanner's space",)
    return ()


def _start(pair: Conformed, affine: Affine, device: torch.device) -> Prediction:
    """The affine and no displacement yet."""
    matrix = affine_to_voxels(affine, pair.fixed_grid, pair.moving_grid).to(device, torch.float32)
    zero = torch.zeros(1, 3, *pair.fixed_grid.level(1).shape, device=device)
    return Prediction(zero, affine=matrix, level=1)


def _run(
    method: Method | AffinePart, pair: Conformed, start: Prediction | None, device: torch.device
) -> Prediction:
    """The method on the pair, with the masks as it can take them: as masks, as weights, or blanked out."""
    network = getattr(method, "network", None)
    if isinstance(network, nn.Module):
        network.to(device)
    takes = inspect.signature(method.predict).parameters
    given: dict[str, object] = {}
    if pair.fixed_counts is not None or pair.moving_counts is not None:
        if "fixed_mask" in takes:
            given = {
                "fixed_mask": _on(device, pair.fixed_counts),
                "moving_mask": _on(device, pair.moving_counts),
            }
        elif "weights" in takes:
            given = {"weights": _weights(pair, device)}
        else:
            pair = pair.blanked()
    if "turn" in takes and pair.fixed_grid.direction != pair.moving_grid.direction:
        given["turn"] = _turn(pair)
    predict: Callable[..., Prediction] = method.predict
    return predict(pair.fixed.to(device), pair.moving.to(device), start, **given)


def _turn(pair: Conformed) -> Tensor:
    """The rotation (3, 3) float64 of the voxels of both grids that leaves the world as it is."""
    rest = Affine(torch.eye(4, dtype=torch.float64))
    return affine_to_voxels(rest, pair.fixed_grid, pair.moving_grid)[0, :, :3]


def _weights(pair: Conformed, device: torch.device) -> Weights | None:
    """The masks as the Gauss-Newton engine takes them; None without masks."""
    if pair.fixed_counts is None and pair.moving_counts is None:
        return None
    return Weights(
        fixed_mask=None if pair.fixed_counts is None else pair.fixed_mask.to(device),
        fixed_weight=_on(device, pair.fixed_counts),
        moving_weight=_on(device, pair.moving_counts),
    )


def _on(device: torch.device, counts: Tensor | None) -> Tensor | None:
    return None if counts is None else counts.to(device, torch.float32)


def _refine(prediction: Prediction, pair: Conformed, effort: str, device: torch.device) -> Prediction:
    from neuroreg.refine import refine  # the engine, only when it is asked for

    fixed, moving, weights = pair.fixed.to(device), pair.moving.to(device), _weights(pair, device)
    if effort in REFINE_PRESETS:
        return refine(prediction, fixed, moving, preset=effort, weights=weights)
    return refine(prediction, fixed, moving, iterations=int(effort), weights=weights)


def _transfer(prediction: Prediction, pair: Conformed, finest: Conformed) -> Prediction:
    """The same map on another pair of grids: the residual on level 1 of the new fixed grid."""
    assert prediction.affine is not None
    residual = residual_to_world(prediction.displacement.cpu(), prediction.level, pair.fixed_grid)
    affine = affine_to_world(prediction.affine, pair.fixed_grid, pair.moving_grid)
    u = total_field(residual, finest.fixed_grid.level(1)).to_voxels()
    device = prediction.displacement.device
    matrix = affine_to_voxels(affine, finest.fixed_grid, finest.moving_grid).to(device, torch.float32)
    guides = None
    if prediction.guides is not None:
        old, new = pair.fixed_grid.level(prediction.guide_level), finest.fixed_grid.level(1)
        fixed_guide, moving_guide = prediction.guides
        guides = _regrid(fixed_guide, old, new), _regrid(moving_guide, old, new)
    return Prediction(u.to(device), affine=matrix, level=1, guides=guides, guide_level=1)


def _regrid(channels: Tensor, old: Geometry, new: Geometry) -> Tensor:
    """Channels (1, K, ...) on another grid of the same space."""
    identity = Affine(torch.eye(4, dtype=torch.float64))
    return resample(Volume(channels[0].cpu(), old), identity, new).data[None].to(channels.device)


def _to_world(prediction: Prediction, pair: Conformed, found: Alignment) -> Alignment:
    """The residual in mm; the affine stays the one that was found unless the method has moved it."""
    u = prediction.displacement.to("cpu", torch.float32)
    if not bool(torch.isfinite(u).all()):
        raise DataError("the method found no usable field", remedy="try --method gaussnewton")
    residual = residual_to_world(u, prediction.level, pair.fixed_grid)
    affine = found.affine
    if prediction.affine is not None:
        given = affine_to_voxels(affine, pair.fixed_grid, pair.moving_grid).to(torch.float32)
        if not torch.equal(given, prediction.affine.to("cpu", torch.float32)):
            affine = affine_to_world(prediction.affine, pair.fixed_grid, pair.moving_grid)
    return replace(found, affine=affine, residual=residual)
