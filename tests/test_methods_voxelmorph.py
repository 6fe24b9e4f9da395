"""VoxelMorph on tiny volumes: the published counts, the law of its velocity, and its losses."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from training_phantoms import SHAPE, toy_set

from neuroreg import field
from neuroreg.losses import regularity, similarity
from neuroreg.methods.base import Batch, Prediction
from neuroreg.methods.voxelmorph import VoxelMorph, VoxelMorphPrediction
from neuroreg.training.data import both_ways

HALF = (8, 9, 10)
VARIANTS = ("vm1", "vm2", "vm2019")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def method(*, sd: float = 0.0, **options: object) -> VoxelMorph:
    """The network of a variant; with ``sd`` its flow convolution is redrawn, so that it moves something."""
    torch.manual_seed(1)
    made = VoxelMorph(VoxelMorph.Config.model_validate(options))
    if sd:
        torch.nn.init.normal_(made.network.flow.weight, std=sd)
    return made


def batch() -> Batch:
    data = toy_set()
    fixed, moving = data.image(0), data.image(1)
    return Batch(fixed, moving, data.label(0), data.label(1), fixed > 0, torch.Generator().manual_seed(0))


def total(made: VoxelMorph, pair: Batch) -> Tensor:
    return torch.stack(list(made.losses(made.predict(pair.fixed, pair.moving), pair).values())).sum()


def smooth_velocity(finer: int) -> Tensor:
    """One velocity, fading to the border, sampled ``finer`` times as densely: up to 1.2 ``finer`` voxels."""
    shape = tuple(finer * n + 1 for n in HALF)
    sides = torch.tensor([n - 1 for n in shape]).reshape(1, 3, 1, 1, 1)
    d, h, w = (torch.pi * field.identity(shape) / sides).unbind(1)
    fade = torch.sin(d) * torch.sin(h) * torch.sin(w)
    v = torch.stack([fade * torch.cos(h + 0.3), fade * torch.sin(2 * w), fade * torch.cos(d - w)], dim=1)
    return 1.2 * finer * v / v.abs().max()


def conv(a: int, b: int) -> int:
    return 27 * a * b + b


ENCODER = sum(conv(a, b) for a, b in pairwise((2, 16, 32, 32, 32)))


@pytest.mark.parametrize(
    ("variant", "rest", "millions"),
    [
        # 1/16; 1/8 and 1/4 with 32 skip channels; 1/2 with 16, twice; full size with the two images
        (
            "vm1",
            conv(32, 32) + 2 * conv(64, 32) + conv(48, 32) + conv(32, 8) + conv(10, 8) + conv(8, 3),
            0.26,
        ),
        (
            "vm2",
            conv(32, 32)
            + 2 * conv(64, 32)
            + conv(48, 32)
            + conv(32, 32)
            + conv(34, 16)
            + conv(16, 16)
            + conv(16, 3),
            0.30,
        ),
        # the encoder's maps lie one level finer, so three skips have 32 channels and that of full size 16
        (
            "vm2019",
            conv(32, 32) + 3 * conv(64, 32) + conv(48, 32) + conv(32, 16) + conv(16, 16) + conv(16, 3),
            0.33,
        ),
    ],
)
def test_the_published_networks_have_the_parameters_counted_by_hand(
    variant: str, rest: int, millions: float
) -> None:
    count = sum(p.numel() for p in method(variant=variant).network.parameters())
    assert count == ENCODER + rest
    assert round(count / 1e6, 2) == millions


def test_normalised_images_widen_the_two_layers_that_read_images() -> None:
    plain, wide = (method(normalised_input=on).network for on in (False, True))
    grown = {
        name: b.numel() - a.numel()
        for (name, a), b in zip(plain.named_parameters(), wide.parameters(), strict=True)
        if a.shape != b.shape
    }
    assert sorted(grown.values()) == [27 * 2 * 16, 27 * 2 * 16]


@pytest.mark.parametrize("variant", VARIANTS)
def test_where_the_field_lives(variant: str) -> None:
    prediction = method(variant=variant).predict(batch().fixed, batch().moving)
    integrated = variant == "vm2019"
    assert prediction.level == int(integrated)
    assert prediction.displacement.shape == (1, 3, *(HALF if integrated else SHAPE))
    assert (prediction.inverse is not None) == integrated
    assert float(prediction.displacement.detach().abs().max()) < 0.01  # untrained: nearly the identity


def test_the_velocity_forth_and_back_is_the_identity_up_to_the_grid() -> None:
    made, pair, errors = method(variant="vm2019"), batch(), []
    for finer in (1, 2, 4):
        v = smooth_velocity(finer)
        made.network = lambda _fixed, _moving, v=v: v  # type: ignore[assignment,misc]
        prediction = made.predict(pair.fixed, pair.moving)
        u, inverse = prediction.displacement, prediction.inverse
        assert inverse is not None
        assert float(field.jacobian_determinant(u).min()) > 0
        left_over = [
            field.compose(*both).abs().mean() / u.abs().mean() for both in ((u, inverse), (inverse, u))
        ]
        errors.append(float(torch.stack(left_over).max()))
    # linear interpolation: half the spacing, about a quarter of the error
    assert [coarse / fine > 2.5 for coarse, fine in pairwise(errors)] == [True, True]
    assert errors[-1] < 0.01
    assert float((u + inverse).abs().mean() / u.abs().mean()) > 0.1  # negating the displacement would not do


def test_a_linear_velocity_grows_by_the_exponential() -> None:
    made, pair = method(variant="vm2019"), batch()
    away = field.identity(HALF) - torch.tensor([(n - 1) / 2 for n in HALF]).reshape(1, 3, 1, 1, 1)
    made.network = lambda _fixed, _moving: -0.3 * away  # type: ignore[assignment]
    prediction = made.predict(pair.fixed, pair.moving)  # towards the centre: never asks outside the grid
    # seven squarings start from an Euler step of 2**-7: (1 + a / 128)**128
    torch.testing.assert_close(
        prediction.displacement, ((1 - 0.3 / 128) ** 128 - 1) * away, atol=1e-4, rtol=0
    )
    assert abs((1 - 0.3 / 128) ** 128 - torch.tensor(-0.3).exp()) < 4e-4


@pytest.mark.parametrize("variant", ["vm2", "vm2019"])
def test_the_loss_is_lncc_and_the_diffusion_of_field_or_velocity(variant: str) -> None:
    made, pair = method(sd=0.05, variant=variant, smoothness=0.7), batch()
    prediction = made.predict(pair.fixed, pair.moving)
    terms = made.losses(prediction, pair)
    assert set(terms) == {"lncc", "smoothness"}
    u = prediction.displacement
    full = field.upsample_field(u, SHAPE) if variant == "vm2019" else u
    expected = similarity.lncc(pair.fixed, field.warp(pair.moving, full), mask=pair.fixed_mask)
    torch.testing.assert_close(terms["lncc"], expected)
    raw = made.network(pair.fixed, pair.moving)
    torch.testing.assert_close(terms["smoothness"], 0.7 * regularity.diffusion(raw))


def test_both_directions_average_the_two_similarities() -> None:
    made, pair = method(sd=0.05, variant="vm2019", directions="both", similarity="mse"), batch()
    prediction = made.predict(pair.fixed, pair.moving)
    assert prediction.inverse is not None
    there = field.warp(pair.moving, field.upsample_field(prediction.displacement, SHAPE))
    back = field.warp(pair.fixed, field.upsample_field(prediction.inverse, SHAPE))
    expected = (
        (there - pair.fixed)[pair.fixed > 0].square().mean()
        + (back - pair.moving)[pair.moving > 0].square().mean()
    ) / 2
    torch.testing.assert_close(made.losses(prediction, pair)["mse"], expected)


@pytest.mark.parametrize("variant", ["vm1", "vm2"])
def test_both_directions_need_the_inverse(variant: str) -> None:
    with pytest.raises(ValidationError, match="vm2019 alone"):
        method(variant=variant, directions="both")


def test_dice_needs_labels_and_a_weight() -> None:
    pair = batch()
    made = method(dice=0.3)
    prediction = made.predict(pair.fixed, pair.moving)
    assert "dice" in made.losses(prediction, pair)
    assert "dice" not in made.losses(prediction, Batch(pair.fixed, pair.moving))


def test_the_moving_image_is_read_through_the_start_affine() -> None:
    made, pair = method(sd=0.05), batch()
    shift = torch.tensor([1.0, 2.0, 3.0])
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=torch.cat((torch.eye(3), shift[:, None]), 1)[None])
    away = torch.nn.functional.pad(pair.moving, (3, 5, 2, 4, 1, 6))  # away(i + shift) = moving(i)
    found = made.predict(pair.fixed, away, start)
    torch.testing.assert_close(
        found.displacement, made.predict(pair.fixed, pair.moving).displacement, atol=1e-4, rtol=0
    )
    assert found.affine is start.affine


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pair_gives_the_same_field_alone_and_in_a_batch(variant: str) -> None:
    made, pair = method(sd=0.05, variant=variant, normalised_input=True), both_ways(batch())
    together = made.predict(pair.fixed, pair.moving).displacement
    assert float(together.detach().abs().max()) > 0.05
    for row in range(2):
        alone = made.predict(pair.fixed[row : row + 1], pair.moving[row : row + 1]).displacement
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_touches_the_convolutions_alone(variant: str) -> None:
    made, pair = method(sd=0.02, variant=variant, normalised_input=True), batch()
    seen: list[torch.dtype] = []
    made.network.flow.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = made.predict(pair.fixed, pair.moving)
        terms = made.losses(prediction, pair)
    assert isinstance(prediction, VoxelMorphPrediction)
    assert seen == [torch.bfloat16]
    assert prediction.displacement.dtype == torch.float32
    assert {value.dtype for value in terms.values()} == {torch.float32}
    exact = made.predict(pair.fixed, pair.moving).displacement
    assert float((prediction.displacement - exact).detach().abs().max()) < 0.1


@pytest.mark.parametrize("variant", ["vm2", "vm2019"])
def test_a_few_steps_lower_the_loss(variant: str) -> None:
    made, pair = method(variant=variant, normalised_input=True), batch()
    optimizer = torch.optim.AdamW(made.network.parameters(), lr=5e-4)
    losses = []
    for _ in range(5):
        loss = total(made, pair)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1e-3


def test_there_is_one_stage_with_every_parameter() -> None:
    made = method()
    (stage,) = made.stages(7, 1e-4)
    assert (stage.steps, stage.learning_rate) == (7, 1e-4)
    assert len(stage.parameters) == len(list(made.network.parameters()))
