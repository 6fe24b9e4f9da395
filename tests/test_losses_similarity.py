"""Similarity losses against numpy's correlation, scipy's filters and MONAI."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from neuroreg.losses import similarity

SHAPE = (12, 10, 14)


def images(seed: int = 0, batch: int = 1) -> tuple[Tensor, Tensor]:
    """A pair that is partly alike, 0..1."""
    generator = torch.Generator().manual_seed(seed)
    fixed, other = torch.rand(2, batch, 1, *SHAPE, generator=generator)
    return fixed, 0.6 * fixed + 0.4 * other


def test_local_correlation_is_numpys_in_each_window() -> None:
    fixed, moved = images()
    found = similarity.lncc_map(fixed, moved, window=5, eps=1e-9)[0, 0]
    for d, h, w in ((2, 2, 2), (6, 5, 7), (9, 7, 11)):
        cube = np.s_[d - 2 : d + 3, h - 2 : h + 3, w - 2 : w + 3]
        r = np.corrcoef(fixed[0, 0].numpy()[cube].ravel(), moved[0, 0].numpy()[cube].ravel())[0, 1]
        assert float(found[d, h, w]) == pytest.approx(r**2, abs=1e-4)


def test_local_correlation_follows_from_filtered_moments_up_to_the_border() -> None:
    fixed, moved = (x.double().numpy()[0, 0] for x in images(1))

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(x, 7, mode="constant", cval=0.0)

    covariance = mean(fixed * moved) - mean(fixed) * mean(moved)
    variances = [mean(x * x) - mean(x) ** 2 + 1e-4 for x in (fixed, moved)]
    expected = covariance**2 / (variances[0] * variances[1])
    np.testing.assert_allclose(similarity.lncc_map(*images(1), window=7)[0, 0].numpy(), expected, atol=1e-4)


def test_local_correlation_ignores_gain_and_offset_and_sign() -> None:
    fixed, _ = images()
    inside = (slice(None), slice(None), *(slice(4, -4),) * 3)
    for moved in (0.5 * fixed + 0.3, 1.0 - fixed):
        score = similarity.lncc_map(fixed, moved, window=9, eps=1e-7)[inside]
        assert score.shape == (1, 1, 4, 2, 6)
        torch.testing.assert_close(score, torch.ones_like(score), atol=1e-3, rtol=0)


def test_flat_windows_score_nothing_and_stay_finite() -> None:
    fixed = torch.full((1, 1, *SHAPE), 0.7, requires_grad=True)
    score = similarity.lncc_map(fixed, images()[0], window=3)
    assert float(score.detach()[..., 1:-1, 1:-1, 1:-1].max()) < 1e-6
    zeros = torch.zeros(1, 1, *SHAPE, requires_grad=True)
    loss = similarity.lncc(zeros, zeros)
    loss.backward()
    assert float(loss.detach()) == 1.0
    assert torch.isfinite(zeros.grad).all()


def test_lncc_is_one_minus_the_mean_over_the_mask() -> None:
    fixed, moved = images(batch=2)
    score = similarity.lncc_map(fixed, moved)
    mask = fixed > 0.5
    torch.testing.assert_close(similarity.lncc(fixed, moved), 1 - score.mean())
    torch.testing.assert_close(similarity.lncc(fixed, moved, mask=mask), 1 - score[mask].mean())


def test_a_stride_scores_every_second_window() -> None:
    fixed, moved = images()
    mask = fixed > 0.3
    full, sparse = similarity.lncc_map(fixed, moved), similarity.lncc_map(fixed, moved, stride=2)
    torch.testing.assert_close(sparse, full[:, :, ::2, ::2, ::2], atol=1e-4, rtol=1e-3)
    expected = 1 - sparse[mask[:, :, ::2, ::2, ::2]].mean()
    torch.testing.assert_close(similarity.lncc(fixed, moved, mask=mask, stride=2), expected)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_lncc_is_monais() -> None:
    monai = pytest.importorskip("monai.losses")
    fixed, moved = images(2, batch=2)
    theirs = monai.LocalNormalizedCrossCorrelationLoss(kernel_size=7, smooth_nr=0.0, smooth_dr=1e-7)(
        fixed, moved
    )
    assert float(similarity.lncc(fixed, moved, window=7, eps=1e-9)) == pytest.approx(
        1 + float(theirs), abs=1e-4
    )


def test_ncc_is_one_minus_numpys_correlation_averaged_over_the_batch() -> None:
    fixed, moved = images(3, batch=2)
    r = [np.corrcoef(f.ravel(), m.ravel())[0, 1] for f, m in zip(fixed.numpy(), moved.numpy(), strict=True)]
    assert float(similarity.ncc(fixed, moved)) == pytest.approx(1 - np.mean(r), abs=1e-5)
    assert float(similarity.ncc(fixed, -fixed)) == pytest.approx(2.0, abs=1e-5)


def test_ncc_sees_only_the_mask() -> None:
    fixed, moved = images(4)
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    mask[:, :, 2:9, 1:8, 3:12] = True
    r = np.corrcoef(fixed[mask].numpy(), moved[mask].numpy())[0, 1]
    assert float(similarity.ncc(fixed, moved, mask=mask)) == pytest.approx(1 - r, abs=1e-5)
    outside = torch.where(mask, moved, torch.full_like(moved, 50.0))
    assert float(similarity.ncc(fixed, outside, mask=mask)) == pytest.approx(1 - r, abs=1e-4)


def test_mse_and_the_masked_mean() -> None:
    fixed = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 2, 2)
    moved = torch.tensor([0.0, 3.0, 2.0, 6.0]).reshape(1, 1, 1, 2, 2)
    mask = torch.tensor([True, True, False, False]).reshape(1, 1, 1, 2, 2)
    assert float(similarity.mse(fixed, moved)) == (4 + 9) / 4
    assert float(similarity.mse(fixed, moved, mask=mask)) == 4 / 2
    assert float(similarity.masked_mean(fixed, torch.zeros_like(mask))) == 0.0


LOSSES: list[Callable[..., Tensor]] = [similarity.lncc, similarity.ncc, similarity.mse]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_stay_float32_whatever_comes_in(loss: Callable[..., Tensor]) -> None:
    fixed, moved = images()
    expected = loss(fixed, moved)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(fixed, moved), expected)
    half = loss(fixed.bfloat16(), moved.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_down_the_gradient_makes_the_images_more_alike(loss: Callable[..., Tensor]) -> None:
    fixed, moved = images(5)
    moved.requires_grad_()
    before = loss(fixed, moved)
    before.backward()
    slope, step = moved.grad, 0.02 * moved.grad / moved.grad.norm()
    after = loss(fixed, moved.detach() - step)
    # first order: the loss falls by step . slope
    assert float(before.detach() - after) == pytest.approx(float((step * slope).sum()), rel=0.1)


def test_correlation_of_texture_is_numpys_mean_over_windows_with_variance() -> None:
    fixed, moved = (x.repeat(1, 2, 1, 1, 1) for x in images(4))
    fixed[:, 1, 4:] = moved[:, 1, 4:] = 0.0  # the second channel is empty over most of the grid
    found = similarity.lncc_of_texture(fixed, moved, window=3, eps=1e-12)
    means = []
    for f, m in zip(fixed[0].numpy(), moved[0].numpy(), strict=True):
        windows = [
            np.lib.stride_tricks.sliding_window_view(np.pad(x, 1), (3, 3, 3)).reshape(*SHAPE, 27)
            for x in (f, m)
        ]
        scores = [
            np.corrcoef(a, b)[0, 1]
            for a, b in zip(*(w.reshape(-1, 27) for w in windows), strict=True)
            if a.var() > 1e-4
        ]
        means.append(np.mean(scores))
        assert means[-1] > 0.8  # the emptiness hides nothing
    assert float(found) == pytest.approx(1 - float(np.mean(means)), abs=1e-4)


def test_correlation_of_texture_has_a_sign_and_never_exceeds_1() -> None:
    fixed, moved = images(5)

    def loss(a: Tensor, b: Tensor, **options: bool) -> float:
        return float(similarity.lncc_of_texture(a, b, window=5, eps=1e-9, **options))

    gain = fixed.clone()
    gain[..., 4:-4] *= 0.5  # a change of gain within the image
    assert loss(fixed, 3 * fixed) == pytest.approx(0, abs=1e-5)
    assert loss(fixed, -fixed) == pytest.approx(2, abs=1e-5)
    assert loss(fixed, -fixed, squared=True) == pytest.approx(0, abs=1e-5)
    for other in (moved, gain, fixed.flip(2), 100 * moved, torch.zeros_like(fixed)):
        assert 0 <= loss(fixed, other) <= 2
        assert 0 <= loss(fixed, other, squared=True) <= 1


def test_an_image_without_texture_is_judged_by_nothing() -> None:
    flat = torch.zeros(1, 1, *SHAPE)
    moved = images()[1].requires_grad_()
    loss = similarity.lncc_of_texture(flat, moved)
    loss.backward()
    assert float(loss.detach()) == 1.0
    assert moved.grad is not None
    assert not bool(moved.grad.any())
