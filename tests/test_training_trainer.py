"""The training loop: schedule, exact resume, divergence, early stop, validation, several processes."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_phantoms import NO_AUGMENTATION, SHAPE, ToyMethod, recipe, toy_set

from neuroreg.errors import DataError, QualityError
from neuroreg.losses.labels import mean_dice
from neuroreg.methods.base import Batch, Prediction, Stage, TrainableMethod
from neuroreg.training.data import PackedSet, draw_pair
from neuroreg.training.distributed import Workers
from neuroreg.training.log import Event, csv_writer
from neuroreg.training.poses import Poses
from neuroreg.training.recipe import Recipe
from neuroreg.training.run import build
from neuroreg.training.trainer import Outcome, Setup, TrainingDiverged, learning_rate_at, train
from neuroreg.training.validation import validate, validate_raw, validation_pairs

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Run:
    """A folder, and what its runs reported."""

    folder: Path
    events: list[Event] = field(default_factory=list)

    def train(
        self,
        made: Recipe,
        method: TrainableMethod,
        report: Callable[[Event], None] | None = None,
        **options: bool,
    ) -> Outcome:
        workers = Workers(CPU).with_loss_scaling(made.precision)
        data = toy_set()
        return train(
            Setup(made, method, data, data, self.folder, workers, report or self.events.append), **options
        )


def fresh(made: Recipe) -> TrainableMethod:
    torch.manual_seed(made.seed)
    return build(made)


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state.safetensors")


class Stop(Exception):
    """The machine goes away."""


def stop_at(step: int) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if event.step == step:
            raise Stop

    return report


DUAL: dict[str, object] = {
    "method": "dualprnet",
    "config": {"widths": [4, 4, 4, 4], "pyramid_width": 4},
    "symmetric": True,
}


STAGED: dict[str, object] = {
    "config": {
        "spacing_mm": 2.0, "plan": [[4, 1], [2, 1]], "features": 4, "width": 8, "dice_rois": 2,
        "codes": 3, "anatomy_widths": [4, 8], "anatomy_features": 4, "anatomy_steps": 3,
    },
    "augmentation": {"blur": 1.0},
}  # fmt: skip
COARSE: dict[str, object] = {"coarse_steps": 2}
COARSE_STAGES: dict[str, object] = {**STAGED, "coarse_steps": (2, 1)}


@pytest.mark.parametrize(
    "changes",
    [{}, DUAL, STAGED, COARSE, COARSE_STAGES],
    ids=["neuroreg", "dualprnet-symmetric", "two-stages", "coarse-first", "coarse-first-in-each-stage"],
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, changes: dict[str, object]) -> None:
    made = recipe(checkpoint_minutes=1e-9, **changes)  # a checkpoint after every step
    straight, stopped = Run(tmp_path / "straight"), Run(tmp_path / "stopped")
    straight.train(made, fresh(made))
    with pytest.raises(Stop):
        stopped.train(made, fresh(made), stop_at(3))
    torch.rand(5)  # global generators play no part
    outcome = stopped.train(made, build(made))  # other initial weights: all comes from the checkpoint
    assert outcome.steps == 6
    expected, found = tensors(straight.folder), tensors(stopped.folder)
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert [e.dice for e in stopped.events] == [e.dice for e in straight.events[-len(stopped.events) :]]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_training_trainer import Run, fresh
from training_phantoms import recipe
made = recipe(checkpoint_minutes=1e-9)
def report(event):
    if event.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Run(Path(sys.argv[1])).train(made, fresh(made), report)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    made = recipe(checkpoint_minutes=1e-9)
    straight, resumed = Run(tmp_path / "straight"), Run(tmp_path / "killed")
    straight.train(made, fresh(made))
    resumed.train(made, build(made))
    expected, found = tensors(straight.folder), tensors(resumed.folder)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class TwoStages(ToyMethod):
    """First the shift learns to be (1, 2, 3), judged by how near it is; then to register."""

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        parameters = tuple(self.network.parameters())
        first = Stage("near", parameters, 40, 0.2, objective=self.distance, score=self.near)
        return (first, Stage("all", parameters, steps - 40, 1e-9))

    def distance(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"distance": (self.network["shift"] - torch.tensor([1.0, 2.0, 3.0])).abs().sum()}  # type: ignore[index]

    def near(self, image: Tensor, labels: Tensor) -> float:
        assert image.shape == labels.shape
        return -float(self.distance(Batch(image, image))["distance"])


def test_each_stage_has_its_own_aim_and_its_own_measure(tmp_path: Path) -> None:
    made, method, run = recipe(steps=43, validate_every=40), TwoStages(), Run(tmp_path)
    outcome = run.train(made, method)
    measured = [e for e in run.events if e.dice is not None]
    assert [(e.step, e.folded_percent is None) for e in measured] == [(40, True), (43, False)]
    assert measured[0].dice == pytest.approx(0, abs=0.3)  # minus the distance that is left
    shift = method.network.state_dict()["shift"]  # the second stage's rate moves nothing
    torch.testing.assert_close(shift, torch.tensor([1.0, 2.0, 3.0]), atol=0.2, rtol=0)
    assert (outcome.best_step, outcome.steps, outcome.best_dice) == (43, 43, measured[1].dice)


class RawThenAligned(ToyMethod):
    """A stage on raw poses, measured by what it predicts, then one on aligned pairs, measured likewise."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        parameters = tuple(self.network.parameters())
        raw = partial(self.look, "raw")
        first = Stage("raw", parameters, 2, 1e-9, objective=raw, predict=self.found, poses="raw", level=1)
        return first, Stage(
            "fine", parameters, 2, 1e-9, objective=partial(self.look, "aligned"), poses="aligned"
        )

    def look(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        self.seen.append((name, tuple(batch.fixed.shape[2:])))
        return {"shift": self.network["shift"].square().sum()}  # type: ignore[index]

    def found(self, fixed: Tensor, moving: Tensor) -> Prediction:
        self.seen.append(("found", tuple(fixed.shape[2:])))
        return replace(self.predict(fixed, moving), affine=torch.eye(3, 4)[None])


def test_a_stage_on_raw_poses_has_heads_a_level_and_a_measure_of_its_own(tmp_path: Path) -> None:
    class NoHead(PackedSet):
        def image(self, row: int) -> Tensor:
            raise AssertionError("aligned brains are not for raw poses")

    made, method = recipe(steps=4, validate_every=2, val_pairs=2), RawThenAligned()
    heads, events = toy_set(), list[Event]()
    brains = toy_set()
    forbidden = NoHead(brains.images, brains.labels, brains.ids, brains.geometry, brains.mirror)
    setup = Setup(made, method, forbidden, forbidden, tmp_path, Workers(CPU), events.append, (heads, heads))
    with pytest.raises(AssertionError, match="not for raw poses"):  # the second stage wants those alone
        train(setup)
    assert method.seen == [("raw", (8, 9, 10))] * 2 + [("found", (16, 18, 20))] * 2
    (measured,) = [e for e in events if e.dice is not None]
    assert measured.folded_percent is None
    assert measured.dice is not None
    assert 0 < measured.dice < 1


def test_without_heads_the_aligned_brains_are_posed(tmp_path: Path) -> None:
    method = RawThenAligned()
    outcome = Run(tmp_path).train(recipe(steps=4, validate_every=2, val_pairs=2), method)
    assert outcome.steps == 4
    assert method.seen[-2:] == [("aligned", (16, 18, 20))] * 2


def test_raw_pairs_are_the_same_at_every_validation_and_an_affine_counts(tmp_path: Path) -> None:
    method, data = RawThenAligned(), toy_set()
    still = Poses(degrees=0, scale=1, shear=0, shift=0)
    scores = [validate_raw(method.found, method.network, data, 2, CPU, poses=still) for _ in range(2)]
    assert scores[0] == scores[1]

    def away(fixed: Tensor, moving: Tensor) -> Prediction:
        far = torch.cat((torch.eye(3), torch.full((3, 1), 5.0)), 1)[None]
        return replace(method.found(fixed, moving), affine=far)

    assert validate_raw(away, method.network, data, 2, CPU, poses=still)[0] < scores[0][0] - 0.3


def test_a_coarse_affine_is_the_same_map_of_the_fine_grid() -> None:
    class Shifting(ToyMethod):
        def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
            voxels = 2.0 * fixed.shape[2] / 16  # two voxels of the fine grid along the first axis
            affine = torch.cat((torch.eye(3), torch.tensor([[voxels], [0.0], [0.0]])), 1)[None]
            return replace(super().predict(fixed, moving), affine=affine)

    data, method = toy_set(), Shifting()
    fine = validate(method, data, 2, CPU)
    assert validate(method, data, 2, CPU, coarse=True) == pytest.approx(fine)
    assert fine[0] < validate(ToyMethod(), data, 2, CPU)[0]


def test_the_yardstick_of_divergence_is_taken_anew_where_images_become_fine(tmp_path: Path) -> None:
    class FinerIsHarder(Runaway):
        def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
            fine = batch.fixed.shape[2] == 16
            return {"lncc": prediction.displacement.mean() * 0 + (0.9 if fine else 0.5)}

    made = recipe(steps=300, validate_every=300, coarse_steps=30)
    assert Run(tmp_path).train(made, FinerIsHarder()).steps == 300


@pytest.mark.parametrize(
    ("coarse_steps", "expected"),
    [
        (3, [True, True, True, False, False, False, False]),
        ((3, 1), [True, True, True, False, True, False, False]),
        ((9, 0), [True, True, True, True, False, False, False]),
    ],
    ids=["of-the-run", "of-each-stage", "one-stage-alone"],
)
def test_coarse_steps_begin_the_run_or_each_stage(
    tmp_path: Path, coarse_steps: int | tuple[int, ...], expected: list[bool]
) -> None:
    seen: list[bool] = []
    scored: set[bool] = set()

    class Watched(TwoStages):
        def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
            return tuple(replace(s, steps=n) for s, n in zip(super().stages(99, 1e-3), (4, 3), strict=True))

        def distance(self, batch: Batch) -> Mapping[str, Tensor]:
            if batch.fixed_labels is not None:  # a pair to learn from, not an image to judge
                seen.append(batch.fixed.shape[2] < SHAPE[0])
            else:
                scored.add(batch.fixed.shape[2] < SHAPE[0])
            return super().distance(batch)

        def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
            seen.append(batch.fixed.shape[2] < SHAPE[0])
            return super().losses(prediction, batch)

    made = recipe(steps=7, coarse_steps=coarse_steps, validate_every=10)  # at the end of each stage alone
    Run(tmp_path).train(made, Watched())
    assert seen == expected
    assert scored == {expected[3]}


def test_a_stage_that_learns_labels_sees_labelled_subjects_alone(tmp_path: Path) -> None:
    seen: dict[str, list[int]] = {"near": [], "all": []}

    class Watched(TwoStages):
        def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
            return tuple(replace(stage, steps=8) for stage in super().stages(99, 1e-3))

        def distance(self, batch: Batch) -> Mapping[str, Tensor]:
            seen["near"].append((batch.fixed_labels is None) + (batch.moving_labels is None))
            return super().distance(batch)

        def near(self, image: Tensor, labels: Tensor) -> float:
            return 0.0

        def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
            seen["all"].append((batch.fixed_labels is None) + (batch.moving_labels is None))
            return super().losses(prediction, batch)

    made, data = recipe(steps=16, validate_every=10, labelled=2), toy_set()
    workers = Workers(CPU).with_loss_scaling(made.precision)
    setup = Setup(made, Watched(), replace(data, labelled=2), data, tmp_path, workers, lambda _: None)
    train(setup)
    assert seen["near"] == [0] * 8
    assert len(seen["all"]) == 8
    assert set(seen["all"]) == {0, 1}  # of three subjects one has no labels


def test_a_list_of_coarse_steps_needs_a_number_for_every_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="coarse_steps has 3 numbers, method 'neuroreg' 1 stages; give one"):
        Run(tmp_path).train(recipe(coarse_steps=(1, 1, 1)), ToyMethod())


