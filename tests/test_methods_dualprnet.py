"""Dual-PRNet on tiny volumes: the paper's counts, and laws that hold for any weights."""

from collections.abc import Iterator
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor
from training_phantoms import SHAPE, toy_set

from neuroreg import field
from neuroreg.losses import regularity, similarity
from neuroreg.methods.base import Batch, Prediction
from neuroreg.methods.dualprnet import DualPRNet, DualPRPrediction, Encoder, local_correlation
from neuroreg.training.data import both_ways

LEVELS = [(1, 2, 2), (2, 3, 3), (4, 5, 5), (8, 9, 10)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def method(*, sd: float = 0.0, **options: object) -> DualPRNet:
    """A small network; with ``sd`` its flow convolutions are redrawn, so that it moves something."""
    torch.manual_seed(1)
    small = {"widths": (4, 4, 4, 4), "pyramid_width": 4}
    made = DualPRNet(DualPRNet.Config.model_validate(small | options))
    if sd:
        for head in made.network.heads:
            torch.nn.init.normal_(head.flow.weight, std=sd)
    return made


def batch() -> Batch:
    data = toy_set()
    fixed, moving = data.image(0), data.image(1)
    return Batch(fixed, moving, data.label(0), data.label(1), fixed > 0, torch.Generator().manual_seed(0))


def total(made: DualPRNet, pair: Batch) -> Tensor:
    return torch.stack(list(made.losses(made.predict(pair.fixed, pair.moving), pair).values())).sum()


def test_the_published_configuration_has_the_parameters_counted_by_hand() -> None:
    def conv(a: int, b: int, *, bias: bool = True) -> int:
        return 27 * a * b + bias * b

    widths, pyramid = (8, 16, 32, 32), 32
    count = conv(1, 8) + 2 * 8 + conv(8, 8)
    for a, b in pairwise(
        widths
    ):  # norm, strided convolution, two residual units of norm and convolution twice
        count += 2 * a + conv(a, b, bias=False) + 2 * 2 * (2 * b + conv(b, b, bias=False))
    count += (
        sum(w * pyramid + pyramid for w in widths) + 4 * conv(pyramid, pyramid) + 4 * conv(2 * pyramid, 3)
    )
    network = DualPRNet(DualPRNet.Config()).network
    assert sum(p.numel() for p in network.parameters()) == count == 430_900


def test_the_encoder_makes_four_maps_coarse_to_fine() -> None:
    maps = Encoder((4, 4, 8, 8), 6)(torch.zeros(2, 1, *SHAPE))
    assert [tuple(x.shape) for x in maps] == [(2, 6, *shape) for shape in LEVELS]


def test_the_field_lives_on_level_1_with_an_update_per_level() -> None:
    prediction = method().predict(batch().fixed, batch().moving)
    assert isinstance(prediction, DualPRPrediction)
    assert prediction.level == 1
    assert [tuple(u.shape) for u in prediction.levels] == [(1, 3, *shape) for shape in LEVELS]
    assert [tuple(u.shape) for u in prediction.updates] == [(1, 3, *shape) for shape in LEVELS]
    assert prediction.displacement is prediction.levels[-1]


def test_an_untrained_network_is_nearly_the_identity_and_no_flow_exactly() -> None:
    made, pair = method(), batch()
    assert float(made.predict(pair.fixed, pair.moving).displacement.detach().abs().max()) < 0.01
    with torch.no_grad():
        for head in made.network.heads:
            head.flow.weight.zero_()
    prediction = made.predict(pair.fixed, pair.moving)
    torch.testing.assert_close(field.warp(pair.moving, prediction.at_level(0, SHAPE)), pair.moving)


def test_updates_of_known_size_double_from_level_to_level() -> None:
    made = method()
    with torch.no_grad():
        for head in made.network.heads:
            head.flow.weight.zero_()
            head.flow.bias.copy_(torch.tensor([0.1, 0.0, -0.2]))
    levels = made.predict(batch().fixed, batch().moving).levels
    for u, expected in zip(levels, (1, 3, 7, 15), strict=True):  # u <- 2 u + d
        torch.testing.assert_close(u.amax((0, 2, 3, 4)), expected * torch.tensor([0.1, 0.0, -0.2]))


def test_the_single_header_keeps_the_finest_level_alone() -> None:
    made = method(header="single")
    prediction = made.predict(batch().fixed, batch().moving)
    assert len(made.network.heads) == len(prediction.levels) == 1
    assert prediction.displacement.shape[2:] == LEVELS[-1]


def test_the_correlation_of_a_shifted_map_peaks_at_its_shift() -> None:
    moved = torch.randn(1, 512, 5, 6, 7, generator=torch.Generator().manual_seed(3))
    offsets = list(product((-1, 0, 1), repeat=3))
    for number in (0, 5, 13, 26):
        fixed = moved.roll(tuple(-o for o in offsets[number]), dims=(2, 3, 4))  # fixed(i) = moved(i + o)
        found = local_correlation(fixed, moved)
        assert found.shape == (1, 27, 5, 6, 7)
        inside = found[:, :, 1:-1, 1:-1, 1:-1]
        assert bool((inside.argmax(1) == number).all())
        torch.testing.assert_close(
            inside[:, number], (fixed**2).mean(1)[:, 1:-1, 1:-1, 1:-1], atol=1e-6, rtol=1e-6
        )


def test_the_correlation_sees_nothing_outside_the_grid() -> None:
    found = local_correlation(torch.ones(1, 2, 3, 3, 3), torch.ones(1, 2, 3, 3, 3))
    assert found[0, 13].min() == 1
    assert found[0, 0, 0, 0, 0] == 0
    assert found[0, 26, 0, 0, 0] == 1
    assert found[0, 26, 2, 2, 2] == 0


def test_the_moving_image_is_read_through_the_start_affine() -> None:
    made, pair = method(sd=0.1), batch()
    made.network.eval()
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


def test_a_pair_gives_the_same_field_alone_and_in_a_batch_once_trained() -> None:
    made, pair = method(sd=0.1), both_ways(batch())
    made.network.eval()  # in training, normalisation is over the whole batch
    together = made.predict(pair.fixed, pair.moving).displacement
    assert float(together.detach().abs().max()) > 0.05
    for row in range(2):
        alone = made.predict(pair.fixed[row : row + 1], pair.moving[row : row + 1]).displacement
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_both_images_go_through_one_encoder() -> None:
    made, pair = method(), batch()
    seen: list[Tensor] = []
    made.network.encoder.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    made.predict(pair.fixed, pair.moving)
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.cat((pair.fixed, pair.moving)))


