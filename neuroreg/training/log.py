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
    """A callback that appends one row per event to ``path``.

    Steps that are run again after a stop replace their earlier rows; a stage with other losses adds columns.
    """
    columns: list[str] = []

    def write(event: Event) -> None:
        row = _row(event)
        if not columns or not set(row) <= set(columns):
            kept = [old for old in _rows(path) if columns or int(old["step"]) < event.step]
            columns[:] = list(dict.fromkeys([*(kept[0] if kept else ()), *row]))
            _write(path, columns, [*kept, row], "w")
        else:
            _write(path, columns, [row], "a")

    return write


def _row(event: Event) -> dict[str, str]:
    row = {
        "step": str(event.step),
        "seconds": f"{event.seconds:.1f}",
        "learning_rate": f"{event.learning_rate:.3e}",
        "dice": "" if event.dice is None else f"{event.dice:.5f}",
        "folded_percent": "" if event.folded_percent is None else f"{event.folded_percent:.5f}",
    }
    return row | {f"loss_{name}": f"{value:.5f}" for name, value in sorted(event.losses.items())}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write(path: Path, columns: list[str], rows: list[dict[str, str]], mode: str) -> None:
    with path.open(mode, newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=columns, restval="")
        if mode == "w":
            writer.writeheader()
        writer.writerows(rows)


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
