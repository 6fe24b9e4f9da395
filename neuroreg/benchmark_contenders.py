"""What a benchmark can run: a method of ours with its weights, or another program; each a command line."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroreg import checkpoints
from neuroreg.benchmark_external import METHODS as EXTERNAL
from neuroreg.errors import NeuroregError, UsageError
from neuroreg.methods import METHODS
from neuroreg.registry import unknown_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_DEFAULT_METHOD = "neuroreg"
_DIGITS = 12  # of a sha256: enough to tell weights apart


@dataclass(frozen=True)
class Contender:
    """One line of the table: arguments of ``neuroreg register``, or another program when they are None."""

    name: str
    arguments: tuple[str, ...] | None

    def command(self, fixed: Path, moving: Path, out: Path, threads: int) -> list[str]:
        """The program that registers one pair into the folder ``out``."""
        files = [str(fixed), str(moving)]
        if self.arguments is None:
            worker = [sys.executable, "-m", "neuroreg.benchmark_external", self.name]
            return [*worker, *files, str(out), "--threads", str(threads)]
        options = ["-o", str(out), "--outputs", "image,transform,affine", "--threads", str(threads)]
        return [sys.executable, "-m", "neuroreg", "register", *files, *options, *self.arguments]

    @property
    def shown(self) -> str:
        """The arguments as the table keeps them: of a weights file the base name, which ``weights`` makes unique."""
        words = list(self.arguments or ())
        at = _index(words, "--weights")
        if at is not None:
            words[at] = Path(words[at]).name
        return shlex.join(words)

    @property
    def told(self) -> str:
        """What it runs, in words for a reader of the table."""
        if self.arguments is not None:
            return f"neuroreg register {self.shown}"
        about = EXTERNAL[self.name].__doc__ or ""
        return f"the other program by itself: {about.splitlines()[0].split('. ')[0].rstrip('.')}"

    def weights(self) -> str:
        """The beginning of the sha256 of the weights it runs with; "" without any, or when they cannot be found."""
        if self.arguments is None:
            return ""
        method, named = _after(self.arguments, "--method"), _after(self.arguments, "--weights")
        try:
            found = checkpoints.find(named) if named else checkpoints.default_for(method or _DEFAULT_METHOD)
        except NeuroregError:  # the run itself will say so
            return ""
        return found.sha256[:_DIGITS]


def parse_contenders(names: str | None, lines: Sequence[str]) -> tuple[Contender, ...]:
    """The lines of a table: ``names`` is a comma list of what needs no options, ``lines`` are taken whole, one by one.

    So a comma within the options of a line never ends it. A line that is given twice counts once. Raises UsageError for
    a list with options in it, for none at all, and for two lines of one name.
    """
    listed = [] if names is None else [name.strip() for name in names.split(",")]
    if any("=" in name for name in listed):
        raise UsageError(
            "a list of methods holds names alone", remedy="give NAME='options' by --method, beside --methods"
        )
    if not all(listed):
        raise UsageError(
            f"a name is missing in the list of methods {names!r}",
            remedy="separate the names by single commas",
        )
    found = tuple(dict.fromkeys(parse_contender(text) for text in (*listed, *lines)))
    if not found:
        raise UsageError("no method to measure", remedy="give some, such as --methods affine,neuroreg,greedy")
    called = [contender.name for contender in found]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"two lines of the table are called {twice!r}", remedy="give one another NAME='options'"
        )
    return found


def parse_contender(text: str) -> Contender:
    """Another program or a method of ours by name, "METHOD@FILE", or "NAME=options of neuroreg register".

    ``greedy`` is the program by itself, with its own affine, as ``ants-syn`` is; ``syn`` is ANTs within ``neuroreg
    register``, on our affine, and "NAME=--method greedy" is Greedy likewise.
    FILE is a weights file; its line is called by its name, or by its folder's where it is best.safetensors. Raises
    UsageError for an unknown name.
    """
    name, given, options = text.partition("=")
    method, at, file = text.partition("@")
    if at and (not given or len(method) < len(name)):
        stem = Path(file).stem
        line = Path(file).resolve().parent.name if stem == "best" else stem
        return Contender(_checked(line), ("--method", _ours(method), "--weights", file))
    if given:
        return Contender(_checked(name), tuple(shlex.split(options)))
    if name in EXTERNAL:
        return Contender(name, None)
    return Contender(name, ("--method", _ours(name)))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a line of the table", remedy="use letters, digits and ._+-")
    return name


def _ours(name: str) -> str:
    if name not in METHODS:
        raise UsageError(unknown_name("method", name, {**EXTERNAL, **METHODS}), remedy="see neuroreg methods")
    return name


def _after(words: Sequence[str], option: str) -> str | None:
    at = _index(words, option)
    return None if at is None else words[at]


def _index(words: Sequence[str], option: str) -> int | None:
    """Where the value of an option stands, the last one when it is repeated."""
    found = [at + 1 for at, word in enumerate(words[:-1]) if word == option]
    return found[-1] if found else None
