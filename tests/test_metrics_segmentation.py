"""Overlaps, surfaces, volumes and centroids: cases worked out by hand, then MONAI and SimpleITK as oracles."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from neuroreg.errors import DataError
from neuroreg.metrics.segmentation import FIGURES, dice, mean_dice, region_scores

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
    assert score.centroid_shift_mm == pytest.approx(gap, abs=1e-12)
    assert (score.jaccard, score.surface_dice, score.volume_difference_percent) == (0.0, 0.0, 0.0)


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
    assert score.jaccard == pytest.approx(27 / 45)
    assert score.centroid_shift_mm == pytest.approx(1.5)
    for tolerance, near in ((0.0, 24), (0.99, 24), (1.0, 25), (1.5, 34)):
        (score,) = region_scores(fixed, moved, spacing_mm=SPACING, tolerance_mm=tolerance)
        assert score.surface_dice == pytest.approx(near / 34)


def test_a_region_that_grows() -> None:
    fixed, moved = box((6, 6, 9), (1, 1, 1), (3, 3, 5)), box((6, 6, 9), (1, 1, 1), (3, 3, 8))
    (score,) = region_scores(fixed, moved, spacing_mm=SPACING)
    assert score.volume_difference_percent == pytest.approx(75.0)  # 4 to 7 voxels along x
    (back,) = region_scores(moved, fixed, spacing_mm=SPACING)
    assert back.volume_difference_percent == pytest.approx(-300 / 7)
    assert back.centroid_shift_mm == score.centroid_shift_mm == pytest.approx(1.5 * 1.5)


def test_a_spacing_in_single_precision_is_within_its_own_tolerance() -> None:
    spacing = float(np.float32(1.2))  # 1.2000000477
    fixed, moved = box((4, 4, 6), (1, 1, 1), (2, 2, 2)), box((4, 4, 6), (1, 1, 2), (2, 2, 3))
    (score,) = region_scores(fixed, moved, spacing_mm=(1.0, 1.0, spacing), tolerance_mm=1.2)
    assert score.surface_dice == 1.0


def test_exchanging_the_maps_changes_only_what_has_a_direction() -> None:
    generator = np.random.default_rng(8)
    fixed, moved = (random_regions(generator, (9, 12, 10)) for _ in range(2))
    there, back = (region_scores(*maps, spacing_mm=SPACING) for maps in ((fixed, moved), (moved, fixed)))
    for first, second in zip(there, back, strict=True):
        for figure in set(FIGURES) - {"fixed_mm3", "moved_mm3", "volume_difference_percent"}:
            assert getattr(first, figure) == pytest.approx(getattr(second, figure), abs=1e-12), figure
        assert (first.fixed_mm3, first.moved_mm3) == (second.moved_mm3, second.fixed_mm3)


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
    assert (scores[3].jaccard, scores[3].surface_dice, scores[3].volume_difference_percent) == (0, 0, -100)
    assert (scores[8].surface_dice, scores[8].volume_difference_percent) == (0, None)
    assert scores[3].hd_mm is scores[3].centroid_shift_mm is scores[8].centroid_shift_mm is None
    assert scores[3].fixed_mm3 == 6.0
    assert scores[11].dice is None
    assert scores[11].assd_mm is scores[11].jaccard is scores[11].surface_dice is None
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


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_a_tolerance_is_a_distance(tolerance: float) -> None:
    labels = box((3, 3, 4), (0, 0, 0), (1, 1, 1))
    with pytest.raises(DataError):
        region_scores(labels, labels, spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=tolerance)


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


def random_pairs(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, list[float], list[int]]]:
    """Two maps, an anisotropic spacing (z, y, x) and the ids both have."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(int(n) for n in generator.integers(8, 15, 3))
        spacing = [float(s) for s in generator.uniform(0.4, 1.2, 3)]
        fixed, moved = random_regions(generator, shape), random_regions(generator, shape)
        yield fixed, moved, spacing, sorted((set(np.unique(fixed)) & set(np.unique(moved))) - {0})


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::FutureWarning:monai", "ignore::DeprecationWarning")
def test_overlaps_and_distances_are_those_of_monai() -> None:
    pytest.importorskip("monai")
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_iou,
        compute_surface_dice,
    )

    compared = 0
    for fixed, moved, spacing, common in random_pairs(50, 20):
        tolerance = 0.77 * float(np.mean(spacing))
        scores = region_scores(fixed, moved, spacing_mm=spacing, ids=common, tolerance_mm=tolerance)
        one_hot = [torch.from_numpy(np.stack([x == k for k in common])[None]) for x in (fixed, moved)]
        with_background = {"include_background": True}
        options = {**with_background, "spacing": spacing}
        expected = {
            "dice": compute_dice(*one_hot, **with_background),
            "jaccard": compute_iou(*one_hot, **with_background),
            "hd_mm": compute_hausdorff_distance(*one_hot, **options),
            "hd95_mm": compute_hausdorff_distance(*one_hot, percentile=95, **options),
            "assd_mm": compute_average_surface_distance(*one_hot, symmetric=True, **options),
            "surface_dice": compute_surface_dice(*one_hot, [tolerance] * len(common), **options),
        }
        for name, values in expected.items():
            ours = [getattr(score, name) for score in scores]
            # MONAI works in float32: half a unit in its last place is 5e-7 of distances around 8 mm.
            np.testing.assert_allclose(ours, values[0].numpy(), rtol=1e-6, atol=1e-6, err_msg=name)
        compared += len(common)
    assert compared > 100


@pytest.mark.oracle
def test_overlaps_volumes_centroids_and_distances_are_those_of_simpleitk() -> None:
    compared = 0
    for fixed, moved, spacing, common in random_pairs(50, 21):
        scores = {s.label: s for s in region_scores(fixed, moved, spacing_mm=spacing, ids=common)}
        images = [itk(labels, spacing) for labels in (fixed, moved)]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        shapes = [sitk.LabelShapeStatisticsImageFilter() for _ in images]
        for shape, image in zip(shapes, images, strict=True):
            shape.Execute(image)
        for label in common:
            score, k = scores[label], int(label)
            volumes = [shape.GetPhysicalSize(k) for shape in shapes]
            shift = np.subtract(*(shape.GetCentroid(k) for shape in shapes))
            surfaces = sitk.HausdorffDistanceImageFilter()
            surfaces.Execute(*(itk(surface(labels == label), spacing) for labels in (fixed, moved)))
            expected = {
                "dice": overlap.GetDiceCoefficient(k),
                "jaccard": overlap.GetJaccardCoefficient(k),
                "hd_mm": surfaces.GetHausdorffDistance(),
                "fixed_mm3": volumes[0],
                "moved_mm3": volumes[1],
                "volume_difference_percent": 100 * (volumes[1] / volumes[0] - 1),
                "centroid_shift_mm": float(np.linalg.norm(shift)),
            }
            ours = {name: getattr(score, name) for name in expected}
            assert ours == pytest.approx(expected, rel=1e-6, abs=1e-6)
            compared += 1
    assert compared > 100


def itk(labels: np.ndarray, spacing_mm: list[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.SetSpacing(spacing_mm[::-1])
    return image


def surface(region: np.ndarray) -> np.ndarray:
    """The voxels that erosion by the six neighbours takes away, the outside of the image counting as another label."""
    return region & ~ndimage.binary_erosion(region)
