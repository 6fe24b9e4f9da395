"""One registration as the page shows it, and whoever writes that page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from neuroreg.pipeline.inputs import Inputs
from neuroreg.pipeline.outputs import Maps
from neuroreg.pipeline.record import Quality
from neuroreg.transforms import Affine, DisplacementField, resample
from neuroreg.volume import Volume


@dataclass(frozen=True)
class Case:
    """Images lie on the fixed grid, (1, Z, Y, X), unless said otherwise."""

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
    """The case of a pair and its maps: every image of it on the fixed grid."""
    moving = inputs.files["moving"].volume
    return Case(
        title=title,
        method=method,
        fixed=inputs.files["fixed"].volume,
        scanned=resample(moving, Affine(torch.eye(4, dtype=torch.float64)), maps.fixed),
        before=resample(moving, maps.alignment.affine, maps.fixed),
        moved=maps.moved(moving),
        jacobian=maps.jacobian,
        quality=quality,
        residual=maps.alignment.residual,
        maps=measured,
        warnings=tuple(warnings),
        rois=rois,
        provenance=provenance,
    )


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
