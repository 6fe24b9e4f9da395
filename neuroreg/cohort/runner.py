"""Runs a cohort: what is there is checked, the rest registered, every step in the journal before the next relies on it.

A case's files are made in a folder to work in, and put in place by the coordinator alone when the case is done. So
whatever dies, and whenever: a case is done, wholly, or it is not (RELIABILITY section 4).
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuroreg import __version__
from neuroreg.cohort import preflight
from neuroreg.cohort.board import Board, Snapshot, Standing
from neuroreg.cohort.case import Cohort, absolute
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.engine import CaseEngine, open_engine
from neuroreg.cohort.hold import held
from neuroreg.cohort.journal import Begin, End, Failed, Journal, Ok, Planned, Skipped
from neuroreg.cohort.journal import Started as StartedEvent
from neuroreg.cohort.layout import FolderLayout, Layout
from neuroreg.cohort.messages import (
    Died,
    Done,
    Happening,
    Job,
    Ready,
    Staged,
    Started,
    Suspended,
    WorkerOptions,
)
from neuroreg.cohort.plan import Plan, make_plan, part_of
from neuroreg.cohort.states import FAILED, State
from neuroreg.cohort.status import left_running
from neuroreg.cohort.summary import write_summary
from neuroreg.errors import SOME_FAILED, InternalError, NeuroregError, QualityError, WriteError
from neuroreg.io.files import prepare_folder
from neuroreg.pipeline.record import scrubbed_argv, utc_now

_TICK_S = 0.25
_RETRIED: frozenset[State] = frozenset({"killed", "failed-io"})
_NEVER_BETTER = frozenset({"UnavailableError", "CannotCreateError"})

Watch = Callable[[Snapshot], None]


@dataclass(frozen=True)
class Outcome:
    """How a batch has ended."""

    snapshot: Snapshot
    standings: Sequence[Standing]
    again: Mapping[str, str]
    """id -> why a case that was done before has been made again"""
    strangers: Sequence[str]
    """finished cases in the output folder that the cohort does not hold (any more)"""
    exit_code: int
    """0; 8 when a case failed; 3 under strict quality control when a verdict is not pass"""


def run_batch(
    cohort: Cohort,
    config: BatchConfig,
    *,
    layout: Layout | None = None,
    watch: Watch = lambda snapshot: None,
    reporter: str | None = None,
    argv: Sequence[str] | None = None,
    engine: CaseEngine | None = None,
) -> Outcome:
    """Register every case of the cohort (or of the shard); a case that fails never stops the others.

    ``reporter`` is "module:function" of what writes the pages; ``engine`` one that was made beforehand, which is then
    stopped. Raises UsageError, DataError, CannotCreateError, BusyError before anything runs; WriteError when the disk
    is full: then ``resume`` goes on.
    """
    layout = layout or FolderLayout(config.output)
    cases = part_of(cohort.cases, config.shard)
    weights = preflight.check_methods(cases)
    prepare_folder(config.output)
    with held(config.output, config.name) as work:
        if cohort.prepare is not None:
            cohort.prepare()
        plan = make_plan(cases, config, layout, weights)
        preflight.check_disk(config.output, len(plan.todo), preflight.bytes_of_a_case(plan.todo))
        options = WorkerOptions(reporter=reporter, argv=tuple(sys.argv if argv is None else argv))
        journal = Journal(config.output / f"journal{config.name}.jsonl")
        try:
            return _Run(plan, config, layout, work, journal, watch, options).run(engine)
        finally:
            journal.close()


class _Run:
    """One coordinator at work."""

    def __init__(
        self,
        plan: Plan,
        config: BatchConfig,
        layout: Layout,
        work: Path,
        journal: Journal,
        watch: Watch,
        options: WorkerOptions,
    ) -> None:
        self._plan, self._config, self._layout = plan, config, layout
        self._work, self._journal, self._watch, self._options = work, journal, watch, options
        self._cases = {case.id: case for case in plan.cases}
        self._board = Board.of(self._cases)
        self._tries = dict.fromkeys(self._cases, 0)
        """counted when a case is handed over: a worker may never begin it"""
        self._later: list[str] = []  # to be tried again when the others have had their turn
        self._stopping = ""
        self._started = utc_now()

    def run(self, engine: CaseEngine | None = None) -> Outcome:
        """Everything from the first event of the journal to the last."""
        self._take_over_done()
        try:
            if self._plan.todo:
                self._work_through(engine)
            else:
                self._begin(None)
        except BaseException as error:
            with suppress(NeuroregError):  # a journal on a full disk cannot even take this
                self._cancel_rest(_why_cancelled(error))
                self._close(error)
            raise
        return self._close(None)

    def _begin(self, engine: CaseEngine | None) -> None:
        todo = [
            Planned(time=utc_now(), id=case.id, why=self._plan.again.get(case.id, ""))
            for case in self._plan.todo
        ]
        skipped = [
            Skipped(
                time=utc_now(),
                id=name,
                state=state_of(record.qc.verdict),
                verdict=record.qc.verdict,
                seconds=record.seconds.get("total"),
            )
            for name, record in self._plan.done.items()
        ]
        self._journal.write(
            *left_running(self._journal.path),
            Begin(
                time=utc_now(),
                program=f"neuroreg {__version__}",
                pid=os.getpid(),
                host=os.uname().nodename,
                planned=len(self._plan.cases),
                engine=self._config.engine,
                slots=engine.slots if engine else 0,
                argv=scrubbed_argv(self._options.argv),
            ),
            *skipped,
            *todo,
        )

    def _take_over_done(self) -> None:
        for name, record in self._plan.done.items():
            self._board.put(
                name,
                state=state_of(record.qc.verdict),
                verdict=record.qc.verdict,
                reasons=record.qc.reasons,
                seconds=record.seconds.get("total"),
                skipped=True,
            )

    def _work_through(self, engine: CaseEngine | None) -> None:
        engine = engine or open_engine(self._config, self._options, self._work)
        try:
            preflight.check_memory(engine.slots_here)
            self._begin(engine)
            for case in self._plan.todo:
                engine.submit(self._job(case.id))
            self._watch(self._board.snapshot())
            while self._open():
                for happening in engine.happenings(_TICK_S):
                    self._take(happening)
                self._watch(self._board.snapshot())
                if self._stopping:
                    break
                if self._later and len(self._later) == self._open():
                    for name in self._later:
                        engine.submit(self._job(name))
                    self._later = []
        finally:
            engine.stop()
        if self._stopping:
            self._cancel_rest(self._stopping)

    def _open(self) -> int:
        return len(self._board.with_state("planned", "running"))

    def _job(self, name: str) -> Job:
        """The next attempt at a case."""
        self._tries[name] = attempt = self._tries[name] + 1
        config = absolute(self._cases[name].config).model_copy(update={"output": None, "overwrite": False})
        return Job(
            id=name,
            config=config.model_dump(mode="json", exclude_none=True),
            work=self._work.resolve(),
            attempt=attempt,
            alone=attempt > 1,
        )

    def _take(self, happening: Happening) -> None:
        """Bring the journal and the board up to date, and put finished cases in place."""
        now = utc_now()
        match happening:
            case Started(id=name, attempt=attempt, pid=pid, host=host):
                self._journal.write(StartedEvent(time=now, id=name, attempt=attempt, pid=pid, host=host))
                self._board.put(name, state="running", attempts=attempt, since=time.monotonic(), stage="")
            case Staged(id=name, stage=stage):
                self._board.put(name, stage=stage)
            case Suspended(id=name, why=why):
                self._fail(Died(id=name, state="killed", kind="interrupted", message=why), again=True)
            case Done():
                self._done(happening)
            case Died():
                self._died(happening)
            case Ready():
                pass

    def _done(self, done: Done) -> None:
        try:
            self._layout.publish(self._cases[done.id], done.folder)
        except NeuroregError as error:
            failure = Died(
                id=done.id,
                seconds=done.seconds,
                state="failed-io",
                kind=type(error).__name__,
                message=str(error),
                code=error.exit_code,
            )
            self._died(failure)
            return
        finally:
            shutil.rmtree(done.folder.parent, ignore_errors=True)
        state = state_of(done.verdict)
        self._journal.write(
            Ok(
                time=utc_now(),
                attempt=self._tries[done.id],
                state=state,
                **done.model_dump(include={"id", "verdict", "reasons", "seconds", "key", "outputs"}),
            )
        )
        self._board.end(done.id, state, verdict=done.verdict, reasons=done.reasons, seconds=done.seconds)

    def _died(self, died: Died) -> None:
        worth_it = died.state in _RETRIED and died.kind not in _NEVER_BETTER
        again = worth_it and self._tries[died.id] <= self._config.retries
        self._fail(died, again=again)
        if again:
            self._later.append(died.id)
        elif self._config.fail_fast:
            self._stopping = f"case {died.id} has failed"
        if died.code == WriteError.exit_code and self._disk_is_full():
            raise WriteError(
                "the disk is full",
                file=self._config.output,
                remedy="free some space, then go on with --resume",
            )

    def _fail(self, died: Died, *, again: bool) -> None:
        attempts = max(1, self._tries[died.id])
        said = died.model_dump(include={"id", "state", "kind", "message", "code", "seconds"})
        self._journal.write(Failed(time=utc_now(), attempt=attempts, again=again, **said))
        changes = {name: said[name] for name in ("kind", "message", "code", "seconds")}
        if again:
            self._board.put(died.id, state="planned", stage="", **changes)
        else:
            self._board.end(died.id, died.state, **changes)

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self._config.output).free < preflight.bytes_of_a_case(self._plan.todo[:1])

    def _cancel_rest(self, reason: str) -> None:
        for standing in self._board.with_state("planned", "running"):
            self._fail(Died(id=standing.id, state="cancelled", kind="cancelled", message=reason), again=False)

    def _close(self, error: BaseException | None) -> Outcome:
        """The summary and the last line of the journal; the states must add up to the cases."""
        outcome = Outcome(
            self._board.snapshot(),
            [*self._board.standings.values()],
            self._plan.again,
            () if self._config.shard is not None else self._layout.strangers(self._cases.keys()),
            self._exit_code(error),
        )
        counts = outcome.snapshot.counts
        if sum(counts.values()) != len(self._cases) or (outcome.snapshot.left and error is None):
            raise InternalError(
                f"the states do not add up: {counts} of {len(self._cases)} cases",
                remedy="this is a bug; keep the folder and report it",
            )
        self._journal.write(End(time=utc_now(), counts=counts, code=outcome.exit_code))
        write_summary(
            self._config,
            self._plan.cases,
            outcome.standings,
            counts=counts,
            exit_code=outcome.exit_code,
            started=self._started,
            seconds=round(outcome.snapshot.seconds, 3),
            journal_seconds=round(self._journal.seconds, 3),
        )
        self._watch(outcome.snapshot)
        return outcome

    def _exit_code(self, error: BaseException | None) -> int:
        match error:
            case None:
                pass
            case NeuroregError():
                return error.exit_code
            case KeyboardInterrupt():
                return 130
            case SystemExit(code=int(code)):
                return code
            case _:
                return InternalError.exit_code
        standings = self._board.standings.values()
        if any(standing.state in FAILED or standing.state == "cancelled" for standing in standings):
            return SOME_FAILED
        strict = self._config.strict_qc and any(standing.state != "ok" for standing in standings)
        return QualityError.exit_code if strict else 0


def state_of(verdict: str) -> Literal["ok", "ok-qc-warn"]:
    """The state of a case that is done."""
    return "ok" if verdict == "pass" else "ok-qc-warn"


def _why_cancelled(error: BaseException) -> str:
    return str(error) if isinstance(error, NeuroregError) else "the batch was stopped"
