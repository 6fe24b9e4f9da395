"""Displacements between random pairs of a packed set, found by another method and stored for training.

Needs no image, only the pack: everything is in the network frame.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuroreg import field
from neuroreg.io.files import atomic_write
from neuroreg.methods import METHODS
from neuroreg.methods.base import Method
from neuroreg.registry import find
from neuroreg.training.data import PackedSet
from neuroreg.training.fields import pack_displacement

_ENGINE = (12, 10, 3, 0)  # iterations; none on images finer than the packed ones
_FLUID = (1, 4, 11, 46, 49, 50, 51, 52)  # DLMUSE: unlabelled fluid, ventricles
_WHITE = (
    35,
    40,
    41,
    44,
    45,
    61,
    62,
    69,
    *range(81, 96),
)  # brain stem, white matter, fornix, capsules, callosum
_TISSUE_SIGMA = 0.7  # voxels
_FIRST_SEED = 17


def make_fields(
    data: PackedSet, out: Path, *, targets: str, pairs: int, progress: Callable[[int, int], None]
) -> None:
    """Register ``pairs`` random ordered pairs of ``data`` and write their displacements into ``out`` (.npz).

    ``targets``: "gaussnewton" or "syn_demons", which needs antspyx. Raises UnavailableError without it.
    """
    teach = TEACHERS[targets]()
    rows = random_pairs(len(data), pairs)
    found = []
    for number, (fixed, moving) in enumerate(rows):
        with torch.no_grad():
            found.append(pack_displacement(teach(data, fixed, moving)).numpy())
        progress(number + 1, len(rows))
    contents = {
        "displacements": np.stack(found),
        "pairs": np.array(rows),
        "shape": np.array(data.images.shape[1:]),
        "ids": np.array(data.ids),
        "targets": np.array(targets),
    }

    def save(path: Path) -> None:
        with path.open("wb") as stream:  # an open stream: numpy would append .npz to a temporary name
            np.savez_compressed(stream, allow_pickle=False, **contents)

    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, save, overwrite=True)


def random_pairs(subjects: int, pairs: int) -> list[tuple[int, int]]:
    """Different ordered pairs of two subjects, always the same; every subject is as often fixed as moving."""
    generator = torch.Generator().manual_seed(_FIRST_SEED)
    pairs = min(pairs, subjects * (subjects - 1))
    found: dict[tuple[int, int], None] = {}
    while len(found) < pairs:
        order = torch.randperm(subjects, generator=generator).tolist()
        found |= dict.fromkeys(zip(order, order[1:] + order[:1], strict=True))
    return list(found)[:pairs]


Teacher = Callable[[PackedSet, int, int], Tensor]
"""A packed set and the rows of fixed and moving -> displacement (1, 3, D, H, W) voxels."""


def _engine() -> Teacher:
    """The project's own engine, images at twice their resolution, so that its field has the packed grid."""
    method = _method("gaussnewton", iterations=_ENGINE)

    def teach(data: PackedSet, fixed: int, moving: int) -> Tensor:
        shape = data.images.shape[1:]
        pad = [side for n in reversed(shape) for side in (0, -n % 4)]
        padded = (F.pad(data.image(row), pad) for row in (fixed, moving))
        images = [field.upsample(image, tuple(2 * n for n in image.shape[2:])) for image in padded]
        found = method.predict(images[0], images[1]).displacement  # level 1: the packed grid
        return found[:, :, : shape[0], : shape[1], : shape[2]]

    return teach


def _syn_demons() -> Teacher:
    """The protocol of Cao et al.: SyN on intensities, then diffeomorphic demons on tissue maps from the labels."""
    syn, demons = _method("syn", spacing_mm=2.0), _method("demons", spacing_mm=2.0)

    def teach(data: PackedSet, fixed: int, moving: int) -> Tensor:
        first = syn.predict(data.image(fixed), data.image(moving)).displacement
        tissues = [tissue_map(data.label(row)) for row in (fixed, moving)]
        more = demons.predict(tissues[0], field.warp(tissues[1], first)).displacement
        return field.compose(first, more)

    return teach


TEACHERS: dict[str, Callable[[], Teacher]] = {"gaussnewton": _engine, "syn_demons": _syn_demons}


def tissue_map(labels: Tensor) -> Tensor:
    """DLMUSE labels (B, 1, D, H, W) -> smoothed map of background 0, fluid 1/3, grey matter 2/3, white matter 1."""
    table = torch.full((256,), 2 / 3)
    table[0] = 0.0
    table[list(_FLUID)] = 1 / 3
    table[list(_WHITE)] = 1.0
    return field.smooth(table[labels.long()], _TISSUE_SIGMA)


def _method(name: str, **options: object) -> Method:
    kind: Any = find(METHODS, name, kind="method").load()
    method: Method = kind(kind.Config(**options))
    return method
