"""One registration as the page shows it, and whoever writes that page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from neuroreg.pipeline.inputs import Inputs
from neuroreg.pipeline.outputs import Maps
from neuroreg.pipeline.record import Quality
from neuroreg.transforms import Affine, DisplacementField, resample
from neuroreg.volume import Geometry, Volume

_PAGE_SIDE = 320
"""Voxels along an axis of the pictures: more would take minutes and not be seen."""


@dataclass(frozen=True)
class Case:
    """Images lie on the grid of the page, see ``page_grid``, (1, Z, Y, X), unless said otherwise."""

    title: str
    method: str
    """what was run, in one line"""
    fixed: Volume
    scanned: Volume
    """the moving image where its own header puts it"""
    before: Volume
    """the moving image after the affine"""
    moved: Volume
    jacobian: Volume
    """determinant of the whole map"""
    quality: Quality
    residual: DisplacementField | None = None
    """the deformation without the affine, on its own grid; None for an affine registration"""
    maps: Mapping[str, Volume] = field(default_factory=dict)
    """on the coarse grid: "lncc", "inverse" (mm)"""
    warnings: Sequence[str] = ()
    rois: Sequence[Mapping[str, object]] | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)


class Reporter(Protocol):
    """Writes the HTML page. Given by the caller, because reports are made on a floor beside this one."""

    def __call__(self, path: Path, case: Case, *, overwrite: bool = False) -> None:
        """Write one page to ``path``, atomically."""
        ...


def case_of(
    inputs: Inputs,
    maps: Maps,
    quality: Quality,
    *,
    title: str,
    method: str,
    measured: Mapping[str, Volume],
    warnings: Sequence[str],
    rois: Sequence[Mapping[str, object]] | None,
    provenance: Mapping[str, object],
) -> Case:
    """The case of a pair and its maps: every image of it on the grid of the page."""
    moving, grid = inputs.files["moving"].volume, page_grid(maps.fixed)
    return Case(
        title=title,
        method=method,
        fixed=_thinned(inputs.files["fixed"].volume),
        scanned=resample(moving, Affine(torch.eye(4, dtype=torch.float64)), grid),
        before=resample(moving, maps.alignment.affine, grid),
        moved=resample(moving, maps.alignment.transform, grid),
        jacobian=_thinned(maps.jacobian),
        quality=quality,
        residual=maps.alignment.residual,
        maps=measured,
        warnings=tuple(warnings),
        rois=rois,
        provenance=provenance,
    )


def page_grid(fixed: Geometry) -> Geometry:
    """The fixed grid, or of its axes longer than a page shows every second, third, ... voxel."""
    (x, y, z), (a, b, c), (i, j, k) = fixed.size, fixed.spacing, _steps(fixed)
    return replace(fixed, size=(-(-x // i), -(-y // j), -(-z // k)), spacing=(a * i, b * j, c * k))


def _steps(fixed: Geometry) -> tuple[int, int, int]:
    x, y, z = (-(-n // _PAGE_SIDE) for n in fixed.size)
    return x, y, z


def _thinned(volume: Volume) -> Volume:
    x, y, z = _steps(volume.geometry)
    return Volume(volume.data[:, ::z, ::y, ::x].contiguous(), page_grid(volume.geometry))


def method_line(config: Mapping[str, object], provenance: Mapping[str, object]) -> str:
    """What was run, in one line, from the settings and the provenance of a record."""
    weights, affine = provenance.get("weights"), str(config.get("affine"))
    parts = [f"method {config.get('method')}"]
    if isinstance(weights, Mapping):
        parts.append(f"weights {weights.get('name')}")
    if config.get("refine"):
        parts.append(f"refinement {config['refine']}")
    if config.get("method") != affine:
        parts.append("no affine" if affine == "none" else f"affine part: {affine}")
    return ", ".join([*parts, f"on {provenance.get('device')}"])
