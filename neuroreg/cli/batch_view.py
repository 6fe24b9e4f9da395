"""What the terminal shows of a batch: a live table while it runs, lines in a log, how it stands from its journal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from neuroreg.cli import console

if TYPE_CHECKING:
    from neuroreg.cohort.board import Snapshot, Standing
    from neuroreg.cohort.runner import Outcome
    from neuroreg.cohort.status import Status

_LOG_EVERY_S = 30.0
_SHOWN = 16


@contextmanager
def live(*, quiet: bool, verbose: bool = False) -> Iterator[Callable[["Snapshot"], None]]:
    """A callback that is told how the batch stands: a table on a terminal, else a line now and then on stderr.

    With ``verbose`` there is a line for every case that ends.
    """
    terminal = console.stderr()
    if quiet:
        yield lambda snapshot: None
    elif verbose or not terminal.is_terminal:
        yield _Log(verbose)
    else:
        with Live(console=terminal, auto_refresh=False, transient=True) as view:
            yield lambda snapshot: view.update(_picture(snapshot), refresh=True)


class _Log:
    """A line at most every half minute, and one for each failure, or for each case that ends."""

    def __init__(self, verbose: bool) -> None:
        self._verbose, self._next, self._seen = verbose, 0.0, 0

    def __call__(self, snapshot: "Snapshot") -> None:
        new = snapshot.finished - self._seen
        self._seen = snapshot.finished
        for standing in snapshot.recent[-new:] if new else ():
            failed = not standing.state.startswith("ok")
            if failed and standing.state != "cancelled":
                console.note(failure_line(standing))
            elif self._verbose and not failed:
                console.note(f"{standing.id}: {standing.verdict}, {standing.seconds:.1f} s")
        if snapshot.seconds >= self._next and snapshot.left:
            self._next = snapshot.seconds + _LOG_EVERY_S
            console.note(in_one_line(snapshot))


def _picture(snapshot: "Snapshot") -> Group:
    """The bar, the cases at work with their stages, the last failures."""
    bar = ProgressBar(total=max(1, snapshot.total), completed=snapshot.total - snapshot.left, width=40)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("case", "attempt", "stage", "s"):
        table.add_column(heading, justify="right" if heading in ("attempt", "s") else "left")
    for standing in snapshot.running[:_SHOWN]:
        seconds = max(0.0, snapshot.now - standing.since)
        cells = (standing.id, str(standing.attempts), standing.stage, f"{seconds:.0f}")
        table.add_row(*(Text(console.printable(cell)) for cell in cells))
    failures = [Text(console.printable(failure_line(one)), style="red") for one in snapshot.failures]
    return Group(Text(in_one_line(snapshot)), Padding(bar, 0), table, *failures)


def in_one_line(snapshot: "Snapshot") -> str:
    """done 12 of 40 (3 need a look, 5 were done before), failed 1, 720 an hour, 2 min left."""
    looks = snapshot.counts["ok-qc-warn"]
    asides = [
        f"{looks} to look at" if looks else "",
        f"{snapshot.skipped} done before" if snapshot.skipped else "",
    ]
    inside = ", ".join(filter(None, asides))
    parts = [f"done {snapshot.done} of {snapshot.total}" + (f" ({inside})" if inside else "")]
    parts.append(f"failed {snapshot.failed}")
    if snapshot.counts["cancelled"]:
        parts.append(f"cancelled {snapshot.counts['cancelled']}")
    if snapshot.per_hour is not None:
        parts.append(f"{snapshot.per_hour:.0f} an hour")
    if snapshot.left and snapshot.seconds_left is not None:
        parts.append(f"{duration(snapshot.seconds_left)} left")
    elif not snapshot.left:
        parts.append(f"in {duration(snapshot.seconds)}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def failure_line(standing: "Standing") -> str:
    """id: state (attempts): why."""
    tries = f", {standing.attempts} attempts" if standing.attempts > 1 else ""
    return f"{standing.id}: {standing.state}{tries}: {standing.message}"


def show_failures(outcome: "Outcome", *, quiet: bool) -> None:
    """A warning for each case that failed, and how many were made again and why."""
    again = list(outcome.again.items())
    if again:
        shown = "; ".join(f"{name}: {why}" for name, why in again[:5])
        more = f"; and {len(again) - 5} more" if len(again) > 5 else ""
        console.note(f"made again: {shown}{more}", quiet=quiet)
    if outcome.strangers:
        count, first = len(outcome.strangers), outcome.strangers[0]
        console.note(f"{count} finished cases are not of this cohort ({first}, ...) and stay", quiet=quiet)
    failed = [one for one in outcome.standings if one.state.startswith(("failed", "killed", "timeout"))]
    for standing in failed[:_SHOWN]:
        console.warn(failure_line(standing), quiet=quiet)
    if len(failed) > _SHOWN:
        console.warn(f"and {len(failed) - _SHOWN} more: see failed.csv", quiet=quiet)


def part(status: "Status") -> dict[str, object]:
    """One journal as plain JSON values."""
    return {
        "journal": status.journal.name,
        "state": _doing(status),
        "started": status.begin.time,
        "engine": status.begin.engine,
        "counts": status.snapshot.counts,
        "running": [asdict(one)["id"] for one in status.snapshot.running],
        "cases_per_hour": status.snapshot.per_hour,
        "seconds_left": status.snapshot.seconds_left,
        "exit_code": None if status.ended is None else status.ended.code,
        "lines_not_understood": status.broken_lines,
    }


def show_part(status: "Status") -> None:
    """One journal in a few lines on stdout."""
    console.show(f"{status.journal.name}: {_doing(status)}, {in_one_line(status.snapshot)}")
    for standing in status.snapshot.running[:_SHOWN]:
        console.show(f"  running: {standing.id}, attempt {standing.attempts}")
    for standing in status.snapshot.failures:
        console.show(f"  {failure_line(standing)}")
    if status.broken_lines:
        console.show(f"  {status.broken_lines} lines of the journal were torn and left out")


def _doing(status: "Status") -> str:
    if status.ended is not None:
        return "ended"
    return "running" if status.alive else "killed (go on with --resume)"
