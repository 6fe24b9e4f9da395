"""Names to objects, loaded on first use. Standard library only: listing names never imports torch."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from neuroreg.errors import UnavailableError, UsageError


@dataclass(frozen=True)
class Entry:
    """One row of a table of names.

    ``target`` is "module:attribute"; ``extra`` is the pip extra whose packages the module needs, if any.
    """

    target: str
    summary: str
    extra: str | None = None

    def load(self) -> object:
        """Import the module and return the attribute. Raises UnavailableError when its extra is not installed."""
        module_name, _, attribute = self.target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if self.extra is None:
                raise
            raise UnavailableError(
                f"{error.name} is not installed", remedy=f"pip install 'neuroreg[{self.extra}]'"
            ) from error
        return getattr(module, attribute)


def find(table: Mapping[str, Entry], name: str, *, kind: str) -> Entry:
    """The entry called ``name``; an unknown name is answered with the nearest ones. Raises UsageError."""
    if name in table:
        return table[name]
    raise UsageError(
        unknown_name(kind, name, table),
        remedy=f"see neuroreg {kind}s" if kind in ("method", "model") else "see neuroreg --help",
    )


def unknown_name(kind: str, name: str, known: Mapping[str, object]) -> str:
    """The sentence for a misspelt name: the near one first, then all of them."""
    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(sorted(known))}"
