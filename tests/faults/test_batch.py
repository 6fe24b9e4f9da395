"""Faults 67 to 69 and the promise of a batch: one bad case of any kind changes nothing for the others.

Through the whole command line with real workers and toy methods; the runner alone is tried with pretending workers in
tests/test_cohort_runner.py, the Dask engine in tests/test_cohort_dask.py.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import pipeline_phantoms as phantoms  # noqa: E402  # beside the tests, found by the line above

from neuroreg.cohort.journal import read_journal  # noqa: E402
from neuroreg.io.tables import read_csv  # noqa: E402

pytestmark = pytest.mark.faults

COMMON = ["--affine", "none", "--outputs", "image,transform", "--jobs", "2"]
GOOD = {"001": "toy", "NA": "toy", "also-good": "toy"}


def batch(folder: Path, manifest: str, out: str, *options: str) -> subprocess.CompletedProcess[str]:
    """``neuroreg batch`` in a process of its own."""
    words = [sys.executable, str(TESTS / "toy_cli.py"), "batch", manifest, "-o", out, *COMMON, *options]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def write_manifest(path: Path, methods: Mapping[str, str]) -> None:
    """A case for each id; what stands behind a blank in the method is its ``set`` cell."""
    lines = ["id,fixed,moving,method,set"]
    for name, method in methods.items():
        method, _, options = method.partition(" ")
        moving = "damaged.nii.gz" if method == "damaged" else "moving.nii.gz"
        lines.append(f"{name},fixed.nii.gz,{moving},{method.replace('damaged', 'toy')},{options}")
    path.write_text("\n".join(lines) + "\n")


def outputs(out: Path) -> dict[str, bytes]:
    """Every output of the finished cases; of the records what does not depend on the time."""
    found = {}
    for path in sorted(out.glob("*/*")):
        if path.parts[-2] == ".work":
            continue
        name = str(path.relative_to(out))
        if path.name == "run.json":
            record = json.loads(path.read_text())
            for moving in ("started", "finished", "seconds", "argv"):
                del record[moving]
            found[name] = json.dumps(record).encode()
        else:
            found[name] = path.read_bytes()
    return found


def states(out: Path) -> dict[str, str]:
    """id -> state, from summary.csv."""
    return {row["id"]: row["state"] for row in read_csv(out / "summary.csv")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair, a damaged scan, and the outputs of a clean batch in ``clean``."""
    folder = tmp_path_factory.mktemp("cohort")
    phantoms.save_pair(folder)
    whole = (folder / "moving.nii.gz").read_bytes()
    (folder / "damaged.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_manifest(folder / "clean.csv", GOOD)
    done = batch(folder, "clean.csv", "clean")
    assert done.returncode == 0, done.stderr
    return folder


def test_68_a_batch_with_every_kind_of_bad_case_equals_one_without_them(folder: Path) -> None:
    bad = {
        "raises": "brokentoy",
        "killed-once": f"killtoy marker={folder / 'mark'}",
        "killed": "killtoy",
        "hangs": "hangtoy",
        "eats": "memorytoy megabytes=3000",
        "damaged": "damaged",
    }
    write_manifest(folder / "mixed.csv", {**bad, **GOOD})
    done = batch(folder, "mixed.csv", "mixed", "--case-timeout", "12", "--memory-limit", "1500")
    assert done.returncode == 8, done.stderr
    assert "Traceback" not in done.stderr
    found = states(folder / "mixed")
    assert {name: found[name] for name in bad} == {
        "raises": "failed-bug", "killed-once": "ok-qc-warn", "killed": "killed", "hangs": "timeout",
        "eats": "killed", "damaged": "failed-data",
    }  # fmt: skip
    clean, mixed = outputs(folder / "clean"), outputs(folder / "mixed")
    assert len(clean) == 9
    assert {name: data for name, data in mixed.items() if name in clean} == clean
    assert {name.split("/")[0] for name in mixed} == {*GOOD, "killed-once"}
    assert [path.name for path in (folder / "mixed" / ".work").iterdir()] == ["lock"]
    failed = {row["id"]: row for row in read_csv(folder / "mixed" / "failed.csv")}
    assert set(failed) == set(bad) - {"killed-once"}
    assert failed["damaged"]["exit_code"] == "65"
    assert "memory" in failed["eats"]["message"]
    ends = [event for event in read_journal(folder / "mixed" / "journal.jsonl")[0] if event.event == "end"]
    assert sum(ends[-1].counts.values()) == 9


def test_69_a_resumed_batch_makes_what_changed_and_says_why(folder: Path) -> None:
    write_manifest(folder / "edited.csv", GOOD)
    assert batch(folder, "edited.csv", "edited").returncode == 0
    before = {name: (folder / "edited" / name / "run.json").read_bytes() for name in GOOD}
    write_manifest(folder / "edited.csv", {**GOOD, "NA": "toy amplitude=2", "new": "toy"})
    done = batch(folder, "edited.csv", "edited", "--resume")
    assert done.returncode == 0, done.stderr
    assert "made again: NA: the setting options changed" in " ".join(done.stderr.split())
    after = {name: (folder / "edited" / name / "run.json").read_bytes() for name in GOOD}
    assert [name for name in GOOD if before[name] == after[name]] == ["001", "also-good"]
    assert set(states(folder / "edited")) == {*GOOD, "new"}
    # a failed.csv is a manifest; nothing failed, so it has no rows
    refused = batch(folder, "edited/failed.csv", "none")
    assert refused.returncode == 2
    assert "no cases" in refused.stderr


def test_68_the_coordinator_killed_and_resumed_gives_what_a_clean_batch_gives(folder: Path) -> None:
    write_manifest(folder / "killed.csv", {**GOOD, "late": "toy seconds=3"})
    words = [sys.executable, str(TESTS / "toy_cli.py"), "batch", "killed.csv", "-o", "killed", *COMMON]
    with subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        journal = folder / "killed" / "journal.jsonl"
        wait_for(lambda: journal.exists() and b'"ok"' in journal.read_bytes())
        process.send_signal(signal.SIGKILL)
    (worker,) = {event.pid for event in read_journal(journal)[0] if event.event == "started"}
    wait_for(lambda: not alive(worker), within_s=3.0)
    said = subprocess.run(
        [sys.executable, str(TESTS / "toy_cli.py"), "batch", "--status", "killed"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "killed (go on with --resume)" in said.stdout
    done = batch(folder, "killed.csv", "killed", "--resume")
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stderr
    clean, resumed = outputs(folder / "clean"), outputs(folder / "killed")
    assert {name: data for name, data in resumed.items() if not name.startswith("late")} == clean
    assert [path.name for path in (folder / "killed" / ".work").iterdir()] == ["lock"]


def test_57_two_batches_on_one_folder(folder: Path) -> None:
    write_manifest(folder / "two.csv", {"a": "toy seconds=2", "b": "toy"})
    words = [sys.executable, str(TESTS / "toy_cli.py"), "batch", "two.csv", "-o", "two", *COMMON]
    runs = [
        subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    told = [(process.communicate(timeout=60)[1], process.returncode) for process in runs]
    assert sorted(code for _, code in told) in ([0, 75], [0, 73])
    assert {name.split("/")[0] for name in outputs(folder / "two")} == {"a", "b"}


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(happened: object, within_s: float = 60.0) -> None:
    """Until ``happened()``; fails after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
