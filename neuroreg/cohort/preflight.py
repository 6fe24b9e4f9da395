"""Before the first case: do the methods exist, are outputs in the way, is there disk and memory enough?"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroreg.cohort.case import Case
from neuroreg.errors import BusyError
from neuroreg.io import files, headers
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import load_engine
from neuroreg.pipeline.register import disk_bytes
from neuroreg.pipeline.template import load_template

_MEMORY_OF_A_CASE = 1.2e9  # bytes; two cases at once take 2.3 GB with all imported: examples/THROUGHPUT.md
_SAMPLED = 20  # fixed images whose headers are read for the estimate
_USUAL_VOXELS = 9_000_000  # where no header can be read: 1 mm


@dataclass(frozen=True)
class Weights:
    """The sha256 of what a method loads; "" where it loads nothing."""

    method: str
    affine: str


def method_settings(config: RegisterConfig) -> str:
    """What decides which networks are loaded; equal for cases that can share them."""
    names = {"method", "weights", "affine", "refine", "options"}
    return json.dumps(config.model_dump(mode="json", include=names), sort_keys=True)


def check_methods(cases: Iterable[Case]) -> dict[str, Weights]:
    """Make each distinct method ready once, so that a wrong one is told before anything runs: settings -> weights.

    Raises UsageError, UnavailableError, DataError.
    """
    found: dict[str, Weights] = {}
    for case in cases:
        name = method_settings(case.config)
        if name not in found:
            engine = load_engine(case.config)
            method, affine = engine.weights, engine.affine_weights
            found[name] = Weights(method.sha256 if method else "", affine.sha256 if affine else "")
    return found


def bytes_of_a_case(cases: Sequence[Case]) -> float:
    """Estimated size of one case's outputs: the mean over a sample of the cases."""
    step = max(1, len(cases) // _SAMPLED)
    sizes = [disk_bytes(_voxels(case.config.fixed), case.config.outputs) for case in cases[::step]]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _voxels(fixed: Path) -> int:
    if not fixed.exists():  # the template, which is written when the batch begins
        return load_template().image.data.numel()
    return headers.voxels(fixed) or _USUAL_VOXELS


def check_disk(folder: Path, cases: int, each: float) -> None:
    """Refuse a batch that cannot fit. Raises BusyError (75)."""
    free = shutil.disk_usage(folder).free
    if cases * each > free:
        raise BusyError(
            f"{cases} cases need about {cases * each / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            file=folder,
            remedy="free some space, choose another -o, or write less: --outputs image,transform",
        )


def check_memory(slots: int) -> None:
    """Refuse more cases at once than memory holds. Raises BusyError (75)."""
    free = files.available_memory()
    if free is not None and slots * _MEMORY_OF_A_CASE > free:
        raise BusyError(
            f"{slots} cases at once need about {slots * _MEMORY_OF_A_CASE / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free",
            remedy="take fewer --jobs or --workers",
        )
