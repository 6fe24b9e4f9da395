"""What the crash campaigns have in common: commands in processes of their own, and what may be found after them."""

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT)]

import pipeline_phantoms as phantoms  # noqa: E402  # beside the tests, found by the line above
import toy_worker  # noqa: E402

from neuroreg import cli  # noqa: E402
from neuroreg.cohort import worker  # noqa: E402

TOY = (sys.executable, str(TESTS / "toy_cli.py"))
REAL = (sys.executable, "-m", "neuroreg")
MARK = "NEUROREG_CAMPAIGN"
"""In the environment of a command and of all that it starts."""
TOY_METHOD = ["--method", "toy", "--affine", "none", "--threads", "1", "-q"]
TOY_REGISTER = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", *TOY_METHOD]
CHANGING = frozenset({"started", "finished", "seconds", "argv"})
"""What differs between two runs that do the same, in ``run.json``."""


def pair(folder: Path) -> Path:
    """A folder with fixed.nii.gz and moving.nii.gz, their label maps, and three cases in cases.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    phantoms.save_pair(folder)
    phantoms.save_labels(folder)
    rows = [f"{name},fixed.nii.gz,moving.nii.gz,toy,{more}" for name, more in
            (("001", ""), ("NA", "amplitude=0.5"), ("also-good", "amplitude=1"))]  # fmt: skip
    (folder / "cases.csv").write_text("\n".join(["id,fixed,moving,method,set", *rows]) + "\n")
    return folder


def environment(mark: str = "", **more: str) -> dict[str, str]:
    """Of a command: one thread, the code of this checkout, and a mark to know its processes by."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOY_SIDES": "unjudged",
            MARK: mark, **more}  # fmt: skip


def name_process(mark: str) -> None:
    """Mark this process and all that it forks, whose environment the kernel goes on showing as it was."""
    ctypes.CDLL(None).prctl(15, mark[:15].encode(), 0, 0, 0)  # PR_SET_NAME


