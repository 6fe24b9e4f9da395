"""neuroreg batch on the command line, with workers that only pretend (tests/fake_worker.py)."""

import json
import sys
from pathlib import Path

import pytest
from test_cohort_runner import FAKE

from neuroreg.cli import batch, batch_view, run
from neuroreg.cohort import process
from neuroreg.cohort.board import Board
from neuroreg.cohort.case import Cohort
from neuroreg.io.tables import read_csv
from neuroreg.methods import METHODS
from neuroreg.registry import Entry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three scans, of which one will fail, and a manifest."""
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-S", "-E", str(FAKE)))
    monkeypatch.setitem(METHODS, "pretended", Entry("test_cohort_runner:Pretended", "for tests"))
    monkeypatch.chdir(tmp_path)
    for name in ("fixed", "a", "b", "c"):
        (tmp_path / f"{name}.nii.gz").write_bytes(name.encode())
    rows = ["id,moving,set", "001,a.nii.gz,", "NA,b.nii.gz,act=data", "c,c.nii.gz,verdict=look"]
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


BATCH = [
    "batch",
    "cohort.csv",
    "-o",
    "out",
    "--fixed",
    "fixed.nii.gz",
    "--method",
    "pretended",
    "--outputs",
    "image",
]


def test_a_cohort_with_a_bad_case(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BATCH) == 8
    told = capsys.readouterr()
    assert told.out == "out\n"
    assert "NA: failed-data: it was data" in told.err
    assert "done 2 of 3 (1 to look at), failed 1" in told.err
    assert {path.name for path in (folder / "out").iterdir() if not path.name.startswith(".")} == {
        "001", "c", "journal.jsonl", "summary.csv", "summary.json", "failed.csv", "group.html", "group.csv",
    }  # fmt: skip
    assert "001" in (folder / "out" / "group.csv").read_text()
    (failed,) = read_csv(folder / "out" / "failed.csv")
    assert (failed["id"], failed["method"], failed["outputs"]) == ("NA", "pretended", "image")
    assert run(BATCH) == 73
    assert "--resume" in capsys.readouterr().err
    rows = (folder / "cohort.csv").read_text().replace("act=data", "")
    (folder / "cohort.csv").write_text(rows)
    assert run([*BATCH, "--resume", "--json"]) == 0
    told = capsys.readouterr()
    answer = json.loads(told.out)
    assert answer["counts"]["ok"] == 2
    assert answer["status"] == "ok"
    assert "2 done before" in told.err


def test_failed_csv_asks_for_the_same_again_wherever_it_lies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*BATCH, "--set", "seconds=0.03", "--seed", "7"]) == 8
    assert run(["batch", "out/failed.csv", "-o", "out", "--resume"]) == 2, (
        "the summary of the whole would be lost"
    )
    (folder / "elsewhere").mkdir()
    text = (folder / "out" / "failed.csv").read_text().replace('act=""data""', 'act=""ok""')
    (folder / "elsewhere" / "again.csv").write_text(text)
    assert run(["batch", "elsewhere/again.csv", "-o", "third"]) == 0
    record = json.loads((folder / "third" / "NA" / "run.json").read_text())["config"]
    assert (record["method"], record["outputs"], record["seed"]) == ("pretended", ["image"], 7)
    assert record["options"] == {"act": "ok", "seconds": 0.03}
    assert (folder / "third" / "NA" / "moved.nii.gz").read_bytes() == b"fixedb"


@pytest.mark.parametrize(
    ("words", "found"), [([], False), (["--find-brain"], True), (["--no-find-brain"], False)]
)
def test_brains_are_found_when_asked_for(
    words: list[str], found: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohorts: list[Cohort] = []
    monkeypatch.setattr(batch, "execute", lambda cohort, *given, **more: cohorts.append(cohort))
    assert run([*BATCH, *words]) == 0
    assert {case.config.find_brain for case in cohorts[0].cases} == {found}


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*BATCH, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["cases"], plan["to_make"], plan["ids"]) == (3, 3, ["001", "NA", "c"])
    assert not (folder / "out").exists()


def test_the_status_from_another_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(BATCH)
    capsys.readouterr()
    assert run(["batch", "--status", "out"]) == 0
    told = capsys.readouterr().out
    assert "journal.jsonl: ended, done 2 of 3 (1 to look at), failed 1" in told
    assert "NA: failed-data: it was data" in told
    assert run(["batch", "--status", "out", "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["parts"]
    assert (part["counts"]["ok"], part["exit_code"], part["running"]) == (1, 8, [])
    assert run(["batch", "--status", "nowhere"]) == 66


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["batch"], "the cohort is missing"),
        (["batch", "cohort.csv"], "the output folder is missing"),
        (["batch", "--status", "out", "-o", "out"], "--status runs nothing"),
        ([*BATCH, "--resume", "--overwrite"], "give one of them"),
        ([*BATCH, "--shard", "3-8"], "expected I/N"),
        ([*BATCH, "--shard", "9/8"], "does not exist"),
        ([*BATCH, "--workers", "2"], "for --engine dask"),
        ([*BATCH, "--engine", "dask"], "needs --workers N"),
        ([*BATCH, "--retries", "99"], "retries"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert run(words) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (folder / "out").exists()


def test_a_shard_leaves_no_page_of_the_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*BATCH, "--shard", "1/2", "--strict-qc"]) == 3
    assert not (folder / "out" / "group.html").exists()
    assert (folder / "out" / "summary-1of2.csv").exists()
    assert run([*BATCH, "--shard", "2/2", "-q"]) == 8


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.4, "4 s"), (89, "89 s"), (600, "10 min"), (5400, "1 h 30 min"), (200_000, "2 d 7 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert batch_view.duration(seconds) == words


def test_hostile_ids_and_messages_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board.of(["a"])
    board.end("a", "failed-data", message="[red]evil\x1b[2J\nnew line", attempts=1)
    batch_view._Log(False)(board.snapshot())
    told = capsys.readouterr().err
    assert told.splitlines()[0] == "a: failed-data: [red]evil?[2J new line"
