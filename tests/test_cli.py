"""The command line: loading, help, exit codes, what goes to stdout and what to stderr."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import neuroreg
from neuroreg import cli, errors
from neuroreg.cli import COMMANDS, as_known, console, load_command, options, run
from neuroreg.registry import Entry

CODES = {
    errors.UsageError: 2,
    errors.QualityError: 3,
    errors.DataError: 65,
    errors.NoInputError: 66,
    errors.UnavailableError: 69,
    errors.InternalError: 70,
    errors.CannotCreateError: 73,
    errors.WriteError: 74,
    errors.BusyError: 75,
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make ``neuroreg methods`` fail in a chosen way."""

    def choose(error: BaseException) -> None:
        def command(json: options.Json = False, debug: options.Debug = False) -> None:
            raise error

        monkeypatch.setattr(cli, "_failing", command, raising=False)
        monkeypatch.setitem(COMMANDS, "methods", Entry("neuroreg.cli:_failing", "fails"))  # type: ignore[arg-type]

    return choose


def python(code: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(neuroreg.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, **kwargs
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_quick_and_needs_no_torch(flag: str) -> None:
    code = (
        f"import sys, resource; from neuroreg.cli import run; code = run(['{flag}']);"
        "used = resource.getrusage(resource.RUSAGE_SELF); seconds = used.ru_utime + used.ru_stime;"
        "print(code, 'torch' in sys.modules, 'SimpleITK' in sys.modules, seconds, file=sys.stderr)"
    )
    done = python(code)
    status, torch, itk, seconds = done.stderr.split()
    assert (status, torch, itk) == ("0", "False", "False")
    assert float(seconds) <= 0.7
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("words", [["methods"], ["methods", "--json"], ["--version"], ["register", "--help"]])
def test_listing_needs_no_torch(words: list[str]) -> None:
    done = python(
        f"import sys; from neuroreg.cli import run; c = run({words}); print(c, 'torch' in sys.modules)"
    )
    assert done.stdout.splitlines()[-1] == "0 False"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_command(name) is not None
    assert run([name, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], *([name] for name in (*COMMANDS, "eval")), ["models", "list"]])
def test_h_is_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    long = capsys.readouterr()
    assert run([*words, "-h"]) == 0
    assert capsys.readouterr() == long
    assert "Usage" in long.out


def test_eval_is_the_one_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--help"]) == 0
    assert "label" in capsys.readouterr().out


def test_no_words_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Usage" in "".join(capsys.readouterr())


def test_a_misspelt_command_is_answered_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["regsiter"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("neuroreg: error[2]: Unknown command 'regsiter'. Did you mean 'register'?")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["register", "--nonsense"], "No such option"),
        (["register", "--threads", "many"], "--threads"),
        (["register", "a.nii", "b.nii", "c.nii"], "unexpected extra argument"),
        (["register", "a.nii", "b.nii", "-f", "c.nii"], "the fixed image is given twice"),
        (["register", "a.nii", "b.nii", "--set", "x"], "expected KEY=VALUE"),
        (["register"], "the fixed and the moving image is missing"),
        (["apply"], "Missing"),
        (["register", "a.nii", "b.nii", "-o", ""], "the value after -o is empty; is a variable"),
        (["register", "a.nii", "b.nii", "--output="], "the value after --output is empty"),
        (["register", "", "b.nii"], "the value after register is empty"),
        (["evaluate", "a.nii", "b.nii", "--csv", "-"], "standard input and output hold no files"),
    ],
)
def test_usage_errors_are_one_line_and_2(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_each_error_has_its_exit_code(
    kind: type[errors.NeuroregError],
    code: int,
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(kind("it is so.", file="/secret/x[red].nii.gz", remedy="do this"))
    assert run(["methods"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"neuroreg: error[{code}]: it is so; x[red].nii.gz; do this\n")
    assert run(["methods", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "schema": 1,
        "status": "error",
        "code": code,
        "error": {"what": "it is so", "file": "x[red].nii.gz", "remedy": "do this"},
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2),
        (RecursionError("maximum depth"), 65),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 73),
        (KeyError("x"), 70),
        (ZeroDivisionError("y"), 70),
        (MemoryError(), 75),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 75),
        (RuntimeError("something else"), 70),
        (OSError(errno.ENOSPC, "No space left on device", "out.nii.gz"), 74),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 74),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 73),
        (OSError(errno.EROFS, "Read-only file system"), 73),
        (OSError(errno.ENOTCONN, "odd"), 70),
    ],
)
def test_foreign_errors_are_mapped(error: Exception, code: int) -> None:
    assert as_known(error).exit_code == code
    assert "\n" not in str(as_known(error))


