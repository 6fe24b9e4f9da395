"""The group level of the BIDS App: is every output there as its run left it, and how does each case stand?"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from neuroreg.cohort.bids import DESCRIPTION
from neuroreg.cohort.bids_dataset import read_own_description
from neuroreg.cohort.bids_layout import FOLDER
from neuroreg.cohort.bids_names import sidecar_of
from neuroreg.cohort.board import Board, Standing
from neuroreg.cohort.hold import held
from neuroreg.cohort.journal import journals, read_journal
from neuroreg.cohort.runner import state_of
from neuroreg.cohort.states import DONE, State
from neuroreg.cohort.status import fold
from neuroreg.cohort.summary import Summary, case_summary, put_summary
from neuroreg.errors import SOME_FAILED, DataError, NeuroregError, NoInputError
from neuroreg.io.files import sha256
from neuroreg.pipeline.finished import read_index
from neuroreg.pipeline.record import RECORD_NAME, RunRecord, read_record, utc_now
from neuroreg.validation import parse_json


@dataclass(frozen=True)
class Checked:
    """What was found in a dataset of derivatives."""

    counts: Mapping[State, int]
    faults: Sequence[str]
    """one line for each case that is not done or is damaged, and for files that are nobody's"""
    bad: bool
    """whether a case is not done, or damaged"""
    summary: Path
    """``summary.json``, written"""


def check_derivatives(output: Path) -> Checked:
    """Hash every output of every case, and write ``summary.json`` and ``summary.csv`` of all of them.

    Raises NoInputError when no case was ever begun there, CannotCreateError for a dataset of something else, BusyError
    while a batch is at work there.
    """
    if not output.is_dir():
        raise NoInputError("no such folder", file=output, remedy="run the participant level first")
    described = bool(read_own_description(output))
    clock, started, said = time.monotonic(), utc_now(), _journalled(output)
    folders = {entry.name: entry for entry in sorted(output.glob(f"{FOLDER}/*/"))}
    if not (said or folders):
        raise NoInputError(
            "no case was ever begun here", file=output, remedy="run the participant level first"
        )
    with held(output, ""):
        names = [*folders, *(name for name in said if name not in folders)]
        with ThreadPoolExecutor(
            max_workers=8
        ) as pool:  # reading and hashing, which leave the interpreter alone
            standings = [*pool.map(lambda name: _standing(output, name, said.get(name)), names)]
        board = Board({standing.id: standing for standing in standings})
        bad = any(standing.state not in DONE for standing in standings)
        summary = Summary(
            started=started,
            finished=utc_now(),
            exit_code=SOME_FAILED if bad else 0,
            seconds=round(time.monotonic() - clock, 3),
            journal_seconds=0.0,
            counts=board.counts(),
            cases=tuple(map(case_summary, standings)),
        )
        path = put_summary(output, "", summary)
    faults = [] if described else [f"{DESCRIPTION} is gone: run the participant level again with --resume"]
    faults += [f"{one.id}: {one.state}: {one.message}" for one in standings if one.state not in DONE]
    faults += _strays(output, folders.values())
    return Checked(board.counts(), faults, bad or not described, path)


def _journalled(output: Path) -> dict[str, Standing]:
    """How each case stands by the journals, of the whole and of its parts."""
    return {
        name: standing
        for path in journals(output)
        for name, standing in fold(read_journal(path)[0]).standings.items()
    }


def _standing(output: Path, name: str, said: Standing | None) -> Standing:
    """How a case stands by what is there; without a record, by what its journal says."""
    folder = output / FOLDER / name
    if not (folder / RECORD_NAME).exists():
        return _without_record(name, said)
    done = Standing(name) if said is None else replace(said, stage="")
    try:
        record = read_record(folder)
        faults = [*_damages(output, folder, record)]
    except NeuroregError as error:
        return replace(done, state="failed-io", kind=type(error).__name__, message=str(error))
    if faults:
        return replace(done, state="failed-io", kind="damaged", message="; ".join(faults))
    return replace(
        done,
        state=state_of(record.qc.verdict),
        verdict=record.qc.verdict,
        reasons=record.qc.reasons,
        seconds=record.seconds.get("total"),
    )


def _without_record(name: str, said: Standing | None) -> Standing:
    if said is None:
        return Standing(name, state="killed", kind="killed", message="it was never finished")
    if said.state in DONE:
        return replace(said, state="failed-io", kind="damaged", message="its record is gone")
    if said.state in ("planned", "running"):
        return replace(said, state="killed", kind="killed", message="the batch ended without a word")
    return said


def _damages(output: Path, folder: Path, record: RunRecord) -> Iterator[str]:
    """What is not as the run left it."""
    places = read_index(folder)
    for name, described in record.outputs.items():
        path = places.get(name, folder / name)
        if not path.is_file():
            yield f"{path.name} is gone"
        elif path.stat().st_size != described.get("bytes") or sha256(path) != described.get("sha256"):
            yield f"{path.name} is not what the run left"
        if name in places and not _is_json(sidecar_of(path)):
            yield f"{sidecar_of(path).name} is gone, or no JSON"


def _is_json(path: Path) -> bool:
    try:
        return isinstance(parse_json(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _strays(output: Path, folders: Iterable[Path]) -> Iterator[str]:
    """Files of subjects that no case claims: another program's, or of a case whose folder was deleted."""
    claimed: set[Path] = set()
    for folder in folders:
        with suppress(DataError):  # then it is a fault of the case
            claimed |= {path for place in read_index(folder).values() for path in (place, sidecar_of(place))}
    for path in sorted(output.glob("sub-*/**/*")):
        if path.is_file() and path not in claimed:
            yield f"no case knows {path.relative_to(output).as_posix()}"
