"""Parameters as data: the same that the command line takes."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from neuroreg.cli import COMMANDS, load_command
from neuroreg.cli.parameters import parameters

SINGLE = [name for name, entry in COMMANDS.items() if not isinstance(entry.load(), typer.Typer)]


@pytest.mark.parametrize("command", SINGLE)
def test_parameters_are_those_of_the_command_line(command: str) -> None:
    real = {param.name: param for param in load_command(command).params if param.name != "help"}
    found = {one.name: one for one in parameters(command)}
    assert list(found) == list(real)
    for name, one in found.items():
        known = real[name]
        assert (one.option or name) in known.opts
        assert (one.option is None) == (not known.opts[0].startswith("-"))
        assert one.help == (known.help or "")
        assert one.many == (known.multiple or known.nargs == -1)
        flag = getattr(known, "is_flag", False) or getattr(known, "count", False)
        assert (one.kind == "flag") == bool(flag)


def test_kinds_choices_and_limits() -> None:
    found = {one.name: one for one in parameters("register")}
    assert {
        name: found[name].kind for name in ("fixed", "method", "threads", "xform", "overwrite", "set_")
    } == {
        **{"fixed": "path", "method": "text", "threads": "integer", "xform": "choice"},
        **{"overwrite": "flag", "set_": "text"},
    }
    assert found["xform"].choices == ("auto", "sform", "qform")
    assert (found["threads"].minimum, found["frame"].minimum, found["method"].minimum) == (1, 0, None)
    assert (found["output"].option, found["set_"].option, found["fixed"].option) == (
        "--output",
        "--set",
        None,
    )
    assert [name for name, one in found.items() if one.many] == ["set_", "also"]
    with pytest.raises(KeyError):
        list(parameters("no-such"))


def test_no_help_is_eaten_as_markup() -> None:
    """Typer's help is rich markup: ``[default: all]`` would not be shown."""
    found = [
        help_ for name in COMMANDS for part in commands(load_command(name)) for p in part.params
        if "[" in (help_ := getattr(p, "help", None) or "")
    ]  # fmt: skip
    assert found == []


def commands(command: Any) -> Iterator[Any]:
    """A command, and those below it."""
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from commands(below)
