"""Along which axes the network grids run: laws of rotations, storage orders and motions by header."""

import itertools

import pipeline_phantoms as phantoms
import pytest
import torch
from torch import Tensor

from neuroreg.methods.affine import AffineMethod
from neuroreg.preprocess.conform import affine_to_voxels, affine_to_world, conform
from neuroreg.preprocess.onto import own_axes
from neuroreg.transforms import Affine
from neuroreg.volume import IDENTITY_DIRECTION, Geometry, Volume

SIZE, SPACING = (60, 66, 56), (2.0, 2.0, 2.0)
AXES = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.48, -0.64, 0.6), (1.0, 1.0, 1.0))


def rotation(degrees: float, axis: tuple[float, float, float]) -> Tensor:
    """(3, 3) float64."""
    x, y, z = (
        torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
        * degrees
        * torch.pi
        / 180
    )
    skew = torch.stack((0 * x, -z, y, z, 0 * x, -x, -y, x, 0 * x)).reshape(3, 3)
    return torch.linalg.matrix_exp(skew)


def pointing(cosines: Tensor) -> Geometry:
    """A grid with these axes (3, 3) about the origin."""
    half = torch.tensor([(n - 1) / 2 * step for n, step in zip(SIZE, SPACING, strict=True)]).double()
    x, y, z = (-cosines @ half).tolist()
    return Geometry(SIZE, SPACING, (x, y, z), tuple(cosines.reshape(-1).tolist()))


def stored_ways(cosines: Tensor) -> list[Tensor]:
    """The same axes (3, 3) in all 48 orders and signs."""
    return [
        cosines[:, list(order)] * torch.tensor(signs, dtype=torch.float64)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]


def head_on(geometry: Geometry, move: Affine | None = None) -> Volume:
    """The phantom, moved, as a scanner with that grid sees it."""
    points = geometry.points()
    return Volume(phantoms.head(points if move is None else move.inverse()(points))[None], geometry)


def moved_by_header(image: Volume, move: Affine) -> Volume:
    """The same voxels elsewhere."""
    place = image.geometry
    cosines = move.matrix[:3, :3] @ torch.tensor(place.direction, dtype=torch.float64).reshape(3, 3)
    x, y, z = move(torch.tensor(place.origin, dtype=torch.float64)).tolist()
    there = Geometry(place.size, place.spacing, (x, y, z), tuple(cosines.reshape(-1).tolist()))
    return Volume(image.data, there)


def motion(degrees: float, axis: tuple[float, float, float] = AXES[2]) -> Affine:
    """A turn and a shift."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation(degrees, axis)
    matrix[:3, 3] = torch.tensor([21.0, -34.0, 55.5], dtype=torch.float64)
    return Affine(matrix)


def other_head() -> Affine:
    """What makes one head another."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation(4.0, AXES[3]) @ torch.diag(torch.tensor([1.04, 0.97, 1.02]).double())
    return Affine(matrix)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("degrees", [-44.0, 0.01, 30.0])
def test_axes_turned_by_less_than_45_degrees_are_found_however_they_are_stored(
    degrees: float, axis: tuple[float, float, float]
) -> None:
    turn = rotation(degrees, axis)
    for way in stored_ways(turn):
        found = torch.tensor(own_axes(pointing(way)), dtype=torch.float64).reshape(3, 3)
        torch.testing.assert_close(found, turn, rtol=0, atol=1e-12)


def test_axes_along_the_worlds_give_the_identity_to_the_last_bit() -> None:
    for way in stored_ways(torch.eye(3, dtype=torch.float64)):
        assert own_axes(pointing(way)) == IDENTITY_DIRECTION
        nearly = way + 9e-6 * torch.tensor([[0, 1, -1], [-1, 0, 1], [1, -1, 0]], dtype=torch.float64)
        assert own_axes(pointing(nearly)) == IDENTITY_DIRECTION


