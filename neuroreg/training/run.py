"""From a recipe file to trained weights: data made ready, method built, loop run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from neuroreg import checkpoints
from neuroreg.device import choose_device
from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.methods import METHODS
from neuroreg.methods.base import TrainableMethod, flush_denormal
from neuroreg.registry import find
from neuroreg.training.data import PackedSet, load_pack
from neuroreg.training.distributed import find_workers
from neuroreg.training.fields import StoredFields, load_fields
from neuroreg.training.initial import load_initial
from neuroreg.training.log import Event, csv_writer, tensorboard_writer
from neuroreg.training.recipe import Recipe, load_recipe
from neuroreg.training.trainer import Outcome, Setup, train
from neuroreg.validation import sentence


@dataclass(frozen=True)
class RunOptions:
    """Where a run happens, apart from what its recipe says."""

    folder: Path | None = None
    """default: runs/<name of the recipe>"""
    device: str = "auto"
    threads: int | None = None
    restart: bool = False
    tensorboard: bool = False


def prepare(
    recipe_path: Path, source: Path, names: Path, progress: Callable[[str, int, int], None]
) -> list[Path]:
    """Pack the training and validation splits that the recipe names, whole heads too, out of the folder ``source``.

    Then the displacements that it names are found. Files that exist are kept. ``names`` is the CSV of label numbers
    and names. Raises NoInputError, DataError, and UnavailableError where another program is needed and not there.
    """
    # SimpleITK: not needed, and not there, where only training happens
    from neuroreg.training.prepare import pack, pack_heads

    recipe = load_recipe(recipe_path)
    data, made = recipe.data, []
    wanted = [(pack, "train", data.train), (pack, "val", data.val)]
    if data.heads is not None:
        wanted += [(pack_heads, "train", data.heads.train), (pack_heads, "val", data.heads.val)]
    for make, split, path in wanted:
        if not path.exists():
            make(source, split, path, names=names, progress=partial(progress, split))
            made.append(path)
    return made + _prepare_fields(recipe, progress)


def _prepare_fields(recipe: Recipe, progress: Callable[[str, int, int], None]) -> list[Path]:
    fields = recipe.data.fields
    if fields is None:
        return []
    from neuroreg.training.targets import make_fields

    made = []
    for pack, path, pairs in (
        (recipe.data.train, fields.train, fields.pairs),
        (recipe.data.val, fields.val, fields.val_pairs),
    ):
        if not path.exists():
            tell = partial(progress, path.stem)
            make_fields(load_pack(pack), path, targets=fields.targets, pairs=pairs, progress=tell)
            made.append(path)
    return made


def run(recipe_path: Path, options: RunOptions, report: Callable[[Event], None]) -> Outcome:
    """Train a recipe, resuming what its folder holds. Raises the errors of recipes, data, weights and training."""
    device = choose_device(options.device)
    recipe = load_recipe(recipe_path).on(device.type)
    folder = options.folder or Path("runs") / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    workers = find_workers(device).with_loss_scaling(recipe.precision)
    torch.manual_seed(recipe.seed)  # initial weights; the only use of the global generator
    method = build(recipe)
    method.network.to(workers.device)
    writers = [csv_writer(folder / "log.csv"), report]
    if options.tensorboard and workers.is_main:
        writers.append(tensorboard_writer(folder / "tensorboard"))
    if options.restart and workers.is_main:
        for name in ("log.csv", "state.safetensors"):
            (folder / name).unlink(missing_ok=True)

    def tell(event: Event) -> None:
        for write in writers:
            write(event)

    data = replace(load_pack(recipe.data.train), labelled=recipe.labelled), load_pack(recipe.data.val)
    heads = recipe.data.heads
    raw = data if heads is None else (load_pack(heads.train), load_pack(heads.val))
    setup = Setup(recipe, method, *data, folder, workers, tell, raw, _known_fields(recipe, *data))
    # told to train too: another process may look for the state before the first one has removed it
    with flush_denormal():
        return train(setup, restart=options.restart)


def _known_fields(
    recipe: Recipe, train: PackedSet, val: PackedSet
) -> tuple[StoredFields, StoredFields] | None:
    fields = recipe.data.fields
    return (
        None if fields is None else (load_fields(fields.train, train.ids), load_fields(fields.val, val.ids))
    )


def build(recipe: Recipe) -> TrainableMethod:
    """The recipe's method with fresh weights, or with those named by ``initial``. Raises UsageError, DataError."""
    kind: Any = find(METHODS, recipe.method, kind="method").load()
    if not hasattr(kind, "losses"):
        raise UsageError(f"method {recipe.method!r} has nothing to train", remedy="see neuroreg methods")
    try:
        method: TrainableMethod = kind(kind.Config.model_validate(recipe.config))
    except ValidationError as error:
        raise DataError(f"config of the method: {sentence(error)}", remedy="correct the recipe") from error
    if recipe.initial is not None:
        load_initial(method.network, _initial(recipe.initial, recipe.begins_with))
    return method


def _initial(place: str, name: str | None) -> checkpoints.WeightRecord:
    """The weights to begin with. Raises NoInputError where they have still to be trained."""
    if place.endswith(".safetensors") and not Path(place).is_file():
        raise NoInputError(
            f"this training begins with {name}, which is not there",
            file=Path(place),
            remedy=f"train the recipe {name}.yaml first, or let examples/train_all.sh do both",
        )
    return checkpoints.find(place)
