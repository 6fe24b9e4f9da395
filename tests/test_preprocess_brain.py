"""Foreground and brain masks on phantoms with a known answer."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from neuroreg.errors import DataError
from neuroreg.preprocess.brain import (
    background_value,
    brain_mask,
    close_and_fill,
    exceeds_brain,
    foreground,
    looks_stripped,
)
from neuroreg.volume import Geometry, Volume

GRID = Geometry(
    (70, 80, 60), (2.5, 2.5, 3.0), (-80.0, -100.0, -90.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
)


def ellipsoid(radii_mm: tuple[float, float, float]) -> torch.Tensor:
    offset = GRID.points() - GRID.centre_mm
    return ((offset / torch.tensor(radii_mm, dtype=torch.float64)) ** 2).sum(dim=-1)[None] <= 1


def brain_image(background: float = 0.0) -> Volume:
    texture = 1.0 + 0.2 * torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(1))
    return Volume(torch.where(ellipsoid((65.0, 80.0, 60.0)), texture, background), GRID)


def head_image() -> Volume:
    noise = 0.05 * torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(2))
    return Volume(torch.where(ellipsoid((80.0, 98.0, 88.0)), 1.0, noise), GRID)


@pytest.mark.parametrize("background", [0.0, -1024.0])
def test_a_brain_on_a_constant_background_is_stripped(background: float) -> None:
    image = brain_image(background)
    assert background_value(image.data) == background
    assert looks_stripped(image)
    assert torch.equal(foreground(image), ellipsoid((65.0, 80.0, 60.0)))


def test_a_head_in_noise_is_not_stripped() -> None:
    assert not looks_stripped(head_image())
    assert torch.equal(foreground(head_image()), ellipsoid((80.0, 98.0, 88.0)))


def test_a_head_on_a_zeroed_background_is_not_stripped() -> None:
    image = head_image()
    assert not looks_stripped(image.with_data(torch.where(image.data > 0.5, image.data, 0.0)))


def test_clefts_close_and_holes_fill_but_the_outline_stays() -> None:
    block = torch.zeros(14, 16, 18, dtype=torch.bool)
    block[2:12, 3:13, 2:16] = True
    damaged = block.clone()
    damaged[2:12, 3:8, 8:10] = False  # a cleft two voxels wide, open at one side
    damaged[4:10, 9:12, 11:15] = False  # a hole too large to close, but enclosed
    assert torch.equal(close_and_fill(damaged, radius=1), block)
    open_bay = block.clone()
    open_bay[2:12, 3:8, 6:12] = False
    assert torch.equal(close_and_fill(open_bay, radius=1), open_bay)


def test_brain_mask_is_a_label_map_on_the_same_grid() -> None:
    image = brain_image()
    data = image.data.clone()
    data[:, 28:32, 38:42, 33:37] = 0.0
    mask = brain_mask(image.with_data(data))
    assert mask.is_label
    assert mask.geometry == GRID
    assert torch.equal(mask.data.bool(), ellipsoid((65.0, 80.0, 60.0)))


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(DataError, match="nothing above"):
        foreground(Volume(torch.zeros(1, *GRID.shape), GRID))


def test_what_exceeds_a_brain() -> None:
    head = head_image()
    assert exceeds_brain(head)  # noise all around
    assert exceeds_brain(head.with_data(torch.where(head.data > 0.5, head.data, 0.0)))  # 2.9 litres
    assert not exceeds_brain(head, ellipsoid((65.0, 80.0, 60.0)))  # 1.3 litres of it count
    assert exceeds_brain(head, torch.ones_like(head.data, dtype=torch.bool))
    assert not exceeds_brain(brain_image())
    # a mask that is true in the background too, as masks that leave out a lesion often are
    assert not exceeds_brain(brain_image(), torch.ones(1, *GRID.shape, dtype=torch.bool))
    small = brain_image()  # a child's, a monkey's: small is not more
    assert not exceeds_brain(small.with_data(torch.where(ellipsoid((20.0, 20.0, 20.0)), small.data, 0.0)))


@pytest.mark.parametrize("corner", [(0, 0, 0), (9, 4, 6)])
def test_closing_and_filling_is_scipys_wherever_the_mask_lies(corner: tuple[int, int, int]) -> None:
    mask = torch.zeros(31, 27, 29, dtype=torch.bool)
    d, h, w = corner
    mask[d : d + 20, h : h + 22, w : w + 21] = (
        torch.rand(20, 22, 21, generator=torch.Generator().manual_seed(7)) < 0.08
    )
    solid = ndimage.binary_closing(np.pad(mask.numpy(), 4), np.ones((5, 5, 5)))
    expected = ndimage.binary_fill_holes(solid)[4:-4, 4:-4, 4:-4]
    assert expected.sum() > mask.sum() + 100
    assert torch.equal(close_and_fill(mask[None], radius=2)[0], torch.from_numpy(expected))
    assert not bool(close_and_fill(torch.zeros(1, 8, 8, 8, dtype=torch.bool), radius=2).any())
