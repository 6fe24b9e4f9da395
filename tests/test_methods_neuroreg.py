"""The flagship network on tiny volumes: laws that hold for any weights."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from training_phantoms import LEFT, SHAPE, toy_set

from neuroreg import field
from neuroreg.losses import regularity, similarity
from neuroreg.methods.base import Batch, Prediction
from neuroreg.methods.neuroreg import NeuroregConfig, NeuroregMethod
from neuroreg.training.data import both_ways


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def method(**options: object) -> NeuroregMethod:
    torch.manual_seed(1)
    small = {"spacing_mm": 2.0, "plan": ((8, 1), (4, 2), (2, 1)), "features": 4, "width": 8}
    return NeuroregMethod(NeuroregMethod.Config.model_validate(small | options))


def batch() -> Batch:
    data = toy_set()
    fixed, moving = data.image(0), data.image(1)
    generator = torch.Generator().manual_seed(0)
    return Batch(fixed, moving, data.label(0), data.label(1), fixed > 0, generator)


def total(made: NeuroregMethod, pair: Batch) -> Tensor:
    return torch.stack(list(made.losses(made.predict(pair.fixed, pair.moving), pair).values())).sum()


def test_the_published_weights_keep_their_names_and_shapes() -> None:
    network = NeuroregMethod(NeuroregMethod.Config()).network
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes == {
        "encoder.0.weight": (16, 2, 3, 3, 3), "encoder.0.bias": (16,),
        "encoder.2.weight": (16, 16, 3, 3, 3), "encoder.2.bias": (16,),
        "encoder.4.weight": (16, 16, 3, 3, 3), "encoder.4.bias": (16,),
        "head.0.weight": (32, 48, 3, 3, 3), "head.0.bias": (32,),
        "head.1.weight": (32,), "head.1.bias": (32,),
        "head.3.weight": (32, 32, 3, 3, 3), "head.3.bias": (32,),
        "head.5.weight": (32, 32, 3, 3, 3), "head.5.bias": (32,),
        "head.6.weight": (32,), "head.6.bias": (32,),
        "flow.weight": (3, 32, 3, 3, 3), "flow.bias": (3,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spacing_mm", "steps"),
    [(2.0, {3: 1, 2: 2, 1: 2, 0: 2}), (1.0, {4: 1, 3: 2, 2: 2, 1: 2, 0: 2}), (4.0, {2: 1, 1: 2, 0: 2})],
)
def test_the_plan_in_mm_becomes_pyramid_levels(spacing_mm: float, steps: dict[int, int]) -> None:
    assert NeuroregMethod(NeuroregMethod.Config(spacing_mm=spacing_mm)).steps_by_level() == steps


def test_the_field_lives_on_level_1_and_the_levels_run_coarse_to_fine() -> None:
    prediction = method().predict(batch().fixed, batch().moving)
    assert prediction.level == 1
    assert [tuple(u.shape) for u in prediction.levels] == [(1, 3, 2, 3, 3), (1, 3, 4, 5, 5), (1, 3, 8, 9, 10)]
    assert prediction.displacement is prediction.levels[-1]
    assert prediction.at_level(0, SHAPE).shape[2:] == SHAPE
    assert prediction.affine is None


def test_no_flow_is_the_identity() -> None:
    made = method()
    with torch.no_grad():
        made.network.flow.weight.zero_()
    prediction = made.predict(batch().fixed, batch().moving)
    assert float(prediction.displacement.detach().abs().max()) == 0.0
    torch.testing.assert_close(field.warp(batch().moving, prediction.at_level(0, SHAPE)), batch().moving)


def test_updates_are_bounded_by_one_field_voxel_each() -> None:
    made = method()
    with torch.no_grad():
        made.network.flow.bias.fill_(1000.0)
    levels = made.predict(batch().fixed, batch().moving).levels
    # one step of 1; doubled, two steps; doubled, one step: constant fields add when composed
    for u, expected in zip(levels, (1.0, 4.0, 9.0), strict=True):
        torch.testing.assert_close(u, torch.full_like(u, expected))


def test_the_moving_image_is_read_through_the_start_affine() -> None:
    made, pair = method(), batch()
    shift = torch.tensor([1.0, 2.0, 3.0])
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=torch.cat((torch.eye(3), shift[:, None]), 1)[None])
    away = torch.nn.functional.pad(
        pair.moving, (3, 5, 2, 4, 1, 6)
    )  # away(i + shift) = moving(i), on its own grid
    found = made.predict(pair.fixed, away, start)
    torch.testing.assert_close(
        found.displacement, made.predict(pair.fixed, pair.moving).displacement, atol=1e-4, rtol=0
    )
    assert found.affine is start.affine


def test_a_pair_gives_the_same_field_alone_and_in_a_batch() -> None:
    made, pair = method(), both_ways(batch())
    together = made.predict(pair.fixed, pair.moving).displacement
    assert together.shape[0] == 2
    for row in range(2):
        alone = made.predict(pair.fixed[row : row + 1], pair.moving[row : row + 1]).displacement
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    made = method(folding=1.0)
    total(made, batch()).backward()
    silent = [
        name for name, p in made.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []


def test_losses_of_a_known_field_are_the_sum_over_levels() -> None:
    made, pair = method(folding=0.5, dice=0.0), batch()
    u = 0.3 * torch.randn(1, 3, 8, 9, 10, generator=torch.Generator().manual_seed(5))
    levels = (field.downsample(field.downsample(u)) / 4, field.downsample(u) / 2, u)
    terms = made.losses(Prediction(u, level=1, levels=levels), pair)
    assert set(terms) == {"lncc", "smoothness", "folding"}
    smoothness = 0.25 * (
        regularity.diffusion(levels[0]) + regularity.diffusion(levels[1])
    ) + regularity.diffusion(u)
    torch.testing.assert_close(terms["smoothness"], 0.05 * smoothness)
    torch.testing.assert_close(terms["folding"], 0.5 * regularity.folding(u))
    lncc, fixed, moving = torch.zeros(()), pair.fixed, pair.moving
    for weight, v, stride in ((1.0, levels[2], 2), (0.25, levels[1], 1), (0.25, levels[0], 1)):
        moved = field.warp(moving, field.upsample_field(v, tuple(fixed.shape[2:])))
        for window in (5, 9):
            found = similarity.lncc(fixed, moved, window=window, mask=fixed > 0.02, stride=stride)
            lncc = lncc + 0.5 * weight * found
        fixed, moving = field.downsample(fixed), field.downsample(moving)
    torch.testing.assert_close(terms["lncc"], lncc)


def test_the_right_field_has_a_lower_loss_than_none_or_its_opposite() -> None:
    made, data = method(dice_rois=5), toy_set()
    moving, labels = data.image(0), data.label(0)
    pair = Batch(moving.roll(2, 4), moving, labels.roll(2, 4), labels)
    right = (
        torch.tensor([0.0, 0.0, -1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 8, 9, 10)
    )  # two voxels at level 0

    def losses(u: Tensor) -> dict[str, float]:
        levels = (u[..., ::4, ::4, ::4] / 4, u[..., ::2, ::2, ::2] / 2, u)
        terms = made.losses(Prediction(u, level=1, levels=levels), pair)
        return {name: float(value) for name, value in terms.items()}

    best, none, worst = losses(right), losses(0 * right), losses(-right)
    assert best["dice"] == pytest.approx(0.0, abs=1e-5)
    for name in ("lncc", "dice"):
        assert best[name] < min(none[name], worst[name])


def test_dice_needs_labels_and_a_weight() -> None:
    pair = batch()
    made = method()
    prediction = made.predict(pair.fixed, pair.moving)
    assert "dice" in made.losses(prediction, pair)
    assert "dice" not in made.losses(prediction, Batch(pair.fixed, pair.moving))
    assert "dice" not in method(dice=0.0).losses(prediction, pair)
    assert int(pair.fixed_labels.max()) == LEFT


def test_autocast_touches_the_convolutions_alone() -> None:
    made, pair = method(), batch()
    seen: list[torch.dtype] = []
    made.network.flow.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = made.predict(pair.fixed, pair.moving)
    assert set(seen) == {torch.bfloat16}
    assert {u.dtype for u in prediction.levels} == {torch.float32}
    exact = made.predict(pair.fixed, pair.moving).displacement
    assert float((prediction.displacement - exact).detach().abs().max()) < 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = made.losses(prediction, pair)
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_empty_images_give_finite_fields() -> None:
    zeros = torch.zeros(1, 1, *SHAPE)
    made = method()
    prediction = made.predict(zeros, zeros)
    assert torch.isfinite(prediction.displacement).all()
    pair = Batch(zeros, zeros, zeros.to(torch.uint8), zeros.to(torch.uint8))
    assert all(torch.isfinite(value) for value in made.losses(prediction, pair).values())


def test_a_few_steps_lower_the_loss() -> None:
    made, pair = method(dice=0.0), batch()
    optimizer = torch.optim.AdamW(made.network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = total(made, pair)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_there_is_one_stage_with_every_parameter() -> None:
    made = method()
    (stage,) = made.stages(7, 1e-3)
    assert (stage.steps, stage.learning_rate) == (7, 1e-3)
    assert {id(p) for p in stage.parameters} == {id(p) for p in made.network.parameters()}


CODED = {"codes": 3, "anatomy_widths": (4, 8), "anatomy_features": 4, "anatomy_steps": 10}


@pytest.mark.parametrize(("spacing_mm", "level"), [(2.0, 0), (1.0, 1)])
def test_codes_come_from_images_of_two_mm_and_guide_the_refinement(spacing_mm: float, level: int) -> None:
    made, pair = method(**CODED, spacing_mm=spacing_mm, plan=((4, 1), (2, 1), (1, 1))), batch()
    with torch.no_grad():
        found = made.predict(pair.fixed, pair.moving)
    images = [pair.fixed, pair.moving]
    if level == 1:
        images = [field.downsample(image) for image in images]
    assert found.guides is not None
    assert found.guide_level == level
    for guide, image in zip(found.guides, images, strict=True):
        assert guide.shape == (1, 3, *image.shape[2:])
        assert not guide[(image <= 0.02).expand_as(guide)].any()


def test_codes_decide_the_update_too() -> None:
    made, pair = method(**CODED), batch()
    with torch.no_grad():
        before = made.predict(pair.fixed, pair.moving).displacement
        made.network.anatomy.codebook.neg_()  # type: ignore[operator, union-attr]
        after = made.predict(pair.fixed, pair.moving).displacement
    assert not torch.allclose(before, after)


@pytest.mark.slow
def test_the_parcellation_learns_first_and_alone() -> None:
    made, pair = method(**CODED), batch()
    first, second = made.stages(30, 1e-3)
    assert (first.steps, second.steps) == (10, 20)
    names = dict(made.network.named_parameters())
    anatomy = {id(p) for name, p in names.items() if name.startswith("anatomy.")}
    assert {id(p) for p in first.parameters} == anatomy
    assert {id(p) for p in second.parameters} == {id(p) for p in names.values()} - anatomy
    assert first.objective is not None
    assert first.score is not None
    optimizer = torch.optim.Adam(first.parameters, lr=1e-2)
    before = first.score(pair.moving, pair.moving_labels)
    for _ in range(30):
        optimizer.zero_grad()
        first.objective(pair)["entropy"].backward()
        optimizer.step()
    assert first.score(pair.moving, pair.moving_labels) > before + 0.2
    total(made, pair).backward()
    assert [name for name, p in names.items() if id(p) not in anatomy and p.grad is None] == []


def test_a_plan_can_stop_before_its_finest_rows() -> None:
    made, whole = method(spacing_mm=1.0, plan=((4, 1), (2, 1), (1, 1)), finest_mm=2.0), batch()
    assert made.steps_by_level() == {2: 1, 1: 1}
    with torch.no_grad():
        found = made.predict(whole.fixed, whole.moving)
        coarse = method(spacing_mm=2.0, plan=((4, 1), (2, 1)))
        coarse.network.load_state_dict(made.network.state_dict())
        halves = [field.downsample(image) for image in (whole.fixed, whole.moving)]
        expected = coarse.predict(halves[0], halves[1])
    assert (found.level, expected.level) == (2, 1)
    torch.testing.assert_close(found.displacement, expected.displacement)


def test_the_affine_is_followed_on_coarse_images_alone_too() -> None:
    fixed, moving = (F.pad(image, (12,) * 6) for image in (batch().fixed, batch().moving))
    affine = torch.eye(3, 4)[None]
    affine[0, 0, 3] = 2.0  # two voxels, one of the coarse grid: exact on both, in air that hides the border
    made = method(spacing_mm=1.0, plan=((4, 1), (2, 1)), finest_mm=2.0)
    start = Prediction(torch.zeros(1, 3, *fixed.shape[2:]), affine=affine)
    with torch.no_grad():
        through = made.predict(fixed, torch.roll(moving, 2, dims=2), start).displacement
        direct = made.predict(fixed, moving).displacement
    torch.testing.assert_close(through, direct, atol=2e-3, rtol=0)


def test_the_finest_level_works_in_the_box_of_the_brain_alone() -> None:
    """Air around both heads costs nothing and changes little: the networks' norms see less of it, no more."""
    made, pair = method(plan=((4, 1), (2, 2))), batch()
    little, much = (
        [F.pad(x, air) for x in (pair.fixed, pair.moving)] for air in ((8,) * 6, (16, 8, 8, 16, 24, 8))
    )
    seen: list[tuple[int, ...]] = []
    made.network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))  # type: ignore[operator, union-attr]
    with torch.no_grad():
        small = made.predict(*little).displacement
        first, seen[:] = list(seen), []
        large = made.predict(*much).displacement
    assert seen[-1] == first[-1]  # the same box, whatever surrounds it
    assert seen[0] != first[0]
    assert large.shape[2:] == tuple(n // 2 for n in much[0].shape[2:])
    edge = large[..., -1, :, :] - large[..., -2, :, :]  # no step where the box ends: the update goes on
    assert float(edge.abs().max()) < 0.5 * float(small.abs().max())


def test_a_plan_that_leaves_nothing_to_do_is_refused() -> None:
    with pytest.raises(ValidationError, match="no steps on images of 4 mm or coarser"):
        NeuroregConfig(plan=((2.0, 2), (1.0, 2)), finest_mm=4.0)
    with pytest.raises(ValidationError, match="no steps"):
        NeuroregConfig(plan=((2.0, 0),))
