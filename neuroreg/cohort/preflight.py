"""Before the first case: do the methods exist, are outputs in the way, is there disk and memory enough?"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from neuroreg.cohort.case import Case
from neuroreg.errors import BusyError
from neuroreg.io import files, headers
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine, load_engine
from neuroreg.pipeline.register import disk_bytes

_MEMORY_OF_A_CASE = (
    1.2e9  # bytes: of a process with everything imported, at 1 mm; measured by neuroreg benchmark
)
_SAMPLED = 20  # fixed images whose headers are read for the estimate
_USUAL_VOXELS = 9e6  # where no header can be read: 1 mm

MethodSettings = str


def method_settings(config: RegisterConfig) -> MethodSettings:
    """What decides which networks are loaded; equal for cases that can share them."""
    names = {"method", "weights", "affine", "refine", "options", "seed"}
    return json.dumps(config.model_dump(mode="json", include=names), sort_keys=True)


def load_engines(cases: Iterable[Case]) -> dict[MethodSettings, Engine]:
    """Each distinct method made ready once, so that a wrong one is told before anything runs.

    Raises UsageError, UnavailableError, DataError.
    """
    engines: dict[MethodSettings, Engine] = {}
    for case in cases:
        name = method_settings(case.config)
        if name not in engines:
            engines[name] = load_engine(case.config)
    return engines


def bytes_of_a_case(cases: Sequence[Case]) -> float:
    """Estimated size of one case's outputs: the mean over a sample of the cases."""
    step = max(1, len(cases) // _SAMPLED)
    sizes = []
    for case in cases[::step]:
        voxels = headers.voxels(case.config.fixed) or _USUAL_VOXELS
        sizes.append(disk_bytes(int(voxels), case.config.outputs))
    return sum(sizes) / len(sizes) if sizes else 0.0


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