@pytest.mark.parametrize("degrees", [45.0, 60.0, 90.0, 180.0])
@pytest.mark.parametrize("axis", AXES)
def test_far_turns_and_ties_give_one_proper_rotation(
    degrees: float, axis: tuple[float, float, float]
) -> None:
    turn = rotation(degrees, axis)
    found = torch.tensor([own_axes(pointing(way)) for way in stored_ways(turn)]).double().reshape(-1, 3, 3)
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-6)
    assert float(torch.linalg.det(found[0])) == pytest.approx(1.0)
    # No voxel axis is more than 54.74 degrees (the corner of a cube) from the world axis that it stands for.
    assert float(found[0].diagonal().min()) > 1 / 3 - 1e-6


def test_sheared_axes_are_set_at_right_angles() -> None:
    slanted = (
        rotation(20.0, AXES[2])
        @ (torch.eye(3) + 1e-3 * torch.tensor([[0, 1.0, 0], [0, 0, 0], [0, 0, 0]])).double()
    )
    found = torch.tensor(own_axes(pointing(slanted)), dtype=torch.float64).reshape(3, 3)
    torch.testing.assert_close(found @ found.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float((found - slanted).abs().max()) < 1e-3


@pytest.mark.parametrize("spacing_mm", [2.0, 3.0])
def test_a_motion_by_header_moves_the_grid_and_nothing_else(spacing_mm: float) -> None:
    image, other = (
        head_on(pointing(torch.eye(3).double())),
        head_on(pointing(rotation(12.0, AXES[3])), other_head()),
    )
    plain, move = conform(image, other, spacing_mm=spacing_mm, divisor=8), motion(31.0)
    done = conform(
        moved_by_header(image, move), moved_by_header(other, move), spacing_mm=spacing_mm, divisor=8
    )
    assert torch.equal(done.fixed, plain.fixed)
    assert torch.equal(done.moving, plain.moving)
    assert torch.equal(done.moving_mask, plain.moving_mask)
    for after, before in ((done.fixed_grid, plain.fixed_grid), (done.moving_grid, plain.moving_grid)):
        torch.testing.assert_close(after.points(), move(before.points()), rtol=0, atol=1e-9)


def reordered(image: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same voxels where they lay, stored with the axes (x, y, z) in another order, some the other way round."""
    matrix = image.geometry.voxel_to_world[:, [*order, 3]].clone()
    data = image.data.permute(0, *(3 - order[k] for k in (2, 1, 0)))
    for axis, flip in enumerate(flips):
        if flip:
            data = data.flip(3 - axis)
            matrix[:, 3] += matrix[:, axis] * (data.shape[3 - axis] - 1)
            matrix[:, axis] *= -1
    size, (x, y, z) = data.shape[:0:-1], matrix[:3, 3].tolist()
    cosines = (matrix[:3, :3] / 2.0).reshape(-1).tolist()  # every spacing is 2 mm
    return Volume(data, Geometry((size[0], size[1], size[2]), SPACING, (x, y, z), tuple(cosines)))


def test_an_oblique_image_of_the_same_spacing_is_only_reordered() -> None:
    image = head_on(pointing(rotation(25.0, AXES[2])))
    plain = conform(image, image, spacing_mm=2.0, divisor=8)
    assert int((plain.fixed > 0).sum()) == int((image.data > 0).sum())
    for order, flips in (((2, 0, 1), (False, True, False)), ((1, 0, 2), (True, True, True))):
        again = conform(image, reordered(image, order, flips), spacing_mm=2.0, divisor=8)
        assert torch.equal(again.moving, plain.fixed)
        assert again.moving_grid.same_grid(plain.fixed_grid, tolerance_mm=1e-9)


def test_the_affine_search_starts_from_the_world_between_grids_that_are_turned_against_each_other() -> None:
    straight, turned = rotation(32.0, AXES[2]), rotation(-32.0, AXES[2])
    image = head_on(pointing(straight))
    pair = conform(image, head_on(pointing(turned)), spacing_mm=4.0, divisor=4)
    rest = Affine(torch.eye(4, dtype=torch.float64))
    turn = affine_to_voxels(rest, pair.fixed_grid, pair.moving_grid)[0, :, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    found = AffineMethod().predict(pair.fixed, pair.moving, turn=turn).affine
    assert found is not None
    world = affine_to_world(found, pair.fixed_grid, pair.moving_grid)
    points = pair.fixed_grid.points()[pair.fixed_mask[0, 0]]
    assert float((world(points) - points).norm(dim=1).mean()) < 0.5  # of 4 mm: one head, read on two grids
