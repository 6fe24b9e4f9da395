"""What a batch says of itself: ``summary.csv``, ``summary.json``, and ``failed.csv``, a manifest of what to repeat."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from neuroreg import __version__
from neuroreg.cohort.board import Standing
from neuroreg.cohort.case import Case
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.repeat import repeating_row
from neuroreg.cohort.states import DONE, State
from neuroreg.io.files import atomic_write
from neuroreg.io.tables import Cell, write_csv
from neuroreg.pipeline.record import utc_now

SUMMARY_SCHEMA = 1
COLUMNS = ("id", "state", "verdict", "reasons", "attempts", "seconds", "exit_code", "kind", "message")
"""Of ``summary.csv``; the figures of the cases are in ``group.csv``."""
FAILED_EXTRA = ("state", "exit_code", "attempts", "message")
"""What ``failed.csv`` says beside the columns of a manifest; a manifest's reader leaves them alone."""


class CaseSummary(BaseModel):
    """One case of ``summary.json``."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    state: State
    verdict: str | None = None
    """pass, look or fail; null when the case is not done"""
    reasons: tuple[str, ...] = ()
    attempts: int = 0
    """0: it was done before, or never begun"""
    seconds: float | None = None
    exit_code: int | None = None
    """what ``neuroreg register`` would have ended with; null when the case is done, or did not come to an end"""
    kind: str = ""
    message: str = ""


class Summary(BaseModel):
    """``summary.json``: the whole batch, or one shard of it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    schema_version: int = SUMMARY_SCHEMA
    program: str = f"neuroreg {__version__}"
    shard: tuple[int, int] | None = None
    """(i, n), from 1"""
    started: str
    finished: str
    exit_code: int
    seconds: float
    """from the first case on"""
    journal_seconds: float
    """of them, spent on the journal"""
    counts: dict[State, int]
    """state -> cases; they add up to the length of ``cases``"""
    cases: tuple[CaseSummary, ...]


def case_summary(standing: Standing) -> CaseSummary:
    """One case as the summary tells it."""
    failed = standing.state not in DONE
    return CaseSummary(
        id=standing.id,
        state=standing.state,
        verdict=standing.verdict,
        reasons=standing.reasons,
        attempts=standing.attempts,
        seconds=standing.seconds,
        exit_code=standing.code if failed else None,
        kind=standing.kind if failed else "",
        message=standing.message if failed else "",
    )


def write_summary(
    config: BatchConfig, cases: Sequence[Case], standings: Sequence[Standing], **whole: Any
) -> None:
    """Write the three files, replacing former ones; ``whole`` is what ``Summary`` says of all cases together.

    Raises CannotCreateError, WriteError.
    """
    summary = Summary(
        shard=config.shard, finished=utc_now(), cases=tuple(map(case_summary, standings)), **whole
    )
    place = config.output
    put_summary(place, config.name, summary)
    columns, failed = _failed(cases, summary.cases)
    write_csv(place / f"failed{config.name}.csv", columns, failed, overwrite=True)


def put_summary(folder: Path, part: str, summary: Summary) -> Path:
    """Write ``summary.json`` and ``summary.csv`` and return the first; ``part`` is "" for a whole cohort.

    Raises CannotCreateError, WriteError.
    """

    def write(temporary: Path) -> None:
        temporary.write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")

    atomic_write(folder / f"summary{part}.json", write, overwrite=True)
    rows: list[dict[str, Cell]] = [
        {**case.model_dump(exclude={"reasons"}), "reasons": "; ".join(case.reasons)} for case in summary.cases
    ]
    write_csv(folder / f"summary{part}.csv", COLUMNS, rows, overwrite=True)
    return folder / f"summary{part}.json"


def _failed(cases: Sequence[Case], told: Sequence[CaseSummary]) -> tuple[list[str], list[dict[str, Cell]]]:
    """The rows of those cases that are not done, as a manifest, and why."""
    rows: list[dict[str, Cell]] = []
    columns = ["id", "fixed", "moving"]
    for case, summary in zip(cases, told, strict=True):
        if summary.state not in DONE:
            row = repeating_row(case)
            columns += [name for name in row if name not in columns]
            rows.append({**row, "id": case.id, **summary.model_dump(include={*FAILED_EXTRA})})
    return [*columns, *FAILED_EXTRA], rows
