"""Where tensors are computed: the one reading of ``--device``."""

import re

import torch

from neuroreg.errors import UnavailableError, UsageError


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
