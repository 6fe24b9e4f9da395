"""A working process and the watch over it: what a case may cost, whom a crash is to be blamed on, how it is stopped.

A case that crashes its process takes along the others that were in it. Those are begun again one by one, so that only
a case that crashes a process of its own is called killed (RELIABILITY finding 6).
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from neuroreg.cohort.messages import (
    AnyHappening,
    Died,
    Done,
    Happening,
    Job,
    Ready,
    Started,
    Suspended,
    WorkerOptions,
)
from neuroreg.errors import UnavailableError

PROGRAM: tuple[str, ...] = (sys.executable, "-P", "-m", "neuroreg.cohort.worker")
"""What is started; ``-P``: nothing in the working directory is taken for a module."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_HEAP = {
    # glibc keeps a heap for every thread there ever was (1.7 GB after 450 cases), and asks the system for every large
    # block anew, which then clears it page by page (a tenth of a case's time; half of it with what Dask sets).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
}
_LOOK_S = 0.2
_START_TIMEOUT_S = 300.0  # importing torch from a slow network disk takes its time


@dataclass(frozen=True)
class Limits:
    """What a case may cost."""

    timeout_s: float = 3600.0
    memory_mb: int | None = None
    """resident, of the whole process, per case in it"""


@dataclass
class _Running:
    job: Job
    since: float = field(default_factory=time.monotonic)
    """when it was begun; until then, when it was handed over"""
    begun: bool = False

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.since, 3) if self.begun else 0.0


