"""Target registration errors by hand, and along a map."""

import math

import pytest
import torch

from neuroreg.errors import DataError
from neuroreg.metrics.landmarks import landmark_errors
from neuroreg.transforms import Affine

FIXED = {"ac": (1.0, 2.0, 3.0), "pc": (0.0, -20.0, 4.0), "only here": (0.0, 0.0, 0.0)}


def test_errors_by_hand() -> None:
    other = {"pc": (3.0, -20.0, 0.0), "only there": (9.0, 9.0, 9.0), "ac": (1.0, 2.0, 2.0)}
    found = landmark_errors(FIXED, other)
    assert found.errors_mm == pytest.approx({"ac": 1.0, "pc": 5.0})
    assert (found.count, found.mean_mm, found.median_mm, found.max_mm) == (2, 3.0, 3.0, 5.0)
    assert found.sd_mm == pytest.approx(math.sqrt(8.0))  # two values 2 mm from their mean, n - 1 = 1


def test_a_map_leads_fixed_points_to_the_moving_ones() -> None:
    matrix = torch.tensor(
        [[0, -1.1, 0, 4], [0.9, 0, 0, -7], [0, 0.2, 1, 2], [0, 0, 0, 1]], dtype=torch.float64
    )
    moving = {name: (-1.1 * y + 4, 0.9 * x - 7, 0.2 * y + z + 2) for name, (x, y, z) in FIXED.items()}
    assert landmark_errors(FIXED, moving, Affine(matrix)).max_mm == pytest.approx(0.0, abs=1e-12)
    assert landmark_errors(FIXED, moving).max_mm > 10.0
    assert landmark_errors(moving, FIXED, Affine(matrix).inverse()).max_mm == pytest.approx(0.0, abs=1e-12)


def test_one_landmark_has_no_spread_and_none_is_refused() -> None:
    assert landmark_errors({"a": (0.0, 0.0, 0.0)}, {"a": (0.0, 3.0, 4.0)}).sd_mm is None
    with pytest.raises(DataError, match="no landmark"):
        landmark_errors(FIXED, {"AC": (1.0, 2.0, 3.0)})
