"""One registration as the page shows it, and whoever writes that page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from neuroreg.pipeline.record import Quality
from neuroreg.transforms import DisplacementField
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
