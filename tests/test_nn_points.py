"""Soft centres and the closed-form affine: laws that hold for any points."""

import math

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.nn.points import Sighting, around, brain_around, centroids, chain, fit_affine

IDS = torch.tensor([3, 4, 9])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_affine(seed: int) -> Tensor:
    """(1, 3, 4), not mirrored, well away from the identity."""
    linear = torch.linalg.matrix_exp(0.5 * drawn(seed, 3, 3))
    return torch.cat((linear, 10 * drawn(seed + 1, 3, 1)), dim=1)[None]


def apply(affine: Tensor, points: Tensor) -> Tensor:
    return field.affine_index(affine, points.mT).mT


def test_a_single_bright_voxel_is_its_own_centre() -> None:
    logits = torch.full((1, 2, 4, 5, 6), -50.0)
    logits[0, 0, 1, 4, 2] = 50.0
    logits[0, 1, 3, 0, 5] = 50.0
    found = Sighting(logits, torch.zeros(3), step=2).centres
    torch.testing.assert_close(found, torch.tensor([[[2.0, 8.0, 4.0], [6.0, 0.0, 10.0]]]))


def test_equal_voxels_share_the_centre_also_in_half_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Sighting(torch.zeros(1, 1, 130, 3, 2, dtype=torch.bfloat16), torch.zeros(3), step=1).centres
    torch.testing.assert_close(found, torch.tensor([[[64.5, 1.0, 0.5]]]))


@pytest.mark.parametrize("seed", [0, 7])
def test_points_moved_by_an_affine_give_it_back(seed: int) -> None:
    source, affine = 20 * drawn(seed, 1, 12, 3), some_affine(seed + 3)
    weight = drawn(seed + 1, 1, 12).abs() + 0.1
    found = fit_affine(source, apply(affine, source), weight, tolerance=1.0, rounds=5, ridge=0.0)
    torch.testing.assert_close(found, affine, atol=1e-6, rtol=0)


def test_the_fit_moves_with_both_sets_of_points() -> None:
    # fit(source o outer^-1, inner(target)) = inner o fit o outer^-1, whatever the points
    source, target, weight = 9 * drawn(1, 1, 10, 3), 9 * drawn(2, 1, 10, 3), drawn(3, 1, 10).abs()
    inner, outer = some_affine(4), some_affine(6)
    plain = fit_affine(source, target, weight, ridge=0.0)
    torch.testing.assert_close(
        fit_affine(source, apply(inner, target), weight, ridge=0.0), chain(plain, inner), atol=1e-6, rtol=0
    )
    moved = fit_affine(apply(outer, source), target, weight, ridge=0.0)
    torch.testing.assert_close(chain(outer, moved), plain, atol=1e-6, rtol=0)


def test_equal_points_give_the_identity_whatever_the_ridge() -> None:
    points = 5 * drawn(0, 2, 6, 3)
    for ridge in (0.0, 1e-4, 1.0):
        found = fit_affine(points, points, torch.ones(2, 6), ridge=ridge)
        torch.testing.assert_close(found, torch.eye(3, 4, dtype=torch.float64).expand(2, 3, 4))


def test_what_the_points_leave_open_stays_a_shift() -> None:
    source = torch.zeros(1, 5, 3)
    source[0, :, 0] = torch.arange(5.0)  # on a line: nothing is known across it
    found = fit_affine(source, source + torch.tensor([1.0, 2.0, 3.0]), torch.ones(1, 5))
    shift = torch.tensor([[1.0], [2.0], [3.0]])
    torch.testing.assert_close(found.float()[0], torch.cat((torch.eye(3), shift), 1), atol=1e-4, rtol=0)


