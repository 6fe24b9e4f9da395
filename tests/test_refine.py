"""Refinement: any start gets better or stays, lands on level 1, and has no folds."""

from __future__ import annotations

import pytest
import torch
from test_methods_gaussnewton import SHAPE, full, phantom, waves

from neuroreg import field
from neuroreg.errors import UsageError
from neuroreg.methods.base import Prediction
from neuroreg.refine import refine


def error(prediction: Prediction) -> float:
    """Mean distance to the true field inside the phantom, voxels."""
    where = (field.warp(phantom(), waves()) > 0)[:, 0]
    return float((full(prediction) - waves()).norm(dim=1)[where].mean())


@pytest.mark.parametrize("level", [0, 1, 2])
def test_improves_a_rough_start_on_any_level(level: int) -> None:
    moving = phantom()
    fixed = field.warp(moving, waves())
    u = 0.6 * waves()
    for _ in range(level):
        u = field.downsample(u) * 0.5
    start = Prediction(u, level=level)
    better = refine(start, fixed, moving, iterations=4)
    assert better.level == 1
    assert error(better) < 0.5 * error(start)


def test_more_iterations_and_presets() -> None:
    moving = phantom()
    fixed = field.warp(moving, waves())
    start = Prediction(torch.zeros(1, 3, *SHAPE))
    assert error(refine(start, fixed, moving, iterations=5)) < error(
        refine(start, fixed, moving, iterations=1)
    )
    assert error(refine(start, fixed, moving, preset="fast")) < error(start)


def test_zero_iterations_only_unfold() -> None:
    smooth = Prediction(field.downsample(waves()) * 0.5, level=1)
    moving = phantom()
    fixed = field.warp(moving, waves())
    assert torch.allclose(
        refine(smooth, fixed, moving, iterations=0).displacement, smooth.displacement, atol=1e-6
    )
    torn = Prediction(3.0 * torch.randn((1, 3, *SHAPE), generator=torch.Generator().manual_seed(0)))
    u = refine(torn, fixed, moving, iterations=0).displacement
    assert float(field.smallest_determinant(u).min()) > 0.0


def test_a_scan_onto_itself_stays_where_it_is_whatever_the_start() -> None:
    for start in (Prediction(0.3 * waves()), Prediction(torch.zeros(1, 3, *SHAPE))):
        found = refine(start, phantom(), phantom(), iterations=1)
        assert not bool(full(found).any())


def test_keeps_the_affine_and_drops_a_stale_inverse() -> None:
    moving = phantom()
    affine = torch.eye(3, 4)[None]
    start = Prediction(torch.zeros(1, 3, *SHAPE), inverse=torch.zeros(1, 3, *SHAPE), affine=affine)
    result = refine(start, moving, moving, iterations=1)
    assert result.affine is affine
    assert result.inverse is None


def test_refuses_unknown_presets_and_negative_counts() -> None:
    start = Prediction(torch.zeros(1, 3, *SHAPE))
    with pytest.raises(UsageError, match="Did you mean 'mid'"):
        refine(start, phantom(), phantom(), preset="midd")
    with pytest.raises(UsageError, match="negative"):
        refine(start, phantom(), phantom(), iterations=-1)
