"""LDGNet on tiny volumes: gates and dilations by hand, its ablations, and recipes that may be compared."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_phantoms import SHAPE, toy_set

from neuroreg import field
from neuroreg.losses import regularity, similarity
from neuroreg.methods.base import Batch
from neuroreg.methods.ldgnet import DILATIONS, Enhancement, Guidance, LDGNet
from neuroreg.methods.voxelmorph import VoxelMorph
from neuroreg.training.recipe import load_recipe
from neuroreg.training.run import build

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("none", "guidance", "enhancement", "both")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def method(*, sd: float = 0.0, **options: object) -> LDGNet:
    """The network; with ``sd`` its flow convolution is redrawn, so that it moves something."""
    torch.manual_seed(1)
    made = LDGNet(LDGNet.Config.model_validate(options))
    if sd:
        torch.nn.init.normal_(made.network.flow.weight, std=sd)
    return made


def batch() -> Batch:
    data = toy_set()
    fixed, moving = data.image(0), data.image(1)
    return Batch(fixed, moving, data.label(0), data.label(1), fixed > 0, torch.Generator().manual_seed(0))


def conv(a: int, b: int, taps: int = 27) -> int:
    return taps * a * b + b


VM2 = sum(
    conv(a, b)
    for a, b in (
        (2, 16), (16, 32), (32, 32), (32, 32),
        (32, 32), (64, 32), (64, 32), (48, 32), (32, 32), (34, 16), (16, 16), (16, 3),
    )
)  # fmt: skip
ENHANCEMENT = 3 * conv(32, 32) + conv(96, 32, taps=1)
GUIDANCE = 2 * conv(64, 32, taps=1) + conv(48, 16, taps=1) + 3 * conv(2, 1, taps=1)


@pytest.mark.parametrize(
    ("modules", "count", "millions"),
    [
        ("none", VM2, 0.30),
        ("guidance", VM2 + GUIDANCE, 0.31),
        ("enhancement", VM2 + ENHANCEMENT, 0.39),
        ("both", VM2 + GUIDANCE + ENHANCEMENT, 0.39),
    ],
)
def test_each_ablation_has_the_parameters_counted_by_hand(modules: str, count: int, millions: float) -> None:
    assert sum(p.numel() for p in method(modules=modules).network.parameters()) == count
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("normalised", [False, True])
def test_without_its_modules_it_is_voxelmorph(normalised: bool) -> None:
    torch.manual_seed(1)
    twin = VoxelMorph(VoxelMorph.Config(normalised_input=normalised, dice=0.3, smoothness=0.3))
    made = method(modules="none", normalised_input=normalised, dice=0.3, smoothness=0.3)
    for (name, a), (other, b) in zip(
        made.network.state_dict().items(), twin.network.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    torch.nn.init.normal_(made.network.flow.weight, std=0.05)
    twin.network.load_state_dict(made.network.state_dict())
    fields, terms = [], []
    for one in (made, twin):
        pair = batch()
        prediction = one.predict(pair.fixed, pair.moving)
        fields.append(prediction.displacement)
        terms.append(one.losses(prediction, pair))
    assert torch.equal(*fields)
    assert float(fields[0].detach().abs().max()) > 0.05
    assert list(terms[0]) == list(terms[1])
    assert all(torch.equal(terms[0][name], terms[1][name]) for name in terms[0])


def test_every_ablation_starts_from_the_same_plain_layers() -> None:
    plain = {k: v for k, v in method(modules="none").network.state_dict().items() if k.startswith("body.")}
    for modules in MODULES[1:]:
        state = method(modules=modules).network.state_dict()
        assert [name for name, value in plain.items() if not torch.equal(state[name], value)] == []


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_gates_of_two_channels_and_two_voxels_by_hand() -> None:
    guidance = Guidance(2, 1, mlp=False)
    with torch.no_grad():
        guidance.join.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]]).reshape(2, 3, 1, 1, 1))
        guidance.join.bias.copy_(torch.tensor([0.1, -0.2]))
        guidance.voxel.weight.copy_(torch.tensor([0.7, -0.4]).reshape(1, 2, 1, 1, 1))
        guidance.voxel.bias.fill_(0.3)
    skip = torch.tensor([[1.0, 3.0], [2.0, -1.0]]).reshape(1, 2, 1, 1, 2)
    decoded = torch.tensor([[0.5, -1.0]]).reshape(1, 1, 1, 1, 2)
    # z: channel 0 is e0 + 2 u + .1 = 2.1, 1.1; channel 1 is -e1 + .5 u - .2 = -1.95, .3
    a0, a1 = sigmoid((2.1 + 1.1) / 2 + 2.1), sigmoid((-1.95 + 0.3) / 2 + 0.3)
    rows = [[a0 * 1.0, a1 * 2.0], [a0 * 3.0, a1 * -1.0]]  # per voxel
    expected = []
    for channels in rows:
        s = sigmoid(0.7 * sum(channels) / 2 - 0.4 * max(channels) + 0.3)
        expected.append([s * value for value in channels])
    found = guidance(skip, decoded)[0, :, 0, 0]
    torch.testing.assert_close(found, torch.tensor(expected).T)


def test_the_perceptron_is_shared_by_both_poolings() -> None:
    guidance = Guidance(8, 4, mlp=True)
    assert [tuple(p.shape) for p in guidance.mlp.parameters()] == [(2, 8), (2,), (8, 2), (8,)]
    with torch.no_grad():
        for parameter in guidance.parameters():
            parameter.zero_()
        guidance.mlp[2].bias.fill_(1.5)
    skip = torch.randn(1, 8, 3, 3, 3)
    # both poolings give 1.5; the second gate asks nothing and halves
    torch.testing.assert_close(guidance(skip, torch.randn(1, 4, 3, 3, 3)), skip * sigmoid(3.0) * 0.5)


@pytest.mark.parametrize(
    ("sides", "dilations", "taps"),
    [
        ((5, 6, 5), "scaled", (18.0, 11.3, 3.3)),
        ((5, 6, 5), "literal", (1.0, 1.0, 1.0)),
        ((10, 12, 10), "literal", (6.5, 1.0, 1.0)),  # the same at 1 mm
    ],
)
def test_how_many_taps_a_dilated_convolution_has_on_the_coarsest_map(
    sides: tuple[int, int, int], dilations: str, taps: tuple[float, ...]
) -> None:
    enhancement = Enhancement(1, DILATIONS[dilations], residual=False)
    for branch, dilation, expected in zip(enhancement.branches, DILATIONS[dilations], taps, strict=True):
        torch.nn.init.ones_(branch.weight)
        mean = float(branch(torch.ones(1, 1, *sides)).detach().mean())
        # along a side of n: every voxel has itself, and n - d of them a neighbour on either side
        counted = math.prod((n + 2 * max(n - dilation, 0)) / n for n in sides)
        assert mean == pytest.approx(counted, rel=1e-5)
        assert mean == pytest.approx(expected, abs=0.05)


def test_a_residual_enhancement_adds_itself_to_its_input() -> None:
    torch.manual_seed(0)
    plain = Enhancement(4, (1, 2, 4), residual=False)
    x = torch.randn(1, 4, 5, 6, 5)
    added = Enhancement(4, (1, 2, 4), residual=True)
    added.load_state_dict(plain.state_dict())
    torch.testing.assert_close(added(x), x + plain(x))
    assert plain(x).shape == x.shape


@pytest.mark.parametrize("options", [{"mlp": True, "residual": True}, *({"modules": m} for m in MODULES)])
def test_gradients_reach_every_parameter(options: dict[str, object]) -> None:
    made, pair = method(sd=0.05, dice=0.3, **options), batch()
    prediction = made.predict(pair.fixed, pair.moving)
    assert prediction.displacement.shape == (1, 3, *SHAPE)
    torch.stack(list(made.losses(prediction, pair).values())).sum().backward()
    # dead where they should be: taps that lie outside so small a map
    assert [k for k, p in made.network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_loss_is_lncc_and_the_diffusion_of_the_field() -> None:
    made, pair = method(sd=0.05, smoothness=0.7), batch()
    prediction = made.predict(pair.fixed, pair.moving)
    terms = made.losses(prediction, pair)
    assert set(terms) == {"lncc", "smoothness"}
    moved = field.warp(pair.moving, prediction.displacement)
    torch.testing.assert_close(terms["lncc"], similarity.lncc(pair.fixed, moved, mask=pair.fixed_mask))
    torch.testing.assert_close(terms["smoothness"], 0.7 * regularity.diffusion(prediction.displacement))


def test_autocast_leaves_field_and_losses_in_single_precision() -> None:
    made, pair = method(sd=0.02, normalised_input=True, mlp=True), batch()
    seen: list[torch.dtype] = []
    made.network.flow.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = made.predict(pair.fixed, pair.moving)
        terms = made.losses(prediction, pair)
    assert seen == [torch.bfloat16]
    assert {x.dtype for x in (prediction.displacement, *terms.values())} == {torch.float32}
    exact = made.predict(pair.fixed, pair.moving).displacement
    assert float((prediction.displacement - exact).detach().abs().max()) < 0.1


def test_a_few_steps_lower_the_loss() -> None:
    made, pair = method(normalised_input=True), batch()
    optimizer = torch.optim.AdamW(made.network.parameters(), lr=5e-4)
    losses: list[Tensor] = []
    for _ in range(5):
        loss = torch.stack(list(made.losses(made.predict(pair.fixed, pair.moving), pair).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert float(losses[-1]) < float(losses[0]) - 1e-3


def test_the_recipes_of_the_four_ablations_differ_in_their_modules_alone() -> None:
    names = {
        "none": "voxelmorph-coarse",
        "guidance": "ldgnet-guidance",
        "enhancement": "ldgnet-enhancement",
        "both": "ldgnet-coarse",
    }
    common, plain = [], []
    for modules, name in names.items():
        recipe = load_recipe(ROOT / "examples" / "ablations" / f"{name}.yaml").on("cpu")
        made = build(recipe)
        assert getattr(made.config, "modules", "none") == modules  # type: ignore[attr-defined]
        common.append(recipe.model_dump(exclude={"name", "method", "config"}))
        plain.append({key: value for key, value in recipe.config.items() if key != "modules"})
    assert all(other == common[0] for other in common)
    assert all(other == plain[0] for other in plain)


@pytest.mark.parametrize("name", ["ldgnet", "voxelmorph"])
def test_the_faithful_recipes_train_as_the_papers_do_within_the_same_budget(name: str) -> None:
    faithful = load_recipe(ROOT / "examples" / "ablations" / f"{name}-faithful.yaml").on("cpu")
    coarse = load_recipe(ROOT / "examples" / "ablations" / f"{name}-coarse.yaml").on("cpu")
    kind = type(build(faithful).config)  # type: ignore[attr-defined]
    assert kind.model_validate(faithful.config) == kind()
    assert faithful.model_dump(exclude={"name", "config"}) == coarse.model_dump(exclude={"name", "config"})
