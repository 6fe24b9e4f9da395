"""What a command can be asked, as data: for those who call it from other programs (Nipype, Boutiques)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

from neuroreg.cli import COMMANDS

Kind = Literal["flag", "integer", "number", "choice", "path", "text"]

_KINDS: dict[object, Kind] = {int: "integer", float: "number", Path: "path"}


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command."""

    name: str
    """as the command's function calls it"""
    kind: Kind
    option: str | None
    """its longest spelling; None for an argument"""
    help: str
    many: bool = False
    """an option that may be said again and again, or an argument of any length"""
    choices: tuple[str, ...] = ()
    minimum: float | None = None


def parameters(command: str) -> Iterator[Parameter]:
    """The parameters of one of COMMANDS that has none below it, in the order of its help. Raises KeyError."""
    for name, hint in get_type_hints(COMMANDS[command].load(), include_extras=True).items():
        if name != "return":
            yield _parameter(name, *get_args(hint))


def _parameter(name: str, hint: Any, info: Any) -> Parameter:
    if isinstance(hint, UnionType) or get_origin(hint) is Union:  # X | None
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    many = get_origin(hint) is list
    if many:
        (hint,) = get_args(hint)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kind: Kind = "choice" if choices else _KINDS.get(hint, "text")
    if hint is bool or getattr(info, "count", False):
        kind = "flag"
    option = None
    if isinstance(info, OptionInfo):
        spelt = info.param_decls or (f"--{name.strip('_').replace('_', '-')}",)
        option = max((text.partition("/")[0] for text in spelt), key=len)  # --so/--not-so: the first
    return Parameter(name, kind, option, info.help or "", many, choices, info.min)
