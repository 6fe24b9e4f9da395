"""The command line: a table of commands loaded on first use, and the one place where errors become exit codes."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from neuroreg import errors
from neuroreg.errors import NeuroregError, NoInputError, UsageError
from neuroreg.registry import Entry, find

COMMANDS: Mapping[str, Entry] = {
    "register": Entry("neuroreg.cli.register:command", "Align a moving image to a fixed one."),
    "affine": Entry("neuroreg.cli.affine:command", "Align by an affine map alone."),
    "apply": Entry("neuroreg.cli.apply:command", "Move images or labels by transforms that exist already."),
    "evaluate": Entry(
        "neuroreg.cli.evaluate:command", "Compare two label maps, region by region (also: eval)."
    ),
    "batch": Entry(
        "neuroreg.cli.batch:command", "Register a cohort, resumable; one bad case never stops the rest."
    ),
    "bids": Entry("neuroreg.cli.bids:app", "Register the T1w images of a BIDS dataset (a BIDS App)."),
    "train": Entry("neuroreg.cli.train:command", "Make a weight file from its recipe."),
    "methods": Entry("neuroreg.cli.methods:command", "List the registration methods."),
    "models": Entry("neuroreg.cli.models:command", "List, verify and locate the weights."),
    "doctor": Entry(
        "neuroreg.cli.doctor:command", "Check the installation, or look at files before they are used."
    ),
    "demo": Entry(
        "neuroreg.cli.demo:command", "Make a pair with a known answer, register it, report the error."
    ),
    "compose": Entry("neuroreg.cli.compose:command", "Join transforms into one."),
    "invert": Entry("neuroreg.cli.invert:command", "Invert a transform."),
    "jacobian": Entry("neuroreg.cli.jacobian:command", "Map the local volume change of a transform."),
    "convert": Entry("neuroreg.cli.convert:command", "Rewrite an image or a transform in another format."),
    "report": Entry("neuroreg.cli.report:command", "Make pages of finished runs: report, 3-D viewer, group."),
    "benchmark": Entry("neuroreg.cli.benchmark:command", "Measure methods on labelled pairs."),
}
"""Every command: its module, and the line ``--help`` shows without loading it."""

_STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)
"""What ends a process from outside: a scheduler, a terminal that was closed, a limit of processor time."""

ALIASES: Mapping[str, str] = {"eval": "evaluate"}


class LazyGroup(TyperGroup):
    """A group that lists COMMANDS from the table and imports only the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in with the help line; ``resolve_command`` loads the real one."""
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else TyperCommand(name=cmd_name, help=entry.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command called, imported now. Raises UsageError for an unknown name, with the near one."""
        name = ALIASES.get(args[0], args[0])
        return name, load_command(name), args[1:]


def load_command(name: str) -> Any:
    """Import the module of one command and build it. Raises UsageError for an unknown name."""
    loaded = find(COMMANDS, name, kind="command").load()
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(loaded)  # type: ignore[type-var]
    return typer.main.get_command(single)


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from neuroreg import __version__

        sys.stdout.write(f"neuroreg {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Register brain MRI: align one image to another, and say how good the result is."""


class _Terminated(SystemExit):
    """SIGTERM and its like: unwinds like any exit, so that temporary files are removed."""


def _on_terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated(128 + number)


def _on_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _on_second_interrupt)
    raise KeyboardInterrupt


def _on_second_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave the process with its exit code."""
    _open_missing_streams()
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, _on_terminate)
    signal.signal(signal.SIGINT, _on_interrupt)
    code = run(sys.argv[1:] if arguments is None else arguments)
    for number in (*_STOPS, signal.SIGINT):  # all is done: a signal from here on changes nothing
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader went away: that is its business, not a failure of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code == 130 or code - 128 in _STOPS:
        os._exit(code)  # all is put away by now; taking down torch and its threads would only keep the user
    sys.exit(code)


def _open_missing_streams() -> None:
    """Programs may be started without standard streams (by cron, or ``>&-``); what is said is lost then, no more."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:  # so that no file of ours gets the number of a stream
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def run(arguments: Sequence[str]) -> int:
    """Run one command; every failure is shown as one line and returned as its exit code."""
    options = set(arguments[: list(arguments).index("--")] if "--" in arguments else arguments)
    try:
        _check_place()
        _check_words(arguments)
        outcome = app(args=list(arguments), prog_name="neuroreg", standalone_mode=False)
    except _Terminated as stop:
        return _report_stop("terminated", int(stop.code or 143), json="--json" in options)
    except KeyboardInterrupt:
        outcome = 130
    except BrokenPipeError:
        return _close_stdout()
    except SystemExit as stop:
        # rich leaves with 1 when stdout was closed under it; nothing else here uses that code
        return _close_stdout() if stop.code == 1 else int(stop.code or 0)
    except Exception as error:  # noqa: BLE001  # the last door: nothing leaves as a traceback
        if "--debug" in options:
            from neuroreg.cli import console

            console.trace(traceback.format_exc())
        return _report(as_known(error), json="--json" in options)
    if outcome == 130:
        return _report_stop("interrupted", 130, json="--json" in options)
    return outcome if isinstance(outcome, int) else 0


def _check_place() -> None:
    """Native libraries end the whole process where the working directory is gone. Raises NoInputError."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise NoInputError("the working directory is gone", remedy="change to another folder") from error


def _check_words(arguments: Sequence[str]) -> None:
    """Refuse words that would be taken for a path: "" of an unset variable (the working directory), and "-"."""
    for before, word in pairwise(("neuroreg", *arguments)):
        if not word or re.fullmatch(r"--[a-z-]+=", word):
            where = word.rstrip("=") or before
            raise UsageError(
                f"the value after {where} is empty", remedy="is a variable of your script unset?"
            )
        if word == "-":
            raise UsageError("standard input and output hold no files", remedy="give a path instead of -")


def _close_stdout() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _report_stop(what: str, code: int, *, json: bool) -> int:
    from neuroreg.cli import console

    with suppress(OSError):  # the terminal may be what went away
        console.note(f"neuroreg: {what}; nothing was left half-written")
        if json:
            console.emit_error(code, what, None, "start it again")
    return code


def _report(error: NeuroregError, *, json: bool) -> int:
    from neuroreg.cli import console

    file = None if error.file is None else console.printable(error.file)
    with suppress(OSError):  # that a stream cannot be written may be the error
        console.fail(error.exit_code, str(error))
        if json:
            what, remedy = console.printable(error.what), console.printable(error.remedy)
            console.emit_error(error.exit_code, what, file, remedy)
    return error.exit_code


def as_known(error: Exception) -> NeuroregError:
    """Any exception as one of ours: what typer refuses is usage (2), the rest as ``errors.as_known`` says."""
    if hasattr(error, "format_message") and getattr(error, "exit_code", None) == 2:
        name = getattr(getattr(error, "ctx", None), "command_path", "neuroreg")
        return UsageError(error.format_message(), remedy=f"see {name} --help")
    if isinstance(error, typer.Abort):
        return UsageError("aborted", remedy="run it again")
    return errors.as_known(error)
