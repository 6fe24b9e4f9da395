"""The one training loop: any trainable method, CPU or GPU, resumable to the bit, watched for divergence."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from neuroreg.errors import DataError, QualityError
from neuroreg.methods.base import Batch, Stage, TrainableMethod
from neuroreg.training.checkpoint import Progress, load_state, save_state, save_weights
from neuroreg.training.data import PackedSet, both_ways, draw_pair
from neuroreg.training.distributed import Workers
from neuroreg.training.fields import StoredFields
from neuroreg.training.log import Event
from neuroreg.training.poses import draw_raw_pair
from neuroreg.training.recipe import Recipe, weights_metadata
from neuroreg.training.validation import (
    fixed_batches,
    validate,
    validate_batches,
    validate_images,
    validate_raw,
)

_SIMILARITY = ("lncc", "ncc", "mse")
_START_STEPS = 20  # steps whose mean similarity is the yardstick for divergence
_UNTRAINED = 1.2  # how far the similarity may rise: pairs differ by a tenth, a volume warped out of view costs far more
_TRAINED = 1.5  # how far the similarity may rise above that of trained initial weights, other terms being new
_LOG_EVERY = 20
STATE = "state.safetensors"


class TrainingDiverged(QualityError):
    """The loss is not finite, or similarity is worse than before training."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    best_dice: float
    best_step: int
    steps: int
    seconds: float
    stopped_early: bool
    weights: Path
    is_main: bool = True
    """False in the processes of torchrun that only lend their hands: they show no result"""


@dataclass(frozen=True)
class Setup:
    """Everything the loop works with."""

    recipe: Recipe
    method: TrainableMethod
    train: PackedSet
    val: PackedSet
    folder: Path
    workers: Workers
    report: Callable[[Event], None]
    raw: tuple[PackedSet, PackedSet] | None = None
    """training and validation heads for stages with raw poses; None: those of the other stages"""
    fields: tuple[StoredFields, StoredFields] | None = None
    """of training and validation pairs: then no other pairs are drawn"""


@dataclass(frozen=True)
class _Phase:
    """A stage and its place in the run."""

    stage: Stage
    first: int
    """steps of the stages before it"""
    coarse: int
    """its first steps that see coarse images"""


def train(setup: Setup, *, restart: bool = False) -> Outcome:
    """Run a recipe to its end, from its last checkpoint in ``folder`` if there is one.

    Leaves in ``folder``: state.safetensors (exact resume) and best.safetensors (half precision).
    Raises TrainingDiverged, and DataError for a checkpoint or a recipe that does not fit the method.
    """
    recipe = setup.recipe
    setup.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    stages = setup.method.stages(recipe.steps, recipe.learning_rate)
    lengths = [stage.steps for stage in stages]
    starts, coarse = accumulate(lengths, initial=0), recipe.coarse_by_stage(lengths)
    if recipe.labelled is not None and any(stage.poses == "raw" for stage in stages):
        raise DataError(
            f"method {recipe.method!r} places heads by their labels", remedy="leave out 'labelled'"
        )
    phases = [_Phase(*each) for each in zip(stages, starts, coarse, strict=False)]
    optimizers = [
        torch.optim.AdamW(stage.parameters, lr=stage.learning_rate, weight_decay=recipe.weight_decay)
        for stage in stages
    ]
    state, progress = setup.folder / STATE, Progress()
    if state.is_file() and not restart:
        progress = load_state(
            state, setup.method.network, optimizers, recipe_digest(recipe), scaler=setup.workers.scaler
        )
    for number in range(progress.stage, len(stages)):
        if number > progress.stage:
            progress = Progress(stage=number, seconds=progress.seconds)
        progress = _run_phase(setup, phases[number], optimizers[number], progress)
    first = phases[-1].first
    return Outcome(
        best_dice=progress.best_dice,
        best_step=first + progress.best_step,
        steps=first + progress.step,
        seconds=progress.seconds,
        stopped_early=progress.step < stages[-1].steps,
        weights=setup.folder / "best.safetensors",
        is_main=setup.workers.is_main,
    )


def _run_phase(setup: Setup, phase: _Phase, optimizer: torch.optim.Optimizer, progress: Progress) -> Progress:
    """Run one stage to its end, saving the state as it goes."""
    recipe, workers, steps = setup.recipe, setup.workers, phase.stage.steps
    clock, saved = time.monotonic() - progress.seconds, time.monotonic()
    stopped = _exhausted(recipe, progress)
    while progress.step < steps and not stopped:
        losses, rate = _step(setup, optimizer, phase, progress.step)
        progress = replace(progress, step=progress.step + 1, seconds=time.monotonic() - clock)
        age = progress.step - (phase.coarse if progress.step > phase.coarse else 0)
        progress = _watch(progress, losses, age=age, bound=_UNTRAINED if recipe.initial is None else _TRAINED)
        here = Event(phase.first + progress.step, recipe.steps, losses, rate, progress.seconds)
        if progress.step % _LOG_EVERY == 0:
            _tell(setup, here)
        last = progress.step == steps
        if progress.step % recipe.validate_every == 0 or last:
            progress = _validate(setup, phase, progress, here)
            stopped = _exhausted(recipe, progress)
        if workers.is_main and (time.monotonic() - saved > 60 * recipe.checkpoint_minutes or last or stopped):
            state = setup.folder / STATE
            network, digest = setup.method.network, recipe_digest(recipe)
            save_state(state, network, optimizer, progress, digest, scaler=workers.scaler)
            saved = time.monotonic()
    return progress


def _exhausted(recipe: Recipe, progress: Progress) -> bool:
    """Whether ``patience`` validations in a row have brought no better Dice."""
    return progress.step - progress.best_step >= recipe.patience * recipe.validate_every


