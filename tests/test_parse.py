"""Texts from outside: plain values or a ValueError, never anything else, and never without end."""

from pathlib import Path

import pytest

from neuroreg.parse import from_json, from_yaml, read_text


def test_honest_texts_are_what_they_say() -> None:
    assert from_json(b'{"a": [1, 2.5, null, true, "\xc3\xbc"]}') == {"a": [1, 2.5, None, True, "ü"]}
    assert from_yaml("a: &x {b: 1}\nc: [1, 2.5, ~, yes]\n") == {"a": {"b": 1}, "c": [1, 2.5, None, True]}
    assert from_yaml("a: &x words\nb: *x\nc: [*x, *x]\n") == {"a": "words", "b": "words", "c": ["words"] * 2}
    assert from_yaml("") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("NaN", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("1e999", "too large a number"),
        ("9" * 5000, "4300"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
        ("{'a': 1}", "property name"),
        ("", "Expecting value"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_json(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 20_000, "nested too deeply"),
        ("a: 1\nb: 2\na: 3\n", "line 1: 'a' is there twice"),
        ("x:\n  a: 1\n  a: 3\n", "line 2: 'a' is there twice"),
        ("a: &x [1]\nb: *x\n", "line 2: only texts and numbers"),
        ("a: &x {b: *x}\n", "only texts and numbers"),
        ("a: &x {b: 1}\nc: {<<: *x}\n", "only texts and numbers"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("a: *nobody", "undefined alias"),
        ("\x00", "special characters"),
        ("? [1]\n: 2\n", "unhashable"),
        ("a: 1\n---\nb: 2\n", "single document"),
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_yaml(text)


def test_a_text_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\xc3\xbc" * 8)
    assert read_text(path, most=16) == "ü" * 8
    with pytest.raises(ValueError, match="longer than 15 bytes"):
        read_text(path, most=15)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(path)
    with pytest.raises(OSError, match="No such file"):
        read_text(tmp_path / "none")
    with pytest.raises(ValueError, match="longer than"):  # and not read for ever
        read_text(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a":' * 100_000, "1" * 5000])
def test_whatever_is_wrong_with_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's own words
        from_json(text)


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
        from_yaml(text)
