"""What a run leaves to look at: a CSV row and, with the extra, TensorBoard scalars for every event."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroreg.errors import UnavailableError


@dataclass(frozen=True)
class Event:
    """What the loop reports: after logged steps, and after each validation (then ``dice`` is set)."""

    step: int
    steps: int
    losses: Mapping[str, float]
    learning_rate: float
    seconds: float
    dice: float | None = None
    folded_percent: float | None = None


def csv_writer(path: Path) -> Callable[[Event], None]:
    """A callback that appends one row per event to ``path``; the header is written when the file is new."""

    def write(event: Event) -> None:
        row = {
            "step": str(event.step),
            "seconds": f"{event.seconds:.1f}",
            "learning_rate": f"{event.learning_rate:.3e}",
            "dice": "" if event.dice is None else f"{event.dice:.5f}",
            "folded_percent": "" if event.folded_percent is None else f"{event.folded_percent:.5f}",
        }
        row |= {f"loss_{name}": f"{value:.5f}" for name, value in sorted(event.losses.items())}
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    return write


def tensorboard_writer(folder: Path) -> Callable[[Event], None]:
    """A callback that writes scalars for TensorBoard. Raises UnavailableError without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "tensorboard is not installed", remedy="pip install 'neuroreg[train]'"
        ) from error
    writer = SummaryWriter(str(folder))

    def write(event: Event) -> None:
        scalars = {f"loss/{name}": value for name, value in event.losses.items()}
        scalars["learning_rate"] = event.learning_rate
        if event.dice is not None:
            scalars["validation/dice"] = event.dice
        if event.folded_percent is not None:
            scalars["validation/folded_percent"] = event.folded_percent
        for name, value in scalars.items():
            writer.add_scalar(name, value, event.step)
        if event.dice is not None:
            writer.flush()  # else up to two minutes are lost when the run ends

    return write
