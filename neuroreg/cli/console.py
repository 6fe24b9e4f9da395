"""What the terminal sees: results on stdout, everything else on stderr, hostile names made harmless.

``show``, ``emit``, ``show_files`` and ``show_table`` write the result; ``note``, ``warn`` and ``fail`` the log;
``stages`` shows progress on a terminal.
"""

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from neuroreg.training.log import Event as TrainingEvent

_BREAKS = "\n\t\u2028\u2029"
JSON_SCHEMA = 1
"""Version of the one object that ``--json`` puts on stdout."""


def printable(text: object) -> str:
    """Text safe for a terminal: control characters, ANSI escapes, bidi overrides and bad bytes become '?'."""
    return "".join(
        " " if letter in _BREAKS else "?" if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter
        for letter in str(text)
    )


def stderr() -> Console:
    """The console of the log. Markup is off: a file name such as ``x[red].nii.gz`` is printed as it is."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def stdout() -> Console:
    """The console of the result."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


def show(text: str) -> None:
    """One line of result on stdout."""
    sys.stdout.write(printable(text) + "\n")


def emit(record: Mapping[str, object], *, command: str) -> None:
    """The one JSON object of ``--json`` on stdout: schema and command first, status "ok" unless given."""
    head = {"schema": JSON_SCHEMA, "command": command, "status": "ok"}
    sys.stdout.write(json.dumps({**head, **record}, allow_nan=False, indent=2) + "\n")


def emit_error(code: int, what: str, file: str | None, remedy: str) -> None:
    """The same object when the command failed."""
    error = {"what": what, "file": file, "remedy": remedy}
    sys.stdout.write(
        json.dumps({"schema": JSON_SCHEMA, "status": "error", "code": code, "error": error}) + "\n"
    )


def show_files(
    paths: Sequence[Path],
    *,
    command: str,
    json: bool,
    quiet: bool,
    warnings: Sequence[str] = (),
    figures: Mapping[str, object] | None = None,
) -> None:
    """What a command wrote: one path per line on stdout, as it was given, or one JSON object; warnings on stderr.

    ``figures`` belong to the object; a command that has some says them in its own words as a ``note``.
    """
    for warning in warnings:
        warn(warning, quiet=quiet)
    if json:
        emit(
            {"outputs": [str(path) for path in paths], **(figures or {}), "warnings": list(warnings)},
            command=command,
        )
        return
    for path in paths:
        show(str(path))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table of results on stdout: drawn on a terminal, else lines with a tab between cells, and no cell cut."""
    title = printable(title)
    cells = [[printable("" if cell is None else cell) for cell in row] for row in rows]
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        for line in ([title] if title else []) + ["\t".join(row) for row in (columns, *cells)]:
            sys.stdout.write(line + "\n")
        return
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")  # rich would shorten 16777217 to 1677…
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def note(text: str, *, quiet: bool = False) -> None:
    """One line of log on stderr."""
    if not quiet:
        stderr().print(Text(printable(text)))


def warn(text: str, *, quiet: bool = False) -> None:
    """One warning on stderr."""
    if not quiet:
        stderr().print(Text.assemble(("neuroreg: warning: ", "yellow"), printable(text)))


def fail(code: int, message: str) -> None:
    """The one line of an error on stderr."""
    stderr().print(Text.assemble((f"neuroreg: error[{code}]: ", "bold red"), printable(message)))


def trace(text: str) -> None:
    """A traceback on stderr, line by line: it quotes names and values from outside."""
    for line in text.splitlines():
        stderr().print(Text(printable(line)))


@contextmanager
def stages(*, quiet: bool, verbose: bool) -> Iterator[Callable[[str], None]]:
    """A callback that is told the name of each stage as it starts.

    On a terminal the running stage is shown; with ``verbose`` every finished one is logged with its seconds.
    """
    console = stderr()
    live = console.status("starting") if console.is_terminal and not quiet else None
    current: list[tuple[str, float]] = []

    def close() -> None:
        if current and verbose:
            name, start = current.pop()
            console.print(Text(f"{time.monotonic() - start:7.2f} s  {name}"))

    def begin(name: str) -> None:
        close()
        current[:] = [(printable(name), time.monotonic())]
        if live is not None:
            live.update(Text(printable(name)))

    if live is not None:
        live.start()
    try:
        yield begin
        close()
    finally:
        if live is not None:
            live.stop()


class TrainingView:
    """Progress of a training run: a bar on a terminal, a line per validation in a log."""

    def __init__(self, progress: Progress | None, *, quiet: bool = False) -> None:
        self._progress = progress
        self._quiet = quiet
        self._tasks: dict[str, TaskID] = {}

    def packing(self, split: str, done: int, total: int) -> None:
        """``done`` of ``total`` subjects of a split are packed."""
        self._advance(f"packing {printable(split)}", done, total)

    def event(self, event: "TrainingEvent") -> None:
        """A logged step or a validation."""
        self._advance(f"training, loss {event.losses['total']:.3f}", event.step, event.steps, key="training")
        if event.dice is not None:
            folds = event.folded_percent or 0.0
            note(
                f"step {event.step}: validation Dice {event.dice:.4f}, folds {folds:.4f} %", quiet=self._quiet
            )

    def _advance(self, text: str, done: int, total: int, *, key: str | None = None) -> None:
        if self._progress is None:
            return
        task = self._tasks.get(key or text)
        if task is None:
            task = self._tasks[key or text] = self._progress.add_task(text, total=total)
        self._progress.update(task, description=text, completed=done)


@contextmanager
def training(*, quiet: bool) -> Iterator[TrainingView]:
    """The view of a training run; the bar appears on a terminal only."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield TrainingView(None, quiet=quiet)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield TrainingView(progress)
