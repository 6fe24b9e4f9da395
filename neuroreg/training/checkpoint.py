"""The state of a run on disk: exact resume after any kind of stop. Tensors in safetensors, numbers in JSON.

Every random choice of step n comes from a generator seeded with (seed, n), so no random state is stored: weights,
optimiser moments and a handful of numbers are the whole state. One file, replaced atomically.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuroreg.errors import DataError
from neuroreg.parse import from_json

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    stage: Count = 0
    """which phase of training"""
    step: Count = 0
    """steps done in it"""
    seconds: float = 0.0
    best_dice: float = -1.0
    best_step: Count = 0
    start_similarity: float = 0.0
    """mean similarity loss of the first steps; later means above it are divergence"""
    recent_similarity: float = 0.0


_PROGRESS = TypeAdapter(Progress)


def save_state(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    recipe_hash: str,
    *,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state beside ``path``, then rename. ``scaler``: the loss scale of fp16 goes along."""
    tensors = {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "recipe": recipe_hash}
    if scaler is not None:
        metadata["scaler"] = json.dumps(scaler.state_dict())
    _replace(path, tensors, {**metadata, "sha256": _digest(tensors, metadata)})


def load_state(
    path: Path,
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    recipe_hash: str,
    *,
    scaler: torch.amp.GradScaler | None = None,
) -> Progress:
    """Put a saved state back, the moments into the optimizer of its stage.

    Raises DataError when it belongs to another recipe or is damaged.
    """
    tensors, metadata = _whole(path)
    if metadata.get("recipe") != recipe_hash:
        raise DataError(
            "the checkpoint belongs to another recipe", file=path, remedy="use another -o folder or --restart"
        )
    try:
        progress = _PROGRESS.validate_json(metadata["progress"], strict=True)
        optimizer = optimizers[progress.stage]
        moments = _moments(_under("optimizer.", tensors), optimizer)
        network.load_state_dict(_under("network.", tensors))
        if scaler is not None and scaler.is_enabled() and "scaler" in metadata:
            scaler.load_state_dict(from_json(metadata["scaler"]))
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise _damaged(path) from error
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _whole(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata as they were written. A state of an older program has no sha256 and is taken as it is."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error
    promised = metadata.pop("sha256", None)
    if promised is not None and promised != _digest(tensors, metadata):
        raise _damaged(path)
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 of every name, type, shape and value, and of what the file says of itself."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _moments(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """Number of the parameter -> name -> moment, each as large as its parameter, or one number. Raises ValueError."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if value.ndim and value.shape != parameters[int(index)].shape:
            raise ValueError(f"{name} is not as large as its parameter")
        moments.setdefault(int(index), {})[key] = value
    return moments


def _damaged(path: Path) -> DataError:
    return DataError("the checkpoint is damaged", file=path, remedy="start again with --restart")


def save_weights(path: Path, network: nn.Module, metadata: dict[str, str]) -> None:
    """The network alone, in half precision (float tensors), for shipping."""
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    _replace(path, tensors, metadata)


def _replace(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
