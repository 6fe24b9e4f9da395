"""What runs the cases: one process on this machine, or a Dask cluster. It holds no truth; the journal does."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.messages import Happening, Job, WorkerOptions
from neuroreg.cohort.process import Limits, WorkerProcess


class CaseEngine(Protocol):
    """Takes jobs, tells what happens; every job ends in one Done or Died, whatever becomes of who worked on it."""

    slots: int
    """cases at once"""

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


class SerialEngine:
    """One process that does everything. It works on a few cases at once, each with its share of the cores: while one
    reads or writes, another computes."""

    def __init__(self, config: BatchConfig, options: WorkerOptions, log: Path) -> None:
        self.slots = config.jobs or min(2, cores())
        options = options.model_copy(
            update={"lanes": self.slots, "threads": threads_each(config, self.slots)}
        )
        limits = Limits(config.case_timeout_s, config.memory_limit_mb)
        self._worker = WorkerProcess(options, limits, log=log)

    def submit(self, job: Job) -> None:
        """As the contract says."""
        self._worker.submit(job)

    def happenings(self, wait_s: float) -> Iterable[Happening]:
        """As the contract says."""
        return self._worker.happenings(wait_s)

    def stop(self) -> None:
        """As the contract says."""
        self._worker.stop()


def open_engine(config: BatchConfig, options: WorkerOptions, log: Path) -> CaseEngine:
    """The engine that the configuration names, started. Raises UnavailableError."""
    return SerialEngine(config, options, log)
