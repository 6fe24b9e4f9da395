"""What a Dask worker does for a batch: look whether it can serve at all, and have every case done in a child.

The case runs in a child of the Dask worker, as it does in a serial batch: timeout, memory limit and crash stay with the
case, and the Dask worker, which others may be using, lives on. Nothing here is needed by the coordinator but the names.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from neuroreg import __version__
from neuroreg.cohort.messages import Died, Done, Job, WorkerOptions
from neuroreg.cohort.process import Limits, WorkerProcess
from neuroreg.errors import UnavailableError

if TYPE_CHECKING:
    from distributed import Worker

UNFIT = "unfit-worker"
"""The kind of a ``Died`` that says nothing about the case: its worker cannot serve this batch."""

_LOOK_S = 0.2
_IDLE_S = 60.0  # without a case for so long, a process gives its memory back: the coordinator may be gone

_SEATS: dict[tuple[str, int], "_Seat"] = {}  # (batch, thread) -> its working process
_FIT: set[str] = set()
_OVER: set[str] = set()


class Terms(BaseModel):
    """What every worker must know about a batch."""

    model_config = ConfigDict(frozen=True)

    batch: str
    """a name that no other batch has"""
    version: str = __version__
    """of the coordinator's neuroreg"""
    witness: Path
    """a file in the folder to work in, with the name of the batch in it"""
    options: WorkerOptions
    timeout_s: float
    memory_mb: int | None = None
    cards: tuple[str, ...] = ()
    """the CUDA devices to share out among workers called 0, 1, 2, ...; empty: whatever the worker sees"""

    @property
    def topic(self) -> str:
        """Where events of this batch are told."""
        return f"neuroreg-{self.batch}"


class _Seat:
    """The working process of one thread of a Dask worker."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.lock = threading.Lock()
        """held while there is a case"""
        self.idle: threading.Timer | None = None

    def retire(self) -> None:
        """End the process when it has nothing to do; the next case starts another."""
        if self.lock.acquire(blocking=False):
            try:
                self.process.stop()
            finally:
                self.lock.release()


def dask_setup(worker: "Worker") -> None:
    """What Dask calls in a worker that preloads this module: a Ctrl-C on the terminal is for the coordinator."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def unfit(terms: dict[str, object]) -> str:
    """Why this worker cannot serve the batch; "" when it can."""
    known = Terms.model_validate(terms)
    if known.batch in _FIT:
        return ""
    if known.version != __version__:
        return f"it has neuroreg {__version__}, the batch {known.version}"
    try:
        seen = known.witness.read_text(encoding="utf-8")
    except OSError:
        seen = ""
    if seen != known.batch:
        return "it does not see the output folder"
    if not os.access(known.witness.parent, os.W_OK):
        return "it must not write to the output folder"
    _FIT.add(known.batch)
    return ""


def run_case(job: dict[str, object], terms: dict[str, object]) -> dict[str, object]:
    """A Dask task: one case, wholly. Returns a ``Done`` or ``Died``; what goes wrong is told, not raised."""
    from distributed import get_worker

    known, wanted, worker = Terms.model_validate(terms), Job.model_validate(job), get_worker()
    reason = unfit(terms)
    if reason:
        message = f"worker {worker.name}: {reason}"
        return Died(id=wanted.id, state="killed", kind=UNFIT, message=message).model_dump(mode="json")
    place = known.batch, threading.get_ident()
    seat = _SEATS.setdefault(place, _Seat(_process(known, worker.name)))
    with seat.lock:
        if seat.idle is not None:
            seat.idle.cancel()
        try:
            outcome = _follow(seat.process, wanted, known, worker)
        except UnavailableError as error:
            message = f"worker {worker.name}: {error}"
            outcome = Died(id=wanted.id, state="killed", kind=UNFIT, message=message)
        if outcome is None:
            seat.process.stop()
            del _SEATS[place]
            outcome = Died(id=wanted.id, state="cancelled", kind="cancelled", message="the batch is over")
        else:
            seat.idle = threading.Timer(_IDLE_S, seat.retire)
            seat.idle.daemon = True
            seat.idle.start()
    return outcome.model_dump(mode="json")


async def leave(batch: str) -> None:
    """End everything that works for this batch, and for no other."""
    _OVER.add(batch)
    _FIT.discard(batch)
    for place in [place for place in _SEATS if place[0] == batch]:
        seat = _SEATS[place]
        while not seat.lock.acquire(blocking=False):  # its thread stops it, within a moment
            await asyncio.sleep(_LOOK_S / 10)
        seat.process.stop()
        _SEATS.pop(place, None)


def card_of(worker: object, cards: Sequence[str]) -> str | None:
    """The CUDA device of the worker called 0, 1, 2, ...: one after the other, from the front again when they run out.

    None for workers with another name, and without cards: they have been given theirs by whoever started them.
    """
    return cards[worker % len(cards)] if cards and isinstance(worker, int) else None


def _process(terms: Terms, worker: object) -> WorkerProcess:
    card = card_of(worker, terms.cards)
    return WorkerProcess(
        terms.options.model_copy(update={"lanes": 1}),
        Limits(terms.timeout_s, terms.memory_mb),
        environment=None if card is None else {"CUDA_VISIBLE_DEVICES": card},
    )


def _follow(process: WorkerProcess, job: Job, terms: Terms, worker: "Worker") -> Done | Died | None:
    """The end of the case, what happens before told as events; None when nobody wants it any more."""
    key = worker.get_current_task()
    process.submit(job)
    while not (terms.batch in _OVER or _is_cancelled(worker, key)):
        for happening in [*process.happenings(_LOOK_S)]:  # to its end: it tidies up after the last one
            if isinstance(happening, Done | Died):
                return happening
            worker.log_event(terms.topic, {"key": key, "said": happening.model_dump_json()})
    return None


def _is_cancelled(worker: "Worker", key: object) -> bool:
    """Whether the task was cancelled; it also is when its coordinator has gone."""
    task = worker.state.tasks.get(key)
    return task is None or task.state == "cancelled"
