"""JSON and YAML from outside as plain values. Whatever is wrong with a text is a ValueError, and none of it can act."""

import json
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

SMALL = 2**20
"""Bytes that a file written by hand, or a list of weights, has at most; a recipe has about a thousand."""


def read_text(path: Path, *, most: int = SMALL) -> str:
    """The UTF-8 text of a file of at most ``most`` bytes. Raises OSError, ValueError (too long, or not UTF-8)."""
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"longer than {most} bytes")
    return content.decode("utf-8")


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for NaN, numbers beyond float64, nesting without end
    and a key that stands twice, of which the last one would have won in silence."""
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_table
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def from_yaml(text: str) -> Any:
    """The value of a YAML text: plain values alone, no key twice, and only texts and numbers may be repeated by ``*``.

    Tables that repeat tables ten times over grow without end once they are written out. Raises ValueError.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _table(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return table


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # Any to mypy
    """The safe loader, which builds nothing but plain values, stricter still."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """A node; an alias of a table or a list is refused."""
        is_alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        node: yaml.Node | None = super().compose_node(parent, index)
        if is_alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError(f"line {mark.line + 1}: only texts and numbers may be repeated by *")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """A table; a key that stands twice is refused."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = sorted({key for key in keys if keys.count(key) > 1})
        if doubled:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {doubled[0]!r} is there twice")
        made: dict[Hashable, object] = super().construct_mapping(node, deep=deep)
        return made
