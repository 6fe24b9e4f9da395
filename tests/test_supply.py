"""What is delivered and what it is made of: the list of parts, what advisories are explained."""

import importlib.util
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neuroreg import checkpoints
from neuroreg.errors import UnavailableError

ROOT = Path(__file__).resolve().parents[1]
TODAY = date(2026, 11, 1)


def example(name: str) -> Any:
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def audit() -> Any:
    return example("audit")


FINDING = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-9"], "fix_versions": ["2.1"], "description": "bad"}
ANSWERS = [
    {"name": "Good", "version": "1.0", "vulns": []},
    {"name": "Bad_One", "version": "2.0", "vulns": [FINDING]},
    {"name": "odd", "skip_reason": "Dependency not found on PyPI and could not be audited: odd (3.0)"},
]


def table(*rows: str) -> str:
    return "\n".join(["| id | package | why | until |", "| --- | --- | --- | --- |", *rows])


def test_a_finding_needs_a_row_of_its_own_package_that_is_still_good(audit: Any) -> None:
    unexplained, accepted, skipped = audit.judge(ANSWERS, {})
    assert unexplained == ["Bad_One 2.0: PYSEC-2026-1 CVE-2026-9 (fixed in: 2.1)"]
    assert (accepted, skipped) == ([], ["odd"])
    for row, is_explained in (
        ("| CVE-2026-9 | bad_one | its server is never started | 2026-12-31 |", True),
        ("| PYSEC-2026-1 | Bad_One | its server is never started | 2026-11-01 |", True),
        ("| CVE-2026-9 | bad_one | its server is never started | 2026-10-31 |", False),
        ("| CVE-2026-9 | good | its server is never started | 2026-12-31 |", False),
        ("| CVE-2026-99 | bad_one | its server is never started | 2026-12-31 |", False),
        ("| CVE-2026-9 | bad_one |  | 2026-12-31 |", False),
        ("| CVE-2026-9 | bad_one | for ever | never |", False),
    ):
        unexplained, accepted, _ = audit.judge(ANSWERS, audit.explained(table(row), TODAY))
        assert bool(accepted) == is_explained, row
        assert bool(unexplained) != is_explained, row


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        ({"dependencies": ANSWERS}, 1, "UNEXPLAINED: Bad_One 2.0"),
        ({"dependencies": ANSWERS[:1]}, 0, "1 of 1 packages audited, 0 findings"),
        ({"dependencies": ANSWERS[2:]}, 0, "NOT AUDITED: the advisory service does not know 1 of 1: odd"),
        (None, 0, "NOT AUDITED: the advisory service could not be asked (no route to host)"),
    ],
    ids=["finding", "clean", "unknown", "unreachable"],
)
def test_what_could_not_be_asked_is_said(
    audit: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: object,
    code: int,
    says: str,
) -> None:
    class Done:
        stdout = "" if answer is None else json.dumps(answer)
        stderr = "Traceback\nno route to host\n"

    monkeypatch.setattr(audit.subprocess, "run", lambda *words, **more: Done)
    assert audit.main([]) == code
    assert says in capsys.readouterr().out


def test_the_page_of_advisories_can_be_read(audit: Any) -> None:
    text = (ROOT / "examples" / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(audit.explained(text, date.min)) == len(rows)


def test_ci_audits_and_makes_the_list_of_parts() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python examples/audit.py" in text
    assert "python examples/make_sbom.py" in text


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    script = example("make_sbom")
    try:
        made: dict[str, Any] = script.bill()
    except UnavailableError:
        pytest.skip("run from a checkout that is not installed")
    return made


def test_every_part_is_listed_once(bill: dict[str, Any]) -> None:
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert len(parts) == len(bill["components"])
    assert set(bill["dependencies"][0]["dependsOn"]) == set(parts)
    listed = {part["name"].lower() for part in parts.values()}
    assert {"torch", "simpleitk", "numpy", "safetensors", "pyyaml", "jinja2"} <= listed
    assert all(part["licenses"] for part in parts.values() if part["bom-ref"].startswith("weights/"))
    for record in checkpoints.manifest():
        assert parts[f"weights/{record.file}"]["hashes"] == [{"alg": "SHA-256", "content": record.sha256}]
        assert parts[f"weights/{record.card}"]["type"] == "data"
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower()))
    torch = next(part for part in parts.values() if part["name"] == "torch")
    assert torch["version"].partition("+")[0] == pinned["torch"]


@pytest.mark.oracle
def test_the_list_of_parts_is_cyclonedx(bill: dict[str, Any]) -> None:
    validators = pytest.importorskip(
        "cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed"
    )
    from cyclonedx.schema import SchemaVersion

    strict: Callable[[str], object] = validators.JsonStrictValidator(SchemaVersion.V1_6).validate_str
    assert strict(json.dumps(bill)) is None
    assert strict(json.dumps({**bill, "version": "one"})) is not None


def test_the_script_writes_it_where_it_is_told(
    bill: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = example("make_sbom")
    monkeypatch.setattr(script, "bill", lambda: bill)
    script.main([str(tmp_path / "sbom.json")])
    assert json.loads((tmp_path / "sbom.json").read_text())["specVersion"] == "1.6"
    assert f"{len(bill['components'])} components in" in capsys.readouterr().out
