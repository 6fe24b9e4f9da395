"""The affine against known affines, laws of its families and its metrics."""

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.methods.affine import AffineMethod
from neuroreg.methods.base import Prediction

SHAPE = (44, 52, 40)


def centre(shape: tuple[int, ...]) -> Tensor:
    return torch.tensor([(n - 1) / 2 for n in shape], dtype=torch.float64)


def head(affine: Tensor | None = None, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """An ellipsoid with lopsided blobs, read at affine (1, 3, 4) of the voxels: (1, 1, D, H, W) in 0..1."""
    index = field.identity(shape, dtype=torch.float64)
    if affine is not None:
        index = field.affine_index(affine, index)
    at = [index[:, a] - (n - 1) / 2 for a, n in enumerate(SHAPE)]
    image = torch.sigmoid(4 * (1 - (at[0] / 15) ** 2 - (at[1] / 19) ** 2 - (at[2] / 13) ** 2))
    generator = torch.Generator().manual_seed(5)
    for _ in range(40):
        spot = (torch.rand(3, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor(
            [24.0, 30.0, 20.0]
        )
        size = 2.0 + 2.0 * float(torch.rand(1, generator=generator))
        sign = -0.5 if float(torch.rand(1, generator=generator)) < 0.6 else 0.3
        bump = torch.exp(-sum((x - s) ** 2 for x, s in zip(at, spot, strict=True)) / (2 * size**2))
        image = image * (1 + sign * bump)
    return image[:, None].to(torch.float32).clamp(0, 1.2)


def known(
    degrees: float, axis: tuple[float, float, float], scales: tuple[float, float, float], shear: float = 0.0
) -> Tensor:
    """An affine (1, 3, 4) about the middle of the grid, with a shift."""
    w = (
        torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
        * degrees
        * torch.pi
        / 180
    )
    x, y, z = w.tolist()
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    linear = turn @ torch.diag(torch.tensor(scales, dtype=torch.float64))
    linear[0, 1] += shear
    shift = torch.tensor([1.5, -2.0, 1.0], dtype=torch.float64)
    offset = centre(SHAPE) + shift - linear @ centre(SHAPE)
    return torch.cat((linear, offset[:, None]), dim=1)[None]


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest distance, voxels, between what two affines do to the brain's extreme points."""
    corners = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0])] * 3)).to(torch.float64) * torch.tensor(
        [9.0, 11.0, 8.0]
    )
    points = (corners + centre(SHAPE)).T[None]
    difference = field.affine_index(found.to(torch.float64), points) - field.affine_index(expected, points)
    return float(difference.norm(dim=1).max())


def pair(truth: Tensor) -> tuple[Tensor, Tensor]:
    """fixed(i) = moving(truth(i))."""
    return head(truth), head()


def test_an_affine_with_shears_is_recovered() -> None:
    truth = known(12.0, (1.0, -2.0, 0.5), (1.1, 0.92, 1.05), shear=0.06)
    found = AffineMethod().predict(*pair(truth))
    assert found.affine is not None
    assert gap(found.affine, truth) < 0.3
    assert float(found.displacement.abs().max()) == 0.0


@pytest.mark.parametrize("axis", [(1.0, 0.1, 0.0), (0.1, -1.0, 0.3), (0.0, 0.2, 1.0), (-1.0, 1.0, 1.0)])
def test_forty_degrees_are_recovered(axis: tuple[float, float, float]) -> None:
    truth = known(40.0, axis, (1.0, 1.0, 1.0))
    found = AffineMethod().predict(*pair(truth)).affine
    assert found is not None
    assert gap(found, truth) < 0.3


def test_the_moving_grid_may_be_another() -> None:
    truth = known(8.0, (0.3, 1.0, -0.4), (1.05, 1.0, 0.95))
    fixed, moving = pair(truth)
    moving = torch.nn.functional.pad(moving, (9, 0, 2, 5, 12, 1))  # on d 12 before, on h 2, on w 9
    shifted = truth.clone()
    shifted[0, :, 3] += torch.tensor([12.0, 2.0, 9.0])
    found = AffineMethod().predict(fixed, moving).affine
    assert found is not None
    assert gap(found, shifted) < 0.3


