"""Put trained weights where the product finds them: the tensors, and their record in the manifest."""

import csv
import json
import os
import platform
from pathlib import Path

from safetensors.torch import load_file, save_file

from neuroreg.checkpoints import read_metadata
from neuroreg.errors import DataError, NoInputError
from neuroreg.io.files import atomic_write, sha256
from neuroreg.training.plan import is_exhausted, steps_done
from neuroreg.training.recipe import Recipe, load_recipe, weights_metadata

LICENCE = "CC BY-SA 3.0"
TRAINING_DATA = "IXI (brain-development.org), training split, 140 subjects; labels from the NiChart project"


def publish(recipe_path: Path, run: Path, weights: Path, numbers: dict[str, object] | None = None) -> Path:
    """Copy ``run``/best.safetensors to ``weights`` under the recipe's name and rewrite its manifest record.

    ``numbers`` are measured figures for the record (see ``put_record``). Returns the file. Raises NoInputError when
    the run has no weights yet.
    """
    best, log = run / "best.safetensors", run / "log.csv"
    if not best.is_file() or not log.is_file():
        raise NoInputError("no trained weights in this folder", file=run, remedy="run neuroreg train first")
    metadata = read_metadata(best)
    recipe = load_recipe(recipe_path).as_trained(metadata)
    target = weights / f"{recipe.name}.safetensors"

    def copy(path: Path) -> None:
        save_file(load_file(best), path, metadata={**metadata, **weights_metadata(recipe)})
        path.chmod(0o644)  # safetensors makes it readable by its owner alone

    atomic_write(target, copy, overwrite=True)
    record = _record(recipe, target, _best_row(log, metadata)) | {"budget": _budget(recipe, run)}
    put_record(weights / "manifest.json", record if numbers is None else {**record, "numbers": numbers})
    return target


def put_record(manifest: Path, record: dict[str, object]) -> None:
    """Add a record to manifest.json, or replace the one of the same name.

    One without ``numbers`` keeps those measured on the same file (sha256). The first weights of a method become its
    default.
    """
    contents = json.loads(manifest.read_text(encoding="utf-8"))
    records, name = {each["name"]: each for each in contents["models"]}, str(record["name"])
    old = records.get(name, {})
    measured = old.get("numbers", {}) if old.get("sha256") == record["sha256"] else {}
    records[name] = {**record, "numbers": record.get("numbers", measured)}
    contents["models"] = [records[each] for each in sorted(records)]
    if "method" in record:
        contents["defaults"].setdefault(record["method"], name)
    text = json.dumps(contents, indent=2, allow_nan=False) + "\n"

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    atomic_write(manifest, write, overwrite=True)


def _budget(recipe: Recipe, run: Path) -> int:
    """Steps that the run has used up: all of the recipe's when it has ended, by itself or early."""
    done = steps_done(run)
    return recipe.steps if done >= recipe.steps or is_exhausted(recipe, run) else done


def _best_row(log: Path, metadata: dict[str, str]) -> dict[str, str]:
    """The log's row of the step whose weights were kept; of the best Dice where the file does not say which."""
    with log.open(newline="", encoding="utf-8") as stream:
        validated = [row for row in csv.DictReader(stream) if row["dice"]]
    # where registration was judged, that counts; a method taught on single points is judged by these alone
    rows = [row for row in validated if row["folded_percent"]] or validated
    if not rows:
        raise DataError("the log has no validation yet", file=log, remedy="train until the first validation")
    kept = [row for row in rows if row["step"] == metadata.get("step")]
    return max(kept or rows, key=lambda row: float(row["dice"]))


def _record(recipe: Recipe, target: Path, best: dict[str, str]) -> dict[str, object]:
    return {
        "name": recipe.name,
        "kind": "network",
        "method": recipe.method,
        "file": target.name,
        "sha256": sha256(target),
        "recipe": f"{recipe.name}.yaml",
        "card": f"{recipe.name}.md",
        "licence": LICENCE,
        "training_data": TRAINING_DATA,
        "config": {**recipe.config, **recipe.inference},
        "spacing_mm": 2.0,
        "steps": int(best["step"]),
        "seconds": float(best["seconds"]),
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
    }
