"""Options and the texts they stand in: JSON and YAML whose faults are all ValueErrors, and pydantic's in our words."""

import json
from collections.abc import Hashable, Sequence
from typing import Any

from pydantic import ValidationError

from neuroreg.errors import UsageError

_VALUE_SAYS_NOTHING = frozenset({"missing", "value_error", "extra_forbidden"})
_MOST_NODES = (
    100_000  # of a YAML text with its aliases written out: ten lines of them can stand for gigabytes
)
_MOST_LETTERS = 60  # of a wrong value: a line is read by people


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError, for one that is nested too deeply too."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """What a YAML text says, of plain kinds only. Raises ValueError, also for aliases that multiply beyond all use."""
    import yaml  # here: most commands need none

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and _written_out(node, {}) > _MOST_NODES:
            raise ValueError("its aliases stand for too much")
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _written_out(node: Any, known: dict[Hashable, int]) -> int:
    """How many nodes there are below one, every alias counted as what it stands for. Raises ValueError for a circle."""
    if not isinstance(node.value, list):
        return 1
    if id(node) not in known:
        known[id(node)] = 0  # it is being counted
        parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    if not known[id(node)]:
        raise ValueError("an alias stands for what it is in")
    return known[id(node)]


def sentence(error: ValidationError) -> str:
    """All the faults: ``option steps: Input should be less than ... (got 99); option seed: Field required``.

    Options are spelt as in a file or after ``--set``, with underscores; ``a.b`` is option b of the table a.
    """
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        name = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("model_type", "dict_type") and not name:
            message = "expected a table of options"
        elif item["type"] not in _VALUE_SAYS_NOTHING:
            message += f" (got {repr(item['input'])[:_MOST_LETTERS]})"
        parts.append(f"option {name}: {message}" if name else message)
    return "; ".join(parts)


def parse_pairs(pairs: Sequence[str]) -> dict[str, object]:
    """``key=value`` words as a table; values are JSON where they can be, text otherwise. Raises UsageError."""
    options: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (equals and key.strip()):
            raise UsageError(f"option set: expected KEY=VALUE, got {pair!r}")
        try:
            options[key.strip()] = parse_json(text)
        except ValueError:
            options[key.strip()] = text
    return options
