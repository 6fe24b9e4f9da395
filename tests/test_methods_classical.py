"""Demons, SyN and Greedy find a known, lopsided deformation through a known affine: axes, signs and order are right."""

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import UnavailableError
from neuroreg.methods import METHODS
from neuroreg.methods.base import Method, Prediction

SHAPE = (36, 44, 40)
CLASSICAL = [
    pytest.param("demons"),
    pytest.param("syn", marks=pytest.mark.oracle),
    pytest.param("greedy", marks=pytest.mark.oracle),
]


def texture(index: Tensor) -> Tensor:
    """A smooth, positive function of positions (1, 3, D, H, W), zero far from the middle."""
    d, h, w = (index[:, a] - (n - 1) / 2 for a, n in enumerate(SHAPE))
    fade = torch.sigmoid(5 * (1 - (d / 14) ** 2 - (h / 18) ** 2 - (w / 16) ** 2))
    return (
        fade
        * (0.6 + 0.2 * torch.sin(d / 2.1 + 0.3 * h) + 0.2 * torch.cos(w / 2.6 - 0.2 * d) * torch.sin(h / 2.9))
    )[:, None]


def bump() -> Tensor:
    """A displacement (1, 3, D, H, W) voxels with another size in each component and another width on each axis."""
    d, h, w = (x - c for x, c in zip(field.identity(SHAPE)[0], (18.0, 20.0, 22.0), strict=True))
    shape = torch.exp(-(d**2) / 60 - h**2 / 110 - w**2 / 80)
    return torch.stack((1.2 * shape, -2.4 * shape, 1.8 * shape))[None]


def known_affine() -> Tensor:
    """(1, 3, 4), turned a little differently about each axis, to a moving grid that lies 3, -2, 1 voxels off."""
    linear = torch.tensor([[1.03, 0.05, -0.02], [-0.06, 0.97, 0.04], [0.03, -0.05, 1.01]])
    middle = torch.tensor([(n - 1) / 2 for n in SHAPE])
    offset = middle - linear @ middle + torch.tensor([3.0, -2.0, 1.0])
    return torch.cat((linear, offset[:, None]), dim=1)[None]


def load(name: str) -> Method:
    try:
        method = METHODS[name].load()
    except UnavailableError as error:
        pytest.skip(str(error))
    assert callable(method)
    made = method(method.Config())
    assert isinstance(made, Method)
    return made


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_known_deformation_is_found(name: str) -> None:
    truth, affine = bump(), known_affine()
    # moving(j) = texture(A^-1 j); fixed(i) = moving(A(i + u(i))) = texture(i + u(i))
    inverse = torch.linalg.inv(torch.cat((affine[0], torch.tensor([[0.0, 0.0, 0.0, 1.0]]))))[None, :3]
    moving = texture(field.affine_index(inverse, field.identity((44, 42, 42))))
    fixed = texture(field.identity(SHAPE) + truth)
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=affine)
    found = load(name).predict(fixed, moving, start)
    assert found.displacement.shape == (1, 3, *SHAPE)
    assert found.affine is not None
    torch.testing.assert_close(found.affine, affine)
    near = truth.norm(dim=1) > 1.0
    error = (found.displacement - truth).norm(dim=1)[near].mean()
    assert float(error) < 0.35 * float(truth.norm(dim=1)[near].mean())
    before = (field.warp(moving, torch.zeros_like(truth), affine=affine) - fixed)[:, 0][near].abs().mean()
    after = (field.warp(moving, found.displacement, affine=affine) - fixed)[:, 0][near].abs().mean()
    assert float(after) < 0.5 * float(before)
    if found.inverse is not None:
        back = field.compose(found.displacement, found.inverse)
        assert float(back.norm(dim=1)[near].mean()) < 0.3


def test_symmetric_demons_too() -> None:
    cls = METHODS["demons"].load()
    fixed, moving = texture(field.identity(SHAPE) + bump()), texture(field.identity(SHAPE))
    found = cls(cls.Config(variant="symmetric", iterations=(30, 20))).predict(fixed, moving)
    near = bump().norm(dim=1) > 1.0
    assert float((found.displacement - bump()).norm(dim=1)[near].mean()) < 0.35 * float(
        bump().norm(dim=1)[near].mean()
    )
