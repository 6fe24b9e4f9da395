"""Masks on their way through the alignment: what a lesion does to the field, and what a mask of it saves."""

import math

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.methods.base import Prediction
from neuroreg.methods.gaussnewton import GaussNewton
from neuroreg.pipeline import align
from neuroreg.preprocess.conform import conform
from neuroreg.preprocess.synthesis import smooth_noise
from neuroreg.refine import refine
from neuroreg.volume import Geometry, Volume

SHAPE = (56, 64, 60)
GRID = Geometry(SHAPE[::-1], (2.0, 2.0, 2.0), (-59.0, -63.0, -55.0))
LESION = (34.0, 30.0, 38.0)  # voxels (d, h, w), 6 voxels in radius


def known_field() -> Tensor:
    """A smooth displacement (1, 3, D, H, W) of up to two voxels, unlike along each axis."""
    d, h, w = (math.pi * x / n for x, n in zip(field.identity(SHAPE)[0], SHAPE, strict=True))
    bump = torch.sin(d) * torch.sin(h) * torch.sin(w)
    return torch.stack((1.8 * bump * torch.cos(h), -1.5 * bump, 2.0 * bump * torch.sin(w)))[None]


def distance(centre: tuple[float, float, float]) -> Tensor:
    """(D, H, W) voxels."""
    return (field.identity(SHAPE)[0] - torch.tensor(centre)[:, None, None, None]).norm(dim=0)


@pytest.fixture(scope="module")
def images() -> tuple[Volume, Volume, Volume]:
    """Fixed with a lesion, moving, and the mask of the fixed brain without the lesion; fixed(i) = moving(i + u)."""
    index = field.identity(SHAPE)
    radii, centre = torch.tensor([22.0, 27.0, 25.0]), torch.tensor([(n - 1) / 2 for n in SHAPE])
    brain = (((index[0] - centre[:, None, None, None]) / radii[:, None, None, None]) ** 2).sum(0) < 1
    texture = smooth_noise(SHAPE, 1, sigma=1.6, generator=torch.Generator().manual_seed(4))
    moving = torch.where(brain, (0.5 + 0.12 * texture[0, 0]).clamp(0.1, 1.0), 0.0)
    fixed = field.warp(moving[None, None], known_field())[0, 0]
    sick = distance(LESION) < 6
    blob = 0.9 + 0.1 * smooth_noise(SHAPE, 1, sigma=1.6, generator=torch.Generator().manual_seed(5))[0, 0]
    inside = (fixed > 0.05) & ~sick
    fixed = torch.where(sick, blob, fixed)
    volumes = [Volume(data[None], GRID) for data in (fixed, moving)]
    return volumes[0], volumes[1], Volume(inside[None].to(torch.uint8), GRID, is_label=True)


def error_around(prediction: Prediction, corner: Tensor) -> float:
    """Mean distance, voxels, from the known field up to five voxels outside the lesion."""
    shape = [2 * n for n in prediction.displacement.shape[2:]]
    found = prediction.at_level(0, tuple(shape))
    at = (field.identity(tuple(shape)) + corner[None, :, None, None, None]).contiguous()
    expected = field.sample(known_field(), at)
    far = (at[0] - torch.tensor(LESION)[:, None, None, None]).norm(dim=0)
    shell = (far >= 6) & (far < 11)
    return float((found - expected)[0].norm(dim=0)[shell].mean())


@pytest.mark.parametrize("refined", [False, True])
def test_a_lesion_masked_out_does_not_pull(images: tuple[Volume, Volume, Volume], refined: bool) -> None:
    fixed, moving, mask = images
    errors = []
    for given in (None, mask):
        pair = conform(fixed, moving, spacing_mm=2.0, divisor=8, fixed_mask=given)
        start = align._start(pair, align.Affine(torch.eye(4, dtype=torch.float64)), torch.device("cpu"))
        if refined:
            weights = align._weights(pair, torch.device("cpu"))
            found = refine(start, pair.fixed, pair.moving, preset="mid", weights=weights)
        else:
            found = align._run(GaussNewton(), pair, start, torch.device("cpu"))
        corner = (torch.tensor(pair.fixed_grid.origin) - torch.tensor(GRID.origin)).flip(0) / 2.0
        errors.append(error_around(found, corner))
    pulled, masked = errors
    assert masked < 0.4
    assert masked < 0.6 * pulled


def test_guides_keep_their_place_in_the_head_on_the_refinements_grid(
    images: tuple[Volume, Volume, Volume],
) -> None:
    """A guide that holds world coordinates still reads them, in mm, at the voxels of the finer grid."""
    fixed, moving, _ = images
    coarse = conform(fixed, moving, spacing_mm=2.0, divisor=16)
    fine = conform(fixed, moving, spacing_mm=1.0, divisor=8)

    def coordinates(grid: Geometry) -> Tensor:
        start = torch.tensor(grid.origin[::-1])[None, :, None, None, None]
        return field.identity(grid.shape) * grid.spacing[0] + start

    guide = coordinates(coarse.fixed_grid)
    zero = torch.zeros(1, 3, *coarse.fixed_grid.level(1).shape)
    start = Prediction(zero, affine=torch.eye(3, 4)[None], level=1, guides=(guide, -guide), guide_level=0)
    found = align._transfer(start, coarse, fine)
    assert found.guides is not None
    assert found.guide_level == 1
    expected = coordinates(fine.fixed_grid.level(1))
    inside = (slice(None), slice(None), *(slice(n // 4, -n // 4) for n in expected.shape[2:]))
    torch.testing.assert_close(found.guides[0][inside], expected[inside], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.guides[1][inside], -expected[inside], atol=1e-3, rtol=0)
