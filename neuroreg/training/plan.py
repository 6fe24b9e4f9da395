"""What is left to train: recipes against the weights that are published and the runs that exist."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuroreg.checkpoints import read_metadata
from neuroreg.errors import DataError
from neuroreg.io.files import sha256
from neuroreg.training.recipe import Recipe, load_recipe
from neuroreg.training.trainer import STATE, recipe_digest

_DEVICES = ("cpu", "cuda")
Action = Literal["keep", "train", "publish", "conflict"]


@dataclass(frozen=True)
class Job:
    """One recipe and what is to be done about it."""

    path: Path
    recipe: Recipe
    """as the device at hand runs it"""
    run: Path
    action: Action
    """keep: nothing to do; train: train, then publish what is published; publish: the run is finished, the published
    weights are not its; conflict: the run folder holds the run of another recipe"""
    publishes: bool
    why: str


def plan_training(
    published: Sequence[Path],
    *,
    unpublished: Sequence[Path] = (),
    manifest: Path | None = None,
    runs: Path,
    device: str,
) -> tuple[Job, ...]:
    """One job per recipe file, those that others begin with (``initial``) before them.

    ``published``: recipes whose weights ``manifest`` lists, or should. ``unpublished``: recipes of which a finished run
    is enough. ``device``: cpu or cuda, for the budget. Raises NoInputError, DataError (a recipe, or a circle of them).
    """
    records, home = ({}, Path()) if manifest is None else (_records(manifest), manifest.parent)
    jobs = []
    for path in _ordered([*sorted(published), *sorted(unpublished)]):
        recipe = load_recipe(path)
        run, mine = runs / recipe.name, recipe.on(device)
        lacks = None if path in unpublished else _lack(recipe, device, records.get(recipe.name), home)
        if path in published and lacks is None:
            jobs.append(Job(path, mine, run, "keep", True, "published"))
        else:
            jobs.append(_job(path, mine, run, lacks))
    return tuple(jobs)


def without_spare(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """The jobs that publish, and those whose weights a training among them begins with."""
    begins = {job.recipe.begins_with for job in jobs if job.action in ("train", "conflict")}
    return tuple(job for job in jobs if job.publishes or job.recipe.name in begins)


def _job(path: Path, recipe: Recipe, run: Path, lacks: str | None) -> Job:
    """The job of a recipe whose weights are not published well enough (``lacks``), or are not to be (None)."""
    done, state = steps_done(run), run / STATE
    publishes = lacks is not None
    before = f"{lacks}; " if lacks else ""
    if state.is_file() and read_metadata(state).get("recipe") != recipe_digest(recipe):
        return Job(path, recipe, run, "conflict", publishes, f"{before}{run} was trained by another recipe")
    if done >= recipe.steps or is_exhausted(recipe, run):
        return Job(
            path, recipe, run, "publish" if publishes else "keep", publishes, f"{before}{run} is finished"
        )
    at = f"{run} is at step {done}" if done else "not begun"
    return Job(path, recipe, run, "train", publishes, f"{before}{at}")


def steps_done(run: Path) -> int:
    """The last step that the run's log tells of; 0 without a log."""
    log = run / "log.csv"
    if not log.is_file():
        return 0
    with log.open(newline="", encoding="utf-8") as stream:
        return max((int(row["step"]) for row in csv.DictReader(stream)), default=0)


def is_exhausted(recipe: Recipe, run: Path) -> bool:
    """Whether the run has stopped early: ``patience`` validations brought nothing better."""
    state = run / STATE
    if not state.is_file():
        return False
    progress = json.loads(read_metadata(state).get("progress", "{}"))
    since = int(progress.get("step", 0)) - int(progress.get("best_step", 0))
    return since >= recipe.patience * recipe.validate_every


def _lack(recipe: Recipe, device: str, record: dict[str, Any] | None, home: Path) -> str | None:
    """What the published weights lack against the recipe; None: nothing."""
    if record is None:
        return "no weights are published"
    file = home / str(record["file"])
    if not file.is_file() or sha256(file) != record["sha256"]:
        return "the published file is missing or damaged"
    used = {name: recipe.on(name) for name in _DEVICES}
    if record.get("config") not in [{**one.config, **one.inference} for one in used.values()]:
        return "the published weights have other options"
    steps, wanted = int(record.get("budget") or record.get("steps") or 0), used[device].steps
    return None if steps >= wanted else f"published after {steps} of {wanted} steps"


def _records(manifest: Path) -> dict[str, dict[str, Any]]:
    try:
        contents = json.loads(manifest.read_text(encoding="utf-8"))
        return {str(record["name"]): record for record in contents["models"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the list of weights cannot be read", file=manifest, remedy="repair weights/manifest.json"
        ) from error


def _ordered(recipes: Sequence[Path]) -> list[Path]:
    """As given, each after the one whose weights it begins with."""
    names = {load_recipe(path).name: path for path in recipes}
    begins = {name: load_recipe(path).begins_with for name, path in names.items()}
    order: list[str] = []
    while len(order) < len(names):
        ready = [
            name
            for name in names
            if name not in order and (begins[name] not in names or begins[name] in order)
        ]
        if not ready:
            rest = ", ".join(name for name in names if name not in order)
            raise DataError(f"these recipes begin with one another: {rest}", remedy="change their 'initial'")
        order += ready
    return [names[name] for name in order]
