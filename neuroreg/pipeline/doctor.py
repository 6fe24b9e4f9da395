"""What this installation is and can do: versions, devices, weights, room. Changes nothing."""

import importlib.metadata
import os
import platform
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuroreg import __version__, checkpoints
from neuroreg.errors import NeuroregError, UnavailableError
from neuroreg.io import files

CORE = (
    "torch",
    "SimpleITK",
    "numpy",
    "scipy",
    "safetensors",
    "pydantic",
    "typer",
    "pillow",
    "matplotlib",
)
EXTRAS = {"ants": "antspyx", "greedy": "picsl_greedy", "train": "accelerate", "interop": "nitransforms"}
TORCH_FLOOR = (2, 11)
_GIB = 2**30
_MEMORY_GIB, _DISK_GIB = 3.0, 1.0  # one 1 mm registration: 2.5 GB at most, 120 MB left behind


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
    exit_code: int = 0
    """what the process should leave with when ``status`` is "fail" """


def examine(folder: Path) -> tuple[Check, ...]:
    """Every check, in the order shown; ``folder`` is where outputs would go (its free space is looked at)."""
    return (
        Check(
            "neuroreg", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}"
        ),
        *(_version(name) for name in CORE),
        *(_extra(name, package) for name, package in EXTRAS.items()),
        _devices(),
        _threads(),
        _memory(),
        _disk(folder),
        *_weights(),
    )


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _version(package: str) -> Check:
    version = _installed(package)
    if version is None:
        code = UnavailableError.exit_code
        return Check(package, "fail", "not installed", "pip install neuroreg again", code)
    if package == "torch" and tuple(int(part) for part in version.split(".")[:2]) < TORCH_FLOOR:
        return Check(package, "fail", f"{version}: loads weights unsafely", "pip install 'torch>=2.11.0'", 69)
    return Check(package, "ok", version)


def _extra(name: str, package: str) -> Check:
    version = _installed(package)
    if version is None:
        return Check(f"extra {name}", "ok", "not installed", f"pip install 'neuroreg[{name}]' if you need it")
    return Check(f"extra {name}", "ok", f"{package} {version}")


def _devices() -> Check:
    import torch

    with warnings.catch_warnings(record=True) as said:  # a driver that is too old speaks here, and only here
        warnings.simplefilter("always")
        cuda = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    found = ["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(names))]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.version.cuda is not None and not cuda:
        reason = str(said[0].message).splitlines()[0] if said else "no graphics card answers"
        return Check(
            "devices", "warn", f"cpu; torch for CUDA {torch.version.cuda}, but: {reason}", "see nvidia-smi"
        )
    return Check("devices", "ok", ", ".join(found))


def _threads() -> Check:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        "threads",
        "ok",
        f"{torch.get_num_threads()} used by default, {cores} cores",
        "--threads N limits them",
    )


def _memory() -> Check:
    free = files.available_memory()
    if free is None:
        return Check("memory", "warn", "cannot be told on this system", "a registration needs up to 2.5 GB")
    low = free / _GIB < _MEMORY_GIB
    return Check(
        "memory", "warn" if low else "ok", f"{free / _GIB:.1f} GiB free", "close programs" if low else ""
    )


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / _GIB
    low = free < _DISK_GIB
    return Check(
        "disk", "warn" if low else "ok", f"{free:.1f} GiB free here", "free some space" if low else ""
    )


def _weights() -> tuple[Check, ...]:
    try:
        records = checkpoints.manifest()
    except NeuroregError as error:
        return (Check("weights", "fail", error.what, error.remedy, error.exit_code),)
    return tuple(_weight(record) for record in records) or (
        Check("weights", "warn", "none in this installation"),
    )


def _weight(record: checkpoints.WeightRecord) -> Check:
    try:
        checkpoints.verify(record)
    except NeuroregError as error:
        return Check(f"weights {record.name}", "fail", error.what, error.remedy, error.exit_code)
    return Check(f"weights {record.name}", "ok", f"sha256 {record.sha256[:12]}... as published")