def recipe_digest(recipe: Recipe) -> str:
    """What a checkpoint must agree on to be resumed: every option that training depends on."""
    decides = recipe.model_dump_json(exclude={"data", "inference", "gpu"}, exclude_defaults=True)
    return hashlib.sha256(decides.encode()).hexdigest()


def learning_rate_at(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """One cycle: a cosine rise over the first ``warmup`` share of the steps, a cosine fall to peak / 1000."""
    rise = max(1.0, warmup * steps)
    if step < rise:
        return peak * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / rise)))
    fraction = (step - rise) / max(1.0, steps - rise)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


def _step(
    setup: Setup, optimizer: torch.optim.Optimizer, phase: _Phase, step: int
) -> tuple[dict[str, float], float]:
    recipe, workers, stage = setup.recipe, setup.workers, phase.stage
    rate = learning_rate_at(step, stage.steps, peak=stage.learning_rate, warmup=recipe.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate
    batch = workers.to_device(_draw(setup, phase, step))
    setup.method.network.train()
    losses = _losses(setup, stage, batch)
    total = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(total):
        raise TrainingDiverged(
            f"the loss is not finite at step {phase.first + step}", remedy="lower learning_rate and restart"
        )
    workers.update(total, optimizer, stage.parameters, recipe.clip)
    return {name: float(value.detach()) for name, value in losses.items()} | {
        "total": float(total.detach())
    }, rate


def _losses(setup: Setup, stage: Stage, batch: Batch) -> Mapping[str, Tensor]:
    with _autocast(setup.recipe.precision, setup.workers.device):
        if stage.objective is not None:
            return stage.objective(batch)
        prediction = setup.method.predict(batch.fixed, batch.moving)
    return setup.method.losses(prediction, batch)


def _draw(setup: Setup, phase: _Phase, step: int) -> Batch:
    recipe, stage, coarse = setup.recipe, phase.stage, step < phase.coarse
    seed = (recipe.seed * 1_000_003 + phase.first + step) * setup.workers.count + setup.workers.rank
    generator = torch.Generator().manual_seed(seed)
    if stage.poses == "raw":
        heads = setup.train if setup.raw is None else setup.raw[0]
        level = max(stage.level, int(coarse))
        batch = draw_raw_pair(heads, recipe.poses, recipe.augmentation, generator, level=level)
    else:
        fields = None if setup.fields is None else setup.fields[0]
        by_labels = stage.objective is not None and fields is None
        data = setup.train.labelled_part() if by_labels else setup.train
        batch = draw_pair(data, recipe.augmentation, generator, coarse=coarse, fields=fields)
    return both_ways(batch) if recipe.symmetric else batch


def _autocast(precision: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    if precision == "float32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def _watch(progress: Progress, losses: Mapping[str, float], *, age: int, bound: float) -> Progress:
    """Keep running means of the similarity term; a mean above ``bound`` times the start's is divergence.

    ``age``: steps since the stage began or, within it, since the images became fine: others do not compare.
    A pyramid network that has warped the volume out of view gets no gradient back: only a restart helps.
    """
    value = sum(losses[name] for name in _SIMILARITY if name in losses)
    if age <= _START_STEPS:
        start = (progress.start_similarity if age > 1 else 0.0) + value / _START_STEPS
        return replace(progress, start_similarity=start, recent_similarity=value)
    recent = 0.98 * progress.recent_similarity + 0.02 * value
    if age > 5 * _START_STEPS and recent > bound * progress.start_similarity:
        start = progress.start_similarity
        raise TrainingDiverged(
            f"similarity loss {recent:.3f} at step {progress.step} is above the starting {start:.3f}",
            remedy="lower learning_rate and restart",
        )
    return replace(progress, recent_similarity=recent)


def _validate(setup: Setup, phase: _Phase, progress: Progress, here: Event) -> Progress:
    """Measure on the validation split, keep the weights if they are the best of this stage so far.

    While training sees coarse images, so does validation; what was best then counts no more once they are fine.
    """
    network, device, folded = setup.method.network, setup.workers.device, None
    coarse, stage, pairs = progress.step <= phase.coarse, phase.stage, setup.recipe.val_pairs
    if stage.score is not None:
        (dice,) = setup.workers.agree(validate_images(network, stage.score, setup.val, device, coarse=coarse))
    elif stage.score_pair is not None:
        known = fixed_batches(setup.val, pairs, None if setup.fields is None else setup.fields[1])
        on_device = map(setup.workers.to_device, known)
        (dice,) = setup.workers.agree(validate_batches(network, stage.score_pair, on_device))
    elif stage.poses == "raw":
        heads = setup.val if setup.raw is None else setup.raw[1]
        predict = stage.predict or setup.method.predict
        measured = validate_raw(predict, network, heads, pairs, device, poses=setup.recipe.poses)
        dice, folded = setup.workers.agree(*measured)
        folded = None if stage.predict else folded  # no field yet: nothing that could fold
    else:
        measured = validate(setup.method, setup.val, pairs, device, coarse=coarse, predict=stage.predict)
        dice, folded = setup.workers.agree(*measured)
    best = progress.best_dice if coarse or progress.best_step > phase.coarse else -1.0
    _tell(setup, replace(here, dice=dice, folded_percent=folded))
    if dice <= best:
        return progress
    if setup.workers.is_main:
        metadata = {**weights_metadata(setup.recipe), "step": str(here.step), "val_dice": f"{dice:.6f}"}
        metadata["budget"] = str(setup.recipe.steps)
        save_weights(setup.folder / "best.safetensors", network, metadata)
    return replace(progress, best_dice=dice, best_step=progress.step)


def _tell(setup: Setup, event: Event) -> None:
    if setup.workers.is_main:
        setup.report(event)
