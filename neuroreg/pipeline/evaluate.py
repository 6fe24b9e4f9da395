"""How well two label maps agree, region by region, and how regular and how right the map between them is."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from neuroreg.errors import DataError, UsageError
from neuroreg.io.files import check_not_inputs, check_output
from neuroreg.io.images import ImageFile, check_frame, check_same_grid, read_labels
from neuroreg.io.layout import MAX_VOXELS
from neuroreg.io.nifti_header import Xform
from neuroreg.io.tables import read_groups, read_label_names, read_points, write_csv
from neuroreg.io.transforms import read_transform
from neuroreg.metrics.deformation import DeformationFigures, deformation_figures, inverse_consistency_mm
from neuroreg.metrics.groups import GroupScore, group_scores, mean_figure
from neuroreg.metrics.landmarks import LandmarkFigures, landmark_errors
from neuroreg.metrics.segmentation import FIGURES, TOLERANCE_MM, RegionScore, region_scores
from neuroreg.transforms import Transform, total_field
from neuroreg.volume import Geometry, Volume

COLUMNS = ("id", "name", "kind", *FIGURES, "tolerance_mm", "status")
"""The columns of ``rois.csv``. Definitions of the figures: ``neuroreg.metrics.segmentation``.

``kind`` is roi, group (the labels of a group as one region) or group mean (the mean over its regions); groups have no
id. ``tolerance_mm`` is that of the surface Dice.
"""

_MOVE_FIRST = "move the labels first: neuroreg apply TRANSFORM LABELS --to FIXED --labels"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_IDS = 100_000


class EvaluateOptions(BaseModel):
    """How label maps are compared, whatever files they are in. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_names: Path | None = None
    """CSV with the columns label and name"""
    ids: tuple[int, ...] | None = None
    """regions to compare; None: all found in either map"""
    groups: Path | None = None
    """CSV with the columns label and group"""
    tolerance_mm: float = Field(TOLERANCE_MM, ge=0, allow_inf_nan=False)
    """of the surface Dice"""
    landmarks_space: Literal["lps", "ras"] = "lps"
    """of the positions in the tables of landmarks, mm"""
    overwrite: bool = False
    frame: int | None = Field(None, ge=0)
    """which frame of 4-D label maps"""
    xform: Xform = "auto"
    """which NIfTI frame to trust where two disagree"""
    max_voxels: int = Field(MAX_VOXELS, ge=1)


