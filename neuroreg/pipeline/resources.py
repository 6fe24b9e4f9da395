"""Threads and memory of one run."""

import os

import torch

from neuroreg.errors import BusyError
from neuroreg.io import files


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