class ForkedWorker:
    """In place of ``subprocess.Popen`` within a forked batch: its worker is another fork, in a session of its own."""

    def __init__(
        self, words: Sequence[str], *, stderr: IO[bytes], env: Mapping[str, str], **rest: object
    ) -> None:
        jobs, said = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for handle, number in ((jobs[0], 0), (said[1], 1), (stderr.fileno(), 2)):
                    os.dup2(handle, number)
                os.closerange(3, 64)
                os.environ.update(env)
                sys.argv = ["worker", words[-1]]
                sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # until the process ends
                worker.main()
            finally:
                os._exit(70)
        os.close(jobs[0])
        os.close(said[1])
        self.stdin, self.stdout = open(jobs[1], "w", encoding="utf-8"), open(said[0], encoding="utf-8")  # noqa: SIM115

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended."""
        until = time.monotonic() + (timeout if timeout is not None else 1e9)
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            else:
                time.sleep(0.01)
        return self.returncode


class Forked:
    """The command line with the toys in a fork of this process, which has imported all: no second is lost on that."""

    def __init__(self, words: Sequence[str], folder: Path, mark: str) -> None:
        self.returncode: int | None = None
        self._err = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                name_process(mark)
                os.chdir(folder)
                os.environ.update(environment(mark))
                os.dup2(self._err.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                sys.argv = list(words[1:])
                cli.main(words[2:])
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait, and what it said on the error stream."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self._err.closed:
            return "", ""
        self._err.seek(0)
        with self._err:
            return "", self._err.read().decode("utf-8", "replace")


def load() -> None:
    """Import what a command imports, and nothing that starts a thread: forks of a process with threads may hang."""
    import SimpleITK  # noqa: F401
    import torch

    from neuroreg.cohort import lane, process, runner  # noqa: F401
    from neuroreg.methods import affine  # noqa: F401
    from neuroreg.pipeline import register  # noqa: F401
    from neuroreg.report import group, page  # noqa: F401

    torch.set_num_threads(1)
    os.environ["TOY_SIDES"] = "unjudged"
    toy_worker.register_toys()
    process.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=ForkedWorker, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    for name in ("register", "batch"):
        cli.load_command(name)


def begin(words: Sequence[str], folder: Path, mark: str, *, cold: bool) -> "Forked | subprocess.Popen[str]":
    """A command: with the toys a fork, unless it is to start ``cold``, as a user starts it."""
    return start(words, folder, mark) if cold or tuple(words[:2]) != TOY else Forked(words, folder, mark)


def start(words: Sequence[str], folder: Path, mark: str = "", **more: str) -> "subprocess.Popen[str]":
    """A command in a process group of its own."""
    return subprocess.Popen(
        words, cwd=folder, env=environment(mark, **more), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


class Told(NamedTuple):
    """How a command ended."""

    returncode: int
    stderr: str


def call(
    words: Sequence[str], folder: Path, *, user: int | None = None, cold: bool = False, **more: str
) -> Told:
    """A command from start to end; ``user`` and what is ``more`` in its environment need one that starts ``cold``."""
    if not cold:
        process = begin(words, folder, "", cold=False)
        err = process.communicate()[1]
        return Told(int(process.returncode or 0), err)
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment(**more),
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
        user=user,
    )
    return Told(done.returncode, done.stderr)


def living(mark: str) -> list[int]:
    """Processes that carry the mark and are no zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            named = (entry / "comm").read_text().strip() == mark[:15]
            given = f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
            if state != "Z" and (named or given):
                found.append(int(entry.name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def kill(process: "Forked | subprocess.Popen[str]", mark: str, *, everything: bool) -> None:
    """SIGKILL: to the process alone, or to all that carry the mark, as the kernel ends a container."""
    for pid in {process.pid, *(living(mark) if everything else [])} if process.poll() is None else set():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def gone(mark: str, *, within_s: float = 15.0) -> bool:
    """Whether nothing that carries the mark lives on; a worker that imports torch notices a little later."""
    until = time.monotonic() + within_s
    while living(mark):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path; nothing when the folder is missing."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink()}  # fmt: skip


def sha256(data: bytes) -> str:
    """The hex digest."""
    return hashlib.sha256(data).hexdigest()


def settled(record: bytes) -> dict[str, object]:
    """A ``run.json`` without what differs between two runs that do the same; figures to ten digits.

    The least squares behind one figure of quality give its last bit by where in memory the points lie.
    """
    found = json.loads(record, parse_float=lambda text: float(f"{float(text):.10g}"))
    return {name: value for name, value in found.items() if name not in CHANGING}


def differences(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """Files that are not alike in two output folders; of a record the keys, without the times."""
    found = sorted(one.keys() ^ other.keys())
    for name in sorted(one.keys() & other.keys()):
        if Path(name).name == "run.json":
            first, second = settled(one[name]), settled(other[name])
            found += [f"{name}: {key}" for key in first if first[key] != second.get(key)]
        elif one[name] != other[name]:
            found.append(name)
    return found


def partial(found: Mapping[str, bytes], *runs: Mapping[str, bytes]) -> list[str]:
    """Those files of one output folder that none of the ``runs`` has left, byte for byte; and a run.json that lies."""
    bad = []
    for name, data in found.items():
        if name.startswith("."):
            continue
        if name != "run.json":
            if not any(run.get(name) == data for run in runs):
                bad.append(name)
            continue
        try:
            told = json.loads(data)["outputs"]
        except (ValueError, KeyError):
            bad.append(name)
            continue
        if any(sha256(found.get(other, b"")) != said["sha256"] for other, said in told.items()):
            bad.append("run.json names other files")
    return bad


def temporary(found: Mapping[str, bytes]) -> list[str]:
    """Temporary files and locks among the names; ``.work/lock`` of a batch stays, and alone locks nothing."""
    return [name for name in found if any(part.startswith(".") for part in Path(name).parts)
            and name != os.path.join(".work", "lock")]  # fmt: skip


def one_line(err: str, code: int) -> bool:
    """Whether exactly one line of the error stream is an error, of that code, and none is a traceback."""
    lines = [line for line in err.splitlines() if "error[" in line]
    return len(lines) == 1 and lines[0].startswith(f"neuroreg: error[{code}]: ") and "Traceback" not in err
