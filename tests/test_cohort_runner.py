"""The runner with workers that only pretend: what becomes of every kind of case, and of the whole when stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuroreg.cohort import process, runner
from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.hold import held
from neuroreg.cohort.journal import read_journal
from neuroreg.cohort.runner import Outcome, run_batch
from neuroreg.cohort.status import status
from neuroreg.errors import BusyError, CannotCreateError, UnavailableError, UsageError, WriteError
from neuroreg.io.tables import read_csv
from neuroreg.methods import METHODS
from neuroreg.methods.base import MethodConfig
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.registry import Entry

FAKE = Path(__file__).with_name("fake_worker.py")


class Pretended:
    """A method whose options the pretending worker reads."""

    class Config(MethodConfig):
        act: str = "ok"
        once: str | None = None
        seconds: float = 0.02
        verdict: str = "pass"

    divisor = 8
    spacing_mm = 2.0

    def __init__(self, config: Config) -> None:
        self.config = config


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-S", "-E", str(FAKE)))
    monkeypatch.setitem(METHODS, "pretended", Entry(f"{__name__}:Pretended", "for tests"))


def cohort(folder: Path, **acts: dict) -> Cohort:
    """Cases by id, each with an image of its own; ``acts`` are the options of the worker."""
    fixed = folder / "fixed.nii.gz"
    fixed.write_bytes(b"fixed")
    cases = []
    for name, options in acts.items():
        moving = folder / f"{name}.nii.gz"
        moving.write_bytes(name.encode())
        config = RegisterConfig(
            fixed=fixed, moving=moving, method="pretended", options=options, outputs="image"
        )
        cases.append(
            Case(name, config, {"fixed": "fixed.nii.gz", "moving": moving.name, "root": str(folder)})
        )
    return Cohort(cases)


def run(folder: Path, found: Cohort, **settings: object) -> Outcome:
    return run_batch(found, BatchConfig(output=folder / "out", **settings))


def states(outcome: Outcome) -> dict[str, str]:
    return {one.id: one.state for one in outcome.standings}


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the finished cases, without the records, in which there are times."""
    found = sorted(path for path in (folder / "out").glob("*/*") if path.name != "run.json")
    return {
        str(path.relative_to(folder / "out")): path.read_bytes()
        for path in found
        if ".work" not in path.parts
    }


GOOD = {"a": {}, "b": {}, "d": {"verdict": "look"}}


def test_a_case_that_fails_never_stops_the_others(tmp_path: Path) -> None:
    clean, mixed = tmp_path / "clean", tmp_path / "mixed"
    clean.mkdir()
    mixed.mkdir()
    assert run(clean, cohort(clean, **GOOD)).exit_code == 0
    bad = {"c": {"act": "data"}, "e": {"act": "kill"}, "f": {"act": "bug"}, "g": {"act": "io"}}
    outcome = run(mixed, cohort(mixed, **(GOOD | bad)), jobs=2)
    assert outcome.exit_code == 8
    assert states(outcome) == {
        "a": "ok", "b": "ok", "d": "ok-qc-warn",
        "c": "failed-data", "e": "killed", "f": "failed-bug", "g": "failed-io",
    }  # fmt: skip
    assert files(mixed) == files(clean)
    attempts = {one.id: one.attempts for one in outcome.standings}
    assert (attempts["c"], attempts["f"]) == (1, 1), "bad data and bugs are not tried again"
    assert (attempts["e"], attempts["g"]) == (2, 2), "killed and I/O once more"
    assert sum(outcome.snapshot.counts.values()) == 7
    assert not [path for path in (mixed / "out" / ".work").iterdir() if path.is_dir()]


@pytest.mark.faults
def test_a_case_killed_once_succeeds_and_takes_nobody_along(tmp_path: Path) -> None:
    acts = {
        "a": {"seconds": 0.3},
        "b": {"act": "kill", "once": str(tmp_path / "mark")},
        "c": {"seconds": 0.3},
    }
    outcome = run(tmp_path, cohort(tmp_path, **acts), jobs=3)
    assert states(outcome) == dict.fromkeys("abc", "ok")
    assert outcome.exit_code == 0


@pytest.mark.faults
def test_a_case_that_hangs_is_ended_and_the_one_beside_it_begun_again(tmp_path: Path) -> None:
    acts = {"a": {"act": "hang"}, "b": {"seconds": 0.8}, "c": {}}
    outcome = run(tmp_path, cohort(tmp_path, **acts), jobs=2, case_timeout_s=0.7)
    # b takes longer than the limit by itself, a hangs; c was innocent
    assert states(outcome) == {"a": "timeout", "b": "timeout", "c": "ok"}
    assert [one.attempts for one in outcome.standings] == [1, 1, 1], "a timeout is not tried again"


