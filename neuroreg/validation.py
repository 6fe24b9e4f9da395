"""Options as they are typed, and what pydantic found wrong with them, as one line in our words."""

from collections.abc import Sequence

from pydantic import ValidationError

from neuroreg.errors import UsageError
from neuroreg.parse import from_json

_VALUE_SAYS_NOTHING = frozenset({"missing", "value_error", "extra_forbidden"})
_MOST_LETTERS = 60  # of a wrong value: a line is read by people


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
            raise UsageError(
                f"option set: expected KEY=VALUE, got {pair!r}", remedy="write it as --set KEY=VALUE"
            )
        try:
            options[key.strip()] = from_json(text)
        except ValueError:
            options[key.strip()] = text
    return options
