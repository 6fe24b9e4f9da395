"""Displacements of pairs, found beforehand and stored: what a method that regresses displacements learns from."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, NoInputError

STEP = 1024.0  # stored value = round(1024 * displacement in voxels of level 1): up to 32 of them


@dataclass(frozen=True)
class StoredFields:
    """Displacements of some pairs of a packed set, on level 1 of its grid (every second voxel)."""

    displacements: Tensor
    """(N, 3, D/2, H/2, W/2) int16, 1024 per voxel of that level, from fixed to moving"""
    pairs: Tensor
    """(N, 2) rows of the packed set: fixed, moving"""
    shape: tuple[int, int, int]
    """sides of the packed grid"""

    def __len__(self) -> int:
        return len(self.pairs)

    def displacement(self, number: int) -> Tensor:
        """(1, 3, D, H, W) float32 voxels of the packed grid."""
        return field.upsample_field(self.displacements[number][None].float() / STEP, self.shape)


def pack_displacement(u: Tensor) -> Tensor:
    """u (1, 3, D, H, W) voxels -> as it is stored: every second voxel, int16 (3, D/2, H/2, W/2)."""
    coarse = u[0, :, ::2, ::2, ::2] / 2
    return (coarse * STEP).round().clamp(-32767, 32767).to(torch.int16)


def load_fields(path: Path, ids: tuple[str, ...]) -> StoredFields:
    """Read a file written by ``targets.make_fields`` for the packed set of subjects ``ids``.

    Raises NoInputError, DataError.
    """
    if not path.is_file():
        raise NoInputError(
            "no stored displacements", file=path, remedy="make them with neuroreg train RECIPE --prepare DATA"
        )
    try:
        # opened here: numpy leaves a damaged archive open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as contents:
            depth, height, width = (int(n) for n in contents["shape"])
            owners = tuple(str(name) for name in contents["ids"])
            found = StoredFields(
                torch.from_numpy(contents["displacements"]),
                torch.from_numpy(contents["pairs"]),
                (depth, height, width),
            )
    except (KeyError, ValueError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise DataError("not a file of displacements", file=path, remedy="make it again") from error
    if owners != ids:
        raise DataError("the displacements are of another packed set", file=path, remedy="make them again")
    return found
