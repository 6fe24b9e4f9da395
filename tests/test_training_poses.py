"""Raw poses: drawn from a seed, each image by itself, image and labels together."""

import math

import pytest
import torch
from torch import Tensor
from training_phantoms import LEFT, NO_AUGMENTATION, RIGHT, SHAPE, toy_set

from neuroreg import field
from neuroreg.training.data import Augmentation
from neuroreg.training.poses import Poses, draw_pose, draw_raw_pair, placement, view

STILL = Poses(degrees=0, scale=1, shear=0, shift=0, stripped=0, rim=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_rotation_and_size_stay_within_their_bounds() -> None:
    poses = Poses(degrees=45, scale=1.25, shear=0)
    angles, sizes = [], []
    for seed in range(40):
        pose = draw_pose(poses, generator(seed)).double()
        size = float(torch.linalg.det(pose)) ** (1 / 3)
        turn = pose / size
        torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-5, rtol=0)
        angles.append(math.degrees(math.acos(min(1.0, (float(turn.trace()) - 1) / 2))))
        sizes.append(size)
    assert max(angles) <= 45.001
    assert max(angles) > 25
    assert min(sizes) >= 0.8 - 1e-4
    assert max(sizes) <= 1.25 + 1e-4
    assert max(sizes) - min(sizes) > 0.2


def test_without_poses_a_head_is_only_centred_on_its_brain() -> None:
    data = toy_set()
    pair = draw_raw_pair(data, STILL, NO_AUGMENTATION, generator())
    assert pair.fixed_labels is not None
    assert pair.fixed.shape == (1, 1, *SHAPE)
    inside = (pair.fixed_labels[0, 0] > 0).nonzero().float().mean(0)
    assert float((inside - (torch.tensor(SHAPE) - 1) / 2).abs().max()) < 0.3
    assert pair.fixed_mask is not None
    assert torch.equal(pair.fixed_mask, pair.fixed_labels > 0)


def test_the_same_seed_draws_the_same_pair_and_its_images_have_poses_of_their_own() -> None:
    data = toy_set(2)
    same = data.__class__(data.images[:1].repeat(2, 1, 1, 1), data.labels[:1].repeat(2, 1, 1, 1), data.ids,
                          data.geometry, data.mirror)  # fmt: skip
    first = draw_raw_pair(same, Poses(), NO_AUGMENTATION, generator(3))
    again = draw_raw_pair(same, Poses(), NO_AUGMENTATION, generator(3))
    assert torch.equal(first.fixed, again.fixed)
    assert torch.equal(first.moving, again.moving)
    assert float((first.fixed - first.moving).abs().max()) > 0.2


def within(index: Tensor) -> Tensor:
    """Where index (1, 3, D, H, W) lies between voxel centres, where nothing is repeated from the border."""
    last = torch.tensor(SHAPE).reshape(1, 3, 1, 1, 1) - 1
    return ((index >= 0) & (index <= last)).all(1, keepdim=True)


def test_one_view_of_a_head_is_another_one_through_both_affines() -> None:
    labels = toy_set().label(0)
    slope = torch.tensor([0.02, -0.01, 0.015]).reshape(1, 3, 1, 1, 1)
    image = (field.identity(SHAPE) * slope).sum(1, keepdim=True) + 0.5  # linear: interpolation is exact
    poses, drawn = Poses(degrees=30, shift=1.0), generator(1)
    here, there = (placement(labels, draw_pose(poses, drawn), poses.shift, drawn) for _ in range(2))
    (fixed, _), (moving, moving_labels) = view(image, labels, here), view(image, labels, there)
    back = torch.linalg.inv(there[:, :, :3])
    onto = torch.cat((back @ here[:, :, :3], back @ (here[:, :, 3:] - there[:, :, 3:])), dim=2)
    index = field.affine_index(onto, field.identity(SHAPE))
    restored = field.sample(moving, index, fill=0.0)
    seen = [within(field.affine_index(affine, field.identity(SHAPE))) for affine in (here, there)]
    sure = (field.sample(seen[1].float(), index, fill=0.0) > 0.999) & seen[0] & within(index)
    assert float(sure.float().mean()) > 0.3
    torch.testing.assert_close(restored[sure], fixed[sure], atol=1e-4, rtol=0)
    assert set(moving_labels.unique().tolist()) == set(labels.unique().tolist())


