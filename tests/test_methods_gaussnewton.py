"""The engine on small phantoms, by laws: no motion, a known motion, the swapped pair, never worse, never folded."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.methods.base import Method, Prediction
from neuroreg.methods.gaussnewton import GaussNewton, Weights, schedule
from neuroreg.methods.gaussnewton_lattice import box_sums, split_phases
from neuroreg.methods.gaussnewton_level import Level, LevelImages, LevelSpec

SHAPE = (48, 56, 40)


def phantom(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    """An asymmetric textured blob on a zero background: (1, 1, D, H, W), 0..1."""
    generator = torch.Generator().manual_seed(seed)
    texture = field.smooth(torch.randn((1, 1, *shape), generator=generator), 1.6)
    texture = (texture / texture.std()).tanh() * 0.3 + 0.6
    index = field.identity(shape)
    centre = torch.tensor([0.5 * n for n in shape]).reshape(1, 3, 1, 1, 1)
    radii = torch.tensor([0.33 * shape[0], 0.36 * shape[1], 0.34 * shape[2]]).reshape(1, 3, 1, 1, 1)
    squash = 1.0 + 0.3 * (index[:, :1] / shape[0] - 0.5)  # wider at one end: no symmetry to hide behind
    inside = (((index - centre) / radii * squash) ** 2).sum(1, keepdim=True) < 1.0
    return torch.where(inside, texture, 0.0)


def waves(shape: tuple[int, int, int] = SHAPE, amplitude: float = 2.0) -> Tensor:
    """A smooth displacement (1, 3, D, H, W) voxels with another shape per component."""
    d, h, w = field.identity(shape)[0].unbind(0)
    return (
        amplitude
        * torch.stack((torch.sin(h / 9.0), torch.cos(w / 8.0 + d / 11.0), torch.sin(d / 10.0 + 1.0)))[None]
    )


def engine(coarse: int, medium: int, fine: int) -> GaussNewton:
    """An engine with few iterations."""
    return GaussNewton(GaussNewton.Config(iterations=(coarse, medium // 2, medium - medium // 2, fine)))


def full(prediction: Prediction, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """The displacement on the finest grid."""
    return prediction.at_level(0, shape)


def inner(shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Where the phantom is: (1, 1, D, H, W) bool."""
    return phantom(shape) > 0


def test_is_a_method() -> None:
    assert isinstance(GaussNewton(), Method)
    assert GaussNewton().config.preset == "mid"


def test_identical_images_stay_put() -> None:
    image = phantom()
    u = engine(4, 4, 2).predict(image, image).displacement
    assert u.shape == (1, 3, 24, 28, 20)
    assert float(u.abs().max()) < 0.02


def test_recovers_a_known_deformation() -> None:
    moving, true = phantom(), waves()
    fixed = field.warp(moving, true)
    u = full(engine(10, 10, 4).predict(fixed, moving))
    where = (fixed > 0)[:, 0]
    error = (u - true).norm(dim=1)[where]
    assert float(true.norm(dim=1)[where].mean()) > 2.0
    assert float(error.mean()) < 0.3
    assert float((field.warp(moving, u) - fixed)[fixed > 0].abs().mean()) < 0.03


def test_reads_the_moving_image_through_the_affine_on_its_own_grid() -> None:
    big = phantom((56, 64, 48), seed=3)
    affine = torch.tensor([[[1.03, 0.02, 0.0, 4.0], [-0.02, 0.98, 0.03, 3.0], [0.0, -0.03, 1.02, 4.5]]])
    true = waves(amplitude=1.5)
    fixed = field.warp(big, true, affine=affine)
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=affine)
    prediction = engine(10, 10, 4).predict(fixed, big, start)
    assert prediction.level == 1
    assert prediction.affine is affine
    error = (full(prediction) - true).norm(dim=1)[(fixed > 0)[:, 0]]
    assert float(error.mean()) < 0.35


def test_swapping_the_pair_about_inverts_the_map() -> None:
    moving = phantom()
    fixed = field.warp(moving, waves(amplitude=1.5))
    there = full(engine(8, 8, 3).predict(fixed, moving))
    back = full(engine(8, 8, 3).predict(moving, fixed))
    round_trip = field.compose(there, back).norm(dim=1)
    assert float(round_trip[inner()[:, 0]].mean()) < 0.4


def test_never_folds_even_from_a_folded_start() -> None:
    generator = torch.Generator().manual_seed(1)
    torn = Prediction(4.0 * torch.randn((1, 3, 24, 28, 20), generator=generator), level=1)
    assert float(field.smallest_determinant(torn.displacement).min()) < 0.0
    for iterations in ((0, 0, 0), (0, 0, 2), (2, 2, 1)):
        u = engine(*iterations).predict(field.warp(phantom(), waves()), phantom(), torn).displacement
        assert float(field.smallest_determinant(u).min()) > 0.0
        assert float(field.jacobian_determinant(field.upsample_field(u, SHAPE)).min()) > 0.0