@pytest.mark.faults
def test_a_case_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    outcome = run(tmp_path, cohort(tmp_path, a={"act": "eat"}, b={}, c={}), jobs=2, memory_limit_mb=200)
    assert states(outcome) == {"a": "killed", "b": "ok", "c": "ok"}
    assert outcome.standings[0].kind == "memory"
    assert "200 MB" in outcome.standings[0].message


def test_resume_skips_only_what_is_provably_the_same(tmp_path: Path) -> None:
    acts = {name: {} for name in "abcdef"}
    first = run(tmp_path, cohort(tmp_path, **acts))
    assert first.exit_code == 0
    before = {name: (tmp_path / "out" / name / "run.json").stat().st_ino for name in acts}
    found = cohort(
        tmp_path, **(acts | {"c": {"verdict": "look"}, "g": {}})
    )  # one setting changed, one case more
    (tmp_path / "b.nii.gz").write_bytes(b"another scan")
    (tmp_path / "out" / "d" / "moved.nii.gz").write_bytes(b"damaged")
    (tmp_path / "out" / "e" / "run.json").unlink()
    (tmp_path / "out" / "f" / "moved.nii.gz").unlink()
    second = run(tmp_path, found, resume=True)
    assert second.exit_code == 0
    assert second.again == {
        "b": "the moving image changed",
        "c": "the setting options changed",
        "d": "moved.nii.gz is not what the run left",
        "f": "moved.nii.gz is gone",
    }
    after = {name: (tmp_path / "out" / name / "run.json").stat().st_ino for name in acts}
    assert [name for name in acts if after[name] == before[name]] == ["a"]
    assert [one.skipped for one in second.standings] == [True, *[False] * 6]
    assert files(tmp_path)["b/moved.nii.gz"] == b"fixedanother scan"
    third = run(tmp_path, Cohort(found.cases[:-1]), resume=True)
    assert (third.snapshot.skipped, third.strangers) == (6, ["g"])
    assert states(third)["c"] == "ok-qc-warn"


def test_another_minor_version_before_1_0_makes_a_case_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "0.0.9")
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-S", str(FAKE)))
    run(tmp_path, cohort(tmp_path, a={}))
    monkeypatch.delenv("FAKE_VERSION")
    assert run(tmp_path, cohort(tmp_path, a={}), resume=True).again == {"a": "it was made by version 0.0"}


def test_outputs_in_the_way_are_refused_and_foreign_files_never_replaced(tmp_path: Path) -> None:
    found = cohort(tmp_path, a={}, b={})
    run(tmp_path, found)
    with pytest.raises(CannotCreateError, match="2 of 2 cases are there already"):
        run(tmp_path, found)
    assert run(tmp_path, found, overwrite=True).snapshot.done == 2
    (tmp_path / "out" / "a" / "thesis.docx").touch()
    with pytest.raises(CannotCreateError, match=r"thesis\.docx"):
        run(tmp_path, found, overwrite=True)


def test_fail_fast_cancels_the_rest_and_the_states_add_up(tmp_path: Path) -> None:
    acts = {"a": {"act": "data"}} | {name: {"seconds": 0.2} for name in "bcdefgh"}
    outcome = run(tmp_path, cohort(tmp_path, **acts), jobs=1, fail_fast=True)
    assert outcome.exit_code == 8
    assert states(outcome) == {"a": "failed-data"} | dict.fromkeys("bcdefgh", "cancelled")
    assert [row["id"] for row in read_csv(tmp_path / "out" / "failed.csv")] == list("abcdefgh")


def test_the_summary_the_table_of_failures_and_the_journal_tell_the_same(tmp_path: Path) -> None:
    outcome = run(tmp_path, cohort(tmp_path, a={}, b={"act": "data"}, c={"verdict": "fail"}))
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert {case["id"]: case["state"] for case in summary["cases"]} == states(outcome)
    assert summary["counts"]["ok-qc-warn"] == 1
    assert summary["exit_code"] == 8
    rows = {row["id"]: row for row in read_csv(out / "summary.csv")}
    assert (rows["b"]["exit_code"], rows["b"]["message"]) == ("65", "it was data")
    assert (rows["c"]["verdict"], rows["c"]["reasons"]) == ("fail", "a reason")
    (failed,) = read_csv(out / "failed.csv")
    assert {name: failed[name] for name in ("id", "fixed", "moving", "root")} == {
        "id": "b", "fixed": "fixed.nii.gz", "moving": "b.nii.gz", "root": str(tmp_path),
    }  # fmt: skip
    (told,) = status(out)
    assert told.snapshot.counts == outcome.snapshot.counts
    assert told.ended is not None
    assert told.ended.counts == outcome.snapshot.counts