@pytest.mark.parametrize("head", ["linear", "corr"])
@pytest.mark.parametrize("header", ["pyramid", "single"])
def test_gradients_reach_every_parameter(header: str, head: str) -> None:
    made = method(sd=0.05, header=header, dice=0.3)
    total(made, batch()).backward()
    idle = [
        name for name, p in made.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    # the single field reads the finest map, which holds what the coarser ones passed up
    assert idle == []


def test_the_loss_is_lncc_and_the_diffusion_of_each_update() -> None:
    made, pair = method(sd=0.1, smoothness=0.7), batch()
    prediction = made.predict(pair.fixed, pair.moving)
    terms = made.losses(prediction, pair)
    assert set(terms) == {"lncc", "smoothness"}
    moved = field.warp(pair.moving, field.upsample_field(prediction.displacement, SHAPE))
    torch.testing.assert_close(
        terms["lncc"], similarity.lncc(pair.fixed, moved, window=9, mask=pair.fixed_mask)
    )
    diffusions = [regularity.diffusion(update) for update in prediction.updates]
    torch.testing.assert_close(terms["smoothness"], 0.7 * sum(diffusions))


def test_dice_needs_labels_and_a_weight() -> None:
    pair = batch()
    made = method(dice=0.3)
    prediction = made.predict(pair.fixed, pair.moving)
    assert "dice" in made.losses(prediction, pair)
    assert "dice" not in made.losses(prediction, Batch(pair.fixed, pair.moving))


def test_autocast_touches_the_convolutions_alone() -> None:
    made, pair = method(sd=0.05), batch()
    made.network.eval()
    seen: list[torch.dtype] = []
    made.network.heads[3].flow.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = made.predict(pair.fixed, pair.moving)
        terms = made.losses(prediction, pair)
    assert seen == [torch.bfloat16]
    assert {u.dtype for u in (*prediction.levels, *prediction.updates)} == {torch.float32}
    assert {value.dtype for value in terms.values()} == {torch.float32}
    exact = made.predict(pair.fixed, pair.moving).displacement
    assert float((prediction.displacement - exact).detach().abs().max()) < 0.1


def test_a_few_steps_lower_the_loss() -> None:
    made, pair = method(sd=1e-3), batch()
    optimizer = torch.optim.AdamW(made.network.parameters(), lr=3e-4)
    losses = []
    for _ in range(8):
        loss = total(made, pair)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_there_is_one_stage_with_every_parameter() -> None:
    made = method()
    (stage,) = made.stages(7, 1e-4)
    assert (stage.steps, stage.learning_rate) == (7, 1e-4)
    assert len(stage.parameters) == len(list(made.network.parameters()))
