"""The one training loop: any trainable method, CPU or GPU, resumable to the bit, watched for divergence."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from neuroreg.errors import QualityError
from neuroreg.methods.base import Batch, Stage, TrainableMethod
from neuroreg.training.checkpoint import Progress, load_state, save_state, save_weights
from neuroreg.training.data import PackedSet, both_ways, draw_pair
from neuroreg.training.distributed import Workers
from neuroreg.training.log import Event
from neuroreg.training.recipe import Recipe, weights_metadata
from neuroreg.training.validation import validate

_SIMILARITY = ("lncc", "ncc", "mse")
_START_STEPS = 20  # steps whose mean similarity is the yardstick for divergence
_LOG_EVERY = 20


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


def train(setup: Setup, *, restart: bool = False) -> Outcome:
    """Run a recipe to its end, from its last checkpoint in ``folder`` if there is one.

    Leaves in ``folder``: state.safetensors (exact resume) and best.safetensors (half precision).
    Raises TrainingDiverged.
    """
    recipe, workers = setup.recipe, setup.workers
    setup.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    stage = _stage(setup)
    optimizer = torch.optim.AdamW(stage.parameters, lr=stage.learning_rate, weight_decay=recipe.weight_decay)
    state, digest = setup.folder / "state.safetensors", recipe_digest(recipe)
    progress = Progress()
    if state.is_file() and not restart:
        progress = load_state(state, setup.method.network, optimizer, digest)
    clock, saved = time.monotonic() - progress.seconds, time.monotonic()
    stopped = _exhausted(recipe, progress)
    while progress.step < stage.steps and not stopped:
        losses, rate = _step(setup, optimizer, stage, progress.step)
        progress = replace(progress, step=progress.step + 1, seconds=time.monotonic() - clock)
        progress = _watch(progress, losses)
        if progress.step % _LOG_EVERY == 0:
            _tell(setup, Event(progress.step, stage.steps, losses, rate, progress.seconds))
        last = progress.step == stage.steps
        if progress.step % recipe.validate_every == 0 or last:
            progress = _validate(setup, progress, losses, rate)
            stopped = _exhausted(recipe, progress)
        if workers.is_main and (time.monotonic() - saved > 60 * recipe.checkpoint_minutes or last or stopped):
            save_state(state, setup.method.network, optimizer, progress, digest)
            saved = time.monotonic()
    best = setup.folder / "best.safetensors"
    best_dice, best_step = progress.best_dice, progress.best_step
    return Outcome(best_dice, best_step, progress.step, progress.seconds, stopped, best, workers.is_main)


def _exhausted(recipe: Recipe, progress: Progress) -> bool:
    """Whether ``patience`` validations in a row have brought no better Dice."""
    return progress.step - progress.best_step >= recipe.patience * recipe.validate_every


def recipe_digest(recipe: Recipe) -> str:
    """What a checkpoint must agree on to be resumed: every option that training depends on."""
    return hashlib.sha256(recipe.model_dump_json(exclude={"data", "inference"}).encode()).hexdigest()


def learning_rate_at(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """One cycle: a cosine rise over the first ``warmup`` share of the steps, a cosine fall to peak / 1000."""
    rise = max(1.0, warmup * steps)
    if step < rise:
        return peak * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / rise)))
    fraction = (step - rise) / max(1.0, steps - rise)
    return peak * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction))))


def _stage(setup: Setup) -> Stage:
    stages = setup.method.stages(setup.recipe.steps, setup.recipe.learning_rate)
    if len(stages) != 1:
        raise NotImplementedError("methods with several stages are trained stage by stage")
    return stages[0]


def _step(
    setup: Setup, optimizer: torch.optim.Optimizer, stage: Stage, step: int
) -> tuple[dict[str, float], float]:
    recipe, workers = setup.recipe, setup.workers
    rate = learning_rate_at(step, stage.steps, peak=stage.learning_rate, warmup=recipe.warmup)
    for group in optimizer.param_groups:
        group["lr"] = rate
    batch = workers.to_device(_draw(setup, step))
    setup.method.network.train()
    with _autocast(recipe.precision, workers.device):
        prediction = setup.method.predict(batch.fixed, batch.moving)
    losses = setup.method.losses(prediction, batch)
    total = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(total):
        raise TrainingDiverged(
            f"the loss is not finite at step {step}", remedy="lower learning_rate and restart"
        )
    workers.update(total, optimizer, stage.parameters, recipe.clip)
    return {name: float(value.detach()) for name, value in losses.items()} | {
        "total": float(total.detach())
    }, rate


def _draw(setup: Setup, step: int) -> Batch:
    seed = (setup.recipe.seed * 1_000_003 + step) * setup.workers.count + setup.workers.rank
    batch = draw_pair(setup.train, setup.recipe.augmentation, torch.Generator().manual_seed(seed))
    return both_ways(batch) if setup.recipe.symmetric else batch


def _autocast(precision: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    if precision == "float32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def _watch(progress: Progress, losses: Mapping[str, float]) -> Progress:
    """Keep running means of the similarity term; a mean above the start's is divergence.

    A pyramid network that has warped the volume out of view gets no gradient back: only a restart helps.
    """
    value = sum(losses[name] for name in _SIMILARITY if name in losses)
    if progress.step <= _START_STEPS:
        start = progress.start_similarity + value / _START_STEPS
        return replace(progress, start_similarity=start, recent_similarity=value)
    recent = 0.98 * progress.recent_similarity + 0.02 * value
    if progress.step > 5 * _START_STEPS and recent > 1.05 * progress.start_similarity:
        start = progress.start_similarity
        raise TrainingDiverged(
            f"similarity loss {recent:.3f} at step {progress.step} is above the starting {start:.3f}",
            remedy="lower learning_rate and restart",
        )
    return replace(progress, recent_similarity=recent)


def _validate(setup: Setup, progress: Progress, losses: Mapping[str, float], rate: float) -> Progress:
    """Measure on the validation pairs, keep the weights if they are the best so far."""
    measured = validate(setup.method, setup.val, setup.recipe.val_pairs, setup.workers.device)
    dice, folded = setup.workers.agree(*measured)
    event = Event(progress.step, setup.recipe.steps, losses, rate, progress.seconds, dice, folded)
    _tell(setup, event)
    if dice <= progress.best_dice:
        return progress
    if setup.workers.is_main:
        metadata = {**weights_metadata(setup.recipe), "step": str(progress.step), "val_dice": f"{dice:.6f}"}
        save_weights(setup.folder / "best.safetensors", setup.method.network, metadata)
    return replace(progress, best_dice=dice, best_step=progress.step)


def _tell(setup: Setup, event: Event) -> None:
    if setup.workers.is_main:
        setup.report(event)
