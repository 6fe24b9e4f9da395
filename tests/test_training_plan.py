"""What is left to train: published weights against budgets, runs that stand, the order of recipes."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from neuroreg.errors import DataError
from neuroreg.io.files import sha256
from neuroreg.training.plan import is_exhausted, plan_training, steps_done, without_spare
from neuroreg.training.recipe import Recipe, load_recipe
from neuroreg.training.trainer import recipe_digest

RECIPE: dict[str, object] = {
    "method": "neuroreg",
    "config": {"codes": 2},
    "inference": {"spacing_mm": 1.0},
    "data": {"train": "t.npz", "val": "v.npz"},
    "steps": 100,
    "learning_rate": 1e-3,
    "validate_every": 10,
    "patience": 3,
    "gpu": {"steps": 5000, "config": {"codes": 4}},
}
USED = {"codes": 2, "spacing_mm": 1.0}


def write(folder: Path, name: str, **changes: object) -> Path:
    path = folder / "weights" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"name": name, **RECIPE, **changes}), encoding="utf-8")
    return path


def published(folder: Path, name: str, **record: object) -> Path:
    """weights/manifest.json with one record, and its file."""
    file = folder / "weights" / f"{name}.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    found = {"name": name, "file": file.name, "sha256": sha256(file), "config": USED, **record}
    manifest = folder / "weights" / "manifest.json"
    manifest.write_text(json.dumps({"schema": 1, "defaults": {}, "models": [found]}))
    return manifest


def ran(folder: Path, recipe: Recipe, *, step: int, best: int, log: bool = True) -> Path:
    """A run folder as the trainer leaves it."""
    run = folder / "runs" / recipe.name
    run.mkdir(parents=True)
    if log:
        (run / "log.csv").write_text(f"step,dice\n{best},0.5\n{step},0.4\n")
    metadata = {
        "recipe": recipe_digest(recipe),
        "progress": json.dumps({"stage": 0, "step": step, "best_step": best}),
    }
    save_file({"a": torch.zeros(1)}, run / "state.safetensors", metadata=metadata)
    return run


def only(folder: Path, path: Path, *, device: str = "cpu", manifest: Path | None = None) -> tuple[str, str]:
    given = ([], [path]) if manifest is None else ([path], [])
    published, unpublished = given
    (job,) = plan_training(
        published, unpublished=unpublished, manifest=manifest, runs=folder / "runs", device=device
    )
    return job.action, job.why


@pytest.mark.parametrize(
    ("record", "device", "action", "why"),
    [
        ({"steps": 100}, "cpu", "keep", "published"),
        ({"steps": 60, "budget": 100}, "cpu", "keep", "published"),  # best at 60, trained to the end
        ({"steps": 60}, "cpu", "train", "published after 60 of 100 steps; not begun"),
        ({"steps": 60, "budget": 100}, "cuda", "train", "published after 100 of 5000 steps; not begun"),
        ({"budget": 5000, "config": {"codes": 4, "spacing_mm": 1.0}}, "cuda", "keep", "published"),
        ({"budget": 5000, "config": {"codes": 4, "spacing_mm": 1.0}}, "cpu", "keep", "published"),
        ({"steps": 100, "config": {"codes": 3}}, "cpu", "train", "the published weights have other options"),
        ({"steps": 100, "sha256": "0" * 64}, "cpu", "train", "the published file is missing or damaged"),
    ],
)
def test_published_weights_are_held_against_the_budget(
    tmp_path: Path, record: dict[str, object], device: str, action: str, why: str
) -> None:
    path = write(tmp_path, "toy")
    manifest = published(tmp_path, "toy", **record)
    found = only(tmp_path, path, device=device, manifest=manifest)
    assert found[0] == action
    assert found[1].startswith(why)


def test_a_run_is_resumed_published_or_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "toy")
    manifest = published(tmp_path, "other")
    assert only(tmp_path, path, manifest=manifest) == ("train", "no weights are published; not begun")
    run = ran(tmp_path, load_recipe(path), step=40, best=30)
    assert only(tmp_path, path, manifest=manifest)[0] == "train"
    assert only(tmp_path, path)[1] == f"{run} is at step 40"
    assert steps_done(run) == 40
    (run / "log.csv").write_text("step,dice\n90,0.5\n100,0.4\n")
    assert only(tmp_path, path, manifest=manifest)[0] == "publish"
    assert only(tmp_path, path) == ("keep", f"{run} is finished")  # an ablation is never published
    assert only(tmp_path, path, device="cuda")[0] == "conflict"  # that run had the budget of a processor
    write(tmp_path, "toy", learning_rate=1e-4)
    assert only(tmp_path, path, manifest=manifest) == (
        "conflict",
        f"no weights are published; {run} was trained by another recipe",
    )


def test_a_run_that_stopped_early_is_finished(tmp_path: Path) -> None:
    path = write(tmp_path, "toy")
    recipe = load_recipe(path)
    run = ran(tmp_path, recipe, step=50, best=20)  # three validations of ten steps
    assert is_exhausted(recipe, run)
    assert only(tmp_path, path)[0] == "keep"
    assert not is_exhausted(recipe, tmp_path / "nowhere")


def test_what_a_recipe_begins_with_comes_first(tmp_path: Path) -> None:
    paths = [
        write(tmp_path, "a", initial="c"),
        write(tmp_path, "b", initial="runs/a/best.safetensors"),
        write(tmp_path, "c", initial="elsewhere"),
    ]
    jobs = plan_training([], unpublished=paths, runs=tmp_path, device="cpu")
    assert [job.recipe.name for job in jobs] == ["c", "a", "b"]
    paths.append(write(tmp_path, "d", initial="d"))
    with pytest.raises(DataError, match="begin with one another: d"):
        plan_training([], unpublished=paths, runs=tmp_path, device="cpu")


def test_an_unpublished_recipe_is_trained_when_one_to_be_trained_begins_with_it(tmp_path: Path) -> None:
    first, spare = write(tmp_path, "first"), write(tmp_path, "spare")
    begins = write(tmp_path, "begins", initial="runs/first/best.safetensors")
    manifest = published(tmp_path, "begins", steps=60)
    plan = {"unpublished": [first, spare], "manifest": manifest, "runs": tmp_path / "runs", "device": "cpu"}
    jobs = plan_training([begins], **plan)
    assert {job.recipe.name for job in jobs} == {"first", "spare", "begins"}
    kept = [(job.recipe.name, job.action, job.publishes) for job in without_spare(jobs)]
    assert kept == [("first", "train", False), ("begins", "train", True)]
    plan["manifest"] = published(tmp_path, "begins", steps=100)
    kept = [(job.recipe.name, job.action) for job in without_spare(plan_training([begins], **plan))]
    assert kept == [("begins", "keep")]
