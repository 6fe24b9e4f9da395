"""Faults 49 to 63 of the catalogue: full disks, signals, other writers, links, memory, devices, locales."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipeline_phantoms as phantoms
import torch
from catalogue_files import MOVING
from scene import OUTPUTS, TESTS, TOY, Fault, Scene, crowded

from neuroreg.io import files

PAIR = "register", "fixed.nii.gz", MOVING
FILE_TOO_LARGE = 20_000


def full_disk(scene: Scene) -> None:
    """No file may grow beyond a few kB, as on a full disk: 74, the old outputs stay, no temporary file."""
    assert scene.register().code == 0
    before = scene.files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with EFBIG, as with ENOSPC
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_TOO_LARGE, hard))
        answer = scene.register("--overwrite", "--set", "amplitude=0.5")
        converted = scene.run("convert", MOVING, "m.mha")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    for told in (answer, converted):
        assert told.code == 74
        assert told.error.count("; ") >= 2
    assert scene.files() == before


def missing_folder(scene: Scene) -> None:
    """A folder that cannot be made stops the command before it computes, whatever stands in the way."""
    (scene.folder / "file").write_text("x")
    before = scene.files()
    for place, words in (("no/such/place", "does not exist"), ("file", "is a file"), ("file/below", "")):
        answer = scene.run(*PAIR, "-o", place, *TOY)
        assert answer.code == 73
        assert words in answer.error
    assert scene.run("convert", MOVING, "no/m.mha").code == 73
    assert scene.files() == before


def read_only(scene: Scene) -> None:
    """/proc takes no files, from root neither; what the kernel refuses is told before anything is computed."""
    answer = scene.run(*PAIR, "-o", "/proc/self/out", *TOY)
    assert answer.code == 73
    if os.geteuid() != 0:
        (scene.folder / "out").mkdir(mode=0o555)
        assert scene.register().code == 73


def existing(scene: Scene) -> None:
    """Outputs that exist stay, byte for byte, until --overwrite; other files of the folder stay always."""
    (scene.folder / "out").mkdir()
    (scene.folder / "out" / "notes.txt").write_text("mine")
    assert scene.register().code == 0
    before = scene.files()
    answer = scene.register("--set", "amplitude=0.5")
    assert answer.code == 73
    assert "--overwrite" in answer.error
    assert scene.files() == before
    assert scene.register("--set", "amplitude=0.5", "--overwrite").code == 0
    assert scene.files()["out/transform.h5"] != before["out/transform.h5"]
    assert scene.files()["out/notes.txt"] == b"mine"


def child(folder: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """``neuroreg register`` in a process of its own."""
    command = [sys.executable, str(TESTS / "toy_cli.py"), *PAIR, *words]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@contextmanager
def sleeping(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """A run that holds its folder and sleeps in its method."""
    started = child(folder, "-o", "out", *TOY, "--set", "seconds=60", "-v", *options)
    until = time.monotonic() + 120
    while time.monotonic() < until and started.poll() is None:
        if (folder / "out" / files.LOCK_NAME).exists():
            break
        time.sleep(0.05)
    time.sleep(0.5)  # into the method
    assert started.poll() is None, started.communicate()
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def stopped_by(number: signal.Signals) -> Any:
    """A play: the signal ends the run within seconds, and nothing of it is left."""

    def play(scene: Scene) -> None:
        before = scene.files()
        with sleeping(scene.folder) as running:
            start = time.monotonic()
            running.send_signal(number)
            out, err = running.communicate(timeout=30)
            assert time.monotonic() - start < 5 * crowded()
            assert running.returncode == 128 + number
        assert out == ""
        assert "Traceback" not in err
        assert "nothing was left half-written" in err
        assert scene.files() == before

    return play


def killed(scene: Scene) -> None:
    """After SIGKILL the old outputs are whole; the next start takes away what the dead left, and finishes."""
    assert scene.register("--set", "amplitude=0.5").code == 0
    before = scene.files()
    with sleeping(scene.folder, "--overwrite") as running:
        running.kill()
        running.wait(30)
    after = scene.files()
    assert {name: after[name] for name in before} == before
    orphan = f".moved.tmp-{files._host()}-{running.pid}-0123abcd.nii.gz"
    (scene.folder / "out" / orphan).write_text("half")
    assert scene.register("--overwrite").code == 0
    assert sorted(os.listdir(scene.folder / "out")) == OUTPUTS


def second_interrupt(scene: Scene) -> None:
    """Ctrl-C during the tidying up of the first Ctrl-C ends the process at once."""
    code = (
        "import os, signal, sys, time; sys.argv = ['neuroreg', 'methods'];"
        "from neuroreg import cli;"
        "from neuroreg.registry import Entry\n"
        "def command() -> None:\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9); print('too late')\n"
        "cli.slow = command; cli.COMMANDS['methods'] = Entry('neuroreg.cli:slow', ''); cli.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")


def closed_streams(scene: Scene) -> None:
    """`| head` that went away ends quietly with 141; without any standard stream a run does its work."""
    program = f"{sys.executable} {TESTS / 'toy_cli.py'}"
    piped = f"set -o pipefail; {program} methods --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141), done.stderr
    assert done.stderr == ""
    words = f"{program} {' '.join(PAIR)} -o out {' '.join(TOY)} --json <&- >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", words], cwd=scene.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert set(scene.record()["outputs"]) == {"moved.nii.gz", "transform.h5"}
    read = scene.run("convert", "out/moved.nii.gz", "moved.mha")  # no stream has got into an output
    assert read.code == 0


def second_run(scene: Scene) -> None:
    """While one run holds the folder, another is turned away, and the first goes on."""
    with sleeping(scene.folder) as running:
        answer = scene.register()
        assert answer.code == 75
        assert "another run" in answer.error
        assert running.poll() is None


def link(scene: Scene) -> None:
    """The link stays, its target is replaced."""
    folder = scene.folder
    (folder / "out").mkdir()
    (folder / "store").mkdir()
    (folder / "store" / "m.nii.gz").write_text("old")
    (folder / "out" / "moved.nii.gz").symlink_to(folder / "store" / "m.nii.gz")
    assert scene.register("--overwrite").code == 0
    assert (folder / "out" / "moved.nii.gz").is_symlink()
    assert (folder / "store" / "m.nii.gz").stat().st_size > 1000
    assert os.listdir(folder / "store") == ["m.nii.gz"]


def mode(scene: Scene) -> None:
    """Every output has the mode that the umask gives to ordinary files."""
    for mask in (0o022, 0o077):
        before = os.umask(mask)
        try:
            assert scene.register("--overwrite").code == 0
        finally:
            os.umask(before)
        modes = {stat.S_IMODE((scene.folder / "out" / name).stat().st_mode) for name in OUTPUTS}
        assert modes == {0o666 & ~mask}


def temporary_names(scene: Scene) -> None:
    """Half-written files are hidden, lie where their target does and end as it does: writers go by the ending."""
    seen: list[tuple[Path, Path]] = []
    rename = os.replace

    def watched(source: Any, target: Any, **options: Any) -> None:
        seen.append((Path(source), Path(target)))
        rename(source, target, **options)

    scene.patch.setattr(os, "replace", watched)
    assert scene.register("--overwrite").code == 0
    pairs = [(a, b) for a, b in seen if b.name in OUTPUTS]
    assert {b.name for _, b in pairs} == set(OUTPUTS)
    for temporary, target in pairs:
        inside = temporary.relative_to(target.parent)
        assert inside.parts[0].startswith(".")
        assert files.suffix_of(temporary) == files.suffix_of(target)


def memory_runs_out(scene: Scene) -> None:
    """An allocation that fails in the middle of a run: 75, nothing left. (In a batch the case is `killed`: see 68.)"""
    before = scene.files()

    def predict(self: Any, fixed: Any, moving: Any, start: Any = None) -> Any:
        torch.empty(1 << 60, dtype=torch.uint8)

    scene.patch.setattr(phantoms.Toy, "predict", predict)
    answer = scene.register()
    assert answer.code == 75
    assert "memory ran out" in answer.error
    assert scene.files() == before


def full_card(scene: Scene) -> None:
    """A card without room: once more on the processor, recorded; an explicit device is not given up."""
    calls: list[object] = []

    def predict(self: Any, fixed: Any, moving: Any, start: Any = None) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return phantoms.Toy.predict(self, fixed, moving, start)

    scene.patch.setattr(phantoms.OutOfMemoryToy, "predict", predict)
    toy = ("--method", "outofmemorytoy", *TOY[2:])
    assert scene.register(toy=toy).code == 0
    assert scene.record()["device"] == "cpu"
    assert any("the CPU was used" in warning for warning in scene.record()["warnings"])
    calls.clear()
    assert scene.register("--device", "cpu", "--overwrite", toy=toy).code == 75


def locale(scene: Scene) -> None:
    """A German locale, another time zone: the record has decimal points and UTC."""
    done = child(
        scene.folder, "-o", "out", *TOY, LC_ALL="de_DE.UTF-8", LC_NUMERIC="de_DE.UTF-8", TZ="Asia/Kathmandu"
    )
    done.communicate(timeout=120)
    assert done.returncode == 0
    found = scene.record()
    assert found["started"].endswith("+00:00")
    assert isinstance(found["seconds"]["total"], float)


def clock_jumps(scene: Scene) -> None:
    """The clock of the machine set back by an hour in the middle: seconds are still those that passed."""
    now = time.time
    scene.patch.setattr(time, "time", lambda: now() - 3600)
    assert scene.register().code == 0
    seconds = scene.record()["seconds"]
    assert all(value >= 0 for value in seconds.values())
    assert seconds["total"] < 600


def doctored(scene: Scene) -> None:
    """`neuroreg doctor` names versions and devices, so that a mismatch of driver and torch can be seen."""
    answer = scene.run("doctor", "--json")
    assert answer.code in (0, 69)
    found = json.loads(answer.out)
    assert torch.__version__ in json.dumps(found)


FAULTS = (
    Fault(49, "disk full", 74, "the old outputs stay, byte for byte; no temporary file", play=full_disk),
    Fault(50, "the folder is missing, or is a file", 73, "told before anything is computed", play=missing_folder),
    Fault(50, "read-only", 73, "told before anything is computed", play=read_only),
    Fault(51, "the output exists", 73, "it stays until --overwrite (or --resume of a batch)", play=existing),
    Fault(52, "SIGINT", 130, "nothing is left", play=stopped_by(signal.SIGINT)),
    Fault(53, "SIGTERM", 143, "nothing is left", play=stopped_by(signal.SIGTERM)),
    Fault(53, "the terminal is closed (SIGHUP)", 129, "nothing is left", play=stopped_by(signal.SIGHUP)),
    Fault(54, "SIGKILL, power cut", 0, "old outputs are whole; the next start tidies up", play=killed),
    Fault(55, "a second SIGINT", 130, "ends at once", play=second_interrupt),
    Fault(56, "stdout closed early", 141, "quiet: 0 or 141; without standard streams a run is done",
          play=closed_streams),
    Fault(57, "two runs, one output", 75, "the second is turned away, the first goes on", play=second_run),
    Fault(58, "the output is a link", 0, "the link stays, its target is replaced", play=link),
    Fault(59, "mode of the outputs", 0, "as the umask says, not 0600", play=mode),
    Fault(60, "names of temporary files", 0, "hidden, beside the target, with its suffix", play=temporary_names),
    Fault(61, "memory runs out", 75, "nothing is left; in a batch the case is killed, the rest goes on",
          play=memory_runs_out),
    Fault(62, "no such card", 69,
          "device cuda:99 is not available (0 CUDA devices); use --device auto",
          words=(*PAIR, "-o", "out", *TOY, "--device", "cuda:99")),
    Fault(62, "the card is full", 0, "once more on the processor, recorded; 75 with an explicit --device",
          play=full_card),
    Fault(63, "another locale and time zone", 0, "decimal points, UTC", play=locale),
    Fault(63, "the clock jumps", 0, "seconds are those that passed", play=clock_jumps),
    Fault(63, "driver and torch do not match", 0, "neuroreg doctor names both", play=doctored),
)  # fmt: skip
