"""A cohort on a Dask cluster: every case a task, every task a process of its own on the worker that has it.

Dask finds a worker for a case, and another one when the first is lost. It gets no more cases at once than it has
room for, and holds nothing that matters: what is done stands in the output folder and in the journal.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from distributed import Client, Future, KilledWorker

from neuroreg.cohort import dask_cluster, dask_worker
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.dask_worker import UNFIT, Terms
from neuroreg.cohort.engine import threads_each
from neuroreg.cohort.messages import (
    AnyHappening,
    Died,
    Done,
    Happening,
    Job,
    Started,
    Suspended,
    WorkerOptions,
)
from neuroreg.errors import UnavailableError, UsageError

_ROLL_CALL_S = 5.0
_DESERTED_S = 300.0  # without any worker for so long, the batch gives up
_RESULT_S = 20.0  # for a few hundred bytes
_STOP_S = 5.0
_MOVES = 3  # of a case, away from workers that cannot serve
_REST_S = 15.0  # before it moves: such a worker is always free, and must not eat the cohort


@dataclass
class _Task:
    job: Job
    future: Future
    begun: bool = False


class DaskEngine:
    """Hands cases to a Dask cluster: its own (``workers``), or one that runs already (``scheduler``)."""

    def __init__(self, config: BatchConfig, options: WorkerOptions, work: Path) -> None:
        """Everything started and every worker looked at. Raises UnavailableError, UsageError, NoInputError."""
        work = work.resolve()
        self._heard: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._resting: deque[tuple[float, Job]] = deque()
        self._running: dict[str, _Task] = {}
        self._moves: dict[str, int] = {}
        self._called, self._manned = 0.0, time.monotonic()
        self._close = ExitStack()
        batch = uuid4().hex
        own = config.workers or 0
        cards = dask_cluster.visible_cards() if own else ()
        threads = threads_each(config, own) if own else config.threads or 1
        self._terms = Terms(
            batch=batch,
            witness=work / f"witness-{batch}",
            options=options.model_copy(update={"threads": threads}),
            timeout_s=config.case_timeout_s,
            memory_mb=config.memory_limit_mb,
            cards=cards,
        )
        self._terms.witness.write_text(batch, encoding="utf-8")
        self._close.callback(self._terms.witness.unlink, missing_ok=True)
        try:
            self._client = self._open(config, work, gpu=bool(cards))
            self._look_at_workers()
        except BaseException:
            self.stop()
            raise
        self.slots_here = own

    def _open(self, config: BatchConfig, work: Path, *, gpu: bool) -> Client:
        if config.scheduler:
            self._close.enter_context(dask_cluster.silence())
            client = dask_cluster.connect(config)
        else:
            cluster = self._close.enter_context(dask_cluster.own_cluster(config.workers or 1, work, gpu=gpu))
            client = Client(cluster, set_as_default=False)
        self._close.callback(_within, _STOP_S, client.close)
        self._close.callback(_within, _STOP_S, self._withdraw)
        client.subscribe_topic(self._terms.topic, self._hear)
        return client

    def _hear(self, event: tuple[float, dict[str, str]]) -> None:
        self._heard.put((event[1]["key"], event[1]["said"]))

    def _look_at_workers(self) -> None:
        """Refuse a cluster with a worker in it that cannot serve. Raises UnavailableError."""
        self._call_roll()
        terms = self._terms.model_dump(mode="json")
        for address, found in self._client.run(dask_worker.unfit, terms, on_error="return").items():
            reason = f"it has no such neuroreg ({found})" if isinstance(found, Exception) else found
            if reason:
                name = self._workers.get(address, {}).get("name", address)
                raise UnavailableError(
                    f"worker {name} at {address} cannot serve: {reason}",
                    remedy="the same neuroreg and the same folders on all of them, or without this one",
                )

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise UnavailableError(
                "the connection to the cluster was lost", remedy="use --resume when it is there again"
            )

    def _call_roll(self) -> None:
        self._called = time.monotonic()
        self._workers = self._client.scheduler_info()["workers"]
        self.slots = sum(worker["nthreads"] for worker in self._workers.values())
        if self.slots:
            self._manned = self._called
        elif self._called - self._manned > _DESERTED_S:
            raise UnavailableError(
                f"the cluster has had no worker for {_DESERTED_S:g} s", remedy="start some, then use --resume"
            )

    def submit(self, job: Job) -> None:
        """As the contract says. Raises UnavailableError for a case that needs a GPU where no worker offers one."""
        if _resources(job) and not any(
            worker["resources"].get(dask_cluster.GPU) for worker in self._workers.values()
        ):
            raise UnavailableError(
                f"--device {job.config['device']}: no worker of the cluster offers a GPU",
                remedy="use --device cpu, or workers started with --resources GPU=1",
            )
        if self._terms.cards and str(job.config.get("device", "")).startswith("cuda:"):
            raise UsageError(
                "with --workers every process gets a card of its own",
                remedy="give --device cuda, and choose the cards with CUDA_VISIBLE_DEVICES",
            )
        self._waiting.append(job)

    def happenings(self, wait_s: float) -> Iterator[Happening]:
        """As the contract says. Raises UnavailableError when the cluster is gone."""
        self._check_connection()
        if time.monotonic() - self._called > _ROLL_CALL_S:
            self._call_roll()
        while self._resting and self._resting[0][0] < time.monotonic():
            self._waiting.append(self._resting.popleft()[1])
        self._fill()
        with suppress(queue.Empty):
            key, said = self._heard.get(timeout=wait_s)
            while True:
                yield from self._take(key, said)
                key, said = self._heard.get_nowait()

    def stop(self) -> None:
        """As the contract says; on a cluster that runs already, what it does for others goes on."""
        self._close.close()

    def _withdraw(self) -> None:
        self._client.cancel([task.future for task in self._running.values()])
        self._client.run(dask_worker.leave, self._terms.batch, on_error="ignore")

    def _fill(self) -> None:
        """As many tasks as there is room for: what Dask holds back, it would lose track of with a lost worker."""
        while self._waiting and len(self._running) + len(self._resting) < max(1, self.slots):
            job = self._waiting.popleft()
            key = f"neuroreg-{uuid4().hex}"
            future = self._client.submit(
                dask_worker.run_case,
                job.model_dump(mode="json"),
                self._terms.model_dump(mode="json"),
                key=key,
                pure=False,
                retries=0,
                resources=_resources(job),
            )
            self._running[key] = _Task(job, future)
            self._await(key, future)

    def _await(self, key: str, future: Future) -> None:
        future.add_done_callback(lambda future: self._heard.put((key, "")))

    def _take(self, key: str, said: str) -> Iterator[Happening]:
        task = self._running.get(key)
        if task is None:  # it came to its end before, or is not wanted any more
            return
        happening = AnyHappening.validate_json(said) if said else self._outcome(key, task)
        if happening is None:
            return
        if isinstance(happening, Started):
            if task.begun:
                yield Suspended(id=task.job.id, why="its worker was lost")
            task.begun = True
        if isinstance(happening, Done | Died):
            del self._running[key]
            if self._moved(happening, task.job):
                return
            self._fill()
        yield happening

    def _outcome(self, key: str, task: _Task) -> Happening | None:
        """How a task has ended; None when it has not after all."""
        match task.future.status:
            case "finished":
                # the worker may be lost by now, and the outcome with it: then Dask has the case done again
                with suppress(TimeoutError, OSError, KilledWorker, CancelledError):
                    return AnyHappening.validate_python(task.future.result(timeout=_RESULT_S))
            case "error":
                return _lost(task.job, task.future.exception(timeout=_RESULT_S))
            case "cancelled":
                self._check_connection()
                return _died(task.job, "cancelled", "the cluster has cancelled it")
        self._await(key, task.future)
        return None

    def _moved(self, outcome: Done | Died, job: Job) -> bool:
        """Whether the case is tried again elsewhere, since this outcome says nothing about it."""
        moves = self._moves.get(job.id, 0)
        if not isinstance(outcome, Died) or outcome.kind != UNFIT or moves >= _MOVES:
            return False
        self._moves[job.id] = moves + 1
        self._resting.append((time.monotonic() + _REST_S, job))
        return True


def _resources(job: Job) -> dict[str, float]:
    return {dask_cluster.GPU: 1} if str(job.config.get("device", "")).startswith("cuda") else {}


def _lost(job: Job, error: BaseException | None) -> Died:
    if isinstance(error, KilledWorker):
        lost = error.allowed_failures + 1
        return _died(job, "killed", f"{lost} workers of the cluster were lost while they had it")
    return _died(job, UNFIT, f"a worker could not begin it: {type(error).__name__}: {error}")


def _died(job: Job, kind: str, message: str) -> Died:
    return Died(id=job.id, state="killed", kind=kind, message=message)


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Do it, but do not wait for it any longer: a cluster that is gone answers nothing."""
    thread = threading.Thread(target=_quietly, args=(action,), daemon=True)
    thread.start()
    thread.join(seconds)


def _quietly(action: Callable[[], object]) -> None:
    with suppress(Exception):  # on the way out: what is lost now is lost
        action()