def test_a_level_halves_the_grid_and_keeps_the_place() -> None:
    data = toy_set()
    fine = draw_raw_pair(data, STILL, NO_AUGMENTATION, generator(5))
    coarse = draw_raw_pair(data, STILL, NO_AUGMENTATION, generator(5), level=1)
    assert coarse.fixed_labels is not None
    assert fine.fixed_labels is not None
    assert torch.equal(coarse.fixed_labels, fine.fixed_labels[..., ::2, ::2, ::2])
    assert coarse.fixed.shape == (1, 1, *(n // 2 for n in SHAPE))
    torch.testing.assert_close(coarse.fixed, field.downsample(fine.fixed), atol=0.1, rtol=0)


def test_mirrored_heads_swap_their_sides() -> None:
    data, always = toy_set(), NO_AUGMENTATION.model_copy(update={"mirror": 1.0})
    pair = draw_raw_pair(data, STILL, always, generator(2))
    plain = draw_raw_pair(data, STILL, NO_AUGMENTATION, generator(2))
    assert pair.fixed_labels is not None
    assert plain.fixed_labels is not None
    sides = {}
    for name, labels in (("mirrored", pair.fixed_labels), ("plain", plain.fixed_labels)):
        sides[name] = float((labels == LEFT).nonzero()[:, 4].float().mean()) - float(
            (labels == RIGHT).nonzero()[:, 4].float().mean()
        )
    assert sides["mirrored"] == pytest.approx(sides["plain"], abs=0.5)  # left stays left


@pytest.mark.parametrize("stripped", [0.0, 1.0])
def test_a_stripped_pair_is_bright_in_its_brain_alone(stripped: float) -> None:
    data = toy_set()
    skull = data.__class__((data.images.int() + 30).clamp(max=255).byte(), data.labels, data.ids, data.geometry,
                           data.mirror)  # fmt: skip
    pair = draw_raw_pair(skull, STILL.model_copy(update={"stripped": stripped}), NO_AUGMENTATION, generator())
    assert pair.fixed_mask is not None
    outside = pair.fixed[~pair.fixed_mask & (field.smooth(pair.fixed_mask.float(), 1.0) < 0.01)]
    assert (float(outside.max()) == 0.0) == bool(stripped)
    if stripped:
        assert float(pair.fixed[pair.fixed_mask].quantile(0.99)) == pytest.approx(1.0, abs=0.1)


def test_a_rim_is_lost_or_left_each_time_another() -> None:
    data, sizes = toy_set(), []
    bare = data.__class__((data.images.int() + 30).clamp(max=255).byte(), data.labels, data.ids, data.geometry,
                          data.mirror)  # fmt: skip
    for seed in range(6):
        poses = STILL.model_copy(update={"stripped": 1.0, "rim": 1.5})
        pair = draw_raw_pair(bare, poses, NO_AUGMENTATION, generator(seed))
        assert pair.fixed_mask is not None
        sizes.append(float((pair.fixed > 0).sum() / pair.fixed_mask.sum()))
    assert min(sizes) < 0.95
    assert max(sizes) > 1.05
    assert 0.4 < min(sizes) < max(sizes) < 2.0


def test_intensities_vary_as_those_of_aligned_pairs_do() -> None:
    data = toy_set()
    pair = draw_raw_pair(data, STILL, Augmentation(mirror=0), generator(4))
    plain = draw_raw_pair(data, STILL, NO_AUGMENTATION, generator(4))
    assert float((pair.fixed - plain.fixed).abs().max()) > 0.02
    assert bool((pair.fixed <= 1.275).all())
