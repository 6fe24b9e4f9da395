"""neuroreg report: which page it makes, what it refuses, and what goes to stdout."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from neuroreg.cli import run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the folder of a run is missing"),
        (["a", "--group", "b"], "--group takes one folder"),
        (["--group", "b", "--viewer"], "--group takes one folder"),
        (["a", "--with-face"], "is for the 3-D page; add --viewer"),
        (["a", "-o", "x.html"], "-o names one page"),
        (["a", "b", "--viewer", "-o", "x.html"], "-o names one page"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_viewers_of_runs_that_are_there(
    own_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fixed_seg.nii.gz").unlink()
    assert run(["report", str(own_run), "--viewer"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{own_run / 'viewer.html'}\n"
    assert "warning: the fixed labels are left out" in err
    assert run(["report", str(own_run), "--viewer"]) == 73
    assert run(["report", str(own_run), "--viewer", "--overwrite", "--json", "-q"]) == 0
    out, _ = capsys.readouterr()
    said = json.loads(out[out.index("{") :])
    assert said["outputs"] == [str(own_run / "viewer.html")]
    for words in (["missing"], ["missing", "--viewer"], ["--group", "missing"]):
        assert run(["report", *words]) == 66
        assert "no such folder; missing; check the path" in capsys.readouterr().err
    assert run(["report", str(tmp_path), "--viewer"]) == 66
    assert "no finished run here" in capsys.readouterr().err


@dataclass(frozen=True)
class Summary:
    cases: int
    passed: int
    look: int
    failed: int
    outliers: int
    unfinished: int
    unreadable: int
    not_registered: int
    path: Path
    table: Path


def test_reports_and_groups_are_made_by_those_who_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[object, ...]] = []

    def remake_report(folder: Path, *, overwrite: bool, reporter: object, inputs: list[Path]) -> None:
        calls.append((folder, overwrite, callable(reporter), inputs))

    def write_group(folder: Path, output: Path, *, overwrite: bool) -> Summary:
        calls.append((folder, output, overwrite))
        return Summary(4, 2, 1, 1, 1, 3, 0, 2, output, output.with_suffix(".csv"))

    for name, function in (("pipeline.remake", remake_report), ("report.group", write_group)):
        module = ModuleType(f"neuroreg.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, f"neuroreg.{name}", module)
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "cohort"):
        (tmp_path / name).mkdir()
    assert run(["report", "one", "two", "--overwrite"]) == 0
    assert capsys.readouterr().out.splitlines() == ["one/report.html", "two/report.html"]
    assert run(["report", "--group", "cohort", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["cases"], said["failed"], said["unfinished"], said["outliers"]) == (4, 1, 3, 1)
    assert said["outputs"] == ["cohort/group.html", "cohort/group.csv"]
    assert run(["report", "--group", "cohort", "-o", str(tmp_path / "g.html")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'g.html'}\n{tmp_path / 'g.csv'}\n"
    assert "cases 4, passed 2, look 1, failed 1, outliers 1, unfinished 3, unreadable 0" in err
    assert calls == [
        (Path("one"), True, True, []), (Path("two"), True, True, []),
        (Path("cohort"), Path("cohort/group.html"), False),
        (Path("cohort"), tmp_path / "g.html", False),
    ]  # fmt: skip
