"""What the coordinator and its workers say to one another: JSON on a pipe, or as the argument of a Dask task."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from neuroreg.cohort.states import State


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class WorkerOptions(_Message):
    """How a working process works."""

    lanes: int = 1
    """cases at once"""
    threads: int | None = None
    """processor threads of each"""
    reporter: str | None = None
    """"module:function" of a ``pipeline.case.Reporter``; reports are made on a floor beside this one"""
    argv: tuple[str, ...] = ()
    """of the coordinator, for the records"""


class Job(_Message):
    """One case to register."""

    id: str
    config: dict[str, object]
    """a RegisterConfig as JSON values"""
    work: Path
    """an existing folder to work in, on the file system of the outputs"""
    attempt: int = 1
    alone: bool = False
    """after a crash: with nothing else beside it and one thread, which takes less memory"""


class Ready(_Message):
    """The process has imported everything."""

    event: Literal["ready"] = "ready"
    pid: int


class Started(_Message):
    """A case was begun."""

    event: Literal["started"] = "started"
    id: str
    attempt: int
    pid: int
    host: str


class Staged(_Message):
    """A case has come to a stage."""

    event: Literal["stage"] = "stage"
    id: str
    stage: str


class Done(_Message):
    """A case is finished; its files wait in a folder named after it."""

    event: Literal["done"] = "done"
    id: str
    folder: Path
    seconds: float = 0.0
    verdict: str
    reasons: tuple[str, ...] = ()
    key: str
    outputs: dict[str, str]
    """file name -> sha256"""


class Died(_Message):
    """A case has failed, by itself or with its process."""

    event: Literal["failed"] = "failed"
    id: str
    seconds: float = 0.0
    state: State
    kind: str
    message: str
    code: int | None = None


class Suspended(_Message):
    """A case was interrupted by no fault of its own, and will be begun again."""

    event: Literal["suspended"] = "suspended"
    id: str
    why: str = "another case ended the process they shared"


Happening = Ready | Started | Staged | Done | Died | Suspended
AnyHappening: TypeAdapter[Happening] = TypeAdapter(Annotated[Happening, Field(discriminator="event")])
