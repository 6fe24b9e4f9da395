"""Groups of regions, such as lobes or tissues: each scored as one region made of many, and as the mean of its regions.

The two answer different questions. The union forgives what its regions exchange among themselves and is governed by
the large ones; the mean counts every region alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.metrics.segmentation import TOLERANCE_MM, Labels, RegionScore, region_scores


@dataclass(frozen=True, slots=True)
class GroupScore:
    """One group. ``members`` are the scores of its regions that exist in at least one map, or were asked for."""

    name: str
    union: RegionScore
    """all its labels as one region; its ``label`` says nothing"""
    members: tuple[RegionScore, ...]

    def mean(self, figure: str) -> float | None:
        """Mean of one figure over the regions that have it."""
        return mean_figure(self.members, figure)

    @property
    def status(self) -> str:
        """Of the mean: "ok", or how many of its regions are missing somewhere."""
        missing = sum(member.status != "ok" for member in self.members)
        if not self.members:
            return "no region"
        return f"{missing} of {len(self.members)} regions missing" if missing else "ok"


def mean_figure(scores: Sequence[RegionScore], figure: str) -> float | None:
    """Mean of one figure over the regions that have it; None when none has."""
    values = [value for value in (getattr(score, figure) for score in scores) if value is not None]
    return float(np.mean(values)) if values else None


def group_scores(
    fixed: Labels,
    moved: Labels,
    groups: Mapping[str, Sequence[int]],
    regions: Sequence[RegionScore],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[GroupScore, ...]:
    """Every group (name -> its labels, above 0), in order; a label may belong to several groups.

    The maps and ``spacing_mm`` as for ``region_scores``, whose result for single labels is ``regions``. Groups without
    a common label share one pass over the maps. Raises DataError as ``region_scores``.
    """
    first, second = (np.asarray(x.cpu() if torch.is_tensor(x) else x) for x in (fixed, moved))
    unions: dict[str, RegionScore] = {}
    for layer in layers(groups):
        lookup = {label: k for k, name in enumerate(layer, start=1) for label in groups[name]}
        scores = region_scores(
            relabel(first, lookup),
            relabel(second, lookup),
            spacing_mm=spacing_mm,
            ids=range(1, len(layer) + 1),
            tolerance_mm=tolerance_mm,
        )
        unions |= dict(zip(layer, scores, strict=True))
    found = {region.label: region for region in regions}
    return tuple(
        GroupScore(name, unions[name], tuple(found[label] for label in sorted(set(labels)) if label in found))
        for name, labels in groups.items()
    )


def layers(groups: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """The names of the groups, packed so that those of one layer have no label in common."""
    packed: list[tuple[set[int], list[str]]] = []
    for name, labels in groups.items():
        home = next((layer for layer in packed if layer[0].isdisjoint(labels)), None)
        if home is None:
            home = (set(), [])
            packed.append(home)
        home[0].update(labels)
        home[1].append(name)
    return [names for _, names in packed]


def relabel(labels: NDArray[np.integer], lookup: Mapping[int, int]) -> NDArray[np.int32]:
    """The map with each label replaced by what ``lookup`` has for it, and by 0 where it has nothing."""
    if not lookup:
        return np.zeros(labels.shape, dtype=np.int32)
    known = np.array(sorted(lookup), dtype=np.int64)
    replaced = np.array([lookup[label] for label in known.tolist()], dtype=np.int32)
    result = np.zeros(labels.shape, dtype=np.int32)
    here = labels != 0
    values = labels[here].astype(np.int64)
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    result[here] = np.where(known[place] == values, replaced[place], 0)
    return result
