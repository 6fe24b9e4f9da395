"""Faults 68 and 69, and 49 and 57 of a whole batch: one bad case of any kind changes nothing for the others.

Through the command line with real workers and toy methods; the runner alone is tried with pretending workers in
tests/test_cohort_runner.py, the Dask engine in tests/test_cohort_dask.py.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from catalogue_files import MOVING
from processes import alive, wait_for
from scene import TESTS, Fault, Scene, crowded

from neuroreg.cohort.journal import read_journal
from neuroreg.io.tables import read_csv

PROGRAM = sys.executable, str(TESTS / "toy_cli.py"), "batch"
COMMON = "--affine", "none", "--outputs", "image,transform", "--jobs", "2"
GOOD = {"001": "toy", "NA": "toy", "also-good": "toy"}


def batch(folder: Path, table: str, out: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """``neuroreg batch`` in a process of its own, whose workers know the toys."""
    words = [*PROGRAM, table, "-o", out, *COMMON, *options]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=120 * crowded(), check=False
    )


def write_table(path: Path, methods: Mapping[str, str]) -> None:
    """A case for each id, with its method and, after a blank, its settings. Of ``damaged`` it is the moving image."""
    lines = ["id,fixed,moving,method,set"]
    for name, said in methods.items():
        method, _, options = said.partition(" ")
        moving = "damaged.nii.gz" if method == "damaged" else MOVING
        lines.append(f"{name},fixed.nii.gz,{moving},{method.replace('damaged', 'toy')},{options}")
    path.write_text("\n".join(lines) + "\n")


def outputs(out: Path) -> dict[str, bytes]:
    """Every output of the finished cases; of the records what does not depend on the time."""
    found = {}
    for path in sorted(out.glob("*/*")):
        if path.parent.name == ".work":
            continue
        data = path.read_bytes()
        if path.name == "run.json":
            record = json.loads(data)
            kept = {key: record[key] for key in record.keys() - {"started", "finished", "seconds", "argv"}}
            data = json.dumps(kept, sort_keys=True).encode()
        found[str(path.relative_to(out))] = data
    return found


def states(out: Path) -> dict[str, str]:
    """id -> state, from summary.csv."""
    return {row["id"]: row["state"] for row in read_csv(out / "summary.csv")}


def bad_cases(scene: Scene) -> None:
    """Every kind of bad case beside good ones: each is named for what it was, and the good ones are as without them."""
    folder = scene.folder
    whole = (folder / MOVING).read_bytes()
    (folder / "damaged.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_table(folder / "clean.csv", GOOD)
    assert batch(folder, "clean.csv", "clean").returncode == 0
    bad = {
        "raises": "brokentoy", "once": f"killtoy marker={folder / 'mark'}", "killed": "killtoy", "hangs": "hangtoy",
        "eats": "memorytoy megabytes=3000", "damaged": "damaged",
    }  # fmt: skip
    write_table(folder / "mixed.csv", {**bad, **GOOD})
    done = batch(
        folder, "mixed.csv", "mixed", "--case-timeout", str(12 * crowded()), "--memory-limit", "1500"
    )
    assert done.returncode == 8, done.stderr
    assert "Traceback" not in done.stderr
    found = states(folder / "mixed")
    assert {name: found[name] for name in bad} == {
        "raises": "failed-bug", "once": "ok-qc-warn", "killed": "killed", "hangs": "timeout", "eats": "killed",
        "damaged": "failed-data",
    }  # fmt: skip
    clean, mixed = outputs(folder / "clean"), outputs(folder / "mixed")
    assert len(clean) == 9
    assert {name: data for name, data in mixed.items() if name in clean} == clean
    assert {name.split("/")[0] for name in mixed} == {*GOOD, "once"}
    assert [path.name for path in (folder / "mixed" / ".work").iterdir()] == ["lock"]
    failed = {row["id"]: row for row in read_csv(folder / "mixed" / "failed.csv")}
    assert set(failed) == set(bad) - {"once"}
    assert failed["damaged"]["exit_code"] == "65"
    assert "memory" in failed["eats"]["message"]
    ends = [event for event in read_journal(folder / "mixed" / "journal.jsonl")[0] if event.event == "end"]
    assert sum(ends[-1].counts.values()) == 9


def dead_coordinator(scene: Scene) -> None:
    """SIGKILL of the batch itself: its worker follows it, finished cases stand, --resume makes the rest."""
    folder = scene.folder
    write_table(folder / "cohort.csv", {**GOOD, "late": "toy seconds=3"})
    words = [*PROGRAM, "cohort.csv", "-o", "out", *COMMON]
    journal = folder / "out" / "journal.jsonl"
    with subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: journal.exists() and b'"ok"' in journal.read_bytes())
        process.send_signal(signal.SIGKILL)
    (worker,) = {event.pid for event in read_journal(journal)[0] if event.event == "started"}
    wait_for(lambda: not alive(worker), within_s=3.0)
    finished = outputs(folder / "out")
    said = subprocess.run(
        [*PROGRAM, "--status", "out"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert "killed (go on with --resume)" in said
    done = batch(folder, "cohort.csv", "out", "--resume")
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stderr
    assert set(states(folder / "out")) == {*GOOD, "late"}
    assert finished.items() <= outputs(folder / "out").items()
    assert [path.name for path in (folder / "out" / ".work").iterdir()] == ["lock"]


def resumed(scene: Scene) -> None:
    """What changed is made again and the reason told; the rest stays, byte for byte, records included."""
    folder = scene.folder
    write_table(folder / "cohort.csv", GOOD)
    assert batch(folder, "cohort.csv", "out").returncode == 0
    before = {name: (folder / "out" / name / "run.json").read_bytes() for name in GOOD}
    write_table(folder / "cohort.csv", {**GOOD, "NA": "toy amplitude=2", "new": "toy"})
    (folder / "out" / "001" / "moved.nii.gz").write_bytes(b"touched")
    done = batch(folder, "cohort.csv", "out", "--resume")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "NA: the setting options changed" in said
    assert "001: moved.nii.gz" in said
    after = {name: (folder / "out" / name / "run.json").read_bytes() for name in GOOD}
    assert [name for name in GOOD if before[name] == after[name]] == ["also-good"]
    assert set(states(folder / "out")) == {*GOOD, "new"}
    refused = batch(folder, "out/failed.csv", "none")  # a manifest; nothing failed, so it has no rows
    assert refused.returncode == 2
    assert "no cases" in refused.stderr


def two_batches(scene: Scene) -> None:
    """Of two batches started on one folder, one is turned away and the other is whole."""
    folder = scene.folder
    write_table(folder / "two.csv", {"a": "toy seconds=2", "b": "toy"})
    words = [*PROGRAM, "two.csv", "-o", "two", *COMMON]
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    runs = [subprocess.Popen(words, cwd=folder, **streams) for _ in range(2)]
    told = [(process.communicate(timeout=60)[1], process.returncode) for process in runs]
    assert sorted(code for _, code in told) in ([0, 75], [0, 73])
    assert {name.split("/")[0] for name in outputs(folder / "two")} == {"a", "b"}


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of 1 MB, too small for the outputs of all cases. Needs the right to mount."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def disk_fills_up(scene: Scene) -> None:
    """The disk is full in the middle of a batch: what stands is whole, and with room --resume makes the rest."""
    folder = scene.folder
    write_table(folder / "full.csv", {**GOOD, "more": "toy", "most": "toy"})
    with small_disk(folder / "disk") as disk:
        blocker, free = disk / "blocker", os.statvfs(disk)
        blocker.write_bytes(b"x" * int(free.f_bavail * free.f_bsize * 0.1))
        done = batch(folder, "full.csv", "disk/out")
        assert done.returncode in (8, 74, 75), done.stderr
        assert "Traceback" not in done.stderr
        finished = {path.parent.name for path in (disk / "out").glob("*/run.json")}
        stands = outputs(disk / "out")
        assert not [p for p in (disk / "out").glob("*/*") if p.parent.name not in finished | {".work"}]
        blocker.unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        again = batch(folder, "full.csv", "disk/out", "--resume")
        assert again.returncode == 0, again.stderr
        assert stands.items() <= outputs(disk / "out").items()
        assert set(states(disk / "out")) == {*GOOD, "more", "most"}


FAULTS = (
    Fault(49, "the disk fills up in a batch", 74, "8, 74 or 75; what stands is whole, --resume makes the rest",
          play=disk_fills_up),
    Fault(57, "two batches, one folder", 75, "one is turned away, the other is whole", play=two_batches),
    Fault(68, "a case dies, hangs, eats memory, fails", 8,
          "each is named for it (killed, timeout, failed-…); the others come out byte for byte as without it",
          play=bad_cases),
    Fault(68, "the batch itself is killed", 0, "its workers follow it; --resume makes what is missing",
          play=dead_coordinator),
    Fault(69, "resume with changed settings or outputs", 0, "these cases are made again, and the reasons told",
          play=resumed),
)  # fmt: skip
