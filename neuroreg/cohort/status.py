"""How a batch stands, from its journals alone: for another terminal, and for whoever takes over after a crash."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neuroreg.cohort.board import Board, Snapshot
from neuroreg.cohort.hold import is_held
from neuroreg.cohort.journal import (
    WHOLE,
    Begin,
    End,
    Event,
    Failed,
    Ok,
    Planned,
    Skipped,
    Started,
    journals,
    moment,
    read_journal,
)
from neuroreg.errors import DataError, NoInputError
from neuroreg.pipeline.record import utc_now


@dataclass(frozen=True)
class Status:
    """What one journal says."""

    journal: Path
    begin: Begin
    snapshot: Snapshot
    ended: End | None
    """None: the coordinator is at work, or was killed"""
    alive: bool
    """whether a coordinator holds the folder"""
    broken_lines: int


def status(folder: Path) -> Sequence[Status]:
    """How the batch stands that writes into ``folder``, part by part.

    A shard that the whole cohort has taken over is left out. Raises NoInputError when there is no batch, DataError
    when its journal cannot be understood.
    """
    found = {path: _status_of(folder, path) for path in journals(folder)}
    parts = [one for one in found.values() if one is not None]
    if found and not parts:
        first = next(iter(found))
        raise DataError(
            "the journal cannot be understood", file=first, remedy="the cases are in their folders"
        )
    if not parts:
        raise NoInputError("no batch has begun here", file=folder, remedy="name the output folder of a batch")
    whole = max((one.begin.time for one in parts if one.journal.name == WHOLE), default="")
    return [one for one in parts if one.journal.name == WHOLE or one.begin.time > whole]


def _status_of(folder: Path, path: Path) -> Status | None:
    events, broken = read_journal(path)
    begins = [event for event in events if isinstance(event, Begin)]
    if not begins:
        return None
    begin, last = begins[-1], events[-1]
    ended = last if isinstance(last, End) else None
    seconds = (moment(utc_now() if ended is None else ended.time) - moment(begin.time)).total_seconds()
    return Status(
        journal=path,
        begin=begin,
        snapshot=fold(events).snapshot(seconds=max(0.0, seconds)),
        ended=ended,
        alive=is_held(folder, path.stem.removeprefix("journal")),
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
                board.add(name)
                since = (moment(utc_now()) - moment(event.time)).total_seconds()
                board.put(name, state="running", attempts=attempt, since=board.clock - since)
            case Ok(id=name):
                board.add(name)
                board.end(name, event.state, **event.model_dump(include={"verdict", "reasons", "seconds"}))
            case Failed(id=name):
                board.add(name)
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
    with suppress(NoInputError, DataError):  # a journal must never keep a batch from going on
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