def test_strict_quality_control_is_an_exit_code_of_its_own(tmp_path: Path) -> None:
    assert run(tmp_path, cohort(tmp_path, a={}, b={"verdict": "look"}), strict_qc=True).exit_code == 3


def test_shards_share_an_output_folder_and_the_whole_finishes_it(tmp_path: Path) -> None:
    found = cohort(tmp_path, **{name: {} for name in "abcde"})
    first = run(tmp_path, found, shard=(1, 2))
    second = run(tmp_path, found, shard=(2, 2))
    assert [one.id for one in first.standings] == ["a", "c", "e"]
    assert [one.id for one in second.standings] == ["b", "d"]
    out = tmp_path / "out"
    assert {path.name for path in out.glob("summary-*")} == {
        "summary-1of2.csv", "summary-1of2.json", "summary-2of2.csv", "summary-2of2.json",
    }  # fmt: skip
    assert [one.journal.name for one in status(out)] == ["journal-1of2.jsonl", "journal-2of2.jsonl"]
    whole = run(tmp_path, found, resume=True)
    assert whole.snapshot.skipped == 5


def test_of_two_coordinators_one_is_refused(tmp_path: Path) -> None:
    found = cohort(tmp_path, a={}, b={})
    (tmp_path / "out").mkdir()
    with held(tmp_path / "out", ""):
        with pytest.raises(BusyError):
            run(tmp_path, found)
        with pytest.raises(BusyError):
            run(tmp_path, found, shard=(1, 2))
    with held(tmp_path / "out", "-1of2"):
        with pytest.raises(BusyError):
            run(tmp_path, found)
        with pytest.raises(BusyError):
            run(tmp_path, found, shard=(1, 2))
        assert run(tmp_path, found, shard=(2, 2)).snapshot.done == 1


def test_a_method_that_does_not_exist_is_told_before_anything_runs(tmp_path: Path) -> None:
    (case,) = cohort(tmp_path, a={}).cases
    wrong = Case("a", case.config.model_copy(update={"method": "neurorge"}))
    with pytest.raises(UsageError, match="neuroreg"):
        run(tmp_path, Cohort([wrong]))
    assert not (tmp_path / "out").exists()


def test_a_journal_on_a_full_disk_stops_the_batch_and_the_resumed_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cohort(tmp_path, **{name: {} for name in "abcd"})
    original, written = runner.Journal.write, []

    def full(self: runner.Journal, *events: object) -> None:
        written.extend(events)
        if len(written) > 9:
            raise WriteError("the journal cannot be written: no space left on device")
        original(self, *events)

    monkeypatch.setattr(runner.Journal, "write", full)
    with pytest.raises(WriteError):
        run(tmp_path, found, jobs=1)
    monkeypatch.undo()
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-S", "-E", str(FAKE)))
    monkeypatch.setitem(METHODS, "pretended", Entry(f"{__name__}:Pretended", "for tests"))
    done = run(tmp_path, found, resume=True)
    assert done.snapshot.done == 4
    assert done.snapshot.skipped >= 1
    assert files(tmp_path) == {f"{name}/moved.nii.gz": b"fixed" + name.encode() for name in "abcd"}