def test_a_finished_run_is_not_repeated_and_restart_repeats_it(tmp_path: Path) -> None:
    made, run = recipe(steps=3), Run(tmp_path)
    first = run.train(made, ToyMethod())
    done = len(run.events)
    again = run.train(made, ToyMethod())
    assert (again.steps, again.best_dice, again.best_step) == (first.steps, first.best_dice, first.best_step)
    assert len(run.events) == done
    run.train(made, ToyMethod(), restart=True)
    assert len(run.events) == 2 * done


def test_another_recipes_checkpoint_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(recipe(steps=3), ToyMethod())
    with pytest.raises(DataError, match="another recipe"):
        run.train(recipe(steps=3, seed=4), ToyMethod())


def test_training_learns_the_shift_between_two_heads(tmp_path: Path) -> None:
    made = recipe(steps=80, learning_rate=0.1, validate_every=80, augmentation=NO_AUGMENTATION, patience=1)

    class OnePair(ToyMethod):
        """Always the same pair: the second subject is the first one shifted."""

        def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
            data = toy_set()
            return super().losses(prediction, Batch(data.image(0), data.image(1)))

    method = OnePair()
    Run(tmp_path).train(made, method)
    # subject 1 lies at (1, -0.5, 0.6) from subject 0: fixed(i) = moving(i + shift)
    shift = method.network.state_dict()["shift"]
    torch.testing.assert_close(shift, torch.tensor([1.0, -0.5, 0.6]), atol=0.15, rtol=0)


