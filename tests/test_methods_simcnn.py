"""simcnn on tiny volumes: every formula by a naive loop, by hand or by scipy, and laws that hold for any weights."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, RBFInterpolator
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.methods import simcnn
from neuroreg.methods.base import Batch, Prediction
from neuroreg.methods.simcnn import SimCNN, random_warp
from neuroreg.methods.simcnn_patches import PairPatches, normalise_together
from neuroreg.methods.simcnn_points import (
    clip_outliers,
    draw,
    draw_voxels,
    edges,
    equalise,
    interpolate,
    keep_probability,
    omega_for,
)

SHAPE = (24, 26, 28)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def brain(number: int) -> Tensor:
    """(1, 1, D, H, W) in 0..1: texture in an ellipsoid, exactly 0 outside."""
    index = field.identity(SHAPE)
    at = [(index[:, a] - (n - 1) / 2) / (n / 2) for a, n in enumerate(SHAPE)]
    inside = (at[0] ** 2 + at[1] ** 2 + at[2] ** 2 < 0.7)[:, None]
    texture = field.smooth(torch.rand(1, 1, *SHAPE, generator=seeded(number)), 1.0)
    return torch.where(inside, (0.5 + 2 * (texture - 0.5)).clamp(0.05, 1), 0.0)


def method(**options: object) -> SimCNN:
    """The slim network; few points unless said otherwise."""
    torch.manual_seed(1)
    few = {"points": 4, "active_percent": 0.1, "iterations": 1}
    return SimCNN(SimCNN.Config.model_validate(few | options))


def pair(*, known: bool = True) -> Batch:
    u = random_warp(brain(1), 1.5, seeded(2)) if known else None
    return Batch(brain(1), brain(2), fixed_mask=brain(1) > 0, generator=seeded(), displacement=u)


# ---- the network


@pytest.mark.parametrize(("patch", "pool_after"), [(27, 4), (22, 6)])
def test_a_patch_ends_in_one_voxel(patch: int, pool_after: int) -> None:
    side = patch
    for number in range(1, 9):
        side -= 2
        if number == pool_after:
            side //= 2
    assert side == 1
    network = method(patch=patch).network
    assert network.features(torch.zeros(1, 6, patch, patch, patch)).shape == (1, 128, 1, 1, 1)
    assert network(torch.zeros(2, 6, patch, patch, patch)).shape == (2, 3)


@pytest.mark.parametrize(
    ("preset", "divide", "millions"), [("paper", 1, 15.1), ("half", 2, 3.8), ("slim", 4, 0.95)]
)
def test_the_parameters_are_those_counted_by_hand(preset: str, divide: int, millions: float) -> None:
    widths = [6, *(w // divide for w in (64, 64, 128, 128, 256, 256, 512, 512))]
    dense = [*(w // divide for w in (512, 1024, 512)), 3]
    count = sum(27 * a * b + b for a, b in pairwise(widths)) + sum(a * b + b for a, b in pairwise(dense))
    made = sum(p.numel() for p in simcnn.Network(SimCNN.Config(preset=preset)).parameters())
    assert made == count
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_weights_begin_as_he_says_and_the_answer_small() -> None:
    network = method().network
    third = network.features[4].weight  # 16 channels in
    assert float(third.detach().std()) == pytest.approx(math.sqrt(2 / (27 * 16)), rel=0.03)
    answer = network(torch.randn(4, 6, 22, 22, 22, generator=seeded()))
    assert 0 < float(answer.detach().abs().max()) < 0.3


def test_batch_normalisation_is_an_option() -> None:
    names = [name for name, _ in method(batch_norm=True).network.named_buffers()]
    assert sum("running_mean" in name for name in names) == 8
    assert not [*method().network.named_buffers()]


def test_kernels_larger_than_a_patch_or_even_are_refused() -> None:
    for kernels in ([4], [23], [0]):
        with pytest.raises(DataError, match="kernels have odd sides"):
            method(kernels=kernels)


# ---- patches and similarity


@pytest.mark.parametrize("side", [22, 27])
def test_patches_are_slices_with_background_beyond_the_grid(side: int) -> None:
    fixed, moved = brain(1)[0, 0], brain(2)[0, 0]
    points = torch.tensor([[12, 13, 14], [0, 0, 0], [23, 25, 27], [5, 20, 9]])
    found = PairPatches(fixed, moved, side=side, kernels=(), centred=False).cut(points)
    for row, point in enumerate(points.tolist()):
        pads = (40,) * 6
        cubes = []
        for image in (fixed, moved):
            low = [p + 40 - side // 2 for p in point]
            d, h, w = (slice(n, n + side) for n in low)
            cubes.append(torch.nn.functional.pad(image, pads)[d, h, w])
            assert cubes[-1][side // 2, side // 2, side // 2] == image[tuple(point)]
        torch.testing.assert_close(found[row], normalise_together(torch.stack(cubes)[None])[0])


def test_a_pair_of_patches_shares_one_mean_and_one_deviation() -> None:
    cubes = torch.rand(3, 2, 5, 5, 5, generator=seeded()) * 0.5 + torch.tensor([0.0, 0.5]).reshape(
        1, 2, 1, 1, 1
    )
    found = normalise_together(cubes)
    torch.testing.assert_close(found.mean((1, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    assert bool((found[:, 1].mean((1, 2, 3)) > found[:, 0].mean((1, 2, 3))).all())  # what differs still does
    torch.testing.assert_close(normalise_together(3 * cubes + 1), found, atol=0.1, rtol=0)


@pytest.mark.parametrize("centred", [False, True])
def test_similarity_maps_are_those_of_a_naive_loop(centred: bool) -> None:
    fixed, moved = brain(1)[0, 0], brain(2)[0, 0]
    points = torch.tensor([[12, 13, 14], [6, 9, 20]])
    kernels = (3, 5, 7, 9)
    found = PairPatches(fixed, moved, side=22, kernels=kernels, centred=centred).cut(points)[:, 2:]
    assert found.shape == (2, 4, 22, 22, 22)
    padded = [torch.nn.functional.pad(image, (30,) * 6).double().numpy() for image in (fixed, moved)]

    def cube(image: int, at: list[int], k: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        d, h, w = (slice(p + 30 - k // 2, p + 31 + k // 2) for p in at)
        values = padded[image][d, h, w].ravel()
        return values - values.mean() if centred else values

    for row, point in enumerate(points.tolist()):
        for number, k in enumerate(kernels):
            template = cube(0, point, k)
            for place in ([11, 11, 11], [0, 3, 5], [21, 10, 2], [15, 8, 20], [9, 14, 12]):
                read = cube(1, [p - 11 + x for p, x in zip(point, place, strict=True)], k)
                length = np.linalg.norm(template) * np.linalg.norm(read)
                cosine = template @ read / length if length > 1e-9 else 0.0
                assert float(found[row, number][tuple(place)]) == pytest.approx(cosine, abs=0.01)


def test_many_patches_get_the_same_maps_as_few() -> None:
    points = torch.tensor([[12, 13, 14], [0, 0, 0], [23, 25, 27], [3, 22, 6]])
    few, many = (
        PairPatches(brain(1)[0, 0], brain(2)[0, 0], side=22, kernels=(3, 9), centred=True, many=many).cut(
            points
        )
        for many in (False, True)
    )
    torch.testing.assert_close(few, many, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_a_shifted_subject_is_most_alike_at_its_shift(centred: bool) -> None:
    fixed = brain(1)[0, 0]
    moved = 0.7 * fixed.roll((2, -1, 3), (0, 1, 2))  # moved(i + shift) = fixed(i), of another gain
    point = torch.tensor([[12, 12, 13]])
    maps = PairPatches(fixed, moved, side=22, kernels=(5, 9), centred=centred).cut(point)[0, 2:]
    for m in maps:
        assert np.unravel_index(int(m.argmax()), m.shape) == (13, 10, 14)
        assert float(m.max()) == pytest.approx(1.0, abs=0.01)


def test_an_offset_deceives_the_cosine_alone() -> None:
    fixed, point = brain(1)[0, 0] + 0.2, torch.tensor([[12, 12, 13]])

    def maps(moved: Tensor, *, centred: bool) -> Tensor:
        return PairPatches(fixed, moved, side=22, kernels=(5,), centred=centred).cut(point)[
            0, 2, 6:16, 6:16, 6:16
        ]

    torch.testing.assert_close(maps(fixed, centred=True), maps(fixed + 0.5, centred=True), atol=5e-3, rtol=0)
    assert float((maps(fixed, centred=False) - maps(fixed + 0.5, centred=False)).abs().max()) > 0.02


def test_background_is_like_nothing() -> None:
    zero = torch.zeros(SHAPE)
    found = PairPatches(zero, zero, side=22, kernels=(3, 9), centred=True).cut(torch.tensor([[12, 12, 12]]))
    assert torch.equal(found, torch.zeros_like(found))


# ---- sampling


def test_edges_are_gradient_magnitudes_up_to_their_99th_percentile() -> None:
    ramp = torch.arange(24.0)[:, None, None].expand(SHAPE)
    torch.testing.assert_close(edges(2 * ramp), torch.ones(SHAPE))
    strong = brain(1)[0, 0]
    magnitude = np.linalg.norm(np.gradient(strong.numpy()), axis=0)
    full = np.quantile(magnitude[magnitude > 0], 0.99)
    torch.testing.assert_close(
        edges(strong), torch.from_numpy(np.minimum(magnitude / full, 1)).float(), atol=5e-3, rtol=0
    )
    assert torch.equal(edges(torch.ones(SHAPE)), torch.zeros(SHAPE))


def test_equation_1_by_hand() -> None:
    size, edge = torch.tensor([3.5, 1.75, 1.75, 0.0, 2.0, 3.6]), torch.tensor([1.0, 1.0, 0.5, 1.0, 0.0, 1.0])
    found = keep_probability(size, edge, tau=3.5, omega=0.3)
    expected = torch.tensor(
        [math.exp(-0.3), math.exp(-0.6), math.exp(-1.2), 0.0, 0.0, 0.0]
    )  # above tau: discarded
    torch.testing.assert_close(found, expected)


def test_omega_keeps_as_many_as_are_asked_for() -> None:
    size = 4 * torch.rand(4000, generator=seeded())
    edge = torch.rand(4000, generator=seeded(1))
    for count in (50, 700):
        omega = omega_for(size, edge, tau=3.5, count=count)
        assert float(keep_probability(size, edge, tau=3.5, omega=omega).sum()) == pytest.approx(
            count, rel=1e-3
        )
    everything = keep_probability(size, edge, tau=3.5, omega=omega_for(size, edge, tau=3.5, count=1e6))
    assert bool((everything[size <= 3.5] > 0.99).float().mean() > 0.99)


def test_equalised_sizes_are_flat_and_the_formula_alone_is_not() -> None:
    size = 3.5 * torch.rand(60_000, generator=seeded()) ** 2  # most are small, as between people
    edge = 0.5 + 0.5 * torch.rand(60_000, generator=seeded(1))
    omega = omega_for(size, edge, tau=3.5, count=5000)
    formula = keep_probability(size, edge, tau=3.5, omega=omega)

    def histogram(weights: Tensor) -> Tensor:
        drawn = draw(weights, 2800, seeded(3))
        return torch.histc(size[drawn], 14, 0, 3.5)

    flat = histogram(equalise(formula, size, width=0.25))
    assert float(flat[2:].min()) > 140  # 200 expected; the first bins have next to no weight to give
    assert float(flat.max()) < 260
    assert float(histogram(formula)[:4].sum()) < 0.5 * float(flat[:4].sum())
    within = (size > 1.0) & (size <= 1.25)
    ratio = equalise(formula, size, width=0.25)[within] / formula[within]
    assert float(ratio.max() / ratio.min()) == pytest.approx(1.0, abs=1e-3)


def test_voxels_are_drawn_once_each_and_only_where_there_is_weight() -> None:
    weights = torch.zeros(SHAPE)
    weights[3, 4, 5], weights[20, 1, 27], weights[0, 25, 0] = 1.0, 0.5, 0.1
    found = draw_voxels(weights, 10, seeded())
    assert sorted(found.tolist()) == [[0, 25, 0], [3, 4, 5], [20, 1, 27]]
    assert draw_voxels(torch.zeros(SHAPE), 5, seeded()).shape == (0, 3)
    anywhere = torch.rand(SHAPE, generator=seeded())
    assert torch.equal(draw_voxels(anywhere, 9, seeded(1)), draw_voxels(anywhere, 9, seeded(1)))


# ---- from points to a field


def scattered(count: int = 160) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    return np.random.default_rng(0).uniform(0, np.array(SHAPE) - 1, (count, 3))


def test_a_linear_field_comes_back_exactly() -> None:
    points = np.random.default_rng(0).uniform(
        -4, np.array(SHAPE) + 4, (300, 3)
    )  # beyond the last lattice nodes
    matrix = np.array([[0.05, -0.02, 0.01], [0.0, 0.03, -0.04], [0.02, 0.0, 0.01]])
    found = interpolate(points, points @ matrix.T + 0.7, SHAPE, spacing=4, neighbours=50, smoothing=10.0)
    index = field.identity(SHAPE)[0].double()
    expected = torch.einsum("ij,jdhw->idhw", torch.from_numpy(matrix), index) + 0.7
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


def test_the_spline_is_scipys_on_the_lattice_and_cubic_between() -> None:
    points, values = scattered(), np.random.default_rng(1).normal(size=(160, 3))
    found = interpolate(points, values, (25, 25, 29), spacing=4, neighbours=50, smoothing=10.0)
    spline = RBFInterpolator(points, values, neighbors=50, smoothing=10.0, kernel="linear", degree=1)
    nodes = np.stack(np.meshgrid(np.arange(0, 25, 4), [8], [12], indexing="ij"), -1).reshape(-1, 3)
    on_line = spline(nodes.astype(float))
    np.testing.assert_allclose(found[:, ::4, 8, 12].numpy().T, on_line, atol=1e-4)
    between = CubicSpline(np.arange(0, 25, 4), on_line)(np.arange(25))  # not-a-knot, as the lattice's
    np.testing.assert_allclose(found[:, :, 8, 12].numpy().T, between, atol=1e-4)


def test_far_from_all_points_the_nearest_value_is_repeated() -> None:
    points = np.random.default_rng(0).uniform(20, 30, (80, 3))
    found = interpolate(
        points, np.tile([1.0, -2.0, 0.5], (80, 1)), (64, 40, 40), spacing=4, neighbours=50, smoothing=10.0
    )
    torch.testing.assert_close(found[:, 63, 0, 0], torch.tensor([1.0, -2.0, 0.5]), atol=1e-3, rtol=0)


def test_points_in_one_plane_are_refused() -> None:
    points = scattered()
    points[:, 0] = 12.0
    with pytest.raises(DataError, match="do not span space"):
        interpolate(points, points, SHAPE, spacing=4, neighbours=50, smoothing=0.0)


def test_outliers_are_clipped_to_their_neighbours_and_the_rest_is_kept() -> None:
    points = scattered()
    values = 0.02 * points
    wild = values.copy()
    wild[7] += [3.0, 0.0, -3.0]
    found = clip_outliers(points, wild, neighbours=20, bound=3.0)
    median = np.median(wild[np.argsort(np.linalg.norm(points - points[7], axis=1))[1:21]], axis=0)
    assert np.abs(found[7] - median).max() < 1.0
    assert found[7, 1] == pytest.approx(values[7, 1], abs=1e-6)
    assert np.mean(np.all(found == wild, axis=1)) > 0.9


# ---- the method


def answers(monkeypatch: pytest.MonkeyPatch, made: SimCNN, values: list[Tensor]) -> list[Tensor]:
    """Let ``made`` find the constant ``values`` in its passes; returns the subjects it is shown."""
    shown: list[Tensor] = []

    def ask(fixed: Tensor, moved: Tensor, points: Tensor) -> Tensor:
        shown.append(moved)
        return values[len(shown) - 1].expand(len(points), 3)

    monkeypatch.setattr(made, "_ask", ask)
    return shown


def test_a_network_that_says_zero_gives_the_identity() -> None:
    made = method(iterations=2)
    torch.nn.init.zeros_(made.network.regress[-1].weight)
    found = made.predict(brain(1), brain(2))
    assert torch.equal(found.displacement, torch.zeros(1, 3, *SHAPE))
    assert found.level == 0


def test_the_second_pass_sees_the_warped_subject_and_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, moving = method(iterations=2), brain(2)
    first, second = torch.tensor([1.0, 0.0, -0.5]), torch.tensor([0.25, -1.0, 0.5])
    shown = answers(monkeypatch, made, [first, second])
    found = made.predict(brain(1), moving).displacement
    torch.testing.assert_close(shown[0], moving)
    step = first.reshape(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    torch.testing.assert_close(shown[1], field.warp(moving, step), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        found, (first + second).reshape(1, 3, 1, 1, 1).expand_as(found), atol=1e-3, rtol=0
    )


def test_the_order_of_composition_is_delta_then_the_field_before(monkeypatch: pytest.MonkeyPatch) -> None:
    made = method(iterations=2)
    index = field.identity(SHAPE)[0]
    fields = [0.05 * index, torch.stack((torch.ones(SHAPE), torch.zeros(SHAPE), torch.zeros(SHAPE)))]
    monkeypatch.setattr(made, "_ask", lambda _f, _m, points: torch.zeros(len(points), 3))
    monkeypatch.setattr(made, "_dense", lambda *_: fields.pop(0))
    found = made.predict(brain(1), brain(2)).displacement[0]
    expected = 1.0 + 0.05 * (index[0] + 1.0).clamp(max=SHAPE[0] - 1)  # delta + u1(i + delta), border repeated
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)


def test_answers_are_in_voxels_up_to_tau() -> None:
    made = method(tau=2.0)
    with torch.no_grad():
        made.network.regress[-1].bias.copy_(torch.tensor([9.0, 0.0, -9.0]))
        torch.nn.init.zeros_(made.network.regress[-1].weight)
        found = made._ask(brain(1), brain(2), torch.tensor([[12, 12, 12], [5, 9, 20]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0, -2.0]] * 2))


def test_threads_do_not_change_the_answer() -> None:
    made = method()
    alone = made.predict(brain(1), brain(2)).displacement
    torch.set_num_threads(2)
    assert torch.equal(made.predict(brain(1), brain(2)).displacement, alone)


def test_the_subject_is_read_through_the_start_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    made, shift = method(), torch.tensor([1.0, 2.0, 3.0])
    shown = answers(monkeypatch, made, [torch.zeros(3)])
    start = Prediction(torch.zeros(1, 3, *SHAPE), affine=torch.cat((torch.eye(3), shift[:, None]), 1)[None])
    away = torch.nn.functional.pad(brain(2), (3, 5, 2, 4, 1, 6))
    found = made.predict(brain(1), away, start)
    torch.testing.assert_close(shown[0], brain(2), atol=1e-4, rtol=0)
    assert found.affine is start.affine


def test_an_image_without_edges_is_refused() -> None:
    with pytest.raises(DataError, match="no edges"):
        method().predict(torch.zeros(1, 1, *SHAPE), brain(2))


# ---- training


def test_targets_are_the_displacement_at_the_points_over_tau() -> None:
    made, batch = method(points=6), pair()
    assert batch.displacement is not None
    inputs, targets = made.examples(batch, 6)
    points = made.sample(batch.fixed[0, 0], batch.displacement[0], 6, seeded())  # the same draw
    at = tuple(points.T)
    torch.testing.assert_close(3.5 * targets.T, batch.displacement[0][(slice(None), *at)])
    torch.testing.assert_close(inputs, made._patches(batch.fixed, batch.moving).cut(points))
    assert float(targets.norm(dim=1).max()) <= 1.0


def test_without_a_known_displacement_the_subject_is_warped_by_one() -> None:
    made, batch = method(points=40, kernels=()), pair(known=False)
    inputs, targets = made.examples(batch, 40)
    assert len(inputs) == len(targets) == 40
    u = random_warp(batch.fixed, 1.5, seeded())  # the same draw
    fixed = field.warp(batch.moving, u)
    points = made.sample(fixed[0, 0], u[0], 40, _after_warp())
    torch.testing.assert_close(3.5 * targets.T, u[0][(slice(None), *points.T)])


def _after_warp() -> torch.Generator:
    generator = seeded()
    random_warp(brain(1), 1.5, generator)
    return generator


def test_random_warps_have_their_size_and_no_folds() -> None:
    u = random_warp(torch.zeros(2, 1, 48, 40, 44), 1.5, seeded(5))
    assert float(u.norm(dim=1).mean()) == pytest.approx(1.5, rel=0.15)
    assert float(field.jacobian_determinant(u).min()) > 0


def test_training_needs_a_displacement_within_tau() -> None:
    batch = Batch(brain(1), brain(2), generator=seeded(), displacement=torch.full((1, 3, *SHAPE), 5.0))
    with pytest.raises(DataError, match="up to tau"):
        method().objective(batch)


@pytest.mark.slow
def test_a_few_steps_on_one_pair_lower_the_loss() -> None:
    made = method(similarity="centred", batch_norm=True)
    optimizer = torch.optim.AdamW(made.network.parameters(), lr=1e-3)
    batch = pair()
    inputs, targets = made.examples(batch, 4)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.mse_loss(made.network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_the_score_of_a_network_that_says_zero_is_zero() -> None:
    made = method(points=2)
    made.network.eval()
    torch.nn.init.zeros_(made.network.regress[-1].weight)
    assert made.score(pair()) == pytest.approx(0.0)


def test_the_stage_learns_from_points_and_is_judged_by_them() -> None:
    made = method()
    (stage,) = made.stages(7, 1e-4)
    assert (stage.steps, stage.learning_rate) == (7, 1e-4)
    assert stage.objective == made.objective
    assert stage.score_pair == made.score
    assert len(stage.parameters) == len(list(made.network.parameters()))
    batch = pair()
    terms = made.losses(made.predict(batch.fixed, batch.moving), batch)
    assert set(terms) == {"displacement"}
