"""Faces stay out of a page that can be turned around: the brain alone is shown where it is known.

Scans of whole heads identify people. What holds more than a brain is masked: by its own brain mask, by its labels, by
those of the other side of the registration, which lie on the same grid by then, or by the brain that the run found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg.errors import DataError, NoInputError
from neuroreg.pipeline.finished import FinishedRun
from neuroreg.preprocess import brain
from neuroreg.volume import Volume

_CLOSE_MM = 4.0  # clefts between labels up to this width are closed, lesions inside a mask filled
_SIDES = {"fixed": ("fixed", "moving"), "moving": ("moving", "fixed")}


@dataclass(frozen=True)
class Shown:
    """An image as a page may show it."""

    volume: Volume
    note: str | None = None
    """what was done to it, or what should be known of it"""
    whole_head: bool = False
    """skull and face are in it"""


def without_face(run: FinishedRun, side: str, volume: Volume) -> Shown:
    """The fixed or moved image (1, Z, Y, X) on the fixed grid, masked to the brain when it holds more than that.

    Unmasked, and said to be a whole head, when nothing tells where the brain is.
    """
    if not brain.exceeds_brain(volume):
        return Shown(volume)
    name = "moved" if side == "moving" else side
    missing: list[str] = []
    for source, inside in _brains(run, side, missing):
        outside = brain.background_value(volume.data)
        masked = torch.where(inside, volume.data, torch.full((), outside, dtype=volume.data.dtype))
        return Shown(volume.with_data(masked), f"the {name} image is masked to the brain by {source}")
    why = f" ({missing[0]})" if missing else ""
    note = f"the {name} image shows a whole head and no mask of its brain is known{why}: without 3-D view, yet private"
    return Shown(volume, note, whole_head=True)


def _brains(run: FinishedRun, side: str, missing: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(what it is, (1, Z, Y, X) bool on the fixed grid) of all that tells where the brain is, the best first."""
    for other in _SIDES[side]:
        for words in ("mask", "labels"):
            found = _on_fixed_grid(run, f"{other}_{words}", missing)
            inside = None if found is None else _solid(found)
            if inside is not None:
                yield f"the {other} {words}", inside
        image = None if other == side else _on_fixed_grid(run, other, missing)
        if image is not None and brain.looks_stripped(image):
            yield f"the {other} image, which has no skull", brain.brain_mask(image).data > 0
    inside = _found(run, missing) if run.recorded.config.find_brain else None
    if inside is not None:
        yield "the brain found in the fixed image", inside


def _found(run: FinishedRun, missing: list[str]) -> Tensor | None:
    """The brain in the fixed head, as the run found it; None when the run found none."""
    from neuroreg.pipeline.head_mask import NoBrainError, find_brain  # a network, only when it is needed

    image = _on_fixed_grid(run, "fixed", missing)
    try:
        return None if image is None or not brain.exceeds_brain(image) else find_brain(image).data > 0
    except NoBrainError as error:
        missing.append(str(error))
        return None


def _on_fixed_grid(run: FinishedRun, role: str, missing: list[str]) -> Volume | None:
    """An input there; None, and the reason in ``missing``, when its file is not found or another one by now."""
    try:
        if role.startswith("moving"):
            return run.moved(role)
        image = run.image(role)
    except (NoInputError, DataError) as error:
        missing.append(str(error))
        return None
    return None if image is None else image.volume


def _solid(labels: Volume) -> Tensor | None:
    """Everything above 0 without clefts and holes; None when that is no brain: a few regions, or a head."""
    radius = max(1, round(_CLOSE_MM / 2 / min(labels.geometry.spacing)))
    inside = brain.close_and_fill(labels.data > 0, radius=radius)
    litres = float(inside.sum()) * labels.geometry.voxel_volume_mm3 / 1e6
    return inside if brain.BRAIN_LITRES[0] <= litres <= brain.BRAIN_LITRES[1] else None
