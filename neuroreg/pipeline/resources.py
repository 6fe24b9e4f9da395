"""Device, threads and memory of one run."""

import os
import re

import torch

from neuroreg.errors import BusyError, UnavailableError, UsageError
from neuroreg.io import files


def choose_device(name: str) -> torch.device:
    """``auto`` (cuda where there is one, else cpu), ``cpu``, ``cuda[:N]`` or ``mps``; an explicit one never falls back.

    Raises UsageError for another name, UnavailableError when the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name):
        raise UsageError(f"unknown device {name!r}", remedy="give auto, cpu, cuda, cuda:N or mps")
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UnavailableError(
            f"device {name} is not available ({count} CUDA devices)", remedy="use --device auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("device mps is not available", remedy="use --device auto")
    return device


def set_up(*, threads: int | None, deterministic: bool) -> int:
    """Limit the threads of torch and SimpleITK; ask torch for repeatable kernels. Returns the threads in use."""
    if threads is not None:
        import SimpleITK

        torch.set_num_threads(threads)
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return torch.get_num_threads()


def preflight(needed_bytes: int, *, what: str) -> None:
    """Refuse before computing what cannot fit. Raises BusyError."""
    rest = files.available_memory()
    if rest is not None and needed_bytes > rest:
        raise BusyError(
            f"{what} needs about {needed_bytes / 2**30:.1f} GiB of memory, {max(rest, 0) / 2**30:.1f} GiB are free",
            remedy="close other programs, or use a smaller image",
        )


def is_cuda_oom(error: Exception) -> bool:
    """Whether the graphics card ran out of memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError)