def test_a_bug_is_70_and_shows_its_traceback_only_on_demand(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyError("no such thing"))
    assert run(["methods"]) == 70
    err = capsys.readouterr().err
    assert err.startswith("neuroreg: error[70]: unexpected KeyError: 'no such thing'")
    assert "Traceback" not in err
    assert run(["methods", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err
    failing(ValueError("a\x1b[2J\x9b\u202eb"))
    assert run(["methods", "--debug"]) == 70
    assert "ValueError: a?[2J??b\n" in capsys.readouterr().err  # a traceback quotes names from outside


def test_an_interrupt_is_130(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(KeyboardInterrupt())
    assert run(["methods"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_termination_is_143_and_said(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(cli._Terminated(143))
    assert run(["methods"]) == 143
    assert capsys.readouterr() == ("", "neuroreg: terminated; nothing was left half-written\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x07.nii", "a?[31mred?.nii"),
        ("two\nlines\tand tab", "two lines and tab"),
        ("left\u202eright", "left?right"),
        ("two\u2028lines\u2029here", "two lines here"),
        ("bad\udcff", "bad?"),
        ("sub[/foo] [red]ünï.nii", "sub[/foo] [red]ünï.nii"),
    ],
)
def test_hostile_names_are_harmless(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.printable(text) == shown
    console.warn(text)
    console.note(text)
    console.show(text)
    console.fail(65, text)
    out, err = capsys.readouterr()
    assert out == shown + "\n"
    assert err.count(shown) == 3


def test_a_long_line_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    console.fail(65, "x" * 500)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_in_a_pipe_is_lines_with_tabs_and_whole_cells(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table("Title", ("id", "name"), [("100000007", "x" * 200), ("a\tb", None)])
    assert capsys.readouterr().out == f"Title\nid\tname\n100000007\t{'x' * 200}\na b\t\n"


def test_a_table_on_a_terminal_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    console.show_table("", ("id", "name"), [("100000007", "a long name of a region")] * 2)
    drawn = capsys.readouterr().out
    assert "…" not in drawn
    assert "│" in drawn


def test_stages_are_silent_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose, lines in ((False, 0), (True, 2)):
        with console.stages(quiet=False, verbose=verbose) as progress:
            progress("one")
            progress("two")
        assert capsys.readouterr().err.count("\n") == lines


def test_a_closed_stdout_is_no_failure() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(neuroreg.__file__).parents[1])}
    for words in (["--help"], ["methods", "--json"], ["methods"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "neuroreg", *words], stdout=writer, stderr=subprocess.PIPE, env=environment
        )
        os.close(writer)
        assert done.returncode in (0, 141)
        assert done.stderr == b""


def test_completion_lists_the_commands() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(neuroreg.__file__).parents[1]),
        "_NEUROREG_COMPLETE": "complete_bash",
        "COMP_WORDS": "neuroreg re",
        "COMP_CWORD": "1",
    }
    start = time.monotonic()
    code = "import sys; sys.argv[0] = 'neuroreg'; from neuroreg.cli import main; main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "register" in done.stdout.split()
    assert time.monotonic() - start < 30


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    error = errors.DataError("got 'a\nb\u2028c'", file="x\ry.csv", remedy="add\x0bit")
    assert str(error) == "got 'a b c'; x y.csv; add it"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), cli._Terminated(143), cli._Terminated(129)])
def test_a_stop_is_told_by_json_too(
    stop: BaseException, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(stop)
    code = run(["methods", "--json"])
    assert json.loads(capsys.readouterr().out)["code"] == code
    assert code in (129, 130, 143)


def test_a_stream_that_cannot_be_written_changes_no_exit_code() -> None:
    script = "from neuroreg.cli import main; main(['convert', 'none.nii', 'b.mha', '--json'])"
    words = f'{sys.executable} -c "{script}" > /dev/full 2> /dev/full'
    environment = {**os.environ, "PYTHONPATH": str(Path(neuroreg.__file__).parents[1])}
    assert subprocess.run(["bash", "-c", words], env=environment, check=False).returncode == 66


def test_a_working_directory_that_is_gone_is_66(tmp_path: Path) -> None:
    script = "from neuroreg.cli import main; main(['convert', 'a.nii', 'b.mha'])"
    words = f'mkdir gone; cd gone; rmdir ../gone; {sys.executable} -c "{script}"'
    environment = {**os.environ, "PYTHONPATH": str(Path(neuroreg.__file__).resolve().parents[1])}
    done = subprocess.run(
        ["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 66
    assert "the working directory is gone" in done.stderr