def test_one_step_lowers_the_loss(tmp_path: Path) -> None:
    config = {"spacing_mm": 2.0, "plan": [[4, 1], [2, 1]], "features": 4, "width": 8, "dice": 0}
    made = recipe(steps=1, validate_every=1, augmentation=NO_AUGMENTATION, learning_rate=5e-3, config=config)
    method = fresh(made)
    pair = draw_pair(toy_set(), NO_AUGMENTATION, torch.Generator().manual_seed(made.seed * 1_000_003))

    def loss() -> float:
        method.network.train()
        return sum(
            float(v.detach()) for v in method.losses(method.predict(pair.fixed, pair.moving), pair).values()
        )

    before = loss()
    Run(tmp_path).train(made, method)
    assert loss() < before


def test_events_come_every_twenty_steps_and_at_validations(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(recipe(steps=45, validate_every=30, learning_rate=1e-4), ToyMethod())
    assert [(e.step, e.dice is not None) for e in run.events] == [
        (20, False),
        (30, True),
        (40, False),
        (45, True),
    ]
    assert {e.steps for e in run.events} == {45}
    assert set(run.events[0].losses) == {"mse", "smoothness", "total"}
    assert run.events[0].losses["total"] == pytest.approx(run.events[0].losses["mse"])


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    made = recipe(
        steps=50, validate_every=2, patience=3, learning_rate=1e-12
    )  # nothing moves: the first is the best
    run = Run(tmp_path)
    outcome = run.train(made, ToyMethod())
    assert (outcome.best_step, outcome.steps, outcome.stopped_early) == (2, 8, True)
    assert outcome.weights == tmp_path / "best.safetensors"
    assert set(load_file(outcome.weights)) == {"shift"}
    again = run.train(made, ToyMethod())  # a run that stopped early stays stopped
    assert (again.steps, again.stopped_early) == (8, True)


class Runaway(ToyMethod):
    """A similarity that gets worse from step 30 on, or is no number at all at step 2."""

    def __init__(self, *, nan: bool = False) -> None:
        super().__init__()
        self.calls, self.nan = 0, nan

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        self.calls += 1
        value = prediction.displacement.mean() * 0 + (0.5 if self.calls < 30 else 0.9)
        return {"lncc": value * float("nan") if self.nan and self.calls == 3 else value}


def test_divergence_is_noticed_and_says_what_to_do(tmp_path: Path) -> None:
    made = recipe(steps=300, validate_every=300)
    with pytest.raises(
        TrainingDiverged, match=r"similarity loss 0\.\d+ at step 101 .*0\.500.*lower learning_rate"
    ):
        Run(tmp_path).train(made, Runaway())
    assert issubclass(TrainingDiverged, QualityError)


def test_an_absurd_learning_rate_is_divergence(tmp_path: Path) -> None:
    made = recipe(learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match="not finite at step 1; lower learning_rate and restart"):
        Run(tmp_path).train(made, fresh(made))


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    method = Runaway(nan=True)
    with pytest.raises(TrainingDiverged, match="not finite at step 2; lower learning_rate"):
        Run(tmp_path).train(recipe(), method)
    assert torch.isfinite(method.network.state_dict()["shift"]).all()
    assert not (tmp_path / "state.safetensors").exists()


def test_half_precision_trains_with_float32_weights(tmp_path: Path) -> None:
    made = recipe(steps=2, precision="bf16")
    method = fresh(made)
    Run(tmp_path).train(made, method)
    assert {p.dtype for p in method.network.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in method.network.parameters())


def test_the_learning_rate_is_one_cycle() -> None:
    rates = [learning_rate_at(step, 100, peak=2.0, warmup=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.08)
    assert rates[5] == pytest.approx(2.0 * (0.04 + 0.48))
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.001 + 0.999 / 2))
    assert rates[100] == pytest.approx(0.002)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert all(math.isfinite(learning_rate_at(s, 1, peak=1.0, warmup=0.05)) for s in (0, 1))


