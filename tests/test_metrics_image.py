"""Image similarity against closed forms."""

import math

import numpy as np
import pytest
import torch

from neuroreg.errors import DataError
from neuroreg.metrics.image import correlation, normalised_mutual_information, root_mean_square

GENERATOR = np.random.default_rng(11)
IMAGE = GENERATOR.uniform(0, 1, (7, 9, 5))


def test_correlation_ignores_scale_and_sees_sign() -> None:
    other = GENERATOR.uniform(0, 1, IMAGE.shape)
    assert correlation(IMAGE, 3 * IMAGE + 2) == pytest.approx(1.0)
    assert correlation(IMAGE, -IMAGE) == pytest.approx(-1.0)
    assert correlation(torch.from_numpy(IMAGE), other) == pytest.approx(
        np.corrcoef(IMAGE.ravel(), other.ravel())[0, 1]
    )
    assert math.isnan(correlation(IMAGE, np.ones_like(IMAGE)))


def test_root_mean_square_inside_the_mask() -> None:
    moved = IMAGE.copy()
    moved[2, 3, 1] += 3.0
    mask = np.zeros(IMAGE.shape, dtype=bool)
    mask[2, 3, :4] = True
    assert root_mean_square(IMAGE, moved, mask) == pytest.approx(math.sqrt(9 / 4))


def test_mutual_information_of_a_relabelling_and_of_a_checkerboard() -> None:
    # Four equally frequent values mapped one to one: H = H = H(both) = log 4, hence 2.
    first = np.tile(np.arange(4), 30).reshape(4, 5, 6)
    assert normalised_mutual_information(first, 3 - first, bins=4) == pytest.approx(2.0)
    # Independent: every combination of two values equally frequent, H(both) = H + H, hence 1.
    a, b = np.meshgrid([0, 1], [0, 1])
    assert normalised_mutual_information(a, b, bins=2) == pytest.approx(1.0)


def test_unequal_sizes_and_empty_masks_are_refused() -> None:
    with pytest.raises(DataError, match="differ in size"):
        correlation(IMAGE, IMAGE[1:])
    with pytest.raises(DataError, match="empty"):
        correlation(IMAGE, IMAGE, np.zeros(IMAGE.shape))
