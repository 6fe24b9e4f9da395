"""From a recipe file to trained weights: data made ready, method built, loop run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from neuroreg import checkpoints
from neuroreg.errors import DataError, UnavailableError, UsageError
from neuroreg.methods import METHODS
from neuroreg.methods.base import TrainableMethod, flush_denormal
from neuroreg.registry import find
from neuroreg.training.data import load_pack
from neuroreg.training.distributed import find_workers
from neuroreg.training.log import Event, csv_writer, tensorboard_writer
from neuroreg.training.recipe import Recipe, load_recipe
from neuroreg.training.trainer import Outcome, Setup, train


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
    """Pack the training and validation splits that the recipe names out of the folder ``source``.

    Files that exist are kept. ``names`` is the CSV of label numbers and names. Raises NoInputError, DataError.
    """
    # SimpleITK: not needed, and not there, where only training happens
    from neuroreg.training.prepare import pack

    recipe = load_recipe(recipe_path)
    made = []
    for split, path in (("train", recipe.data.train), ("val", recipe.data.val)):
        if not path.exists():
            pack(source, split, path, names=names, progress=lambda n, of, split=split: progress(split, n, of))  # type: ignore[misc]
            made.append(path)
    return made


def run(recipe_path: Path, options: RunOptions, report: Callable[[Event], None]) -> Outcome:
    """Train a recipe, resuming what its folder holds. Raises the errors of recipes, data, weights and training."""
    recipe = load_recipe(recipe_path)
    folder = options.folder or Path("runs") / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    workers = find_workers(pick_device(options.device)).with_loss_scaling(recipe.precision)
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

    data = load_pack(recipe.data.train), load_pack(recipe.data.val)
    # told to train too: another process may look for the state before the first one has removed it
    with flush_denormal():
        return train(Setup(recipe, method, *data, folder, workers, tell), restart=options.restart)


def build(recipe: Recipe) -> TrainableMethod:
    """The recipe's method with fresh weights, or with those named by ``initial``. Raises UsageError, DataError."""
    kind: Any = find(METHODS, recipe.method, kind="method").load()
    if not hasattr(kind, "losses"):
        raise UsageError(f"method {recipe.method!r} has nothing to train")
    try:
        method: TrainableMethod = kind(kind.Config.model_validate(recipe.config))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"config option {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if recipe.initial is not None:
        checkpoints.load_into(method.network, checkpoints.find(recipe.initial))
    return method


def pick_device(name: str) -> torch.device:
    """The device called ``name``; auto: the graphics card if there is one, else the processor.

    Raises UsageError, UnavailableError.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}", remedy="auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}", remedy="auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("no CUDA device here", remedy="use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError("no Metal device here", remedy="use --device cpu")
    return device
