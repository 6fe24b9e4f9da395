"""jointaffine on tiny volumes: the paper's counts, and laws that hold for any weights."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from training_phantoms import LEFT, MIDDLE, NO_AUGMENTATION, RIGHT, toy_set

from neuroreg import field
from neuroreg.losses import similarity
from neuroreg.methods.base import Batch, Prediction
from neuroreg.methods.jointaffine import JointAffine, JointPrediction
from neuroreg.methods.jointaffine_finish import Finish, settle
from neuroreg.nn.points import chain
from neuroreg.training.checkpoint import save_weights
from neuroreg.training.poses import Poses, draw_raw_pair

SMALL = {
    "widths": (4, 4, 4, 4), "decoder_widths": (4, 4, 4), "regions": (LEFT, RIGHT, MIDDLE, 1), "dice_rois": 2,
}  # fmt: skip
POINTS = {"head": "points", "affine_level": 1, "normalised_input": True}
SHAPE = (32, 40, 36)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def method(*, sharp: float = 0.0, **options: object) -> JointAffine:
    """A small network; ``sharp`` makes random heat maps peak, so that their centres lie apart."""
    torch.manual_seed(1)
    made = JointAffine(JointAffine.Config.model_validate(SMALL | options))
    if sharp:
        torch.nn.init.normal_(made.network.get_parameter("head.heat.weight"), std=sharp)
    made.network.eval()
    return made


def head(at: tuple[int, int, int] = (8, 10, 8)) -> Tensor:
    """A textured ellipsoid of 16 x 18 x 20 voxels with its corner at ``at``, in air."""
    image = torch.zeros(1, 1, *SHAPE)
    d, h, w = at
    image[..., d : d + 16, h : h + 18, w : w + 20] = toy_set().image(0)
    return image


def pair(level: int = 0) -> Batch:
    poses = Poses(degrees=15, scale=1.1, shift=0.5, stripped=0)
    return draw_raw_pair(toy_set(), poses, NO_AUGMENTATION, torch.Generator().manual_seed(1), level=level)


def shift(*voxels: float) -> Tensor:
    return torch.cat((torch.eye(3), torch.tensor(voxels)[:, None]), dim=1)[None]


def conv(a: int, b: int) -> int:
    return 27 * a * b + b


def test_the_published_network_has_the_parameters_counted_by_hand() -> None:
    widths, decoder = (16, 32, 32, 32), (32, 32, 16)
    encoder = sum(conv(a, b) + 2 * b for a, b in pairwise((2, *widths)))
    encoder += sum(conv(a, a) for a in widths[:-1])
    dilated = 4 * (conv(32, 32) + 2 * 32)
    up = sum(
        conv(below + skip, out) + 2 * (conv(out, out) + 2 * out)
        for below, skip, out in zip((32, *decoder[:-1]), widths[-2::-1], decoder, strict=True)
    )
    count = encoder + dilated + up + conv(decoder[-1], 3) + (32 * 12 + 12)
    network = JointAffine(JointAffine.Config()).network
    assert sum(p.numel() for p in network.parameters()) == count


def test_an_untrained_pooled_head_lays_centres_of_mass_on_each_other() -> None:
    for kind in ("pooled", "grid"):
        found = method(head=kind).predict_affine(head(), head((5, 14, 6)))
        assert found.affine is not None
        torch.testing.assert_close(found.affine, shift(-3, 4, -2), atol=1e-4, rtol=0)


def test_equal_images_give_the_identity_for_any_points() -> None:
    made = method(sharp=3.0, passes=2, **POINTS)
    with torch.no_grad():
        found = made.predict_affine(head(), head())
    assert found.affine is not None
    torch.testing.assert_close(found.affine, shift(0, 0, 0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("passes", [1, 3])
def test_a_head_moved_by_whole_voxels_is_found_there(passes: int) -> None:
    # what lies around the head is cut off first, so the network sees the same voxels wherever they are
    made = method(sharp=3.0, passes=passes, head="points")
    with torch.no_grad():
        found = made.predict_affine(head(), head((4, 12, 10)))
    assert found.affine is not None
    torch.testing.assert_close(found.affine, shift(-4, 2, 2), atol=2e-3, rtol=0)


def test_a_second_pass_is_the_first_one_after_what_was_found() -> None:
    once, twice = method(sharp=3.0, head="points"), method(sharp=3.0, head="points", passes=2)
    batch = pair()
    with torch.no_grad():
        first = once.predict_affine(batch.fixed, batch.moving).affine
        both = twice.predict_affine(batch.fixed, batch.moving).affine
        assert first is not None
        assert both is not None
        places = field.affine_index(first, field.identity(tuple(batch.fixed.shape[2:])))
        moved = field.sample(batch.moving, places, fill=0.0)
        second = once.predict_affine(batch.fixed, moved).affine
    assert second is not None
    assert float((first - shift(0, 0, 0)).abs().max()) > 1e-2
    torch.testing.assert_close(both, chain(second, first), atol=1e-3, rtol=1e-3)


def test_the_pooled_passes_start_from_each_other() -> None:
    made = method(passes=3)
    bias = torch.zeros(12)
    bias[3] = 2 / 19.5  # half the longest side is 19.5: two voxels along the first axis in every pass
    made.network.get_parameter("head.linear.bias").data = bias
    with torch.no_grad():
        found = made.predict_affine(head(), head()).affine
    assert found is not None
    torch.testing.assert_close(found, shift(6, 0, 0), atol=1e-4, rtol=0)


def test_a_start_is_taken_as_it_is_and_its_absence_is_filled_by_the_network() -> None:
    made = method(head="points", sharp=3.0)
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=shift(-4, 2, 2))
    with torch.no_grad():
        given = made.predict(head(), head((4, 12, 10)), start)
        own = made.predict(head(), head((4, 12, 10)))
    assert given.affine is start.affine
    assert not given.found_affine
    assert own.found_affine
    torch.testing.assert_close(own.displacement, given.displacement, atol=2e-2, rtol=0)


def test_the_field_lives_on_its_level_and_reads_the_aligned_image() -> None:
    for level in (0, 1):
        made = method(field_level=level)
        torch.nn.init.normal_(made.network.get_parameter("decoder.flow.weight"), std=0.1)
        with torch.no_grad():
            plain = made.predict(head(), head(), Prediction(torch.zeros(1, 3, *SHAPE), affine=shift(0, 0, 0)))
            found = made.predict(head(), head((5, 14, 6)))
        assert found.level == level
        assert found.displacement.shape == (1, 3, *(n // 2**level for n in SHAPE))
        assert float(plain.displacement.abs().max()) > 0.01
        assert float((found.displacement - plain.displacement).abs().mean()) < 0.01  # half precision


def test_without_an_affine_part_a_pair_is_taken_by_index() -> None:
    made = method(affine="off")
    found = made.predict(head(), head())
    assert found.affine is None
    assert "ncc" not in made.losses(found, Batch(head(), head()))
    assert [stage.name for stage in made.stages(10, 1e-3)] == ["deformable"]


@pytest.mark.parametrize("options", [{}, {"head": "grid"}, POINTS, POINTS | {"encoder": "separate"}])
def test_the_stages_train_every_parameter(options: dict[str, object]) -> None:
    made = method(**options)
    stages = made.stages(10, 1e-3)
    assert (stages[0].steps, stages[0].poses) == (6, "raw")
    assert sum(stage.steps for stage in stages) == 10
    made.network.train()
    touched = set()
    for stage in stages:
        made.network.zero_grad()
        batch = pair(stage.level)
        terms = (
            stage.objective(batch)
            if stage.objective
            else made.losses(made.predict(batch.fixed, batch.moving), batch)
        )
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        moving = {id(p) for p in stage.parameters if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        touched |= moving
        assert not {id(p) for p in stage.parameters if p.grad is None}
    untouched = [name for name, p in made.network.named_parameters() if id(p) not in touched]
    # a pooled head starts at zero, so nothing of the loss passes it to an encoder; a shared one learns from the field
    assert untouched == []


def test_separate_encoders_leave_the_affine_part_alone_when_the_field_learns() -> None:
    made = method(**POINTS, encoder="separate")
    affine, deformable = made.stages(10, 1e-3)
    assert not {id(p) for p in affine.parameters} & {id(p) for p in deformable.parameters}
    assert deformable.poses == "aligned"
    shared = method(**POINTS).stages(10, 1e-3)
    assert {id(p) for p in shared[0].parameters} < {id(p) for p in shared[1].parameters}


def test_the_losses_are_those_of_both_maps() -> None:
    made, batch = method(smoothness=0.0, correlation=0.7), pair()
    found = made.predict(batch.fixed, batch.moving)
    terms = made.losses(found, batch)
    assert set(terms) == {"ncc", "centres", "lncc", "smoothness", "dice"}
    assert found.affine is not None
    u = found.displacement
    moved = field.warp(batch.moving, torch.zeros_like(u), affine=found.affine, fill=0.0)
    torch.testing.assert_close(terms["ncc"], 0.7 * similarity.ncc(batch.fixed, moved))
    moved = field.warp(batch.moving, u, affine=found.affine)
    torch.testing.assert_close(terms["lncc"], similarity.lncc(batch.fixed, moved, mask=batch.fixed_mask))
    assert set(method(dice=0.0).losses(found, batch)) == {"ncc", "centres", "lncc", "smoothness"}


def test_points_are_pulled_to_the_regions_of_the_labels() -> None:
    made, batch = method(**POINTS), pair(level=1)
    stage = made.stages(10, 1e-3)[0]
    assert stage.objective is not None
    assert (stage.level, stage.poses) == (1, "raw")
    optimizer = torch.optim.Adam(stage.parameters, lr=1e-2)
    seen = []
    for _ in range(6):
        terms = stage.objective(batch)
        assert set(terms) == {"ncc", "centres", "points", "heat"}
        optimizer.zero_grad()
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        optimizer.step()
        seen.append(float((terms["points"] + terms["heat"]).detach()))
    assert seen[-1] < seen[0] - 0.1


def test_half_precision_stays_in_the_convolutions() -> None:
    made, batch = method(sharp=1.0, **POINTS), pair()
    with torch.no_grad():
        exact = made.predict(batch.fixed, batch.moving)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = made.predict(batch.fixed, batch.moving)
            terms = made.losses(found, batch)
    assert isinstance(found, JointPrediction)
    assert found.affine is not None
    assert exact.affine is not None
    assert {x.dtype for x in (found.displacement, found.affine, *terms.values())} <= {
        torch.float32,
        torch.float64,
    }
    assert float((found.affine - exact.affine).abs().max()) < 1.0


def test_polishing_brings_a_rough_affine_home_and_never_learns() -> None:
    image = field.smooth(torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(3)), 2.0)
    image = 0.2 + 0.8 * (image - image.min()) / (image.max() - image.min())
    image = image * field.smooth(F.pad(torch.ones(1, 1, 26, 34, 30), (3,) * 6), 1.5)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.08, 0], [-0.08, 0, 0.05], [0, -0.05, 0]]))
    centre = torch.tensor([16.0, 19.0, 18.0])
    away = torch.cat((turn, (centre - turn @ centre)[:, None]), 1)[None]
    moving = field.sample(image, field.affine_index(away, field.identity(SHAPE)), fill=0.0)
    back = torch.cat((turn.T, (centre - turn.T @ centre)[:, None]), 1)[None]
    made = method(polish=6)  # the untrained pooled head knows centres of mass alone
    with torch.no_grad():
        found = made.predict_affine(image, moving).affine
        rough = method().predict_affine(image, moving).affine
    assert found is not None
    assert rough is not None
    assert float((rough - back)[:, :, :3].abs().max()) > 0.04
    assert float((found - back)[:, :, :3].abs().max()) < 0.4 * float((rough - back)[:, :, :3].abs().max())
    learning = made.predict_affine(image, moving).affine
    assert learning is not None
    assert torch.equal(learning.detach(), rough)


@pytest.mark.parametrize("encoder", ["shared", "separate"])
def test_what_is_saved_is_what_is_there_once(encoder: str, tmp_path: Path) -> None:
    network = method(encoder=encoder, **POINTS).network
    save_weights(tmp_path / "w.safetensors", network, {})
    network.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    assert sum(t.numel() for t in network.state_dict().values()) == sum(
        p.numel() for p in network.parameters()
    )


def test_settling_takes_in_the_affine_that_the_displacements_agree_on() -> None:
    rest = torch.cat((1.02 * torch.eye(3), torch.tensor([[0.5], [-1.0], [0.2]])), 1)[None]
    image, seen = head(), []

    def deform(fixed: Tensor, moved: Tensor) -> Prediction:
        seen.append(moved)
        places = field.identity(SHAPE)
        u = field.affine_index(rest, places) - places
        u[..., :14] += 5.0  # a part that disagrees
        return Prediction(u if len(seen) == 1 else torch.zeros_like(u))

    found = settle(image, head((5, 14, 6)), shift(-3, 4, -2), deform, 2)
    torch.testing.assert_close(seen[0], image)  # the decoder sees the moving image aligned so far
    torch.testing.assert_close(found.float(), chain(rest, shift(-3, 4, -2)), atol=0.1, rtol=0)


def test_a_head_with_its_skull_is_polished_but_not_settled() -> None:
    calls: list[int] = []

    def deform(fixed: Tensor, moved: Tensor) -> Prediction:
        calls.append(1)
        return Prediction(torch.zeros(1, 3, *SHAPE))

    brain = head()
    points = (brain[0, 0] > 0.3).nonzero().float()[::9]
    whole = brain + 0.5
    finish = Finish(1, 0, deform)
    for image, expected in ((whole, 0), (brain, 1)):
        found = finish(image, image, shift(0, 0, 0), [points])
        assert len(calls) == expected
        torch.testing.assert_close(found.float(), shift(0, 0, 0), atol=1e-4, rtol=0)
