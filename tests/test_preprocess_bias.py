"""N4 removes a known bias field from a phantom."""

import pytest
import torch

from neuroreg.errors import DataError
from neuroreg.preprocess.bias import n4
from neuroreg.volume import Geometry, Volume

GRID = Geometry(
    (44, 52, 40), (4.0, 3.5, 4.5), (-80.0, 30.0, -100.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
)


def test_a_known_bias_is_removed_and_the_scale_kept() -> None:
    offset = (GRID.points() - GRID.centre_mm) / 70.0
    radius = offset.norm(dim=-1)[None]
    tissue = torch.where(radius < 0.6, 1.0, 0.6) * (radius < 1)
    bias = torch.exp(0.35 * offset[..., 0] - 0.2 * offset[..., 1] * offset[..., 2])[None]
    fixed = n4(Volume((tissue * bias).to(torch.float32), GRID), shrink=2)
    assert fixed.geometry == GRID
    for low, high in ((0.0, 0.5), (0.7, 0.95)):
        part = (radius >= low) & (radius < high)
        before = (tissue * bias)[part]
        after = fixed.data[part]
        assert float(after.std() / after.mean()) < 0.35 * float(before.std() / before.mean())
    assert float(fixed.data[radius < 1].log().mean()) == pytest.approx(
        float((tissue * bias)[radius < 1].log().mean()), abs=1e-4
    )
    assert float(fixed.data[radius >= 1].abs().max()) == 0.0


def test_a_mask_on_another_grid_is_refused() -> None:
    image = Volume(torch.ones(1, *GRID.shape), GRID)
    other = Geometry(GRID.size, (4.0, 3.5, 4.4), GRID.origin, GRID.direction)
    with pytest.raises(DataError, match="another grid"):
        n4(image, Volume(torch.ones(1, *GRID.shape, dtype=torch.uint8), other, is_label=True))
    with pytest.raises(DataError, match="no voxel above 0"):
        n4(
            image.with_data(-image.data),
            Volume(torch.ones(1, *GRID.shape, dtype=torch.uint8), GRID, is_label=True),
        )