def test_is_never_worse_than_its_start() -> None:
    moving, true = phantom(), waves()
    fixed = field.warp(moving, true)
    start = Prediction(field.downsample(true) * 0.5, level=1)
    # smoothing the total field by six voxels can only spoil the true one: the start must come back
    spoiling = GaussNewton(GaussNewton.Config(iterations=(1, 1, 1, 2), sigma_field=6.0))
    assert torch.allclose(spoiling.predict(fixed, moving, start).displacement, start.displacement, atol=1e-6)


def test_a_batch_is_its_elements() -> None:
    moving = torch.cat((phantom(), phantom(seed=5)))
    fixed = field.warp(moving, torch.cat((waves(), -waves())))
    together = engine(3, 3, 1).predict(fixed, moving).displacement
    for index in range(2):
        part = slice(index, index + 1)
        alone = engine(3, 3, 1).predict(fixed[part], moving[part]).displacement
        assert torch.equal(together[part], alone)


def test_empty_space_around_the_head_changes_nothing() -> None:
    moving = phantom()
    fixed = field.warp(moving, waves())
    u = engine(3, 4, 2).predict(fixed, moving).displacement
    margins = (16, 8, 0, 8, 24, 0)  # unequal, so that an exchanged axis or side shows
    wide = [torch.nn.functional.pad(x, margins) for x in (fixed, moving)]
    inside = engine(3, 4, 2).predict(*wide).displacement[:, :, 12:36, :28, 8:28]
    where = (fixed > 0)[:, :, ::2, ::2, ::2].expand_as(u)
    assert float((inside - u)[where].abs().mean()) < 0.02


def test_same_input_same_bytes() -> None:
    moving = phantom()
    fixed = field.warp(moving, waves())
    first, second = (engine(3, 3, 2).predict(fixed, moving).displacement for _ in range(2))
    assert torch.equal(first, second)


