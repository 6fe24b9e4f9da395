"""Dual-FlowNet on tiny volumes: the paper's topology counted by hand, its equations, and the parts of each ablation."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_phantoms import LEFT, MIDDLE, RIGHT, SHAPE, toy_set

from neuroreg import field
from neuroreg.io.tables import read_label_names
from neuroreg.losses import regularity, similarity
from neuroreg.methods import dualflow
from neuroreg.methods.base import Batch, Prediction, flush_denormal
from neuroreg.methods.dualflow import DualFlow, DualFlowPrediction, RegCNN, SegCNN
from neuroreg.methods.dualflow_regions import GROUPS, RoiMode, class_of_label, classes
from neuroreg.training.data import both_ways
from neuroreg.training.prepare import mirror_table

NAMES = Path(__file__).resolve().parents[2] / "shared" / "data" / "labels" / "dlmuse.csv"
FRONTAL, DEEP, STEM = 82, 36, 35
"""Ids of three groups, which the toy set's regions become."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with flush_denormal():  # as in training
        yield
    torch.set_num_threads(before)


def method(*, sd: float = 0.0, **options: object) -> DualFlow:
    """The network; with ``sd`` its flow convolutions are redrawn, so that it moves something."""
    torch.manual_seed(1)
    made = DualFlow(DualFlow.Config.model_validate({"window": 5, **options}))
    for part in (made.network.region, made.network.whole):
        if sd and part is not None:
            torch.nn.init.normal_(part.flow.weight, std=sd)
    return made


def batch() -> Batch:
    data = toy_set()
    table = torch.arange(256)
    table[[LEFT, RIGHT, MIDDLE]] = torch.tensor([FRONTAL, DEEP, STEM])
    fixed, moving = data.image(0), data.image(1)
    labels = [table[data.label(row).long()] for row in (0, 1)]
    return Batch(fixed, moving, *labels, fixed > 0, torch.Generator().manual_seed(0))


def predicted(made: DualFlow, pair: Batch) -> DualFlowPrediction:
    return made.predict(pair.fixed, pair.moving)


def touched(made: DualFlow, loss: Tensor) -> set[str]:
    """The networks that a loss has a gradient for."""
    made.network.zero_grad()
    loss.backward(retain_graph=True)
    grads = {
        name: 0.0 if p.grad is None else float(p.grad.abs().sum())
        for name, p in made.network.named_parameters()
    }
    return {name.split(".")[0] for name, size in grads.items() if size > 0}


# the regions


def test_the_groups_hold_each_of_the_145_regions_once() -> None:
    ids = [region for members in GROUPS.values() for region in members]
    assert len(ids) == len(set(ids)) == 145
    assert not {0, 1, 46, 69} & set(ids)
    lobes = ("frontal", "occipital", "parietal", "temporal")
    assert [GROUPS[lobe][:2] for lobe in lobes] == [(81, 82), (83, 84), (85, 86), (87, 88)]  # white matter


@pytest.mark.skipif(not NAMES.is_file(), reason="needs ../shared/data/labels")
def test_the_groups_are_of_the_named_regions_and_symmetric() -> None:
    names = read_label_names(NAMES)
    assert {i for members in GROUPS.values() for i in members} == set(names)
    mirror = torch.from_numpy(mirror_table(names)).long()
    group = class_of_label("grouped")
    assert torch.equal(group[mirror], group)
    examples = {
        "Frontal_WM": "frontal", "PrecentralGyrus": "frontal", "PostcentralGyrus": "parietal", "Cuneus": "occipital",
        "MiddleTemporal": "temporal", "Insula": "cingulate and insula", "Cingulate": "cingulate and insula",
        "Ventricle": "deep", "Hippocampus": "deep", "Cerebell": "cerebellum and brain stem",
    }  # fmt: skip
    for word, members in examples.items():
        those = {i for i, name in names.items() if word in name and (word != "Cuneus" or "Pre" not in name)}
        assert those
        assert those <= set(GROUPS[members]), word


@pytest.mark.parametrize(("mode", "count"), [("grouped", 8), ("merged", 2), ("all", 146)])
def test_every_class_has_a_region_and_background_the_rest(mode: RoiMode, count: int) -> None:
    table = class_of_label(mode)
    assert classes(mode) == count == len(table.unique())
    assert int((table > 0).sum()) == 145
    assert table[[0, 1, 46, 69, 255]].tolist() == [0] * 5
    assert set(get_args(RoiMode)) == {"grouped", "merged", "all"}


