"""Intensity scaling, by hand."""

import pytest
import torch

from neuroreg.errors import DataError
from neuroreg.preprocess.intensity import percentile, scale


def test_percentile_is_the_order_statistic() -> None:
    values = torch.arange(1.0, 201.0)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert percentile(values.reshape(10, 20), 99.0) == 198.0
    assert percentile(torch.tensor([7.0]), 99.0) == 7.0


def test_scale_divides_by_the_99th_percentile_of_what_is_above_0() -> None:
    data = torch.cat((torch.zeros(500), -torch.ones(5), torch.arange(1.0, 101.0), torch.tensor([1000.0])))
    scaled = scale(data.reshape(1, 1, 1, -1))
    assert scaled.dtype == torch.float32
    assert float(scaled[0, 0, 0, 505 + 49]) == pytest.approx(
        50 / 100
    )  # rank 100 of 101 positive values is 100
    assert float(scaled.max()) == pytest.approx(1.275)
    assert float(scaled.min()) == 0.0


def test_a_mask_chooses_the_voxels_that_count() -> None:
    data = torch.cat((torch.full((100,), 2.0), torch.full((100,), 50.0)))
    assert float(scale(data, torch.arange(200) < 100)[0]) == 1.0


def test_nothing_above_zero_is_refused() -> None:
    with pytest.raises(DataError, match="above 0"):
        scale(torch.zeros(2, 3, 4))