def test_leaves_its_input_alone() -> None:
    moving = phantom()
    fixed = field.warp(moving, waves())
    start = Prediction(torch.zeros(1, 3, 24, 28, 20), level=1)
    copies = [x.clone() for x in (fixed, moving, start.displacement)]
    engine(1, 1, 1).predict(fixed, moving, start)
    for kept, copy in zip((fixed, moving, start.displacement), copies, strict=True):
        assert torch.equal(kept, copy)


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 8, 24), (40, 24, 16)])
def test_any_legal_grid(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    fixed, moving = (torch.rand((1, 1, *shape), generator=generator) for _ in range(2))
    u = engine(1, 1, 1).predict(fixed, moving).displacement
    assert u.shape[2:] == tuple(n // 2 for n in shape)
    assert bool(u.isfinite().all())


def test_a_lesion_without_weight_does_not_pull() -> None:
    moving = phantom()
    lesion = torch.zeros_like(moving)
    lesion[:, :, 20:28, 24:32, 16:24] = 1.0
    fixed = torch.where(
        lesion > 0, 1.2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(4)), moving
    )
    near = field.smooth(lesion, 2.0)[0, 0] > 0.3
    plain = full(engine(4, 4, 2).predict(fixed, moving))
    weights = Weights(fixed_weight=1.0 - lesion)
    masked = full(engine(4, 4, 2).predict(fixed, moving, weights=weights))
    by_moving = full(engine(4, 4, 2).predict(fixed, moving, weights=Weights(moving_weight=1.0 - lesion)))
    pull = [float(u[0, :, near].norm(dim=0).mean()) for u in (plain, masked, by_moving)]
    assert pull[1] < 0.7 * pull[0]
    assert pull[2] < 0.7 * pull[0]


def test_a_mask_restricts_the_work() -> None:
    moving = phantom()
    fixed = field.warp(moving, waves())
    mask = torch.zeros_like(fixed, dtype=torch.bool)
    mask[:, :, :16] = True
    u = full(engine(3, 3, 1).predict(fixed, moving, weights=Weights(fixed_mask=mask)))
    assert float(u[:, :, :14].norm(dim=1).mean()) > 4 * float(u[:, :, 38:].norm(dim=1).mean())


def test_refuses_what_it_cannot_register() -> None:
    image = phantom()
    with pytest.raises(DataError, match="multiples of 8"):
        GaussNewton().predict(image[..., 1:], image)
    with pytest.raises(DataError, match="as many"):
        GaussNewton().predict(image, torch.cat((image, image)))
    with pytest.raises(DataError, match="affine"):
        GaussNewton().predict(image, phantom((56, 56, 40)))
    with pytest.raises(DataError, match="no voxel"):
        GaussNewton().predict(torch.zeros_like(image), image)
    with pytest.raises(ValidationError):
        GaussNewton.Config(preset="quick")  # type: ignore[arg-type]


def test_schedule_turns_mm_into_field_voxels() -> None:
    coarse, fine = schedule(GaussNewton.Config(damping_mm2=0.01), (3, 0, 0, 2), 1.0)
    assert (coarse.field_level, fine.field_level) == (2, 1)
    assert coarse.damping == pytest.approx(0.16)
    assert fine.damping == pytest.approx(0.04)
    assert (coarse.windows, fine.windows) == ((5, 19), (3, 9))
    # 1.7 image voxels in all, of which a block of two has variance 1/4
    assert (2 * fine.sigma_update) ** 2 + 0.25 == pytest.approx(1.7**2)


def test_box_sums_against_a_convolution() -> None:
    x = torch.rand((2, 9, 11, 10), generator=torch.Generator().manual_seed(6))
    for window, sums in zip((3, 5, 7), box_sums(x, (3, 5, 7)), strict=True):
        kernel = torch.ones((1, 1, window, window, window))
        expected = torch.nn.functional.conv3d(x[:, None], kernel, padding=window // 2)[:, 0]
        assert torch.allclose(sums, expected, atol=1e-3)


def test_blocks_hold_the_voxels_they_say() -> None:
    image = torch.arange(4 * 6 * 8, dtype=torch.float32).reshape(4, 6, 8)
    phases = split_phases(image, 2).reshape(2, 2, 2, 2, 3, 4)
    assert float(phases[1, 0, 1, 1, 2, 3]) == float(image[3, 4, 7])


@pytest.mark.parametrize(("ratio", "shape"), [(1, (12, 14, 10)), (2, (24, 28, 20))])
def test_gradient_of_a_ramp(ratio: int, shape: tuple[int, int, int]) -> None:
    slopes = torch.tensor([0.3, -0.2, 0.1])
    ramp = torch.einsum("i,idhw->dhw", slopes, field.identity(shape)[0])
    spec = LevelSpec(0, ratio, 1, (3,), 0.1, 1.0, 0.35)
    weight = torch.ones([n // ratio for n in shape])
    to_moving = torch.cat((ratio * torch.eye(3), torch.zeros(3, 1)), dim=1)
    level = Level(spec, LevelImages(ramp, ramp[None], to_moving, weight))
    level._warp(torch.zeros(3, weight.numel()))
    assert torch.allclose(level._moved, level._fixed, atol=1e-4)
    # inside by one node: the outermost listed nodes read unlisted ones
    deep = ((level._node_index >= 2) & (level._node_index < torch.tensor(weight.shape)[:, None] - 2)).all(0)
    gradient = level._gradient(slice(None))[:, :, deep]
    assert torch.allclose(gradient, (slopes * ratio).reshape(3, 1, 1).expand_as(gradient), atol=1e-4)


def test_guides_lead_where_the_intensities_say_nothing() -> None:
    """Two flat blobs correlate whatever happens inside; the textures, given as guides, are what must match."""
    moving, true = phantom(), waves()
    channels = 5.0 * torch.cat([phantom(seed=s) for s in (1, 2)], dim=1)
    flat = (moving > 0).float()
    pairs = [(field.warp(x, true), x) for x in (flat, channels)]
    (fixed, moved), guides = pairs[0], pairs[1]
    zero = torch.zeros(1, 3, *SHAPE)
    coarse = (field.downsample(guides[0]), field.downsample(guides[1]))
    inside = field.warp(moving, true) > 0

    def error(start: Prediction) -> float:
        found = full(engine(6, 6, 3).predict(fixed, moved, start))
        return float((found - true).norm(dim=1, keepdim=True)[inside].mean())

    alone = error(Prediction(zero))
    finest = error(Prediction(zero, guides=guides, guide_level=0))
    assert finest < 0.4 * alone
    assert error(Prediction(zero, guides=coarse, guide_level=1)) == pytest.approx(finest, rel=0.02)
    assert error(Prediction(zero, guides=(guides[0], guides[0]))) > 0.9 * alone  # these ask for no motion


def test_guides_that_agree_pull_nowhere_and_a_weight_of_zero_ignores_them() -> None:
    moving, true = phantom(), waves()
    fixed = field.warp(moving, true)
    guides = (phantom(seed=1), phantom(seed=2))
    without = engine(2, 2, 1).predict(fixed, moving)
    config = GaussNewton.Config(iterations=(2, 1, 1, 1), guide_weight=0.0)
    start = Prediction(torch.zeros(1, 3, *SHAPE), guides=guides)
    ignored = GaussNewton(config).predict(fixed, moving, start)
    assert torch.equal(ignored.displacement, without.displacement)
    still = engine(2, 2, 1).predict(
        moving, moving, Prediction(torch.zeros(1, 3, *SHAPE), guides=(guides[0],) * 2)
    )
    assert float(still.displacement.abs().max()) < 0.02
