"""One case after the other within a working process: the engines are loaded once, every failure becomes a message."""

import ctypes
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast
from uuid import uuid4

from neuroreg.cohort.messages import Died, Done, Job, WorkerOptions
from neuroreg.cohort.preflight import method_settings
from neuroreg.cohort.sameness import identity_of
from neuroreg.cohort.states import State
from neuroreg.errors import BusyError, NeuroregError, as_known
from neuroreg.pipeline.case import Case, Reporter
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine, load_engine
from neuroreg.pipeline.register import register
from neuroreg.preprocess.recall import SIDES
from neuroreg.registry import Entry

_STATES: dict[int, State] = {
    **dict.fromkeys((2, 65, 66), "failed-data"),
    **dict.fromkeys((69, 73, 74), "failed-io"),
}
_KEEP_ENGINES = 4
_KEEP_SIDES = 3  # of the fixed image: a grid for the affine, one for the method, one for the refinement
_TIDY_EVERY = 10  # cases: what is given back must be cleared again by the system
_DRAWING = threading.Lock()


class Lane:
    """Registers cases in one thread, with engines of its own: networks are not shared between threads."""

    def __init__(self, options: WorkerOptions) -> None:
        self._argv = options.argv
        self._threads = options.threads
        self._reporter = None if options.reporter is None else _one_page_at_a_time(options.reporter)
        self._engines: dict[str, Engine] = {}
        self._cases = 0
        SIDES.keep(_KEEP_SIDES)

    def run(self, job: Job, progress: Callable[[str], None]) -> Done | Died:
        """Register one case into its work folder; whatever goes wrong with it is told, never raised."""
        # another folder for each attempt: a former one may still be writing
        folder = job.work / uuid4().hex / job.id
        try:
            threads = 1 if job.alone else self._threads
            config = RegisterConfig.model_validate({**job.config, "output": folder, "threads": threads})
            folder.parent.mkdir()
            record = register(
                config, progress=progress, reporter=self._reporter, engines=self._engine, argv=self._argv
            )
        except Exception as error:  # noqa: BLE001  # one bad case must not take the others with it
            with suppress(OSError):
                shutil.rmtree(folder.parent)
            return _failure(job.id, as_known(error))
        finally:
            self._cases += 1
            if self._cases % _TIDY_EVERY == 0:
                _give_memory_back()
        return Done(
            id=job.id,
            folder=folder,
            verdict=record.qc.verdict,
            reasons=record.qc.reasons,
            key=identity_of(record).key,
            outputs={name: str(described["sha256"]) for name, described in record.outputs.items()},
        )

    def _engine(self, config: RegisterConfig) -> Engine:
        name = f"{method_settings(config)} {config.seed}"
        if name not in self._engines:
            if len(self._engines) >= _KEEP_ENGINES:
                self._engines.pop(next(iter(self._engines)))
            self._engines[name] = load_engine(config)
        return self._engines[name]


def _give_memory_back() -> None:
    """Freed memory to the system, which glibc else keeps in ever more pieces: a long batch would seem to leak."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _one_page_at_a_time(name: str) -> Reporter:
    """The reporter of that name; matplotlib, which draws, is not made for several threads."""

    def reporter(path: Path, case: Case, *, overwrite: bool = False) -> None:
        with _DRAWING:  # loaded when there is a page to draw, not before
            cast(Reporter, Entry(name, "").load())(path, case, overwrite=overwrite)

    return reporter


def _failure(name: str, error: NeuroregError) -> Died:
    kind, state = type(error).__name__, _STATES.get(error.exit_code, "failed-bug")
    if isinstance(error, BusyError):
        kind, state = "memory", "killed"
    return Died(id=name, state=state, kind=kind, message=str(error), code=error.exit_code)
