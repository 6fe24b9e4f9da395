"""Options as they are typed, and what pydantic found wrong, as one line."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neuroreg.errors import UsageError
from neuroreg.validation import parse_json, parse_pairs, parse_yaml, sentence


class Inner(BaseModel):
    """A table in a table."""

    spacing_mm: float = 1.0


class Options(BaseModel):
    """One of everything that can go wrong."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(5, le=12)
    name: str
    inner: Inner = Inner()

    @field_validator("name")
    @classmethod
    def _short(cls, value: str) -> str:
        if len(value) > 3:
            raise ValueError("three letters at most")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Options":
        if self.steps == 7 and self.name == "x":
            raise ValueError("7 and x do not go together")
        return self


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "x", "steps": 99}, "option steps: Input should be less than or equal to 12 (got 99)"),
        ({}, "option name: Field required"),
        ({"name": "long"}, "option name: three letters at most"),
        (
            {"name": "x", "inner": {"spacing_mm": "far"}},
            "option inner.spacing_mm: Input should be a valid number, unable to parse string as a number "
            "(got 'far')",
        ),
        ({"stesp": 1}, "option name: Field required; option stesp: Extra inputs are not permitted"),
        ({"name": "x", "steps": 7}, "7 and x do not go together"),
        ([1], "expected a table of options"),
    ],
)
def test_every_fault_is_one_phrase(given: object, said: str) -> None:
    with pytest.raises(ValidationError) as found:
        Options.model_validate(given)
    assert sentence(found.value) == said


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValidationError) as found:
        Options.model_validate({"name": "x", "steps": "9" * 5000 + "x"})
    assert len(sentence(found.value)) < 200


def test_values_of_set_are_json_or_text() -> None:
    found = parse_pairs(["a=1", "b=fast", "c=[1, 2]", "d=true", "e=x=y", "f="])
    assert found == {"a": 1, "b": "fast", "c": [1, 2], "d": True, "e": "x=y", "f": ""}
    for words in ("a", "=1", " =1"):
        with pytest.raises(UsageError, match="expected KEY=VALUE"):
            parse_pairs([words])


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a":' * 100_000, "1" * 5000])
def test_whatever_is_wrong_with_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's own words
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "a: *b",
        "- 2020-99-99",
        "- !!bool x",
        "- !!timestamp x",
        "- !!float x",
        "a: &a [*a]",
        "- !!python/name:os.system",
    ],
)
def test_whatever_is_wrong_with_yaml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # yaml's own words
        parse_yaml(text)


def test_aliases_may_be_used_but_not_multiply() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: [*x, *x]\nc: {<<: {d: 1}}") == {
        "a": [1, 2],
        "b": [[1, 2]] * 2,
        "c": {"d": 1},
    }
    rows = ["- &a0 [x, x]", *(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 9))]
    with pytest.raises(ValueError, match="stand for too much"):
        parse_yaml("\n".join(rows))
    assert parse_yaml("") is None
