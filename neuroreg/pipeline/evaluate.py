"""How well two label maps agree, region by region, and how regular the map between them is."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from neuroreg.errors import DataError, UsageError
from neuroreg.io.files import check_output
from neuroreg.io.images import ImageFile, check_frame, check_same_grid, read_labels
from neuroreg.io.layout import MAX_VOXELS
from neuroreg.io.nifti_header import Xform
from neuroreg.io.tables import read_label_names, write_csv
from neuroreg.io.transforms import read_transform
from neuroreg.metrics.deformation import DeformationFigures, deformation_figures, inverse_consistency_mm
from neuroreg.metrics.segmentation import RegionScore, region_scores
from neuroreg.transforms import Transform, total_field
from neuroreg.volume import Geometry, Volume

COLUMNS = ("id", "name", "dice", "hd_mm", "hd95_mm", "assd_mm", "fixed_mm3", "moved_mm3", "status")
"""The columns of ``rois.csv``. Definitions of the distances: ``neuroreg.metrics.segmentation``."""

_MOVE_FIRST = "move the labels first: neuroreg apply TRANSFORM LABELS --to FIXED --labels"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_IDS = 100_000


class EvaluateConfig(BaseModel):
    """One comparison. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_labels: Path
    """label map of the fixed image"""
    moved_labels: Path
    """label map of the moving image, moved onto the fixed grid"""
    csv: Path | None = None
    """where the table of regions goes; None: nowhere"""
    label_names: Path | None = None
    """CSV with the columns label and name"""
    ids: tuple[int, ...] | None = None
    """regions to compare; None: all found in either map"""
    transform: Path | None = None
    """the map from the fixed to the moving image, or its displacement field"""
    inverse: Path | None = None
    """the map back, for inverse consistency"""
    mask: Path | None = None
    """where the deformation is measured; None: where the fixed labels are not 0"""
    overwrite: bool = False
    frame: int | None = Field(None, ge=0)
    """which frame of 4-D label maps"""
    xform: Xform = "auto"
    """which NIfTI frame to trust where two disagree"""
    max_voxels: int = Field(MAX_VOXELS, ge=1)


@dataclass(frozen=True)
class Evaluation:
    """The outcome. Means are over the regions that have the figure; a region missing on one side has Dice 0."""

    regions: tuple[RegionScore, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    deformation: DeformationFigures | None = None
    notes: tuple[str, ...] = ()

    def mean(self, figure: str) -> float | None:
        """Mean of one figure (a field of RegionScore) over the regions that have it."""
        values = [v for v in (getattr(region, figure) for region in self.regions) if v is not None]
        return math.fsum(values) / len(values) if values else None

    def summary(self) -> dict[str, object]:
        """The figures over all regions, ready for JSON: no NaN, absent figures are None."""
        absent = sum(region.status != "ok" for region in self.regions)
        means = {f"mean_{name}": self.mean(name) for name in ("dice", "hd_mm", "hd95_mm", "assd_mm")}
        return {
            "regions": len(self.regions),
            "regions_incomplete": absent,
            **means,
            "deformation": None if self.deformation is None else _finite(asdict(self.deformation)),
        }

    def rows(self) -> list[dict[str, str | float | None]]:
        """The rows of the CSV, column -> cell; ids and names as text, absent figures as None."""
        return [
            {"id": str(r.label), "name": self.names.get(r.label, "")}
            | {column: getattr(r, column) for column in COLUMNS[2:]}
            for r in self.regions
        ]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Compare two label files and write the CSV if one is asked for.

    Raises UsageError (2), DataError (65: an unusable file, grids that differ), NoInputError (66),
    CannotCreateError (73) before anything is computed, WriteError (74).
    """
    if config.inverse is not None and config.transform is None:
        raise UsageError("--inverse needs the forward map too", remedy="give --transform")
    if config.csv is not None:
        check_output(config.csv, overwrite=config.overwrite)
    names = {} if config.label_names is None else read_label_names(config.label_names)
    read = partial(read_labels, frame=config.frame, xform=config.xform, max_voxels=config.max_voxels)
    fixed, moved = read(config.fixed_labels), read(config.moved_labels)
    check_frame(config.frame, fixed, moved)
    try:
        check_same_grid(moved, fixed)
    except DataError as error:
        raise DataError(error.what, file=error.file, remedy=_MOVE_FIRST) from error
    regions = compare_labels(fixed.volume, moved.volume, ids=config.ids)
    deformation, notes = None, (*fixed.notes, *moved.notes)
    if config.transform is not None:
        mask, mask_notes = _mask(config, fixed)
        deformation = measure_map(
            read_transform(config.transform),
            fixed.volume.geometry,
            mask,
            inverse=None if config.inverse is None else read_transform(config.inverse),
        )
        notes += mask_notes
    outcome = Evaluation(regions, names, deformation, notes)
    if config.csv is not None:
        write_csv(config.csv, COLUMNS, outcome.rows(), overwrite=config.overwrite)
    return outcome


def compare_labels(
    fixed: Volume, moved: Volume, *, ids: Sequence[int] | None = None
) -> tuple[RegionScore, ...]:
    """Score every region of two label volumes (1, Z, Y, X) on one grid. Raises DataError when the grids differ."""
    if not fixed.geometry.same_grid(moved.geometry):
        raise DataError("the two label maps lie on different grids", remedy=_MOVE_FIRST)
    return region_scores(fixed.data[0], moved.data[0], spacing_mm=fixed.geometry.spacing[::-1], ids=ids)


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
