"""What the page gets of a pair: the fixed grid, thinned where a page could not show it."""

import torch

from neuroreg.pipeline.case import _thinned, page_grid
from neuroreg.volume import Geometry, Volume

TURN = (0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0)


def test_an_ordinary_grid_is_shown_as_it_is() -> None:
    grid = Geometry((256, 320, 180), (1.0, 0.8, 1.2), (3.0, -2.0, 7.0), TURN)
    assert page_grid(grid) == grid


def test_of_a_giant_grid_some_voxels_are_shown_where_they_lie() -> None:
    grid = Geometry((7, 641, 321), (5.0, 0.4, 0.5), (3.0, -2.0, 7.0), TURN)
    data = torch.arange(7 * 641 * 321, dtype=torch.float32).reshape(1, *grid.shape)
    shown = _thinned(Volume(data, grid))
    assert shown.geometry.size == (7, 214, 161)  # 641 / 3 and 321 / 2, rounded up
    assert shown.geometry.spacing == (5.0, 0.4 * 3, 1.0)
    assert torch.equal(shown.data[0, 5, 4, 3], data[0, 10, 12, 3])
    here, there = (g.voxel_to_world @ torch.tensor([*v, 1.0], dtype=torch.float64) for g, v in (
        (shown.geometry, (3.0, 4.0, 5.0)), (grid, (3.0, 12.0, 10.0)),
    ))  # fmt: skip
    assert torch.allclose(here, there, atol=1e-9)