class EvaluateConfig(EvaluateOptions):
    """One comparison."""

    fixed_labels: Path
    """label map of the fixed image"""
    moved_labels: Path
    """label map of the moving image, moved onto the fixed grid"""
    csv: Path | None = None
    """where the table of regions goes; None: nowhere"""
    transform: Path | None = None
    """the map from the fixed to the moving image, or its displacement field"""
    inverse: Path | None = None
    """the map back, for inverse consistency"""
    mask: Path | None = None
    """where the deformation is measured; None: where the fixed labels are not 0"""
    fixed_landmarks: Path | None = None
    """CSV with the columns name, x, y, z: points of the fixed image"""
    moved_landmarks: Path | None = None
    """the same points of the moving image, moved: where the registration puts them in the fixed image"""
    moving_landmarks: Path | None = None
    """the same points in the moving image itself; needs ``transform``"""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every input file."""
        return tuple(value for name, value in self if isinstance(value, Path) and name != "csv")


@dataclass(frozen=True)
class Evaluation:
    """The outcome. Means are over the regions that have the figure; a region missing on one side has Dice 0."""

    regions: tuple[RegionScore, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    deformation: DeformationFigures | None = None
    notes: tuple[str, ...] = ()
    groups: tuple[GroupScore, ...] = ()
    tolerance_mm: float = TOLERANCE_MM
    """of the surface Dice"""
    landmarks: LandmarkFigures | None = None
    """fixed landmarks against moved ones"""
    landmarks_mapped: LandmarkFigures | None = None
    """fixed landmarks, mapped by the transform, against those of the moving image"""

    def mean(self, figure: str) -> float | None:
        """Mean of one figure (a field of RegionScore) over the regions that have it."""
        return mean_figure(self.regions, figure)

    def summary(self) -> dict[str, object]:
        """The figures over all regions, ready for JSON: no NaN, absent figures are None."""
        absent = sum(region.status != "ok" for region in self.regions)
        return {
            "regions": len(self.regions),
            "regions_incomplete": absent,
            **{f"mean_{name}": self.mean(name) for name in FIGURES},
            "deformation": None if self.deformation is None else _finite(asdict(self.deformation)),
            "landmarks": None if self.landmarks is None else asdict(self.landmarks),
            "landmarks_mapped": None if self.landmarks_mapped is None else asdict(self.landmarks_mapped),
        }

    def rows(self) -> list[dict[str, str | float | None]]:
        """The rows of the CSV, column -> cell; ids and names as text, absent figures as None. Groups come last."""
        rows = [
            self._row(r, id=str(r.label), name=self.names.get(r.label, ""), kind="roi") for r in self.regions
        ]
        for group in self.groups:
            rows.append(self._row(group.union, id="", name=group.name, kind="group"))
            means = {figure: group.mean(figure) for figure in FIGURES}
            rows.append({**rows[-1], **means, "kind": "group mean", "status": group.status})
        return rows

    def _row(self, score: RegionScore, **first: str) -> dict[str, str | float | None]:
        figures = {figure: getattr(score, figure) for figure in FIGURES}
        return {**first, **figures, "tolerance_mm": self.tolerance_mm, "status": score.status}


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Compare two label files and write the CSV if one is asked for.

    Raises UsageError (2), DataError (65: an unusable file, grids that differ), NoInputError (66),
    CannotCreateError (73) before anything is computed, WriteError (74).
    """
    check_config(config)
    if config.csv is not None:
        check_not_inputs([config.csv], config.paths)
        check_output(config.csv, overwrite=config.overwrite)
    names = {} if config.label_names is None else read_label_names(config.label_names)
    groups = {} if config.groups is None else read_groups(config.groups)
    read = partial(read_labels, frame=config.frame, xform=config.xform, max_voxels=config.max_voxels)
    fixed, moved = read(config.fixed_labels), read(config.moved_labels)
    check_frame(config.frame, fixed, moved)
    try:
        check_same_grid(moved, fixed)
    except DataError as error:
        raise DataError(error.what, file=error.file, remedy=_MOVE_FIRST) from error
    tolerance = config.tolerance_mm
    regions = compare_labels(fixed.volume, moved.volume, ids=config.ids, tolerance_mm=tolerance)
    outcome = Evaluation(
        regions,
        names,
        groups=_groups(groups, regions, fixed.volume, moved.volume, config),
        tolerance_mm=tolerance,
        notes=(*fixed.notes, *moved.notes, *_cut_groups(groups, config)),
    )
    outcome = _with_landmarks(_with_deformation(outcome, config, fixed), config)
    if config.csv is not None:
        write_csv(config.csv, COLUMNS, outcome.rows(), overwrite=config.overwrite)
    return outcome


def check_config(config: EvaluateConfig) -> None:
    """Refuse files that say nothing without another one. Raises UsageError."""
    if config.inverse is not None and config.transform is None:
        raise UsageError("--inverse needs the forward map too", remedy="give --transform")
    if config.moving_landmarks is not None and config.transform is None:
        raise UsageError(
            "--moving-landmarks needs the map that leads to them",
            remedy="give --transform, or --moved-landmarks if they lie in the fixed image",
        )
    others = (config.moved_landmarks, config.moving_landmarks)
    if (config.fixed_landmarks is None) == any(other is not None for other in others):
        raise UsageError(
            "landmarks come in pairs",
            remedy="give --fixed-landmarks with --moved-landmarks or --moving-landmarks",
        )


def compare_labels(
    fixed: Volume, moved: Volume, *, ids: Sequence[int] | None = None, tolerance_mm: float = TOLERANCE_MM
) -> tuple[RegionScore, ...]:
    """Score every region of two label volumes (1, Z, Y, X) on one grid. Raises DataError when the grids differ."""
    if not fixed.geometry.same_grid(moved.geometry):
        raise DataError("the two label maps lie on different grids", remedy=_MOVE_FIRST)
    spacing = fixed.geometry.spacing[::-1]
    return region_scores(fixed.data[0], moved.data[0], spacing_mm=spacing, ids=ids, tolerance_mm=tolerance_mm)


def measure_map(
    transform: Transform, geometry: Geometry, mask: Tensor, *, inverse: Transform | None = None
) -> DeformationFigures:
    """The regularity of a whole map (affine included) at the voxels of ``geometry`` inside ``mask`` (Z, Y, X) bool."""
    box, inside = _crop(geometry, mask)
    figures = deformation_figures(total_field(transform, box), inside)
    if inverse is None:
        return figures
    mean, largest = inverse_consistency_mm(transform, inverse, box, inside)
    return replace(figures, inverse_mean_mm=mean, inverse_max_mm=largest)


