"""Groups of regions: the union against the map it stands for, the mean against its regions."""

import numpy as np
import pytest

from neuroreg.metrics.groups import group_scores, layers, relabel
from neuroreg.metrics.segmentation import FIGURES, region_scores

SPACING = (2.0, 1.0, 1.5)


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 5, (7, 9, 8)), generator.integers(0, 5, (7, 9, 8))


def test_a_union_is_the_score_of_the_map_it_stands_for() -> None:
    fixed, moved = maps(4)
    groups = {"odd": (3, 1), "low": (1, 2), "one": (4,), "all": (1, 2, 3, 4), "none": (77,)}
    regions = region_scores(fixed, moved, spacing_mm=SPACING)
    found = group_scores(fixed, moved, groups, regions, spacing_mm=SPACING, tolerance_mm=1.0)
    assert [group.name for group in found] == list(groups)
    for group, labels in zip(found, groups.values(), strict=True):
        alone = [np.isin(each, labels).astype(int) for each in (fixed, moved)]
        (expected,) = region_scores(*alone, spacing_mm=SPACING, ids=(1,))
        for figure in FIGURES:
            assert getattr(group.union, figure) == getattr(expected, figure), (group.name, figure)
        assert group.union.status == expected.status
    one = next(region for region in regions if region.label == 4)
    assert [getattr(found[2].union, f) for f in FIGURES] == [getattr(one, f) for f in FIGURES]


def test_a_mean_is_over_the_regions_that_have_the_figure() -> None:
    # Dice 1 and 0 (missing in moved): the mean .5; distances exist for the first alone.
    fixed = np.zeros((4, 4, 6), dtype=int)
    fixed[1:3, 1:3, 1], fixed[0, 0, 4:] = 1, 2
    moved = np.where(fixed == 1, 1, 0)
    regions = region_scores(fixed, moved, spacing_mm=SPACING)
    (group,) = group_scores(fixed, moved, {"both": (1, 2)}, regions, spacing_mm=SPACING)
    assert (group.mean("dice"), group.mean("hd_mm")) == (0.5, 0.0)
    assert group.union.dice == pytest.approx(2 * 4 / (6 + 4))
    assert group.status == "1 of 2 regions missing"
    (empty,) = group_scores(fixed, moved, {"none": (9,)}, regions, spacing_mm=SPACING)
    assert (empty.mean("dice"), empty.status, empty.union.status) == (None, "no region", "missing in both")


def test_groups_without_a_common_label_share_a_layer() -> None:
    groups = {"lobe a": (1, 2), "lobe b": (3,), "grey": (1, 3), "white": (4, 2), "c": (5,)}
    assert layers(groups) == [["lobe a", "lobe b", "c"], ["grey", "white"]]


def test_labels_are_replaced_or_gone() -> None:
    labels = np.array([[0, 5, 2**40], [7, 5, 1]])
    assert relabel(labels, {5: 1, 2**40: 2}).tolist() == [[0, 1, 2], [0, 1, 0]]
    assert relabel(labels, {}).tolist() == [[0, 0, 0]] * 2
