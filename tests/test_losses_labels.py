"""Label losses on maps small enough to count by hand."""

import pytest
import torch
from torch import Tensor

from neuroreg.losses import labels


def line(*ids: int) -> Tensor:
    """A label map (1, 1, 1, 1, N) uint8."""
    return torch.tensor(ids, dtype=torch.uint8).reshape(1, 1, 1, 1, -1)


def test_one_hot_has_a_channel_per_id_in_the_order_given() -> None:
    hot = labels.one_hot(line(0, 7, 200, 7), torch.tensor([200, 7, 9]))
    assert hot.dtype == torch.float32
    assert hot.reshape(3, 4).tolist() == [[0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_soft_dice_counted_by_hand() -> None:
    fixed = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0]]).reshape(1, 2, 1, 1, 4)
    moved = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1]]).reshape(1, 2, 1, 1, 4)
    # (2 * 1 + 1) / (3 + 1) and (0 + 1) / (2 + 1)
    assert float(labels.soft_dice(fixed, moved)) == pytest.approx(1 - (3 / 4 + 1 / 3) / 2)
    assert float(labels.soft_dice(fixed, moved, eps=1e-9)) == pytest.approx(1 - (2 / 3 + 0) / 2)
    assert float(labels.soft_dice(fixed, fixed)) == 0.0
    empty = torch.zeros(1, 2, 1, 1, 4)
    assert float(labels.soft_dice(empty, empty)) == 0.0


def test_soft_dice_is_a_mean_over_batch_and_channels() -> None:
    maps = torch.rand(2, 2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    each = [labels.soft_dice(maps[0, b : b + 1], maps[1, b : b + 1]) for b in range(2)]
    torch.testing.assert_close(labels.soft_dice(maps[0], maps[1]), torch.stack(each).mean())


def phantom() -> Tensor:
    """(1, 1, 6, 7, 8) with regions 2 and 9, clear of the border."""
    x = torch.zeros(1, 1, 6, 7, 8, dtype=torch.uint8)
    x[..., 1:3, 2:5, 2:4] = 2
    x[..., 3:5, 1:4, 3:6] = 9
    return x


def test_dice_of_rois_follows_the_pull_back_convention() -> None:
    moving = phantom()
    fixed = moving.roll((1, -1, 2), (2, 3, 4))  # fixed(i) = moving(i - (1, -1, 2))
    u = torch.tensor([-1.0, 1.0, -2.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 6, 7, 8).clone()
    ids = torch.tensor([2, 9])
    loss = labels.dice_of_rois(fixed, moving, u, ids)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(labels.dice_of_rois(fixed, moving, -u, ids)) > 0.5


def test_dice_of_rois_pulls_the_field_towards_overlap() -> None:
    moving = phantom()
    fixed = moving.roll(1, 4)
    u = torch.full((1, 3, 6, 7, 8), -0.5) * torch.tensor([0.0, 0, 1]).reshape(1, 3, 1, 1, 1)
    u.requires_grad_()
    labels.dice_of_rois(fixed, moving, u, torch.tensor([2, 9])).backward()
    assert float(u.grad[:, 2].sum()) > 0  # a smaller u, towards -1, lowers the loss


def test_ids_are_drawn_among_those_present_without_background_and_fluid() -> None:
    present = line(0, 1, 3, 3, 8, 200, 5)
    drawn = [labels.draw_ids(present, 2, torch.Generator().manual_seed(s)) for s in range(30)]
    assert {int(i) for ids in drawn for i in ids} == {3, 5, 8, 200}
    assert all(len(set(ids.tolist())) == 2 for ids in drawn)
    again = labels.draw_ids(present, 2, torch.Generator().manual_seed(4))
    assert torch.equal(again, drawn[4])
    assert sorted(labels.draw_ids(present, 50, None).tolist()) == [3, 5, 8, 200]
    assert len(labels.draw_ids(line(0, 1, 1), 3, None)) == 0


def test_no_regions_cost_nothing() -> None:
    u = torch.zeros(1, 3, 6, 7, 8, requires_grad=True)
    loss = labels.dice_of_rois(phantom(), phantom(), u, torch.tensor([], dtype=torch.long))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(u.grad.abs().max()) == 0.0