def parse_ids(text: str) -> tuple[int, ...]:
    """Region ids from "4,11,23-25", or from a file of such text (any white space, # starts a comment).

    Order is kept, repeats are dropped. Raises UsageError.
    """
    path = Path(text)
    if path.is_file():
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        text = " ".join(line.split("#", 1)[0] for line in lines)
    ids: dict[int, None] = {}
    for word in re.split(r"[\s,;]+", text.strip()):
        match = _RANGE.fullmatch(word)
        if match is None:
            raise UsageError(
                f"{word[:40]!r} is no label id", remedy="give ids such as 4,11,23-25, or a file of ids"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last or last - first >= _MOST_IDS:
            raise UsageError(f"{word[:40]!r} is no range of label ids", remedy="ids start at 1")
        ids.update(dict.fromkeys(range(first, last + 1)))
    return tuple(ids)


def _finite(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """JSON knows no NaN: a figure that does not exist is None."""
    return {
        name: None if value is None or not math.isfinite(value) else value for name, value in figures.items()
    }


def _groups(
    groups: Mapping[str, Sequence[int]],
    regions: Sequence[RegionScore],
    fixed: Volume,
    moved: Volume,
    config: EvaluateConfig,
) -> tuple[GroupScore, ...]:
    """The scores of the groups, of the labels that were asked for alone."""
    if config.ids is not None:
        groups = {name: [k for k in labels if k in set(config.ids)] for name, labels in groups.items()}
    spacing, tolerance = fixed.geometry.spacing[::-1], config.tolerance_mm
    maps = fixed.data[0], moved.data[0]
    return group_scores(*maps, groups, regions, spacing_mm=spacing, tolerance_mm=tolerance)


def _cut_groups(groups: Mapping[str, Sequence[int]], config: EvaluateConfig) -> tuple[str, ...]:
    """A warning when the ids that were asked for leave out labels of a group that a map may hold."""
    if config.ids is None:
        return ()
    cut = [name for name, labels in groups.items() if not set(labels) <= set(config.ids)]
    if not cut:
        return ()
    some = ", ".join(cut[:3]) + (f" and {len(cut) - 3} more" if len(cut) > 3 else "")
    return (f"--labels leaves out labels of the groups {some}: their figures are of the rest alone",)


def _with_deformation(outcome: Evaluation, config: EvaluateConfig, fixed: ImageFile) -> Evaluation:
    if config.transform is None:
        return outcome
    mask, notes = _mask(config, fixed)
    inverse = None if config.inverse is None else read_transform(config.inverse)
    figures = measure_map(read_transform(config.transform), fixed.volume.geometry, mask, inverse=inverse)
    return replace(outcome, deformation=figures, notes=outcome.notes + notes)


def _with_landmarks(outcome: Evaluation, config: EvaluateConfig) -> Evaluation:
    if config.fixed_landmarks is None:
        return outcome
    read = partial(read_points, ras=config.landmarks_space == "ras")
    points, notes = read(config.fixed_landmarks), []
    found: dict[str, LandmarkFigures] = {}
    for role, path, map_path in (
        ("landmarks", config.moved_landmarks, None),
        ("landmarks_mapped", config.moving_landmarks, config.transform),
    ):
        if path is None:
            continue
        others = read(path)
        try:
            found[role] = landmark_errors(
                points, others, None if map_path is None else read_transform(map_path)
            )
        except DataError as error:
            raise DataError(error.what, file=path, remedy=error.remedy) from error
        alone = len(points) + len(others) - 2 * found[role].count
        if alone:
            notes.append(f"{path.name}: {alone} landmarks are on one side only and do not count")
    return replace(
        outcome,
        landmarks=found.get("landmarks"),
        landmarks_mapped=found.get("landmarks_mapped"),
        notes=(*outcome.notes, *notes),
    )


def _mask(config: EvaluateConfig, fixed: ImageFile) -> tuple[Tensor, tuple[str, ...]]:
    """The voxels where the deformation is measured, bool (Z, Y, X), and the notes of the file they came from."""
    if config.mask is None:
        return fixed.volume.data[0] != 0, ()
    mask = read_labels(config.mask, xform=config.xform, max_voxels=config.max_voxels)
    check_same_grid(mask, fixed)
    return mask.volume.data[0] != 0, mask.notes


def _crop(geometry: Geometry, mask: Tensor) -> tuple[Geometry, Tensor]:
    """The box of the mask and one voxel around it, which central differences need."""
    found = mask.nonzero()
    if not len(found):
        raise DataError("the mask is empty", remedy="give a mask with some voxels above 0")
    low = (found.min(dim=0).values - 1).clamp(min=0)
    high = torch.minimum(found.max(dim=0).values + 2, torch.tensor(mask.shape))
    z, y, x = (high - low).tolist()
    corner = torch.cat((low.flip(0).to(torch.float64), torch.ones(1, dtype=torch.float64)))
    ox, oy, oz = (geometry.voxel_to_world @ corner)[:3].tolist()
    box = replace(geometry, size=(x, y, z), origin=(ox, oy, oz))
    return box, mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