def test_a_point_without_weight_says_nothing_and_one_that_disagrees_fades() -> None:
    source, affine = 20 * drawn(5, 1, 30, 3), some_affine(8)
    target = apply(affine, source)
    target[0, 0] += 40.0
    weight = torch.ones(1, 30)
    plain = fit_affine(source, target, weight, ridge=0.0)
    faded = fit_affine(source, target, weight, tolerance=1.0, rounds=20, ridge=0.0)
    weight[0, 0] = 0.0
    torch.testing.assert_close(fit_affine(source, target, weight, ridge=0.0), affine, atol=1e-6, rtol=0)
    gaps = [
        float((apply(found, source) - apply(affine, source)).norm(dim=2).mean()) for found in (plain, faded)
    ]
    assert gaps[0] > 2.0
    assert gaps[1] < 0.01


def test_the_gradient_reaches_points_and_weights() -> None:
    source, target = drawn(0, 1, 8, 3).requires_grad_(), drawn(1, 1, 8, 3).requires_grad_()
    weight = drawn(2, 1, 8).abs().requires_grad_()
    fit_affine(source, target, weight, tolerance=1.0, rounds=3).square().sum().backward()
    assert all(x.grad is not None and bool(x.grad.abs().sum() > 0) for x in (source, target, weight))


def test_chained_affines_are_applied_one_after_the_other() -> None:
    first, then, points = some_affine(1), some_affine(2), drawn(3, 1, 4, 3)
    torch.testing.assert_close(apply(chain(first, then), points), apply(then, apply(first, points)))


def label_map() -> Tensor:
    labels = torch.zeros(1, 1, 6, 8, 10, dtype=torch.uint8)
    labels[0, 0, 1:3, 2, 4] = 3
    labels[0, 0, 4, 4:8, 6:8] = 4
    return labels


def test_centroids_are_those_counted_by_hand() -> None:
    centres, counts = centroids(label_map(), IDS)
    assert counts.tolist() == [[2, 8, 0]]
    torch.testing.assert_close(centres, torch.tensor([[[1.5, 2.0, 4.0], [4.0, 5.5, 6.5], [0.0, 0.0, 0.0]]]))


def test_a_sighting_knows_where_it_looked_and_how_sharp_it_could_be() -> None:
    labels = label_map()
    corner = torch.tensor([0, 2, 4])
    best = torch.full((1, 3, 3, 3, 3), -40.0)  # cells of 2 x 2 x 2 voxels from the corner on
    best[0, 0, 0, 0, 0] = best[0, 0, 1, 0, 0] = 0.0  # voxels 1 and 2 round to cells 0 and 1
    for d, h, w in ((2, 1, 1), (2, 1, 2), (2, 2, 1), (2, 2, 2)):
        best[0, 1, d, h, w] = 0.0
    seen = Sighting(best, corner, step=2)
    torch.testing.assert_close(seen.centres[0, 0], torch.tensor([1.0, 2.0, 4.0]), atol=1e-4, rtol=0)
    flat = Sighting(torch.zeros_like(best), corner, step=2)
    assert float(flat.surprise(labels, IDS)) == pytest.approx(2 / 3 * math.log(27))
    assert float(seen.surprise(labels, IDS)) < float(flat.surprise(labels, IDS))


def test_the_neighbourhood_of_a_ball_of_points_is_about_that_ball() -> None:
    shape, centre, radius = (64, 72, 60), torch.tensor([30.0, 40.0, 28.0]), 20.0
    inside = (field.identity(shape)[0] - centre[:, None, None, None]).norm(dim=0) < radius
    points = inside.nonzero().float()[::97]
    found = around(points, shape)
    assert found.shape == (1, 1, *shape)
    assert float((found[0, 0] & inside).sum() / inside.sum()) > 0.95
    assert float((found[0, 0] & ~inside).sum() / inside.sum()) < 1.0
    torch.testing.assert_close(found[0, 0].nonzero().float().mean(0), centre, atol=1.0, rtol=0)


def test_a_head_without_a_skull_is_all_brain() -> None:
    shape = (40, 48, 44)
    inside = (field.identity(shape)[0] - 21.0).norm(dim=0) < 15.0
    points, whole = inside.nonzero().float()[::97], torch.ones(1, 1, *shape)
    near = around(points, shape)
    assert not bool(near.all())
    assert torch.equal(brain_around(points, whole), near)
    assert bool(brain_around(points, inside[None, None].float()).all())
