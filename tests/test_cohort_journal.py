"""The journal: what is on disk counts, what is torn does not; the states that follow from it; who is alive."""

import os
from pathlib import Path

import pytest

from neuroreg.cohort.hold import held
from neuroreg.cohort.journal import Begin, End, Failed, Journal, Ok, Planned, Skipped, Started, read_journal
from neuroreg.cohort.status import fold, left_running, status
from neuroreg.errors import DataError, NoInputError, WriteError

T0, T1 = "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"
BEGIN = Begin(
    time=T0,
    program="neuroreg 9",
    pid=os.getpid(),
    host=os.uname().nodename,
    planned=4,
    engine="serial",
    slots=2,
)
OK = Ok(time=T1, id="a", attempt=1, state="ok", verdict="pass", seconds=2.0, key="k", outputs={})
LOST = Failed(time=T1, id="b", attempt=1, state="killed", kind="killed", message="m", seconds=1.0, again=True)


def started(name: str, attempt: int = 1) -> Started:
    return Started(time=T0, id=name, attempt=attempt, pid=1, host="h")


def planned(*names: str) -> list[Planned]:
    return [Planned(time=T0, id=name) for name in names]


def write(path: Path, *events: object) -> None:
    journal = Journal(path)
    journal.write(*events)
    journal.close()


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    events = [BEGIN, *planned("a", "b"), started("a"), OK, LOST, End(time=T1, counts={"ok": 1}, code=8)]
    write(path, *events)
    assert read_journal(path) == (events, 0)


@pytest.mark.parametrize("kept", [1, 10, 40, 100])
def test_a_torn_last_line_is_left_out_and_the_next_event_is_not_lost(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGIN, started("a"))
    whole = path.read_bytes()
    write(path, OK)
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    assert read_journal(path) == ([BEGIN, started("a")], 1)
    write(path, LOST)
    assert read_journal(path) == ([BEGIN, started("a"), LOST], 1)


def test_a_write_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.write(BEGIN)
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[: len(data) // 2]))
    with pytest.raises(WriteError, match="no space left"):
        journal.write(OK)
    monkeypatch.undo()
    assert path.read_bytes() == before
    journal.close()


def test_keys_of_a_later_program_are_left_alone_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    line = BEGIN.model_dump_json()
    path.write_text(line[:-1] + ',"mood":"good"}\n{"event":"sang","time":"x"}\n')
    assert read_journal(path) == ([BEGIN], 1)
    path.write_text(line.replace('"schema_version":1', '"schema_version":2') + "\n")
    with pytest.raises(DataError, match="newer"):
        read_journal(path)
    with pytest.raises(NoInputError):
        read_journal(tmp_path / "none.jsonl")


def test_the_states_follow_from_the_events_and_add_up() -> None:
    done = Skipped(time=T0, id="e", state="ok-qc-warn", verdict="look")
    board = fold(
        [BEGIN, done, *planned("a", "b", "c", "d"), started("a"), OK, started("b"), LOST, started("c")]
    )
    assert {name: one.state for name, one in board.standings.items()} == {
        "e": "ok-qc-warn", "a": "ok", "b": "planned", "c": "running", "d": "planned",
    }  # fmt: skip
    snapshot = board.snapshot(seconds=3600)
    assert (snapshot.total, snapshot.done, snapshot.failed, snapshot.left) == (5, 2, 0, 3)
    assert snapshot.per_hour == 1, "what was done before does not count for the rate"
    assert snapshot.seconds_left == 3 * 3600
    assert sum(snapshot.counts.values()) == 5
    again = fold([BEGIN, *planned("a"), started("a"), BEGIN, *planned("a")])
    assert again.standings["a"].state == "planned", "a second coordinator starts afresh"


def test_what_a_dead_coordinator_left_running_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, BEGIN, *planned("a", "b"), started("a"), OK, started("b", attempt=2))
    (left,) = left_running(path)
    assert (left.id, left.state, left.attempt) == ("b", "killed", 2)
    assert left_running(tmp_path / "none.jsonl") == []


def test_the_status_says_whether_a_coordinator_holds_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "journal-1of2.jsonl", BEGIN, *planned("a"))  # its pid is alive, but holds nothing
    (told,) = status(tmp_path)
    assert (told.alive, told.ended) == (False, None)
    with held(tmp_path, "-1of2"):
        assert status(tmp_path)[0].alive
    with held(tmp_path, "-2of2"):
        assert not status(tmp_path)[0].alive
    with pytest.raises(NoInputError):
        status(tmp_path / "elsewhere")


def test_a_shard_that_the_whole_has_taken_over_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "journal-1of2.jsonl", BEGIN, *planned("a"), started("a"))
    write(tmp_path / "journal.jsonl", BEGIN.model_copy(update={"time": T1}), *planned("a"))
    assert [one.journal.name for one in status(tmp_path)] == ["journal.jsonl"]
    write(tmp_path / "journal-2of2.jsonl", BEGIN.model_copy(update={"time": T1.replace("01:00", "02:00")}))
    assert [one.journal.name for one in status(tmp_path)] == ["journal.jsonl", "journal-2of2.jsonl"]


def test_a_journal_without_its_head_and_with_bad_times_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, started("a"), OK, started("b"))
    assert [one.id for one in left_running(path)] == ["b"]
    path.write_text(BEGIN.model_dump_json().replace(T0, "yesterday") + "\n")
    assert left_running(path) == []
    with pytest.raises(DataError, match="understood"):
        status(tmp_path)
