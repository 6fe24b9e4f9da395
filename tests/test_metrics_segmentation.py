"""Dice and surface distances: cases worked out by hand, then MONAI as oracle."""

import math

import numpy as np
import pytest
import torch

from neuroreg.errors import DataError
from neuroreg.metrics.segmentation import dice, mean_dice, region_scores

SPACING = (2.0, 1.0, 1.5)  # (z, y, x)


def box(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...], label: int = 1) -> np.ndarray:
    labels = np.zeros(shape, dtype=np.int32)
    labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = label
    return labels


def test_two_single_voxels() -> None:
    fixed, moved = box((5, 6, 7), (1, 2, 3), (2, 3, 4), 9), box((5, 6, 7), (2, 2, 5), (3, 3, 6), 9)
    (score,) = region_scores(fixed, moved, spacing_mm=SPACING)
    gap = math.hypot(1 * 2.0, 2 * 1.5)
    assert (score.label, score.dice, score.status) == (9, 0.0, "ok")
    assert score.hd_mm == score.hd95_mm == score.assd_mm == pytest.approx(gap, abs=1e-12)
    assert score.fixed_mm3 == score.moved_mm3 == 3.0


def test_a_box_moved_by_one_voxel() -> None:
    # 3 x 3 x 4 voxels, one voxel along x (1.5 mm). The end planes x = 2 and x = 6 of the union are 9 voxels each
    # and lie 1.5 mm from the other surface. The rest of the fixed surface (x = 3, 4, 5) has the middle column
    # (1 voxel per plane) inside at x = 3, 4, so 8 + 8 + 9 voxels; moved is the mirror image.
    # fixed x=2: 9 at 1.5; x=3: 8 shared with moved's end plane -> 0; x=4: 8 shared -> 0; x=5 (end plane of fixed):
    # 8 rim voxels shared -> 0, its middle voxel is inside moved: nearest moved surface is 1 mm away along y.
    fixed, moved = box((7, 8, 9), (2, 2, 2), (5, 5, 6)), box((7, 8, 9), (2, 2, 3), (5, 5, 7))
    (score,) = region_scores(fixed, moved, spacing_mm=SPACING)
    assert score.dice == pytest.approx(2 * 27 / (36 + 36))
    assert score.hd_mm == pytest.approx(1.5)
    distances = [1.5] * 9 + [0.0] * 24 + [1.0]
    assert score.assd_mm == pytest.approx(sum(distances) / len(distances))
    assert score.hd95_mm == pytest.approx(np.quantile(distances, 0.95))
    assert score.fixed_mm3 == 36 * 3.0


def test_the_image_border_is_surface() -> None:
    fixed = np.ones((4, 4, 4), dtype=np.uint8)
    moved = box((4, 4, 4), (1, 1, 1), (3, 3, 3))
    (score,) = region_scores(fixed, moved, spacing_mm=(1.0, 1.0, 1.0))
    assert score.hd_mm == pytest.approx(math.sqrt(3))  # corner of the image to corner of the inner cube


def test_missing_regions_are_named_and_blank() -> None:
    fixed = box((5, 5, 6), (0, 0, 0), (1, 1, 2), 3) + box((5, 5, 6), (2, 2, 2), (4, 4, 4), 7)
    moved = box((5, 5, 6), (2, 2, 2), (4, 4, 4), 7) + box((5, 5, 6), (4, 4, 4), (5, 5, 5), 8)
    scores = {s.label: s for s in region_scores(fixed, moved, spacing_mm=SPACING, ids=[3, 7, 8, 11])}
    assert [s.status for s in scores.values()] == [
        "missing in moved",
        "ok",
        "missing in fixed",
        "missing in both",
    ]
    assert scores[3].dice == 0.0
    assert scores[3].hd_mm is None
    assert scores[3].fixed_mm3 == 6.0
    assert scores[11].dice is None
    assert scores[11].assd_mm is None
    assert scores[11].moved_mm3 == 0.0
    assert scores[7].dice == 1.0
    assert scores[7].hd_mm == 0.0
    assert mean_dice(fixed, moved, [3, 7, 8, 11]) == pytest.approx(1 / 3)
    assert math.isnan(dice(fixed, moved, [11])[11])


def test_large_ids_stay_apart() -> None:
    fixed, moved = np.zeros((2, 2, 3), dtype=np.int64), np.zeros((2, 2, 3), dtype=np.int64)
    fixed[0, 0], moved[0, 0] = 2**24, 2**24 + 1  # one number in float32
    assert dice(fixed, moved) == {2**24: 0.0, 2**24 + 1: 0.0}


def test_tensors_and_arrays_agree() -> None:
    generator = np.random.default_rng(3)
    fixed, moved = generator.integers(0, 4, (6, 5, 7)), generator.integers(0, 4, (6, 5, 7))
    assert dice(torch.from_numpy(fixed), torch.from_numpy(moved)) == dice(fixed, moved)
    expected = {}
    for k in (1, 2, 3):
        both = ((fixed == k) & (moved == k)).sum()
        expected[k] = 2 * both / ((fixed == k).sum() + (moved == k).sum())
    assert dice(fixed, moved) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fixed", "moved"),
    [
        (np.zeros((3, 3, 3), dtype=np.int16), np.zeros((3, 3, 4), dtype=np.int16)),
        (np.zeros((3, 3, 3)), np.zeros((3, 3, 3))),
    ],
)
def test_unusable_maps_are_refused(fixed: np.ndarray, moved: np.ndarray) -> None:
    with pytest.raises(DataError):
        region_scores(fixed, moved, spacing_mm=(1.0, 1.0, 1.0))


def random_regions(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Three overlapping boxes and ellipsoids with ragged rims, some touching the border of the image."""
    labels = np.zeros(shape, dtype=np.int32)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    for label in (1, 2, 3):
        centre = generator.uniform(0, 1, 3) * np.array(shape)
        radius = generator.uniform(0.15, 0.4, 3) * np.array(shape)
        distance = (((grid - centre[:, None, None, None]) / radius[:, None, None, None]) ** 2).sum(0)
        labels[distance + generator.normal(0, 0.15, shape) < 1] = label
    return labels


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::FutureWarning:monai", "ignore::DeprecationWarning")
def test_distances_are_those_of_monai() -> None:
    pytest.importorskip("monai")
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    generator = np.random.default_rng(20)
    compared = 0
    for _ in range(50):
        shape = tuple(int(n) for n in generator.integers(8, 15, 3))
        spacing = [float(s) for s in generator.uniform(0.4, 1.2, 3)]
        fixed, moved = random_regions(generator, shape), random_regions(generator, shape)
        common = sorted(set(np.unique(fixed)) & set(np.unique(moved)) - {0})
        scores = region_scores(fixed, moved, spacing_mm=spacing, ids=common)
        one_hot = [torch.from_numpy(np.stack([x == k for k in common])[None]) for x in (fixed, moved)]
        options = {"include_background": True, "spacing": spacing}
        expected = {
            "hd_mm": compute_hausdorff_distance(*one_hot, **options),
            "hd95_mm": compute_hausdorff_distance(*one_hot, percentile=95, **options),
            "assd_mm": compute_average_surface_distance(*one_hot, symmetric=True, **options),
        }
        for name, values in expected.items():
            ours = [getattr(score, name) for score in scores]
            # MONAI works in float32: half a unit in its last place is 5e-7 of distances around 8 mm.
            np.testing.assert_allclose(ours, values[0].numpy(), rtol=1e-6, atol=1e-6)
        compared += len(common)
    assert compared > 100
