"""The coarse-to-fine loop with heads whose answers are written down beforehand."""

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.nn.pyramid import register_pyramid

SHAPES = ((3, 4, 5), (6, 7, 10))


class Head:
    """Answers a given update and keeps what it was shown."""

    def __init__(self, update: Tensor) -> None:
        self.update = update
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, fixed: Tensor, moved: Tensor) -> Tensor:
        self.seen.append((fixed, moved))
        return self.update


def constant(shape: tuple[int, ...], *values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 3, 1, 1, 1).expand(1, 3, *shape).clone()


def features(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 2, *shape, generator=generator) for shape in SHAPES]


def test_no_update_is_the_identity_and_shows_the_moving_features_unchanged() -> None:
    heads = [Head(torch.zeros(1, 3, *shape)) for shape in SHAPES]
    fixed, moving = features(0), features(1)
    u, fields, updates = register_pyramid(fixed, moving, heads)
    assert u.shape == (1, 3, *SHAPES[1])
    assert float(u.abs().max()) == 0.0
    assert [tuple(x.shape[2:]) for x in fields] == [tuple(x.shape[2:]) for x in updates] == list(SHAPES)
    for head, f, m in zip(heads, fixed, moving, strict=True):
        torch.testing.assert_close(head.seen[0][0], f)
        torch.testing.assert_close(head.seen[0][1], m)


def test_updates_add_in_voxels_of_the_finer_level() -> None:
    heads = [Head(constant(SHAPES[0], 0.5, -1.0, 0.0)), Head(constant(SHAPES[1], 0.25, 0.0, 1.0))]
    u, fields, updates = register_pyramid(features(0), features(1), heads)
    torch.testing.assert_close(u, constant(SHAPES[1], 1.25, -2.0, 1.0))
    torch.testing.assert_close(fields[0], constant(SHAPES[0], 0.5, -1.0, 0.0))
    torch.testing.assert_close(updates[1], constant(SHAPES[1], 0.25, 0.0, 1.0))


def test_the_moving_features_are_warped_by_the_field_so_far() -> None:
    heads = [Head(constant(SHAPES[0], 0.5, 0.0, -1.0)), Head(torch.zeros(1, 3, *SHAPES[1]))]
    moving = features(1)
    register_pyramid(features(0), moving, heads)
    seen = heads[1].seen[0][1]
    torch.testing.assert_close(
        seen[..., :-1, :, 2:], moving[1][..., 1:, :, :-2]
    )  # moved(i) = moving(i + (1, 0, -2))


def test_an_update_is_composed_before_the_earlier_field() -> None:
    first = torch.randn(1, 3, *SHAPES[0], generator=torch.Generator().manual_seed(2))
    second = torch.randn(1, 3, *SHAPES[1], generator=torch.Generator().manual_seed(3))
    u, _, _ = register_pyramid(features(0), features(1), [Head(first), Head(second)])
    # u(i) = d(i) + up(i + d(i)), read at one voxel by hand
    up = field.upsample_field(first, SHAPES[1])
    at = torch.tensor([2.0, 3.0, 4.0]) + second[0, :, 2, 3, 4]
    expected = second[0, :, 2, 3, 4] + field.sample(up, at.reshape(1, 3, 1, 1, 1)).reshape(3)
    torch.testing.assert_close(u[0, :, 2, 3, 4], expected)


def test_the_feature_warp_carries_no_gradient_but_the_composition_does() -> None:
    class Reader(Head):
        def __call__(self, fixed: Tensor, moved: Tensor) -> Tensor:
            return moved.mean(1, keepdim=True).expand(-1, 3, -1, -1, -1)

    first = constant(SHAPES[0], 0.3, 0.2, -0.4).requires_grad_()
    moving = features(1)
    moving[1].requires_grad_()
    _, _, updates = register_pyramid(features(0), moving, [Head(first), Reader(first)])
    updates[1].sum().backward()
    assert first.grad is None
    assert moving[1].grad is not None
    u, _, _ = register_pyramid(features(0), moving, [Head(first), Head(torch.zeros(1, 3, *SHAPES[1]))])
    u.sum().backward()
    # a constant field is doubled at each of the fine voxels
    torch.testing.assert_close(first.grad.sum(), torch.tensor(2.0 * 3 * 6 * 7 * 10))


def test_half_precision_heads_leave_float32_fields() -> None:
    heads = [Head(constant(shape, 0.5, 0.0, 0.0).bfloat16()) for shape in SHAPES]
    half = [[f.bfloat16() for f in features(s)] for s in (0, 1)]
    u, fields, updates = register_pyramid(half[0], half[1], heads)
    assert {x.dtype for x in (u, *fields, *updates)} == {torch.float32}
    assert heads[1].seen[0][1].dtype == torch.float32


def test_as_many_heads_as_levels() -> None:
    with pytest.raises(ValueError, match="longer"):
        register_pyramid(
            features(0), features(1), [Head(torch.zeros(1, 3, *shape)) for shape in (*SHAPES, (1, 1, 1))]
        )
