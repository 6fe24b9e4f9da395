"""What runs the cases: one process on this machine, or a Dask cluster. It holds no truth; the journal does."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, cast

from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.messages import Happening, Job, WorkerOptions
from neuroreg.cohort.process import Limits, WorkerProcess
from neuroreg.registry import Entry


class CaseEngine(Protocol):
    """Takes jobs, tells what happens; every job ends in one Done or Died, whatever becomes of who worked on it."""

    slots: int
    """cases at once"""
    slots_here: int
    """of those, on this machine"""

    def submit(self, job: Job) -> None:
        """Have a case registered when there is room."""
        ...

    def happenings(self, wait_s: float) -> Iterable[Happening]:
        """What has happened since the last call; waits at most ``wait_s`` for it."""
        ...

    def stop(self) -> None:
        """End everything that was started, now."""
        ...


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(config: BatchConfig, slots: int) -> int:
    """Processor threads of a case: all cases at once together take no more than the cores."""
    return config.threads or max(1, cores() // slots)


_Opener = Callable[[BatchConfig, WorkerOptions, Path], CaseEngine]
_DASK = Entry("neuroreg.cohort.dask_engine:DaskEngine", "a Dask cluster", extra="batch")


class SerialEngine:
    """One process that does everything. It works on a few cases at once, each with its share of the cores: while one
    reads or writes, another computes."""

    def __init__(self, config: BatchConfig, options: WorkerOptions) -> None:
        self.slots = self.slots_here = config.jobs or min(2, cores())
        options = options.model_copy(
            update={"lanes": self.slots, "threads": threads_each(config, self.slots)}
        )
        limits = Limits(config.case_timeout_s, config.memory_limit_mb)
        self._worker = WorkerProcess(options, limits)

    def start(self) -> None:
        """Start the process now, to be ready when the cases are known; ``stop`` ends it."""
        self._worker.start()

    def submit(self, job: Job) -> None:
        """As the contract says."""
        self._worker.submit(job)

    def happenings(self, wait_s: float) -> Iterable[Happening]:
        """As the contract says."""
        return self._worker.happenings(wait_s)

    def stop(self) -> None:
        """As the contract says."""
        self._worker.stop()


def open_engine(config: BatchConfig, options: WorkerOptions, work: Path) -> CaseEngine:
    """The engine that the configuration names; ``work`` is the folder that unfinished cases are made in.

    Raises UnavailableError, UsageError, NoInputError.
    """
    if config.engine == "dask":
        opener = cast(_Opener, _DASK.load())
        return opener(config, options, work)
    return SerialEngine(config, options)
