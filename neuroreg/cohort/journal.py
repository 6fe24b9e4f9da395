"""The journal of a batch: one JSON object a line, appended and flushed to disk before anything else relies on it.

Only the coordinator writes. Whatever kills it leaves at most one torn line, which a reader leaves out.
"""

import os
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from neuroreg.cohort.states import State
from neuroreg.errors import DataError, NoInputError, WriteError
from neuroreg.io.files import fsync
from neuroreg.validation import parse_json

WHOLE = "journal.jsonl"
"""The journal of a whole cohort; those of shards are called ``journal-3of8.jsonl``."""
JOURNAL_SCHEMA = 1
"""Version of the events below; it stands in every ``begin``."""


def moment(time: str) -> datetime:
    """The time of an event. Raises ValueError."""
    return datetime.fromisoformat(time)


def _checked_time(time: str) -> str:
    if moment(time).tzinfo is None:
        raise ValueError("a time without its zone")
    return time


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    time: Annotated[str, AfterValidator(_checked_time)]
    """ISO 8601, UTC"""


class Begin(_Event):
    """A coordinator starts; everything up to the next ``begin`` is its own."""

    event: Literal["begin"] = "begin"
    schema_version: int = JOURNAL_SCHEMA
    program: str
    pid: int
    host: str
    planned: int
    """cases of this part of the cohort"""
    engine: str
    slots: int
    """cases at once"""
    argv: tuple[str, ...] = ()


class Planned(_Event):
    """A case will be made; ``why`` it must be made again where there was a former result."""

    event: Literal["planned"] = "planned"
    id: str
    why: str = ""


class Skipped(_Event):
    """A case is done already: inputs, settings, weights and outputs are provably the same."""

    event: Literal["skipped"] = "skipped"
    id: str
    state: State
    verdict: str | None = None
    seconds: float | None = None


class Started(_Event):
    """A worker has begun a case."""

    event: Literal["started"] = "started"
    id: str
    attempt: int
    """from 1"""
    pid: int
    host: str


class Ok(_Event):
    """A case is done: its files are in place, ``run.json`` among them."""

    event: Literal["ok"] = "ok"
    id: str
    attempt: int
    state: Literal["ok", "ok-qc-warn"]
    verdict: str
    reasons: tuple[str, ...] = ()
    seconds: float
    key: str
    """of inputs, method, settings, weights and program: see ``cohort/sameness.py``"""
    outputs: dict[str, str]
    """file name -> sha256"""


class Failed(_Event):
    """An attempt has failed. ``again``: another one follows."""

    event: Literal["failed"] = "failed"
    id: str
    attempt: int
    state: State
    kind: str
    """name of the error's class, or "killed", "memory", "timeout", "cancelled" """
    message: str
    code: int | None = None
    """what ``neuroreg register`` would have ended with; None: it did not come to an end"""
    seconds: float
    again: bool = False


class End(_Event):
    """The coordinator has ended by itself; ``counts`` of the states add up to all cases of its part."""

    event: Literal["end"] = "end"
    counts: dict[State, int]
    code: int


Event = Begin | Planned | Skipped | Started | Ok | Failed | End
AnyEvent: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Journal:
    """The open journal of one coordinator."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, made when missing. A torn last line is closed. Raises WriteError."""
        self.path = path
        self.seconds = 0.0  # spent on writing
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            size = os.fstat(self._handle).st_size
            if size and os.pread(self._handle, 1, size - 1) != b"\n":
                os.write(self._handle, b"\n")
            fsync(path.parent)
        except OSError as error:
            raise WriteError(f"the journal cannot be opened: {error.strerror}", file=path) from error

    def write(self, *events: Event) -> None:
        """Append events by one write, and wait until they are on disk. Raises WriteError.

        A write that did not fit (a full disk) is taken back, so that no line is torn by it.
        """
        data = b"".join(event.model_dump_json(exclude_none=True).encode() + b"\n" for event in events)
        if not data:
            return
        start = time.monotonic()
        before = os.fstat(self._handle).st_size
        try:
            written = os.write(self._handle, data)
            if written != len(data):
                os.ftruncate(self._handle, before)
                raise OSError(28, "no space left on device")
            os.fsync(self._handle)
        except OSError as error:
            raise WriteError(
                f"the journal cannot be written: {error.strerror}",
                file=self.path,
                remedy="free some space, then go on with --resume",
            ) from error
        finally:
            self.seconds += time.monotonic() - start

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def read_journal(path: Path) -> tuple[list[Event], int]:
    """All events in order, and how many lines could not be understood (torn by a crash, or of a newer program).

    Raises NoInputError when there is no journal, DataError when it is of a newer version.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise NoInputError(
            "no journal of a batch here", file=path, remedy="name the output folder of a batch"
        ) from error
    events: list[Event] = []
    broken = 0
    for line in filter(None, lines):
        try:
            given = parse_json(line)
            if isinstance(given, Mapping) and given.get("schema_version", JOURNAL_SCHEMA) > JOURNAL_SCHEMA:
                raise DataError(
                    "the journal is of a newer version", file=path, remedy="use the newer neuroreg"
                )
            events.append(AnyEvent.validate_python(given))
        except (ValueError, ValidationError, TypeError):
            broken += 1
    return events, broken


def journals(folder: Path) -> Iterable[Path]:
    """The journals in an output folder: of the whole, and of the parts of a sharded batch."""
    return sorted(folder.glob(WHOLE)) + sorted(folder.glob("journal-*of*.jsonl"))
