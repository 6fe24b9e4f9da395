"""The command line in a process of its own that lives long: what each command says, costs, and whether it crashes.

The command runs as it does from a shell, but for the start of Python and torch, which would take three seconds each
time. ``python commands.py`` is that process.
"""

import json
import os
import selectors
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """How one command ended."""

    code: int | None
    """None: it crashed, or did not end in time"""
    out: str
    err: str
    grown: int
    """bytes by which the memory of the process was larger, at its highest, than before the command"""
    hung: bool = False

    @property
    def errors(self) -> list[str]:
        """The lines of error on stderr."""
        return [line for line in self.err.splitlines() if line.startswith("neuroreg: error[")]

    @property
    def foreign(self) -> list[str]:
        """Lines on stderr that are not the program's own: of a library, a traceback."""
        return [line for line in self.err.splitlines() if not line.startswith("neuroreg: ")]


class Shell:
    """Runs commands one after the other; one that crashes or hangs takes the process with it, not the campaign."""

    def __init__(self, *, seconds: float = 10.0) -> None:
        """``seconds``: a command that takes longer hangs."""
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, *words: str | Path) -> Outcome:
        """One command, without the word neuroreg."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it is dead: there will be no answer
            process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            hung = not waiting.select(self._seconds)
        answer = "" if hung else process.stdout.readline()
        if not answer:
            self._stop()
            return Outcome(None, "", "", 0, hung=hung)
        return Outcome(**json.loads(answer))

    def _start(self) -> "subprocess.Popen[str]":
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has loaded everything
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError):
                self._process.communicate()
        self._process = None


def serve() -> None:
    """Read commands from stdin, a JSON list of words a line, and answer with an outcome a line on what stdout was."""
    import ctypes
    import functools
    import gc
    import tempfile

    import SimpleITK  # noqa: F401  # as every command that reads; its memory is not the file's
    import torch  # noqa: F401

    from neuroreg import cli
    from neuroreg.pipeline import doctor_files, transforms  # noqa: F401

    cli.load_command = functools.cache(
        cli.load_command
    )  # made anew each time it would cost half of the campaign
    answers = os.fdopen(os.dup(1), "w")
    streams = [tempfile.TemporaryFile(mode="w+b") for _ in range(2)]  # noqa: SIM115  # open to the end
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
    print("{}", file=answers, flush=True)
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
    gc.freeze()  # what was imported is no garbage to look through
    for line in sys.stdin:
        gc.collect()
        give_back(0)
        before = _lowered_peak()
        code = cli.run(json.loads(line))
        grown = _memory("VmHWM") - before
        said: list[Any] = []
        for stream, own in zip(streams, (sys.stdout, sys.stderr), strict=True):
            own.flush()
            stream.seek(0)
            said.append(stream.read().decode("utf-8", "replace"))
            stream.seek(0)
            stream.truncate()
        out, err = said
        print(json.dumps({"code": code, "out": out, "err": err, "grown": grown}), file=answers, flush=True)


def _lowered_peak() -> int:
    """Memory in use now, bytes; from here on the kernel counts its peak anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


if __name__ == "__main__":
    serve()
