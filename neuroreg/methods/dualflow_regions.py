"""Which DLMUSE regions ``dualflow`` segments together: seven groups, one foreground, or every region by itself."""

from itertools import chain
from typing import Literal

import torch
from torch import Tensor

RoiMode = Literal["grouped", "merged", "all"]

_SIZE = 256  # label ids are below this

# Ids of the right and the left side of a region stand side by side. Lobar white matter (81 to 88) goes with its lobe.
# Id 1, unlabelled fluid, belongs to no group; nor do ids without a name.
GROUPS: dict[str, tuple[int, ...]] = {
    "frontal": (
        *(81, 82, 104, 105, 112, 113, 118, 119, 120, 121, 124, 125, 136, 137, 140, 141, 142, 143, 146, 147),
        *(150, 151, 152, 153, 162, 163, 164, 165, 178, 179, 182, 183, 186, 187, 190, 191, 192, 193, 204, 205),
    ),
    "parietal": (85, 86, 106, 107, 148, 149, 168, 169, 174, 175, 176, 177, 194, 195, 198, 199),
    "occipital": (83, 84, 108, 109, 114, 115, 128, 129, 134, 135, 144, 145, 156, 157, 160, 161, 196, 197),
    "temporal": (
        *(87, 88, 116, 117, 122, 123, 132, 133, 154, 155, 170, 171, 180, 181, 184, 185, 200, 201, 202, 203),
        *(206, 207),
    ),
    "cingulate and insula": (100, 101, 102, 103, 138, 139, 166, 167, 172, 173),
    # basal ganglia, thalamus, hippocampus, amygdala, basal forebrain, fornix, capsules, callosum, ventricles
    "deep": (
        *(4, 11, 23, 30, 31, 32, 36, 37, 47, 48, 49, 50, 51, 52, 55, 56, 57, 58, 59, 60, 61, 62),
        *(75, 76, 89, 90, 91, 92, 93, 94, 95),
    ),
    "cerebellum and brain stem": (35, 38, 39, 40, 41, 71, 72, 73),
}
"""Name of a group -> DLMUSE ids."""


def classes(mode: RoiMode) -> int:
    """How many classes a segmentation has, background (class 0) included."""
    return {"grouped": len(GROUPS), "merged": 1, "all": len(_ids())}[mode] + 1


def class_of_label(mode: RoiMode) -> Tensor:
    """(256,) int64: the class of each label id; 0, background, for ids of no group."""
    table = torch.zeros(_SIZE, dtype=torch.long)
    if mode == "all":
        table[list(_ids())] = torch.arange(1, len(_ids()) + 1)
        return table
    for number, members in enumerate(GROUPS.values(), start=1):
        table[list(members)] = number if mode == "grouped" else 1
    return table


def _ids() -> tuple[int, ...]:
    return tuple(sorted(chain(*GROUPS.values())))
