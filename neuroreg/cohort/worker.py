"""The process that registers: ``python -m neuroreg.cohort.worker``, a program of its own that a WorkerProcess starts.

It reads jobs from standard input and writes what happens to standard output, one JSON object a line (``Job`` and
``Happening`` of ``cohort/messages.py``). Libraries that print do so to standard error. When whoever started it is gone,
standard input ends, and the process leaves at once: nothing of it is at a final path.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from neuroreg.cohort.messages import Died, Done, Happening, Job, Ready, Staged, Started, WorkerOptions


def serve(options: WorkerOptions, jobs: TextIO, say: Callable[[Happening], None]) -> None:
    """Work through the jobs in as many threads as ``options.lanes``; returns never."""
    waiting: queue.Queue[Job] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs, waiting), daemon=True).start()
    lane = _prepare(options, say)
    lanes = [threading.Thread(target=lane, args=(waiting,), daemon=True) for _ in range(options.lanes)]
    for thread in lanes:
        thread.start()
    say(Ready(pid=os.getpid()))
    for thread in lanes:
        thread.join()


def _listen(jobs: TextIO, waiting: "queue.Queue[Job]") -> None:
    for line in jobs:
        waiting.put(Job.model_validate_json(line))
    os._exit(0)  # nobody is there any more


def _prepare(
    options: WorkerOptions, say: Callable[[Happening], None]
) -> Callable[["queue.Queue[Job]"], None]:
    """Import everything once; returns what a lane does: one job after the other, the engines of its own kept."""
    from neuroreg.cohort.lane import Lane  # torch comes with it

    def work(waiting: "queue.Queue[Job]") -> None:
        lane = Lane(options)
        while True:
            job = waiting.get()
            say(Started(id=job.id, attempt=job.attempt, pid=os.getpid(), host=os.uname().nodename))
            start = time.monotonic()

            def stage(name: str, job: Job = job) -> None:
                say(Staged(id=job.id, stage=name))

            outcome: Done | Died = lane.run(job, stage)
            say(outcome.model_copy(update={"seconds": round(time.monotonic() - start, 3)}))

    return work


def main() -> None:
    """Keep standard output for the protocol, then serve."""
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(happening: Happening) -> None:
        with lock:
            protocol.write(happening.model_dump_json() + "\n")
            protocol.flush()

    serve(WorkerOptions.model_validate_json(sys.argv[1]), sys.stdin, say)


if __name__ == "__main__":
    main()