def test_validation_pairs_use_every_subject_alike() -> None:
    pairs = validation_pairs(5, 10)
    assert len(set(pairs)) == 10
    assert all(i != j for i, j in pairs)
    assert (
        np.bincount([i for i, _ in pairs]).tolist() == np.bincount([j for _, j in pairs]).tolist() == [2] * 5
    )
    assert len(validation_pairs(3, 100)) == 6  # there are no more


def test_mean_dice_counted_by_hand() -> None:
    fixed = torch.tensor([0, 0, 1, 1, 2, 2, 2, 9], dtype=torch.uint8)
    moved = torch.tensor([0, 2, 1, 0, 2, 2, 0, 7], dtype=torch.uint8)
    # region 2: 2 * 2 / (3 + 3); region 9: 0; background and region 1 do not count, 7 is not in the fixed map
    assert mean_dice(fixed, moved) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_dice(fixed, fixed) == 1.0


def test_validation_of_the_identity_is_the_overlap_of_the_maps() -> None:
    data, method = toy_set(), ToyMethod()
    dice, folded = validate(method, data, 6, CPU)
    expected = []
    for i, j in validation_pairs(3, 6):
        one, two = data.labels[i].numpy(), data.labels[j].numpy()
        expected.append(
            np.mean(
                [
                    2 * ((one == k) & (two == k)).sum() / ((one == k).sum() + (two == k).sum())
                    for k in (3, 4, 5)
                ]
            )
        )
    assert dice == pytest.approx(float(np.mean(expected)))
    assert folded == 0.0
    assert validate(method, data, 6, CPU) == (dice, folded)


