"""Intensity scaling, by hand."""

import pytest
import torch

from neuroreg.errors import DataError
from neuroreg.preprocess.intensity import fill_in, percentile, scale


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


def test_what_is_unknown_is_made_up_from_around_it() -> None:
    d, h, w = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (40, 44, 48)), indexing="ij")
    ramp = (0.3 + 0.004 * d - 0.003 * h + 0.005 * w)[None, None]
    hole = ((d - 20) ** 2 + (h - 22) ** 2 + (w - 24) ** 2 < 8**2)[None, None]
    spoilt = torch.where(hole, 1.2, ramp)
    filled = fill_in(spoilt, hole, ~hole, spacing_mm=2.0)
    assert torch.equal(filled[~hole], ramp[~hole])
    # a ball is symmetric, so its middle gets the mean of the shell around it, which for a ramp is the middle's value
    assert float(filled[0, 0, 20, 22, 24]) == pytest.approx(float(ramp[0, 0, 20, 22, 24]), abs=1e-3)
    assert float((filled - ramp).abs().max()) < 0.04  # the ramp itself spans .08 across the ball
    assert torch.equal(fill_in(spoilt, hole & False, ~hole, spacing_mm=2.0), spoilt)


def test_what_is_out_of_reach_gets_the_mean() -> None:
    known = torch.zeros(1, 1, 60, 8, 8, dtype=torch.bool)
    known[:, :, :4] = True
    image = torch.where(known, 0.5, 9.0)
    image[:, :, 0] = 0.7
    filled = fill_in(image, ~known, known, spacing_mm=2.0)
    assert float(filled[0, 0, -1, 4, 4]) == pytest.approx((0.7 + 3 * 0.5) / 4)