class WorkerProcess:
    """Registers cases in a process of its own, which is replaced when it dies. Not for several threads."""

    def __init__(
        self,
        options: WorkerOptions,
        limits: Limits,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``environment`` is added to that of this process."""
        self._options, self._limits = options, limits
        self._log: IO[bytes] | None = None  # what the process prints, for its last words
        self._environment = {
            **dict.fromkeys(THREAD_VARIABLES, str(options.threads or 1)),
            **_HEAP,
            **(environment or {}),
        }
        self._process: subprocess.Popen[str] | None = None
        self._heard: queue.Queue[Happening | None] = queue.Queue()
        self._waiting: deque[Job] = deque()
        self._running: dict[str, _Running] = {}
        self._ready_by = 0.0
        self._failed_starts = 0

    @property
    def busy(self) -> int:
        """Cases that were submitted and have not come to an end."""
        return len(self._waiting) + len(self._running)

    def start(self) -> None:
        """Have the process import what it needs before there is anything to do."""
        if self._process is None:
            self._start()

    def submit(self, job: Job) -> None:
        """Have a case registered when there is room."""
        self._waiting.append(job)

    def happenings(self, wait_s: float) -> Iterator[Happening]:
        """What has happened since; waits at most ``wait_s`` for the first. Every job ends in one Done or Died.

        Raises UnavailableError when the process cannot be started at all.
        """
        self._hand_over()
        deadline = time.monotonic() + wait_s
        while True:
            yield from self._watch()
            try:
                heard = self._heard.get(timeout=max(0.0, min(_LOOK_S, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return
                continue
            yield from self._crashed() if heard is None else self._take(heard)
            self._hand_over()
            deadline = 0.0

    def stop(self) -> None:
        """End the process and everything it started, now."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, self._log):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _hand_over(self) -> None:
        while self._waiting and self._has_room(self._waiting[0]):
            job = self._waiting.popleft()
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            self._running[job.id] = _Running(job)
            with suppress(OSError):  # it died this moment: the reader will say so
                self._process.stdin.write(job.model_dump_json() + "\n")
                self._process.stdin.flush()

    def _has_room(self, job: Job) -> bool:
        if job.alone or any(running.job.alone for running in self._running.values()):
            return not self._running
        return len(self._running) < self._options.lanes

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [*PROGRAM, self._options.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C is for the coordinator; and the whole group can be ended
            env={**os.environ, **self._environment},
        )
        self._heard = queue.Queue()
        self._ready_by = time.monotonic() + _START_TIMEOUT_S
        threading.Thread(target=_read, args=(self._process, self._heard), daemon=True).start()

    def _take(self, heard: Happening) -> Iterator[Happening]:
        if isinstance(heard, Ready):
            self._ready_by = 0.0
            return
        running = self._running.get(heard.id)
        if running is None:
            return
        if isinstance(heard, Started):
            running.begun, running.since = True, time.monotonic()
        elif isinstance(heard, Done | Died):
            del self._running[heard.id]
            self._failed_starts = 0
        yield heard

    def _watch(self) -> Iterator[Happening]:
        """End the process when a case takes too long or too much."""
        if self._process is None:
            return
        if self._ready_by and time.monotonic() > self._ready_by:
            self.stop()
            yield from self._crashed()
            return
        late = [r for r in self._running.values() if r.begun and r.seconds > self._limits.timeout_s]
        if late:
            self.stop()
            for running in late:
                del self._running[running.job.id]
                yield self._end(running, "timeout", f"it took more than {self._limits.timeout_s:g} s")
            yield from self._begin_again(alone=False)
        elif any(running.begun for running in self._running.values()) and self._too_large():
            limit = self._limits.memory_mb
            yield from self._blame(f"it needed more than {limit} MB of memory", kind="memory")

    def _too_large(self) -> bool:
        limit = self._limits.memory_mb
        if limit is None or self._process is None:
            return False
        return resident_mb(self._process.pid) > limit * max(1, len(self._running))

    def _crashed(self) -> Iterator[Happening]:
        """The process has ended by itself, or did not come up."""
        if self._process is None:
            return
        process = self._process
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        how = _how_it_ended(process.returncode)
        if process.returncode != -signal.SIGKILL:
            how += self._last_words()
        if any(running.begun for running in self._running.values()):
            yield from self._blame(how)
            return
        self._failed_starts += 1  # it did not come so far as to begin a case
        self.stop()
        if self._failed_starts < 3:
            yield from self._begin_again(alone=False)
            return
        self._running.clear()
        self._failed_starts = 0
        raise UnavailableError(f"no working process can be started: {how}", remedy="see neuroreg doctor")

    def _last_words(self) -> str:
        """The last line that the process has printed, in brackets."""
        if self._log is None or self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        lines = os.pread(self._log.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f" ({said[-1][:200]})" if said else ""

    def _blame(self, how: str, *, kind: str = "killed") -> Iterator[Happening]:
        self.stop()
        begun = [running for running in self._running.values() if running.begun]
        if len(begun) == 1:
            del self._running[begun[0].job.id]
            yield self._end(begun[0], "killed", how, kind=kind)
        yield from self._begin_again(alone=len(begun) > 1)

    def _begin_again(self, *, alone: bool) -> Iterator[Happening]:
        """Put what was running back, first; ``alone``: one of them is to blame, so each by itself."""
        for running in reversed(self._running.values()):
            self._waiting.appendleft(running.job.model_copy(update={"alone": running.job.alone or alone}))
            if running.begun:
                yield Suspended(id=running.job.id)
        self._running.clear()

    def _end(self, running: _Running, state: str, message: str, *, kind: str | None = None) -> Died:
        return Died.model_validate(
            {
                "id": running.job.id,
                "seconds": running.seconds,
                "state": state,
                "kind": kind or state,
                "message": message,
            }
        )


def _read(process: "subprocess.Popen[str]", heard: "queue.Queue[Happening | None]") -> None:
    assert process.stdout is not None
    with suppress(ValueError, OSError):  # closed under us
        for line in process.stdout:
            heard.put(AnyHappening.validate_json(line))
    heard.put(None)


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with {code}"
    name = signal.Signals(-code).name
    more = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{more}"


def resident_mb(pid: int) -> float:
    """Resident memory (MB) of a process and of everything it started; 0 where that cannot be told."""
    total, waiting = 0, [pid]
    page = os.sysconf("SC_PAGE_SIZE")
    while waiting:
        one = waiting.pop()
        with suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page
            for thread in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (thread / "children").read_text().split()]
    return total / 1e6