def test_coarse_validation_shows_the_network_half_the_grid_and_moves_full_labels() -> None:
    data, method, seen = toy_set(), ToyMethod(), []
    predict = method.predict

    def spy(fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        seen.append(tuple(fixed.shape[2:]))
        return predict(fixed, moving, start)

    method.predict = spy  # type: ignore[method-assign]
    method.network["shift"].data[2] = 1.0  # type: ignore[index]
    coarse, _ = validate(method, data, 6, CPU, coarse=True)
    method.network["shift"].data[2] = 2.0  # type: ignore[index]  # one coarse voxel is two fine ones
    fine, _ = validate(method, data, 6, CPU)
    assert set(seen) == {tuple(-(-n // 2) for n in SHAPE), SHAPE}
    assert coarse == pytest.approx(fine)


def test_what_was_best_on_coarse_images_counts_no_more_on_fine_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, coarse: bool, predict: object) -> tuple[float, float]:
        return (0.9 if coarse else 0.5), 0.0

    monkeypatch.setattr("neuroreg.training.trainer.validate", measured)
    made = recipe(steps=6, validate_every=2, coarse_steps=4)
    outcome = Run(tmp_path).train(made, ToyMethod())
    assert (outcome.best_dice, outcome.best_step) == (0.5, 6)


def test_the_log_has_a_header_once_and_a_row_per_event(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    csv_writer(path)(Event(20, 40, {"lncc": 0.5, "total": 0.75}, 1e-3, 1.23))
    csv_writer(path)(Event(40, 40, {"lncc": 0.25, "total": 0.5}, 1e-6, 2.5, 0.8, 0.001))  # a resumed run
    assert path.read_text().splitlines() == [
        "step,seconds,learning_rate,dice,folded_percent,loss_lncc,loss_total",
        "20,1.2,1.000e-03,,,0.50000,0.75000",
        "40,2.5,1.000e-06,0.80000,0.00100,0.25000,0.50000",
    ]


def test_steps_run_again_replace_their_rows_and_a_stage_adds_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    first = csv_writer(path)
    for step in (20, 40, 60):
        first(Event(step, 80, {"entropy": 0.5}, 1e-3, 1.0))
    again = csv_writer(path)  # the checkpoint was that of step 30
    again(Event(40, 80, {"entropy": 0.25}, 1e-3, 2.0))
    again(Event(40, 80, {"entropy": 0.25}, 1e-3, 2.0, 0.7))
    again(Event(80, 80, {"lncc": 0.125}, 1e-3, 3.0))
    assert path.read_text().splitlines() == [
        "step,seconds,learning_rate,dice,folded_percent,loss_entropy,loss_lncc",
        "20,1.0,1.000e-03,,,0.50000,",
        "40,2.0,1.000e-03,,,0.25000,",
        "40,2.0,1.000e-03,0.70000,,0.25000,",
        "80,3.0,1.000e-03,,,,0.12500",
    ]


PROCESSES = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from test_training_trainer import fresh
from training_phantoms import recipe, toy_set
from neuroreg.training.distributed import find_workers
from neuroreg.training.trainer import Setup, train
made = recipe(steps=3)
workers = find_workers(torch.device("cpu"))
method = fresh(made)
data = toy_set()
folder = Path(sys.argv[1])
outcome = train(Setup(made, method, data, data, folder, workers, lambda event: None))
save_file(method.network.state_dict(), folder / f"rank{workers.rank}.safetensors")
assert outcome.is_main == (workers.rank == 0)
"""


@pytest.mark.slow
def test_two_processes_take_the_step_of_their_mean_gradient(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, str(script), str(tmp_path)], env=environment, check=True, timeout=500)
    ranks = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name]), name
    expected = two_by_hand(recipe(steps=3))
    for name, value in expected.items():
        torch.testing.assert_close(ranks[0][name], value, atol=1e-5, rtol=1e-4)


def two_by_hand(made: Recipe) -> dict[str, Tensor]:
    """The same steps in one process: each rank's gradient in turn, their mean, clipped."""
    method, data = fresh(made), toy_set()
    parameters = list(method.network.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=made.weight_decay)
    for step in range(made.steps):
        optimizer.param_groups[0]["lr"] = learning_rate_at(
            step, made.steps, peak=made.learning_rate, warmup=made.warmup
        )
        optimizer.zero_grad()
        for rank in range(2):
            generator = torch.Generator().manual_seed((made.seed * 1_000_003 + step) * 2 + rank)
            pair = draw_pair(data, made.augmentation, generator)
            terms = method.losses(method.predict(pair.fixed, pair.moving), pair)
            (0.5 * torch.stack(list(terms.values())).sum()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, made.clip)
        optimizer.step()
    return method.network.state_dict()
