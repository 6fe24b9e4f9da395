"""How a batch stands, from its journals alone: for another terminal, and for whoever takes over after a crash."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from neuroreg.cohort.board import Board, Snapshot
from neuroreg.cohort.journal import (
    Begin,
    End,
    Event,
    Failed,
    Ok,
    Planned,
    Skipped,
    Started,
    journals,
    read_journal,
)
from neuroreg.errors import NoInputError
from neuroreg.pipeline.record import utc_now


@dataclass(frozen=True)
class Status:
    """What one journal says."""

    journal: Path
    begin: Begin
    snapshot: Snapshot
    ended: End | None
    """None: the coordinator is at work, or was killed"""
    alive: bool | None
    """whether the coordinator's process is there; None: it runs, or ran, on another machine"""
    broken_lines: int


def status(folder: Path) -> Sequence[Status]:
    """How the batch stands that writes into ``folder``, part by part. Raises NoInputError when there is none."""
    found = [_status_of(path) for path in journals(folder)]
    if not any(found):
        raise NoInputError("no batch has begun here", file=folder, remedy="name the output folder of a batch")
    return [one for one in found if one is not None]


def _status_of(path: Path) -> Status | None:
    events, broken = read_journal(path)
    begins = [event for event in events if isinstance(event, Begin)]
    if not begins:
        return None
    begin = begins[-1]
    last = events[-1]
    board = fold(events)
    until = last.time if isinstance(last, End) else utc_now()
    seconds = (datetime.fromisoformat(until) - datetime.fromisoformat(begin.time)).total_seconds()
    return Status(
        journal=path,
        begin=begin,
        snapshot=board.snapshot(seconds=max(0.0, seconds)),
        ended=last if isinstance(last, End) else None,
        alive=_alive(begin),
        broken_lines=broken,
    )


def fold(events: Iterable[Event]) -> Board:
    """The board after these events; a ``begin`` starts afresh."""
    board = Board.of(())
    for event in events:
        match event:
            case Begin():
                board = Board.of(())
            case Planned(id=name):
                board.add(name)
            case Skipped(id=name, state=state, verdict=verdict, seconds=seconds):
                board.add(name)
                board.put(name, state=state, verdict=verdict, seconds=seconds, skipped=True)
            case Started(id=name, attempt=attempt):
                since = (datetime.now(UTC) - datetime.fromisoformat(event.time)).total_seconds()
                board.put(name, state="running", attempts=attempt, since=board.clock - since)
            case Ok(id=name):
                board.end(name, event.state, **event.model_dump(include={"verdict", "reasons", "seconds"}))
            case Failed(id=name):
                said = event.model_dump(include={"kind", "message", "code", "seconds"})
                if event.again:
                    board.put(name, state="planned", **said)
                else:
                    board.end(name, event.state, **said)
            case End():
                pass
    return board


def left_running(path: Path) -> list[Failed]:
    """What a new coordinator says of the cases that a dead one has left running."""
    with suppress(NoInputError):
        board = fold(read_journal(path)[0])
        return [
            Failed(
                time=utc_now(),
                id=standing.id,
                attempt=standing.attempts,
                state="killed",
                kind="killed",
                message="the batch ended without a word",
                seconds=0.0,
            )
            for standing in board.with_state("running")
        ]
    return []


def _alive(begin: Begin) -> bool | None:
    if begin.host != os.uname().nodename:
        return None
    try:
        os.kill(begin.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
