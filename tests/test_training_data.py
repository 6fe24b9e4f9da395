"""The packed set, drawn pairs and their augmentation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_phantoms import LEFT, NO_AUGMENTATION, RIGHT, SHAPE, save_pack, toy_set

from neuroreg import field
from neuroreg.errors import DataError, NoInputError
from neuroreg.methods.base import Batch
from neuroreg.training.data import Augmentation, both_ways, draw_pair, load_pack


def draw(seed: int, **changes: float) -> Batch:
    return draw_pair(
        toy_set(), NO_AUGMENTATION.model_copy(update=changes), torch.Generator().manual_seed(seed)
    )


def same(one: Tensor, two: Tensor) -> bool:
    """But for the rounding of an interpolation."""
    return torch.allclose(one, two, atol=2e-3)


def row_of(image: Tensor) -> int:
    """Which subject of the toy set an unaltered image is."""
    data = toy_set()
    (row,) = [i for i in range(len(data)) if same(data.image(i), image)]
    return row


def centre_w(mask: Tensor) -> float:
    return float(mask.nonzero()[:, -1].float().mean())


def test_a_pack_reads_back_whole(tmp_path: Path) -> None:
    data = toy_set()
    found = load_pack(save_pack(data, tmp_path / "set.npz"))
    for name in ("images", "labels", "mirror"):
        assert torch.equal(getattr(found, name), getattr(data, name))
        assert getattr(found, name).dtype == torch.uint8
    assert found.ids == data.ids
    assert found.geometry.same_grid(data.geometry)
    assert found.image(1).shape == (1, 1, *SHAPE)
    assert float(found.image(0).max()) == pytest.approx(int(data.images[0].max()) / 200)
    assert found.label(0).dtype == torch.uint8


def test_a_missing_pack_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"set\.npz.*--prepare"):
        load_pack(tmp_path / "set.npz")


def test_damaged_and_foreign_files_are_data_errors(tmp_path: Path) -> None:
    path = save_pack(toy_set(), tmp_path / "set.npz")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a packed data set"):
            load_pack(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(DataError, match="not a packed data set"):
        load_pack(path)


def test_pairs_need_two_subjects(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two subjects, got 1"):
        load_pack(save_pack(toy_set(1), tmp_path / "set.npz"))


def test_unaugmented_pairs_are_two_different_subjects_of_the_set() -> None:
    data = toy_set()
    seen = set()
    for seed in range(40):
        pair = draw(seed)
        rows = row_of(pair.fixed), row_of(pair.moving)
        seen.add(rows)
        assert torch.equal(pair.fixed_labels, data.label(rows[0]))
        assert torch.equal(pair.moving_labels, data.label(rows[1]))
        assert torch.equal(pair.fixed_mask, pair.fixed > 0)
    assert seen == {(i, j) for i in range(3) for j in range(3) if i != j}


def test_a_pair_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, two = (draw_pair(toy_set(), Augmentation(), torch.Generator().manual_seed(9)) for _ in range(2))
    other = draw_pair(toy_set(), Augmentation(), torch.Generator().manual_seed(10))
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.fixed, other.fixed)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


def test_a_mirror_flips_left_and_right_and_swaps_their_labels() -> None:
    for seed in range(4):
        plain, mirrored = draw(seed), draw(seed, mirror=1.0)
        for name in ("fixed", "moving"):
            assert same(getattr(mirrored, name), getattr(plain, name).flip(4))
        # the left region stays on the left: high w
        for labels in (mirrored.fixed_labels, mirrored.moving_labels):
            assert centre_w(labels == LEFT) > centre_w(labels > 0) > centre_w(labels == RIGHT)
        swapped = plain.fixed_labels.flip(4)
        assert torch.equal(mirrored.fixed_labels == LEFT, swapped == RIGHT)
        assert torch.equal(mirrored.fixed_labels == 1, swapped == 1)
        assert mirrored.fixed_labels.dtype == torch.uint8


def test_mirrors_come_as_often_as_asked() -> None:
    mirrored = 0
    for seed in range(60):
        plain = [toy_set().image(i) for i in range(3)]
        mirrored += not any(same(draw(seed, mirror=0.5).fixed, image) for image in plain)
    assert 18 <= mirrored <= 42  # 30 +- 3 sd


def test_images_and_labels_move_together() -> None:
    for seed in range(3):
        pair = draw(seed, shared_affine=0.08, moving_affine=0.05, moving_shift=0.03)
        for image, labels in ((pair.fixed, pair.fixed_labels), (pair.moving, pair.moving_labels)):
            inside, region = image > 0.2, labels > 0
            overlap = 2 * (inside & region).sum() / (inside.sum() + region.sum())
            assert float(overlap) > 0.9
        assert set(pair.fixed_labels.unique().tolist()) <= {0, 1, 3, 4, 5}


def test_the_shared_affine_moves_both_and_the_own_one_the_moving_image_alone() -> None:
    plain = draw(5)
    own = draw(5, moving_affine=0.1, moving_shift=0.05)
    assert same(own.fixed, plain.fixed)  # but one was interpolated
    assert not torch.equal(own.moving, plain.moving)
    shared = draw(5, shared_affine=0.1)
    assert not torch.equal(shared.fixed, plain.fixed)
    assert not torch.equal(shared.moving, plain.moving)


def test_intensities_vary_inside_the_brain_only() -> None:
    plain, varied = draw(2), draw(2, gamma=0.3, bias=0.2, noise=0.02)
    for before, after in ((plain.fixed, varied.fixed), (plain.moving, varied.moving)):
        assert torch.equal(after > 0, before > 0)
        assert float(after.max()) <= 1.275
        assert not torch.equal(after, before)
        assert torch.isfinite(after).all()
    gamma = draw(2, gamma=0.3)
    inside = (plain.fixed > 0.05) & (plain.fixed < 0.8)
    exponent = gamma.fixed[inside].double().log() / plain.fixed[inside].double().log()
    assert float(exponent.std()) < 1e-2 * float(exponent.mean())  # one exponent for the whole image


def test_both_ways_is_the_pair_and_its_swap() -> None:
    pair = draw(1)
    double = both_ways(pair)
    for row, (fixed, moving) in enumerate([("fixed", "moving"), ("moving", "fixed")]):
        assert torch.equal(double.fixed[row], getattr(pair, fixed)[0])
        assert torch.equal(double.moving[row], getattr(pair, moving)[0])
        assert torch.equal(double.fixed_labels[row], getattr(pair, f"{fixed}_labels")[0])
        assert torch.equal(double.moving_labels[row], getattr(pair, f"{moving}_labels")[0])
        assert torch.equal(double.fixed_mask[row], getattr(pair, fixed)[0] > 0)
    assert double.generator is pair.generator
    assert both_ways(Batch(pair.fixed, pair.moving)).fixed_labels is None


def test_a_coarse_pair_has_half_the_sides_and_no_brain_beyond_the_fine_ones() -> None:
    data = toy_set()
    fine = draw_pair(data, NO_AUGMENTATION, torch.Generator().manual_seed(3))
    coarse = draw_pair(data, NO_AUGMENTATION, torch.Generator().manual_seed(3), coarse=True)
    assert coarse.fixed.shape[2:] == fine.fixed[..., ::2, ::2, ::2].shape[2:]
    assert coarse.fixed_labels is not None
    assert fine.fixed_labels is not None
    assert torch.equal(coarse.fixed_labels, fine.fixed_labels[..., ::2, ::2, ::2])
    smoothed = field.downsample(fine.fixed)
    torch.testing.assert_close(coarse.fixed, torch.where(smoothed > 0.02, smoothed, 0.0), atol=0.02, rtol=0)
    # resampling leaks rounding errors, which the least intensity of a brain then lifts to .001
    assert float(coarse.fixed[smoothed < 0.019].max()) <= 0.0011


def test_only_the_first_subjects_labels_are_known() -> None:
    data = replace(toy_set(), labelled=2)
    assert data.labelled_part().ids == data.ids[:2]
    assert len(data.labelled_part().images) == len(data.labelled_part().labels) == 2
    seen = set()
    for seed in range(20):
        limited, full = (
            draw_pair(each, NO_AUGMENTATION, torch.Generator().manual_seed(seed))
            for each in (data, toy_set())
        )
        assert torch.equal(limited.fixed, full.fixed)
        for image, found, whole in (
            (limited.fixed, limited.fixed_labels, full.fixed_labels),
            (limited.moving, limited.moving_labels, full.moving_labels),
        ):
            row = row_of(image)
            seen.add(row)
            assert (found is None) == (row == 2)
            assert found is None or (whole is not None and torch.equal(found, whole))
    assert seen == {0, 1, 2}