# the networks


def conv(a: int, b: int, side: int = 3) -> int:
    return side**3 * a * b + b


@pytest.mark.parametrize("wide", [False, True])
def test_the_networks_have_the_parameters_counted_by_hand(wide: bool) -> None:
    c = [(16 if wide else 8) * 2**level for level in range(5)]
    unit = lambda a, b: conv(a, b) + 2 * b  # noqa: E731 - a convolution and its normalisation
    segment = 2 * unit(c[3], c[3])
    for a, b, into in zip(c[:3], c[1:4], (1, *c[1:3]), strict=True):
        segment += unit(into, a) + unit(a, b)  # down
        segment += conv(b, a) + 2 * a + unit(2 * a, a) + conv(a, 8, side=1)  # up
    region = sum(unit(a, b) for a, b in pairwise((14, *c))) + conv(c[0], 3, side=1)
    region += sum(unit(a + b, a) for a, b in pairwise(c)) + unit(c[0], c[0]) + unit(c[1], c[1])
    whole = region - 12 * 27 * c[0]
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in parts(method(wide=wide))}
    assert found == {"segment": segment, "region": region, "whole": whole}


def parts(made: DualFlow) -> list[tuple[str, torch.nn.Module]]:
    return list(made.network.named_children())


@pytest.mark.parametrize("shape", [(16, 16, 32), (10, 12, 10), (5, 3, 7)])
def test_both_networks_take_any_sides(shape: tuple[int, int, int]) -> None:
    logits = SegCNN(1, (8, 8, 8, 8), 3)(torch.zeros(2, 1, *shape))
    assert [tuple(x.shape) for x in logits] == [
        (2, 3, *(-(-n // 2**level) for n in shape)) for level in range(3)
    ]
    assert RegCNN(4, (8, 8, 8, 8, 8))(torch.zeros(2, 4, *shape)).shape == (2, 3, *shape)


def test_normalisation_is_over_groups_of_four_channels_but_at_least_two_groups() -> None:
    norms = [m for m in method().network.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {(m.num_channels, m.num_groups) for m in norms} == {(8, 2), (16, 4), (32, 8), (64, 16), (128, 32)}


def test_the_flows_are_linear_in_their_last_convolution() -> None:
    network = RegCNN(2, (8, 8, 8, 8, 8))
    assert isinstance(network.flow, torch.nn.Conv3d)
    images = torch.rand(1, 2, 16, 16, 16)
    first = network(images)
    with torch.no_grad():
        network.flow.weight.mul_(-3.0)
    torch.testing.assert_close(
        network(images), -3.0 * first, atol=0, rtol=1e-4
    )  # a rectifier or a norm behind it would not


def test_an_untrained_network_is_nearly_the_identity() -> None:
    found = predicted(method(), batch())
    assert found.displacement.shape == (1, 3, *SHAPE)
    assert found.level == 0
    assert float(found.displacement.detach().abs().max()) < 0.01


# the data flow


def test_region_images_are_the_image_shared_out_but_for_the_background() -> None:
    made, pair = method(), batch()
    found = predicted(made, pair)
    assert found.rois is not None
    assert found.labels is not None
    for image, rois, shares in zip((pair.fixed, pair.moving), found.rois, found.labels, strict=True):
        assert rois.shape == (1, 7, *SHAPE)
        assert shares.shape == (1, 8, *SHAPE)
        torch.testing.assert_close(shares.sum(1), torch.ones(1, *SHAPE))
        torch.testing.assert_close(rois.sum(1, keepdim=True), (1 - shares[:, :1]) * image)


@pytest.mark.parametrize(("mode", "rois"), [("merged", 1), ("all", 145)])
def test_the_region_network_reads_one_image_per_class(mode: RoiMode, rois: int) -> None:
    made = method(roi_mode=mode)
    assert made.network.region.down[0][0].in_channels == 2 * rois
    found = predicted(made, batch())
    assert found.rois is not None
    assert found.rois[0].shape[1] == rois


def test_the_moving_image_is_warped_by_the_region_flow_then_by_the_global_flow() -> None:
    made, pair = method(sd=0.3), batch()
    found = predicted(made, pair)
    assert found.region is not None
    assert found.whole is not None
    assert float(found.region.detach().abs().max()) > 0.3
    torch.testing.assert_close(found.displacement, field.compose(found.region, found.whole))
    # on an image that is linear in the position two interpolations are one, away from the border
    inside = (slice(None), slice(None), *(slice(4, -4),) * 3)
    ramp = field.identity(SHAPE)
    twice = field.warp(field.warp(ramp, found.region), found.whole)
    torch.testing.assert_close(field.warp(ramp, found.displacement)[inside], twice[inside], atol=1e-4, rtol=0)
    wrong = field.compose(found.whole, found.region)
    assert float((field.warp(ramp, wrong) - twice)[inside].detach().abs().max()) > 0.02


def test_composition_by_hand() -> None:
    index = field.identity((6, 6, 6))
    region = 0.1 * index[:, [1, 2, 0]]  # u_R(x) = 0.1 (x2, x3, x1)
    whole = torch.tensor([1.0, 2.0, -1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 6, 6, 6)
    found = dualflow._composed(region, whole)[
        0, :, 2, 1, 3
    ]  # 1 + .1 (1 + 2), 2 + .1 (3 - 1), -1 + .1 (2 + 1)
    torch.testing.assert_close(found, torch.tensor([1.3, 2.2, -0.7]))


def test_the_second_network_sees_the_fixed_image_and_the_moving_one_after_the_region_flow() -> None:
    made, pair = method(sd=0.3), batch()
    seen: list[Tensor] = []
    made.network.whole.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    found = predicted(made, pair)
    assert found.region is not None
    torch.testing.assert_close(seen[0], torch.cat((pair.fixed, field.warp(pair.moving, found.region)), dim=1))


def test_the_moving_image_is_read_through_the_start_affine() -> None:
    made, pair = method(sd=0.1), batch()
    shift = torch.tensor([1.0, 2.0, 3.0])
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=torch.cat((torch.eye(3), shift[:, None]), 1)[None])
    away = F.pad(pair.moving, (3, 5, 2, 4, 1, 6))  # away(i + shift) = moving(i), on its own grid
    found = made.predict(pair.fixed, away, start)
    torch.testing.assert_close(found.displacement, predicted(made, pair).displacement, atol=1e-4, rtol=0)
    assert found.affine is start.affine


def test_a_pair_gives_the_same_field_alone_and_in_a_batch() -> None:
    made, pair = method(sd=0.1), both_ways(batch())
    together = predicted(made, pair).displacement
    assert float(together.detach().abs().max()) > 0.05
    for row in range(2):
        alone = made.predict(pair.fixed[row : row + 1], pair.moving[row : row + 1]).displacement
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_autocast_touches_the_convolutions_alone() -> None:
    made, pair = method(sd=0.05, normalised_input=True, dice=0.3), batch()
    seen: list[torch.dtype] = []
    made.network.whole.flow.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = predicted(made, pair)
        terms = made.losses(found, pair)
    assert seen == [torch.bfloat16]
    assert found.region is not None
    assert {u.dtype for u in (found.displacement, found.region)} == {torch.float32}
    assert {value.dtype for value in terms.values()} == {torch.float32}
    exact = predicted(made, pair).displacement
    assert float((found.displacement - exact).detach().abs().max()) < 0.1


# the inverse


def smooth_field() -> Tensor:
    """Up to about 2.5 voxels, no folds."""
    noise = torch.randn(1, 3, 24, 24, 24, generator=torch.Generator().manual_seed(2))
    u = field.smooth(noise, 4.0)
    return 2.5 * u / u.abs().max()


def test_the_fixed_point_is_an_inverse_and_the_literal_reading_is_worse_than_minus_u() -> None:
    u = smooth_field()
    assert float(field.jacobian_determinant(u).min()) > 0.3

    def residual(v: Tensor) -> float:
        return float((v + field.warp(u, v)).norm(dim=1)[:, 5:-5, 5:-5, 5:-5].mean())

    by_hand = -u
    assert torch.equal(dualflow.inverse(u, "literal", 5), -field.warp(u, u))
    found = [residual(dualflow.inverse(u, "fixed_point", n)) for n in (1, 3, 5)]
    assert found == sorted(found, reverse=True)
    assert found[2] < 0.01 * residual(by_hand)
    assert residual(dualflow.inverse(u, "literal", 5)) > 1.3 * residual(by_hand)


def test_the_inverse_of_a_stretch_is_known() -> None:
    index = field.identity((1, 1, 17))
    u = torch.zeros(1, 3, 1, 1, 17)
    u[:, 2] = 0.25 * (index[:, 2] - 8)  # x -> 8 + 1.25 (x - 8)
    v = dualflow.inverse(u, "fixed_point", 20)
    torch.testing.assert_close(v[:, 2], -0.2 * (index[:, 2] - 8), atol=1e-4, rtol=0)


# the losses


def test_the_losses_are_the_papers() -> None:
    made, pair = method(sd=0.2, alpha=0.7, beta=0.6, gamma=0.4, eta=0.3, segmentation=0.2), batch()
    found = predicted(made, pair)
    terms = made.losses(found, pair)
    u_r, u_g, rois = found.region, found.whole, found.rois
    assert u_r is not None
    assert u_g is not None
    assert rois is not None

    def unlike(fixed: Tensor, moved: Tensor) -> Tensor:
        return similarity.lncc_of_texture(fixed, moved, window=5)

    v = dualflow.inverse(u_g, "fixed_point", 5)
    expected = {
        "regions": unlike(rois[0], field.warp(rois[1], u_r)),
        "smooth_region": 0.7 * regularity.diffusion(u_r),
        "lncc": unlike(pair.fixed, field.warp(pair.moving, found.displacement)),
        "smooth_global": 0.6 * regularity.diffusion(u_g),
        "consistency": 0.3 * unlike(field.warp(pair.fixed, v), field.warp(pair.moving, u_r)),
        "smooth_inverse": 0.3 * 0.4 * regularity.diffusion(v),
        "segmentation": 0.2 * cross_entropy_by_hand(found, pair),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)


def cross_entropy_by_hand(found: DualFlowPrediction, pair: Batch) -> Tensor:
    """Eq. 2 at three levels, voxel by voxel of the labels as they lie on each level."""
    assert pair.fixed_labels is not None
    assert pair.moving_labels is not None
    group = {0: 0, 1: 0, FRONTAL: 1, DEEP: 6, STEM: 7}
    total = torch.zeros(())
    for level, weight in enumerate((1.0, 0.5, 0.25)):
        logits = found.logits[level].log_softmax(1)
        means = []
        for row, labels in enumerate((pair.fixed_labels, pair.moving_labels)):
            coarse = labels[0, 0, :: 2**level, :: 2**level, :: 2**level]
            wanted = coarse.clone().apply_(group.__getitem__)
            means.append(-logits[row].gather(0, wanted[None]).mean())
        total = total + weight * (means[0] + means[1]) / 2
    return total


def test_images_without_labels_are_not_asked_for_them() -> None:
    made, pair = method(), batch()
    found = predicted(made, pair)

    def entropy(*known: Tensor | None) -> float:
        terms = made.losses(found, Batch(pair.fixed, pair.moving, *known))
        return float(terms["segmentation"].detach())

    one, other = entropy(pair.fixed_labels, None), entropy(None, pair.moving_labels)
    assert entropy(pair.fixed_labels, pair.moving_labels) == pytest.approx((one + other) / 2, rel=1e-5)
    assert entropy(None, None) == 0.0
    assert "dice" not in method(dice=0.3).losses(found, Batch(pair.fixed, pair.moving))
    assert "dice" in method(dice=0.3).losses(found, pair)


def test_no_part_of_the_similarity_exceeds_its_bounds() -> None:
    made, pair = method(sd=1.0), batch()  # a wild field
    terms = made.losses(predicted(made, pair), pair)
    for name, weight in (("regions", 1.0), ("lncc", 1.0), ("consistency", 0.5)):
        assert 0 <= float(terms[name].detach()) <= 2 * weight


# the ablations


@pytest.mark.parametrize(
    ("ablation", "networks", "terms"),
    [
        ("global", {"whole"}, {"lncc", "smooth_global"}),
        ("region", {"segment", "region"}, {"regions", "smooth_region", "segmentation"}),
        (
            "both",
            {"segment", "region", "whole"},
            {"regions", "smooth_region", "segmentation", "lncc", "smooth_global"},
        ),
        (
            "full",
            {"segment", "region", "whole"},
            {"regions", "smooth_region", "segmentation", "lncc", "smooth_global", "consistency", "smooth_inverse"},
        ),
    ],
)  # fmt: skip
def test_an_ablation_has_exactly_its_parts(ablation: str, networks: set[str], terms: set[str]) -> None:
    made, pair = method(sd=0.1, ablation=ablation), batch()
    assert {name for name, _ in parts(made)} == networks
    found = predicted(made, pair)
    losses = made.losses(found, pair)
    assert set(losses) == terms
    assert touched(made, torch.stack(list(losses.values())).sum()) == networks
    idle = [
        name for name, p in made.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert idle == []
    if ablation == "region":
        assert found.displacement is found.region
    if ablation == "global":
        assert found.displacement is found.whole
        assert found.labels is None


def test_without_weight_region_consistency_is_the_two_flows_alone() -> None:
    pair = batch()
    full, both = method(sd=0.1, eta=0.0), method(sd=0.1, ablation="both")
    assert torch.equal(predicted(full, pair).displacement, predicted(both, pair).displacement)
    assert set(full.losses(predicted(full, pair), pair)) == set(both.losses(predicted(both, pair), pair))


def test_which_network_each_term_teaches() -> None:
    made, pair = method(sd=0.1), batch()
    terms = made.losses(predicted(made, pair), pair)
    teaches = {name: touched(made, terms[name]) for name in terms if name != "smooth_inverse"}
    # the global flow is found from the warped image, so its smoothness is the region flow's concern too
    assert teaches == {
        "regions": {"region"},
        "smooth_region": {"region"},
        "lncc": {"region", "whole"},
        "smooth_global": {"region", "whole"},
        "consistency": {"region", "whole"},
        "segmentation": {"segment"},
    }


def test_masks_may_learn_from_the_registration() -> None:
    made, pair = method(sd=0.1, detach_masks=False), batch()
    assert touched(made, made.losses(predicted(made, pair), pair)["regions"]) == {"segment", "region"}


# training


def test_the_segmentation_learns_first_then_everything() -> None:
    made = method(segment_steps=3, segment_rate=2e-3)
    alone, joint = made.stages(10, 1e-4)
    assert (alone.name, alone.steps, alone.learning_rate) == ("segment", 3, 2e-3)
    assert (joint.name, joint.steps, joint.learning_rate) == ("joint", 7, 1e-4)
    assert {id(p) for p in alone.parameters} == {id(p) for p in made.network.segment.parameters()}
    assert len(joint.parameters) == len(list(made.network.parameters()))
    assert joint.objective is None
    assert [s.name for s in method(segment_steps=0).stages(10, 1e-4)] == ["joint"]
    assert [s.steps for s in method(ablation="global").stages(10, 1e-4)] == [10]
    assert [s.steps for s in method().stages(10, 1e-4)] == [10, 0]


def test_the_segmentation_stage_minimises_eq_2_and_is_judged_by_dice() -> None:
    made, pair = method(), batch()
    alone = made.stages(10, 1e-4)[0]
    assert alone.objective is not None
    assert alone.score is not None
    (loss,) = alone.objective(pair).values()
    torch.testing.assert_close(loss, cross_entropy_by_hand(predicted(made, pair), pair))
    assert touched(made, loss) == {"segment"}
    assert pair.fixed_labels is not None
    wanted = class_of_label("grouped")[pair.fixed_labels]
    perfect = F.one_hot(wanted[:, 0], 8).movedim(-1, 1).float()
    made.network.segmented = lambda *_: (perfect,)
    assert alone.score(pair.fixed, pair.fixed_labels) == 1.0
    half = torch.where(wanted == 7, torch.zeros(()), perfect)  # the stem is not found
    made.network.segmented = lambda *_: (half,)
    assert alone.score(pair.fixed, pair.fixed_labels) == pytest.approx(2 / 3)


def test_a_few_steps_lower_the_loss() -> None:
    made, pair = method(sd=1e-3, normalised_input=True, slope=0.2), batch()
    optimizer = torch.optim.AdamW(made.network.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = torch.stack(list(made.losses(predicted(made, pair), pair).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