COORDINATOR = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import test_cohort_runner as t
from neuroreg.cohort import process
from neuroreg.methods import METHODS
from neuroreg.registry import Entry
from neuroreg.cli import _on_terminate
import signal
signal.signal(signal.SIGTERM, _on_terminate)
process.PROGRAM = (sys.executable, "-S", "-E", str(t.FAKE))
METHODS["pretended"] = Entry("test_cohort_runner:Pretended", "for tests")
folder = Path({folder!r})
t.run(folder, t.cohort(folder, **{acts!r}), jobs=2)
"""


def start(folder: Path, acts: dict) -> subprocess.Popen[bytes]:
    """A coordinator in a process of its own; returns when two cases are done and others at work."""
    code = COORDINATOR.format(tests=str(Path(__file__).parent), folder=str(folder), acts=acts)
    found = subprocess.Popen([sys.executable, "-c", code])
    journal = folder / "out" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if journal.exists():
            kinds = [event.event for event in read_journal(journal)[0]]
            if kinds.count("ok") >= 2 and kinds.count("started") >= 3:
                return found
        time.sleep(0.02)
    raise AssertionError("it did not begin")


ACTS = {name: {"seconds": 0.05 if name < "c" else 0.6} for name in "abcdef"}


def workers_of(folder: Path) -> list[int]:
    """Processes that work below ``folder`` still."""
    events = read_journal(folder / "out" / "journal.jsonl")[0]
    pids = {event.pid for event in events if event.event == "started"}
    return [pid for pid in pids if "fake_worker" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def gone(folder: Path, within_s: float = 3.0) -> bool:
    deadline = time.monotonic() + within_s
    while workers_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not workers_of(folder)


@pytest.mark.faults
def test_a_killed_coordinator_leaves_nobody_and_resume_makes_the_rest(tmp_path: Path) -> None:
    coordinator = start(tmp_path, ACTS)
    coordinator.kill()
    coordinator.wait()
    assert gone(tmp_path)
    (told,) = status(tmp_path / "out")
    assert (told.alive, told.ended) == (False, None)
    outcome = run(tmp_path, cohort(tmp_path, **ACTS), resume=True)
    assert states(outcome) == dict.fromkeys(ACTS, "ok")
    assert outcome.snapshot.skipped >= 2
    events = read_journal(tmp_path / "out" / "journal.jsonl")[0]
    left = [event for event in events if event.event == "failed"]
    assert {event.state for event in left} == {"killed"}, "what was running when it died"
    assert files(tmp_path) == {f"{name}/moved.nii.gz": b"fixed" + name.encode() for name in ACTS}
    assert [path.name for path in (tmp_path / "out" / ".work").iterdir()] == ["lock"]


@pytest.mark.faults
def test_a_terminated_coordinator_says_what_it_cancelled(tmp_path: Path) -> None:
    coordinator = start(tmp_path, ACTS)
    begin = time.monotonic()
    coordinator.send_signal(signal.SIGTERM)
    assert coordinator.wait(timeout=10) == 143
    assert time.monotonic() - begin < 5
    assert gone(tmp_path)
    events = read_journal(tmp_path / "out" / "journal.jsonl")[0]
    assert events[-1].event == "end"
    assert events[-1].code == 143
    assert events[-1].counts["cancelled"] == 6 - events[-1].counts["ok"]
    assert sum(events[-1].counts.values()) == 6
    rows = read_csv(tmp_path / "out" / "failed.csv")
    assert len(rows) == events[-1].counts["cancelled"]
    assert [path.name for path in (tmp_path / "out" / ".work").iterdir()] == ["lock"]


def test_a_worker_that_cannot_be_started_ends_the_batch_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-c", "raise SystemExit('no such library')"))
    with pytest.raises(UnavailableError, match="no such library"):
        run(tmp_path, cohort(tmp_path, a={}, b={}))
    events = read_journal(tmp_path / "out" / "journal.jsonl")[0]
    assert (events[-1].event, events[-1].code, events[-1].counts["cancelled"]) == ("end", 69, 2)


def test_a_memory_limit_that_no_process_can_hold_ends_every_case(tmp_path: Path) -> None:
    # the interpreter alone takes more than the worker may; a case is ended, not begun again and again
    found = cohort(tmp_path, a={"seconds": 5})
    outcome = run_batch(
        found, BatchConfig.model_construct(output=tmp_path / "out", memory_limit_mb=1, retries=1)
    )
    assert states(outcome) == {"a": "killed"}
    assert outcome.standings[0].attempts == 2


def test_a_file_that_somebody_puts_into_a_case_meanwhile_stays(tmp_path: Path) -> None:
    found = cohort(tmp_path, a={}, b={})
    run(tmp_path, found)
    mine = tmp_path / "out" / "a" / "manual.nii.gz"
    (mine.parent.parent / "b" / "run.json").unlink()
    mine.write_bytes(b"hours of work")
    assert run(tmp_path, found, resume=True).snapshot.skipped == 1, "a is done: nobody touches it"
    assert mine.read_bytes() == b"hours of work"

    def late(snapshot: object) -> None:
        (tmp_path / "out" / "b" / "late.nii.gz").write_bytes(b"too")

    mine.unlink()
    outcome = run_batch(found, BatchConfig(output=tmp_path / "out", overwrite=True), watch=late)
    assert states(outcome) == {"a": "ok", "b": "failed-io"}
    assert (tmp_path / "out" / "b" / "late.nii.gz").read_bytes() == b"too"


def test_nothing_behind_a_link_is_swept(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "whole").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".work").symlink_to(elsewhere)
    with pytest.raises(CannotCreateError):
        run(tmp_path, cohort(tmp_path, a={}))
    (tmp_path / "out" / ".work").unlink()
    (tmp_path / "out" / ".work" / "theirs").mkdir(parents=True)
    (tmp_path / "out" / ".work" / "whole").symlink_to(elsewhere)
    with pytest.raises(CannotCreateError):
        run(tmp_path, cohort(tmp_path, a={}))
    assert (elsewhere / "whole").is_dir()
    assert (tmp_path / "out" / ".work" / "theirs").is_dir()