@pytest.mark.parametrize("dof", [6, 7, 9])
def test_families_stay_families(dof: int) -> None:
    scales = {6: (1.0, 1.0, 1.0), 7: (1.08, 1.08, 1.08), 9: (1.1, 0.92, 1.04)}[dof]
    truth = known(12.0, (1.0, 0.4, -0.6), scales)
    found = AffineMethod(AffineMethod.Config(dof=dof)).predict(*pair(truth)).affine
    assert found is not None
    assert gap(found, truth) < 0.3
    gram = (found[0, :, :3].mT @ found[0, :, :3]).to(torch.float64)
    sizes = gram.diagonal().sqrt()
    assert float((gram - torch.diag(gram.diagonal())).abs().max()) < 1e-5  # columns at right angles
    if dof == 6:
        torch.testing.assert_close(sizes, torch.ones_like(sizes), atol=1e-5, rtol=0)
    if dof == 7:
        assert float(sizes.max() - sizes.min()) < 1e-5


def test_another_contrast_by_mutual_information() -> None:
    truth = known(10.0, (1.0, -0.5, 0.3), (1.04, 0.97, 1.0))
    fixed, moving = pair(truth)
    inside = (moving > 0.05).to(moving.dtype)
    found = AffineMethod(AffineMethod.Config(metric="mi")).predict(fixed, inside * (1.3 - moving) ** 2).affine
    assert found is not None
    assert gap(found, truth) < 0.5


def test_what_a_mask_leaves_out_has_no_say() -> None:
    truth = known(10.0, (1.0, 2.0, 0.5), (1.03, 0.97, 1.0))
    fixed, moving = pair(truth)
    mask = torch.ones_like(fixed, dtype=torch.bool)
    mask[..., 8:34, 14:40, 7:33] = False
    lesion = fixed.clone()
    lesion[..., 19:23, 25:29, 18:22] = 1.2  # beyond the reach of windows and pyramid from outside the mask
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=truth.to(torch.float32))
    clean, spoilt = (
        AffineMethod().predict(x, moving, start, fixed_mask=mask).affine for x in (fixed, lesion)
    )
    assert clean is not None
    assert spoilt is not None
    torch.testing.assert_close(spoilt, clean, atol=1e-6, rtol=0)
    assert gap(clean, truth) < 1.0


def test_a_mask_on_one_side_alone_is_enough() -> None:
    # a shoulder that makes up half of the mass, not where the affine says: only what the mask holds must fit
    truth = known(10.0, (1.0, 2.0, 0.5), (1.03, 0.97, 1.0))
    d, h, w = field.identity((*SHAPE[:2], 60))[0]
    fixed, moving = (torch.nn.functional.pad(x, (20, 0)) for x in pair(truth))
    fixed = fixed + 0.9 * (((d - 20) / 12) ** 2 + ((h - 20) / 14) ** 2 + ((w - 8) / 7) ** 2 < 1)
    moving = moving + 0.9 * (((d - 25) / 14) ** 2 + ((h - 32) / 12) ** 2 + ((w - 6) / 6) ** 2 < 1)
    mask = (w >= 20)[None, None].expand_as(fixed)
    found = AffineMethod().predict(fixed, moving, fixed_mask=mask).affine
    assert found is not None
    shift = torch.tensor([0.0, 0.0, 20.0], dtype=torch.float64)
    shifted = truth.clone()
    shifted[0, :, 3] += shift - truth[0, :, :3] @ shift
    points = (
        torch.cartesian_prod(*([torch.tensor([-9.0, 9.0])] * 3)).to(torch.float64) + centre(SHAPE) + shift
    ).T
    apart = field.affine_index(found.to(torch.float64), points[None]) - field.affine_index(
        shifted, points[None]
    )
    assert float(apart.norm(dim=1).max()) < 0.5


def test_a_start_is_improved_on() -> None:
    truth = known(14.0, (1.0, -2.0, 0.5), (1.06, 0.96, 1.02))
    near = truth.clone()
    near[0, :, 3] += torch.tensor([1.0, -1.0, 1.0])
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=near.to(torch.float32))
    found = AffineMethod().predict(*pair(truth), start).affine
    assert found is not None
    assert gap(found, truth) < 0.3


def test_swapping_the_pair_inverts_the_affine() -> None:
    truth = known(9.0, (0.2, -1.0, 0.5), (1.05, 0.97, 1.0))
    fixed, moving = pair(truth)
    there, back = AffineMethod().predict(fixed, moving).affine, AffineMethod().predict(moving, fixed).affine
    assert there is not None
    assert back is not None
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3] = back[0].to(torch.float64)
    assert gap((there[0].to(torch.float64) @ whole)[None], torch.eye(3, 4, dtype=torch.float64)[None]) < 0.4


def test_no_contrast_is_refused() -> None:
    with pytest.raises(DataError, match="moving image has no contrast"):
        AffineMethod().predict(head(), torch.zeros(1, 1, *SHAPE))
