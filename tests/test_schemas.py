"""The schemas: made of the models, kept by what is written, never narrower than what was written before."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pipeline_phantoms as phantoms
import pytest
from schema_records import ANSWERS, JOURNAL_1, RUN_1, RUN_2, SUMMARY_1, check, validator

from neuroreg.cli import COMMANDS, load_command, run
from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.journal import Event, read_journal
from neuroreg.cohort.runner import run_batch
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.finished import Recorded
from neuroreg.pipeline.record import RunRecord, read_record

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "neuroreg" / "schemas"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    """The names of examples/make_schemas.py."""
    return runpy.run_path(str(ROOT / "examples" / "make_schemas.py"))


def every_object(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from every_object(item)


def test_the_files_are_what_the_models_say(maker: dict[str, Any]) -> None:
    made = dict(maker["schemas"]())
    assert {name: (FOLDER / name).read_text(encoding="utf-8") for name in made} == made, (
        "run examples/make_schemas.py; if something was taken away, give it a new version first"
    )


def test_check_finds_a_file_that_is_not(
    maker: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = maker["main"]
    main.__globals__["FOLDER"] = tmp_path
    assert main("--check") == 1
    assert main() == 0
    assert main("--check") == 0
    (tmp_path / "run-2.json").write_text("{}")
    capsys.readouterr()
    assert main("--check") == 1
    assert capsys.readouterr().out == "run-2.json: not what the models say\n"
    main.__globals__["FOLDER"] = FOLDER


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_stays_open(name: str) -> None:
    schema = validator(name).schema
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["$id"] == f"neuroreg:{name}"
    assert schema["title"]
    assert schema["description"]
    parts = list(every_object(schema))
    assert [p for p in parts if p.get("additionalProperties") is False or "default" in p] == []
    references = {part["$ref"] for part in parts if isinstance(part.get("$ref"), str)}
    assert references <= {f"#/$defs/{part}" for part in schema.get("$defs", {})}


def test_the_readme_names_every_schema() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(.+)\.json` \| `neuroreg:(.+?)` ", text, re.MULTILINE) == [
        (name, name) for name in NAMES
    ]


def test_a_record_of_this_version_made_by_hand_is_valid_and_read(tmp_path: Path) -> None:
    check(RUN_2, "run-2")
    check({**RUN_2, "later": {"a": [1]}, "qc": {**RUN_2["qc"], "new_figure_mm": 1.5}}, "run-2")
    (tmp_path / "run.json").write_text(json.dumps({**RUN_2, "later": 1}))
    assert read_record(tmp_path).qc.figures == {"lncc_after": 0.4, "dice_mean": None}


def test_nothing_that_was_always_there_may_go(maker: dict[str, Any]) -> None:
    required = validator("run-2").schema["required"]
    assert set(required) == set(RUN_2), "a key that came later has a default; one that goes needs version 3"
    for key in required:
        with pytest.raises(AssertionError, match=key):
            check({name: value for name, value in RUN_2.items() if name != key}, "run-2")


def test_a_record_of_version_1_is_read_where_that_is_promised(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="schema_version"):
        check({**RUN_2, "schema_version": 1}, "run-2")
    recorded = Recorded.model_validate(RUN_1)
    assert (recorded.verdict, recorded.reasons) == ("look", ("so",))
    assert RunRecord.model_fields["schema_version"].default == 2


@pytest.mark.parametrize(
    "spoilt",
    [
        {"qc": {**RUN_2["qc"], "lncc_after": "0.4"}},
        {"qc": {**RUN_2["qc"], "verdict": "maybe"}},
        {"inputs": {"fixed": {"name": "a"}}},
        {"outputs": {"a": {"sha256": "0"}}},
        {"weights": "a.safetensors"},
        {"seconds": {"read": "fast"}},
        {"threads": None},
    ],
    ids=str,
)
def test_a_record_that_breaks_its_word_is_noticed(spoilt: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check({**RUN_2, **spoilt}, "run-2")


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.get("command", "error"))
def test_an_answer_made_by_hand_is_valid_and_may_grow(answer: dict[str, Any]) -> None:
    check(answer, "json-1")
    check({**answer, "later": None}, "json-1")
    for key in set(answer) - {"command"}:
        if answer.get("command") != "of a later version" or key in ("schema", "status"):
            with pytest.raises(AssertionError):
                check({name: value for name, value in answer.items() if name != key}, "json-1")


@pytest.mark.parametrize("line", JOURNAL_1, ids=lambda line: line["event"])
def test_a_line_of_a_journal_made_by_hand_is_valid_and_read(line: dict[str, Any], tmp_path: Path) -> None:
    check(line, "journal-1")
    check({**line, "later": {}}, "journal-1")
    for key in line:
        with pytest.raises(AssertionError):
            check({name: value for name, value in line.items() if name != key}, "journal-1")
    (tmp_path / "journal.jsonl").write_text(json.dumps({**line, "later": {}}) + "\n")
    (event,), broken = read_journal(tmp_path / "journal.jsonl")
    assert (event.event, broken) == (line["event"], 0)


def test_every_event_has_a_line_made_by_hand() -> None:
    assert {line["event"] for line in JOURNAL_1} == {
        kind.model_fields["event"].default for kind in get_args(Event)
    }
    check({"time": "2027-01-01T00:00:00+00:00", "event": "of a later version"}, "journal-1")


def test_a_summary_made_by_hand_is_valid_and_may_grow() -> None:
    (case,) = SUMMARY_1["cases"]
    check({**SUMMARY_1, "later": 1, "cases": [{**case, "later": 1}]}, "summary-1")
    for key in SUMMARY_1:
        with pytest.raises(AssertionError):
            check({name: value for name, value in SUMMARY_1.items() if name != key}, "summary-1")
    for key in case:
        short = {name: value for name, value in case.items() if name != key}
        with pytest.raises(AssertionError):
            check({**SUMMARY_1, "cases": [short]}, "summary-1")


@pytest.mark.slow
def test_a_real_batch_keeps_its_word(tmp_path: Path) -> None:
    fixed, moving = phantoms.save_pair(tmp_path)
    (tmp_path / "none.nii.gz").write_bytes(b"")
    settings = {"fixed": fixed, "method": "affine", "outputs": ("affine",)}
    cases = [
        Case(name, RegisterConfig(moving=path, **settings))
        for name, path in (("a", moving), ("b", tmp_path / "none.nii.gz"))
    ]
    out = tmp_path / "out"
    outcome = run_batch(Cohort(cases), BatchConfig(output=out, jobs=1, threads=1))
    assert outcome.exit_code == 8
    for line in (out / "journal.jsonl").read_text().splitlines():
        check(json.loads(line), "journal-1")
    summary = json.loads((out / "summary.json").read_text())
    check(summary, "summary-1")
    assert [case["exit_code"] for case in summary["cases"]] == [None, 65]
    check(json.loads((out / "a" / "run.json").read_text()), "run-2")


def words_of(name: str) -> Iterator[tuple[str, set[str]]]:
    """(what --json calls the command, its options), of the commands below it if it has some."""
    command = load_command(name)
    parts = command.commands if isinstance(getattr(command, "commands", None), dict) else {"": command}
    for word, part in parts.items():
        yield f"{name} {word}".strip(), {option for p in part.params for option in p.opts}


def test_every_command_that_answers_is_described(maker: dict[str, Any]) -> None:
    answering = {word for name in COMMANDS for word, options in words_of(name) if "--json" in options}
    assert answering == set(maker["ANSWERS"]), "describe what it puts on stdout in examples/make_schemas.py"


def test_a_real_run_and_its_plan_keep_their_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phantoms.leave_sides_unjudged(monkeypatch)
    fixed, moving = map(str, phantoms.save_pair(tmp_path))
    asked = ["affine", fixed, moving, "-o", str(tmp_path / "out"), "--threads", "1", "--json"]
    assert run([*asked, "--dry-run"]) == 0
    check(json.loads(capsys.readouterr().out), "json-1")
    assert run([*asked, "--provenance", "full"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "run.json").read_text())
    check(told, "json-1")
    check(written, "run-2")
    assert told.items() >= written.items()
    assert run(asked) == 73
    check(json.loads(capsys.readouterr().out), "json-1")


@pytest.mark.parametrize(
    "words", [["methods"], ["models", "list"], ["models", "verify", "no-such"], ["models", "path"]]
)
def test_lists_keep_their_word(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run([*words, "--json"])
    check(json.loads(capsys.readouterr().out), "json-1")
