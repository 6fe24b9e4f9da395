"""What masks leave out: lesions are filled, skulls go on both sides or on neither. Phantoms in a whole pair."""

import torch
from torch import Tensor

from neuroreg.preprocess.conform import conform
from neuroreg.volume import Geometry, Volume

GRID = Geometry((60, 70, 58), (3.0, 3.0, 3.0), (-90.0, -104.0, -86.0))
BRAIN_MM, SKULL_MM = (62.0, 78.0, 58.0), (80.0, 96.0, 78.0)
LESION = ((20.0, -10.0, 8.0), 15.0)


def ellipsoid(points: Tensor, radii_mm: tuple[float, float, float]) -> Tensor:
    return ((points / torch.tensor(radii_mm, dtype=torch.float64)) ** 2).sum(dim=-1) < 1


def lesion(points: Tensor) -> Tensor:
    return (points - torch.tensor(LESION[0], dtype=torch.float64)).norm(dim=-1) < LESION[1]


def image(*, skull: bool, sick: bool = False) -> Volume:
    """A brain of intensity about 0.5, if wanted in a skull of 0.9, if wanted with a lesion of 1.2."""
    points = GRID.points()
    data = torch.where(ellipsoid(points, BRAIN_MM), 0.5 + 0.001 * points[..., 0], 0.9 if skull else 0.0)
    data = torch.where(ellipsoid(points, SKULL_MM if skull else BRAIN_MM), data, 0.0)
    if sick:
        data = torch.where(lesion(points), 1.2, data)
    return Volume(data[None].to(torch.float32), GRID)


def mask(*, without_lesion: bool = False) -> Volume:
    inside = ellipsoid(GRID.points(), BRAIN_MM)
    inside = inside & ~lesion(GRID.points()) if without_lesion else inside
    return Volume(inside[None].to(torch.uint8), GRID, is_label=True)


def at(grid: Geometry, *, depth_mm: float) -> Tensor:
    """(1, 1, D, H, W): the skull's layer, its rims left out."""
    points, inner, outer = grid.points(), BRAIN_MM, SKULL_MM
    layer = ~ellipsoid(points, tuple(r + depth_mm for r in inner)) & ellipsoid(
        points, tuple(r - depth_mm for r in outer)
    )
    return layer[None, None]


def test_without_masks_all_is_seen_and_all_counts() -> None:
    done = conform(image(skull=True), image(skull=False), spacing_mm=3.0, divisor=8)
    assert done.fixed_counts is None
    assert done.blanked().fixed is done.fixed
    assert float(done.fixed[at(done.fixed_grid, depth_mm=4.0)].min()) > 0.9


def test_skulls_go_when_both_can() -> None:
    for moving, moving_mask in ((image(skull=True), mask()), (image(skull=False), None)):
        done = conform(
            image(skull=True), moving, spacing_mm=3.0, divisor=8, fixed_mask=mask(), moving_mask=moving_mask
        )
        layer = at(done.fixed_grid, depth_mm=4.0)
        assert float(done.fixed[layer].max()) == 0.0
        assert done.fixed_counts is not None
        assert bool(done.fixed_counts.all())  # an empty background is data, as around a stripped brain


def test_a_skull_stays_beside_a_skull_and_does_not_count() -> None:
    done = conform(image(skull=True), image(skull=True), spacing_mm=3.0, divisor=8, fixed_mask=mask())
    layer = at(done.fixed_grid, depth_mm=4.0)
    assert float(done.fixed[layer].min()) > 0.9
    assert done.fixed_counts is not None
    assert not bool(done.fixed_counts[layer].any())
    assert float(done.blanked().fixed[layer].max()) == 0.0
    assert torch.equal(done.blanked().moving, done.moving)


def test_a_lesion_is_filled_and_does_not_count() -> None:
    for skull in (False, True):
        done = conform(
            image(skull=skull, sick=True), image(skull=skull), spacing_mm=3.0, divisor=8,
            fixed_mask=mask(without_lesion=True), moving_mask=mask(),
        )  # fmt: skip
        points = done.fixed_grid.points()
        deep = ((points - torch.tensor(LESION[0], dtype=torch.float64)).norm(dim=-1) < LESION[1] - 3.0)[
            None, None
        ]
        assert done.fixed_counts is not None
        assert not bool(done.fixed_counts[deep].any())
        assert not bool(done.fixed_mask[deep].any())
        around = float(done.fixed[done.fixed_mask].mean())
        assert float((done.fixed[deep] - around).abs().max()) < 0.2 * around
        assert torch.equal(done.blanked().fixed, done.fixed)


def test_a_mask_of_a_region_leaves_the_rest_to_be_seen() -> None:
    points = GRID.points()
    region = Volume((points[..., 0] > 25.0)[None].to(torch.uint8), GRID, is_label=True)
    done = conform(image(skull=False), image(skull=False), spacing_mm=3.0, divisor=8, fixed_mask=region)
    plain = conform(image(skull=False), image(skull=False), spacing_mm=3.0, divisor=8)
    assert done.fixed_grid == plain.fixed_grid
    assert done.fixed_counts is not None
    left_out = ~done.fixed_counts
    assert float(done.fixed[left_out].min()) > 0.0
    assert float(done.blanked().fixed[left_out].max()) == 0.0
    assert float(left_out.sum()) * 27.0 > 0.5 * float(plain.fixed_mask.sum()) * 27.0
