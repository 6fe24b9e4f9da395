"""Where a fault of the catalogue is played: a folder with a pair, a command that runs in it, and what must hold."""

import io
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from neuroreg.cli import run  # noqa: E402

TOY = ("--method", "toy", "--affine", "none", "--threads", "1", "--outputs", "image,transform")
OUTPUTS = ["moved.nii.gz", "run.json", "transform.h5"]


@dataclass(frozen=True)
class Answer:
    """Exit code and both streams of one command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What the one line of the error says, after its prefix; the rest of stderr is no traceback."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if "error[" in line]
        assert len(lines) == 1, self.err
        prefix = f"neuroreg: error[{self.code}]: "
        assert lines[0].startswith(prefix), self.err
        return lines[0].removeprefix(prefix)

    @property
    def warnings(self) -> list[str]:
        """What the warnings say."""
        prefix = "neuroreg: warning: "
        return [line.removeprefix(prefix) for line in self.err.splitlines() if line.startswith(prefix)]


@dataclass(frozen=True)
class Scene:
    """``folder`` is the working directory and holds fixed.nii.gz and moving.nii.gz, heads on unlike oblique grids."""

    folder: Path
    patch: pytest.MonkeyPatch

    def run(self, *words: str) -> Answer:
        """One command in this process."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run(list(words))
        return Answer(code, out.getvalue(), err.getvalue())

    def register(self, *options: str, moving: str = "moving.nii.gz", toy: tuple[str, ...] = TOY) -> Answer:
        """The pair of the scene into ``out``."""
        return self.run("register", "fixed.nii.gz", moving, "-o", "out", *toy, *options)

    def record(self) -> Any:
        """The run.json of ``out``."""
        return json.loads((self.folder / "out" / "run.json").read_text())

    def files(self) -> dict[str, bytes]:
        """Every file below the folder with its content, by its path; of what is no plain file the kind alone."""
        found = {}
        for path in self.folder.rglob("*"):
            name = (
                str(path.relative_to(self.folder)).encode(errors="surrogateescape").decode(errors="replace")
            )
            found[name] = path.read_bytes() if path.is_file() else b""
        return found


@dataclass(frozen=True)
class Fault:
    """One way to go wrong, and the answer: either the data of a standard check, or a ``play`` with its own."""

    number: int
    """in the catalogue"""
    name: str
    code: int
    """the exit code"""
    says: str
    """what the command says after ``neuroreg: error[CODE]:`` or ``neuroreg: warning:``; … stands for anything.
    Of a fault with its own play: what happens, in words"""
    make: Callable[[Path], object] | None = None
    """spoils the folder"""
    moving: str = "moving.nii.gz"
    words: tuple[str, ...] | None = None
    """the command; None: register the pair"""
    play: Callable[[Scene], object] | None = None

    @property
    def title(self) -> str:
        """Number and name, two digits first so that they sort."""
        return f"{self.number:02d} {self.name}"


def crowded() -> float:
    """How many times slower than alone this machine may be now: what waits for others waits so much longer."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def matches(says: str, line: str) -> bool:
    """Whether a line is what the catalogue says, with anything in place of …"""
    return re.fullmatch(".*".join(re.escape(part) for part in says.split("…")), line) is not None


def check(fault: Fault, scene: Scene) -> None:
    """The standard: code, line, the same by --json, nothing left behind when it is refused."""
    if fault.make is not None:
        fault.make(scene.folder)
    if fault.play is not None:
        fault.play(scene)
        return
    words = fault.words or ("register", "fixed.nii.gz", fault.moving, "-o", "out", *TOY)
    before = scene.files()
    answer = scene.run(*words)
    assert answer.code == fault.code, answer.err
    if fault.code == 0:
        assert any(matches(fault.says, line) for line in answer.warnings), answer.err
        check_success(fault, scene, answer, before)
    else:
        assert matches(fault.says, answer.error), answer.error
        assert answer.out == ""
        check_refusal(fault, scene, words, before)


def check_refusal(fault: Fault, scene: Scene, words: tuple[str, ...], before: dict[str, bytes]) -> None:
    """Nothing is written, not even a temporary file, and --json says the same; --debug alone shows a traceback."""
    assert scene.files() == before
    told = scene.run(*words, "--json")
    assert (told.code, scene.files()) == (fault.code, before)
    given = json.loads(told.out)
    assert (given["status"], given["code"]) == ("error", fault.code)
    parts = given["error"]["what"], given["error"]["file"], given["error"]["remedy"]
    assert matches(fault.says, "; ".join(part for part in parts if part))
    assert all((parts[0], parts[2])), "every error says what is wrong and what to do"
    assert parts[1] or fault.code in (2, 69), "and which file it is about"
    assert str(scene.folder) not in told.out + told.err
    assert "Traceback" in scene.run(*words, "--debug").err


def check_success(fault: Fault, scene: Scene, answer: Answer, before: dict[str, bytes]) -> None:
    """The run is whole, what was said is in its record, and by --json the same; inputs are as they were."""
    if fault.words is not None:
        told = scene.run(*fault.words, "--json")
        assert any(matches(fault.says, line) for line in json.loads(told.out)["warnings"])
        assert scene.files() == before
        return
    assert answer.out == "out\n"
    after = scene.files()
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["out", *(f"out/{name}" for name in OUTPUTS)]
    assert any(matches(fault.says, line) for line in scene.record()["warnings"])
    told = scene.register("--json", "--overwrite", moving=fault.moving)
    assert any(matches(fault.says, line) for line in json.loads(told.out)["warnings"])
