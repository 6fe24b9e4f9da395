"""The network grids, against laws of geometry and by hand."""

import itertools

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, UsageError
from neuroreg.preprocess.conform import (
    affine_to_voxels,
    affine_to_world,
    conform,
    network_grid,
    residual_to_world,
)
from neuroreg.transforms import Affine
from neuroreg.volume import Geometry, Volume


def turned(degrees: float) -> tuple[float, ...]:
    """A direction matrix turned about an oblique axis."""
    axis = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), dim=0)
    x, y, z = (axis * degrees * torch.pi / 180).tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return tuple(torch.linalg.matrix_exp(skew).reshape(-1).tolist())


def ball_in(
    geometry: Geometry, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Tensor:
    """(1, Z, Y, X) bool: an ellipsoid in world mm."""
    offset = geometry.points() - torch.tensor(centre, dtype=torch.float64)
    return ((offset / torch.tensor(radii, dtype=torch.float64)) ** 2).sum(dim=-1)[None] <= 1


def ramp(points: Tensor) -> Tensor:
    """A positive, asymmetric, linear function of LPS mm."""
    return 1.0 + points @ torch.tensor([0.004, -0.007, 0.002], dtype=torch.float64)


def phantom(geometry: Geometry) -> Volume:
    """A stripped ellipsoid, bigger than 0.3 L, with a linear intensity."""
    inside = ball_in(geometry, (12.0, -20.0, 31.0), (40.0, 55.0, 45.0))
    return Volume(torch.where(inside, ramp(geometry.points()), 0.0).to(torch.float32), geometry)


UPRIGHT = Geometry((52, 65, 56), (2.0, 2.0, 2.0), (-38.25, -84.5, -23.0))


def reoriented(volume: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same image with its voxel axes (x, y, z) permuted and flipped, lying where it lay."""
    g = volume.geometry
    dims = [3 - a for a in order]
    data = volume.data.permute(0, dims[2], dims[1], dims[0])
    columns = torch.tensor(g.direction, dtype=torch.float64).reshape(3, 3)[:, list(order)]
    origin = torch.tensor(g.origin, dtype=torch.float64)
    size, spacing = ([x[a] for a in order] for x in (g.size, g.spacing))
    for axis, flip in enumerate(flips):
        if flip:
            data = data.flip(3 - axis)
            origin = origin + columns[:, axis] * spacing[axis] * (size[axis] - 1)
            columns[:, axis] *= -1
    where = Geometry(tuple(size), tuple(spacing), tuple(origin.tolist()), tuple(columns.reshape(-1).tolist()))
    return Volume(data, where, is_label=volume.is_label)


@pytest.mark.parametrize("divisor", [4, 16])
@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_the_grid_holds_the_brain_and_its_margin(divisor: int, degrees: float) -> None:
    geometry = Geometry((80, 90, 70), (1.7, 1.5, 2.0), (-70.0, -60.0, -30.0), turned(degrees))
    front = ball_in(geometry, tuple(geometry.centre_mm.tolist()), (30.0, 45.0, 38.0))
    grid = network_grid(front, geometry, 2.0, divisor, 10.0, aligned_with=geometry)
    assert all(n % divisor == 0 for n in grid.size)
    assert grid.direction == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    points = geometry.points()[front[0]]
    low, high = torch.tensor(grid.origin), torch.tensor(grid.origin) + 2.0 * (torch.tensor(grid.size) - 1)
    gap_low, gap_high = points.amin(dim=0) - low, high - points.amax(dim=0)
    assert float(torch.minimum(gap_low, gap_high).min()) >= 10.0 - 1e-6
    assert float((gap_low - gap_high).abs().max()) <= 4.0  # centred, but for the snap to the native centres
    assert (
        float(torch.maximum(gap_low, gap_high).max()) <= 10.0 + 2.0 * divisor / 2 + 4.0
    )  # just large enough


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 2))))
def test_an_image_of_the_same_spacing_is_only_reordered(order: tuple[int, int, int]) -> None:
    straight = phantom(UPRIGHT)
    flips = (order[0] == 1, order[1] != 1, order[2] == 0)
    other = reoriented(straight, order, flips)
    both = conform(straight, other, spacing_mm=2.0, divisor=8)
    assert both.fixed_grid == both.moving_grid
    torch.testing.assert_close(both.fixed, both.moving, rtol=0, atol=0)
    assert torch.equal(both.fixed_mask, both.moving_mask)
    # every voxel is one of the original's, divided by one number, at its own place
    index = both.fixed_grid.points()[both.fixed[0, 0] > 0] - torch.tensor(UPRIGHT.origin, dtype=torch.float64)
    index = index / 2.0
    assert float((index - index.round()).abs().max()) < 1e-9
    x, y, z = index.round().long().unbind(dim=1)
    ratio = straight.data[0, z, y, x] / both.fixed[both.fixed > 0]
    assert float(ratio.max() - ratio[both.fixed[both.fixed > 0] < 1.2].min()) < 1e-5
    assert int((both.fixed > 0).sum()) == int((straight.data > 0).sum())


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize("spacing_mm", [1.7, 4.0])
def test_values_stay_where_they_were_in_the_world(degrees: float, spacing_mm: float) -> None:
    geometry = Geometry((50, 75, 48), (2.2, 2.0, 2.4), (-50.0, -80.0, -40.0), turned(degrees))
    inside = ball_in(geometry, tuple(geometry.centre_mm.tolist()), (40.0, 55.0, 45.0))
    image = Volume(torch.where(inside, ramp(geometry.points()), 0.0).to(torch.float32), geometry)
    done = conform(image, image, spacing_mm=spacing_mm, divisor=4)
    deep = ball_in(done.fixed_grid, tuple(geometry.centre_mm.tolist()), (30.0, 45.0, 35.0))[0]
    expected = ramp(done.fixed_grid.points()[deep])
    found = done.fixed[0, 0][deep].to(torch.float64)
    scale = expected.sum() / found.sum()
    assert (
        float((found * scale - expected).abs().max()) < 2e-4
    )  # smoothing and reading keep a linear function
    assert float(done.fixed_mask[0, 0][deep].float().mean()) == 1.0


def test_fine_texture_does_not_alias() -> None:
    geometry = Geometry((50, 55, 48), (2.0, 2.0, 2.0), (-50.0, -55.0, -48.0))
    x, y, z = geometry.points().unbind(dim=-1)
    board = 1.0 + 0.5 * (-1.0) ** ((x + y + z - 1) / 2).round()
    inside = ball_in(geometry, (0.0, 0.0, 0.0), (43.0, 47.0, 41.0))
    image = Volume(torch.where(inside, board, 0.0).to(torch.float32), geometry)
    done = conform(image, image, spacing_mm=4.0, divisor=4)
    deep = ball_in(done.fixed_grid, (0.0, 0.0, 0.0), (27.0, 31.0, 25.0))[0]
    values = done.fixed[0, 0][deep]
    assert (
        float(values.std() / values.mean()) < 0.02
    )  # plain subsampling would see only one colour: mean 0.5 or 1.5
    assert float(values.mean() / done.fixed.max()) > 0.6


def test_masks_and_intensities() -> None:
    image = phantom(UPRIGHT)
    holed = image.data.clone()
    holed[0, 25:31, 30:36, 25:31] = 0
    part = Geometry((40, 50, 30), (1.5, 1.5, 1.5), (-20.0, -50.0, 5.0))
    mask = Volume(torch.ones(1, 30, 50, 40, dtype=torch.uint8), part, is_label=True)
    done = conform(image.with_data(holed), image, spacing_mm=2.0, divisor=4, moving_mask=mask)
    assert done.fixed_mask.dtype == torch.bool
    assert done.fixed_mask.shape == done.fixed.shape
    litres = 4 / 3 * torch.pi * 40 * 55 * 45 / 1e6
    assert float(done.fixed_mask.sum()) * 8e-6 == pytest.approx(litres, rel=0.04)  # the hole is filled
    assert float(done.moving_mask.sum()) * 8e-6 == pytest.approx(40 * 50 * 30 * 3.375e-6, rel=0.05)
    assert float(done.moving.max()) <= 1.275
    assert float(done.fixed.min()) == 0.0
    top = done.fixed[done.fixed_mask].sort().values
    assert float(top[int(0.99 * len(top))]) == pytest.approx(1.0, abs=0.02)


def test_negative_values_are_lifted_above_the_background() -> None:
    image = phantom(UPRIGHT)
    scores = torch.where(image.data > 0, (image.data - 1.0) / 0.2, 0.0)
    done = conform(image.with_data(scores), image, spacing_mm=2.0, divisor=4)
    pair = torch.stack((done.fixed, done.moving))[:, done.moving < 1.2][:, done.fixed_mask[done.moving < 1.2]]
    assert float(torch.corrcoef(pair)[0, 1]) > 0.999
    assert float(done.fixed[~done.fixed_mask].abs().max()) < 0.5


def test_affines_pass_the_gate_both_ways() -> None:
    fixed_grid = Geometry((12, 10, 14), (2.0, 2.0, 2.0), (-10.0, 5.0, 3.0))
    moving_grid = Geometry((16, 12, 10), (2.0, 2.0, 2.0), (80.0, -200.0, -150.0))
    affine = torch.tensor(
        [[[1.1, 0.1, -0.2, 3.0], [0.0, 0.9, 0.15, -2.0], [-0.05, 0.1, 1.0, 1.5]]], dtype=torch.float64
    )
    world = affine_to_world(affine, fixed_grid, moving_grid)
    torch.testing.assert_close(affine_to_voxels(world, fixed_grid, moving_grid), affine)
    d, h, w = 9, 4, 7
    target = affine[0, :, :3] @ torch.tensor([d, h, w], dtype=torch.float64) + affine[0, :, 3]
    expected = torch.tensor(moving_grid.origin, dtype=torch.float64) + 2.0 * target.flip(0)
    torch.testing.assert_close(world(fixed_grid.points()[d, h, w]), expected)
    assert isinstance(world, Affine)


@pytest.mark.parametrize("level", [0, 1])
def test_a_residual_fades_to_nothing_at_the_rim_without_folding(level: int) -> None:
    grid = Geometry((48, 56, 44), (1.0, 1.0, 1.0), (-20.0, -30.0, 10.0))
    shape = grid.level(level).shape
    noise = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(3))
    smooth = field.smooth(noise, 8.0 / 2**level)
    u = smooth / smooth.abs().max() * 7.0 / 2**level  # as wild as an unfolded field of 7 mm gets
    u = u + torch.tensor([-4.0, 3.0, 2.0]).reshape(1, 3, 1, 1, 1) / 2**level  # out of the grid at some faces
    assert float(field.jacobian_determinant(u).min()) > 0
    found = residual_to_world(u, level, grid)
    assert found.geometry == grid.level(level)
    for axis in (1, 2, 3):
        assert float(found.data.select(axis, 0).abs().max()) == 0.0
        assert float(found.data.select(axis, -1).abs().max()) == 0.0
    assert float(field.jacobian_determinant(found.to_voxels()).min()) > 0
    inner = slice(10 // 2**level, -10 // 2**level)
    kept = found.to_voxels()[..., inner, inner, inner] - u[..., inner, inner, inner]
    assert float(kept.abs().max()) < 1e-5


def test_refusals() -> None:
    image = phantom(UPRIGHT)
    spoilt = image.data.clone()
    spoilt[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        conform(image.with_data(spoilt), image, spacing_mm=2.0, divisor=4)
    with pytest.raises(DataError, match="empty"):
        conform(image.with_data(torch.zeros_like(image.data)), image, spacing_mm=2.0, divisor=4)
    with pytest.raises(DataError, match="one channel"):
        conform(image, image.with_data(torch.cat((image.data, image.data))), spacing_mm=2.0, divisor=4)
    with pytest.raises(UsageError, match="divisor"):
        conform(image, image, spacing_mm=2.0, divisor=0)
    with pytest.raises(DataError, match="span"):
        conform(image, image, spacing_mm=0.1, divisor=4)
    with pytest.raises(DataError, match="level 1"):
        residual_to_world(
            torch.zeros(1, 3, 8, 8, 8), 1, Geometry((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        )
