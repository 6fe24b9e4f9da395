"""Reading a cohort: both schemas, broken and hostile records, folders in circles. One bad run never stops the rest."""

import json
import os
from pathlib import Path

import pytest
from group_phantoms import THRESHOLDS, picture, run

from neuroreg.errors import NoInputError, UsageError
from neuroreg.report.group_cases import find_cases


def test_a_record_of_schema_two(tmp_path: Path) -> None:
    run(
        tmp_path / "site" / "one",
        verdict="fail",
        reasons=("folds in 3 %",),
        seconds=7.25,
        lncc_after=0.5,
        dice_mean=None,
        thresholds=THRESHOLDS,
        thumbnail=picture("png", 8),
        note="text is no figure",
        sure=True,
    )
    (case,) = find_cases(tmp_path).cases
    assert (case.id, case.verdict, case.reasons) == ("site/one", "fail", ("folds in 3 %",))
    assert (case.seconds, case.method, case.version) == (7.25, "neuroreg", "neuroreg 0.2.0")
    assert case.weights == "neuroreg-ixi2mm (01234567)"
    assert (case.figures["lncc_after"], case.figures["dice_mean"]) == (0.5, None)
    assert not {"note", "sure", "thresholds", "verdict", "reasons"} & set(case.figures)
    assert case.thresholds == THRESHOLDS
    assert case.report == tmp_path / "site" / "one" / "report.html"
    assert case.thumbnail == picture("png", 8)


def test_a_record_of_schema_one_knows_pass_and_look(tmp_path: Path) -> None:
    run(tmp_path / "a", schema=1, lncc_after=0.75)
    run(tmp_path / "b", schema=1, verdict="look", reasons=("why",), weights=None, report=False)
    first, second = find_cases(tmp_path).cases
    assert (first.verdict, first.figures["lncc_after"]) == ("pass", 0.75)
    assert (second.verdict, second.reasons, second.weights, second.report) == ("look", ("why",), "none", None)


def test_how_a_method_was_refined_belongs_to_its_name(tmp_path: Path) -> None:
    path = run(tmp_path / "a") / "run.json"
    record = json.loads(path.read_text())
    record["config"]["refine"] = "std"
    record["affine_weights"] = {"name": "joint", "sha256": "ff" * 32}
    path.write_text(json.dumps(record))
    (case,) = find_cases(tmp_path).cases
    assert case.method == "neuroreg, refined (std)"
    assert case.weights == "neuroreg-ixi2mm (01234567), affine by joint (ffffffff)"


BROKEN = {
    "empty": "",
    "cut": '{"command": "register", "qc"',
    "list": "[1, 2]",
    "number": "3",
    "deep": "[" * 200_000,
    "foreign": '{"command": "evaluate"}',
    "no-verdict": '{"command": "register", "qc": {"lncc_after": 1}}',
    "other-verdict": '{"command": "register", "qc": {"verdict": ["pass"]}}',
    "neither": '{"command": "register"}',
    "half-old": '{"command": "register", "quality": {"passed": "yes"}, "figures": {}}',
    "long-number": '{"command": "register", "seconds": ' + "9" * 9999 + "}",
    "large": '{"command": "' + "x" * 4_100_000 + '"}',
}


def test_records_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    run(tmp_path / "good")
    for name, text in BROKEN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text, encoding="utf-8")
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "run.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder" / "run.json").mkdir(parents=True)
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "run.json").symlink_to(tmp_path / "not-fetched")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "run.json")
    found = find_cases(tmp_path)
    assert [case.id for case in found.cases] == ["good"]
    assert {name for name, _ in found.unreadable} == {*BROKEN, "bytes", "folder", "dangling", "pipe"}
    reasons = dict(found.unreadable)
    assert reasons["foreign"] == "not the record of neuroreg register or affine"
    assert reasons["cut"] == "run.json is not valid JSON"
    assert reasons["no-verdict"] == "the record has no verdict"


def test_strange_values_in_a_record_become_harmless(tmp_path: Path) -> None:
    path = run(tmp_path / "a") / "run.json"
    record = json.loads(path.read_text())
    record["qc"] |= {"reasons": "not a list", "Bad Name": 1.0, "x": 1e300, "y": float("nan"), "z9": 10**400}
    record |= {"seconds": [], "config": None, "weights": "w", "program": {"a": "\x1b[31m"}}
    path.write_text(json.dumps(record), encoding="utf-8")
    (case,) = find_cases(tmp_path).cases
    assert (case.reasons, case.seconds, case.method, case.weights) == ((), None, "unknown", "none")
    assert (case.figures["x"], case.figures["y"], case.figures["z9"]) == (None, None, None)
    assert "Bad Name" not in case.figures
    assert "\x1b" not in case.version


def test_outputs_without_a_record_are_unfinished(tmp_path: Path) -> None:
    run(tmp_path / "done")
    for name in ("report.html", "transform.h5", ".neuroreg.lock"):
        folder = tmp_path / f"stopped-{name}"
        folder.mkdir()
        (folder / name).touch()
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "t1.nii.gz").touch()
    (tmp_path / "evaluated").mkdir()
    (tmp_path / "evaluated" / "rois.csv").touch()  # of neuroreg evaluate --pairs
    found = find_cases(tmp_path)
    assert found.unfinished == (
        "stopped-.neuroreg.lock",
        "stopped-report.html",
        "stopped-transform.h5",
    )
    assert found.unreadable == ()


def test_circles_of_links_end_and_each_folder_is_read_once(tmp_path: Path) -> None:
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    run(top / "b" / "case")
    run(elsewhere / "case")
    (top / "a").symlink_to(top / "b", target_is_directory=True)  # read as b, which is no link
    (top / "b" / "round").symlink_to(top, target_is_directory=True)
    (top / "up").symlink_to(tmp_path, target_is_directory=True)  # would lead to elsewhere, and round again
    (top / "self").symlink_to(top / "self")
    (top / "far").symlink_to(elsewhere, target_is_directory=True)
    found = find_cases(top)
    assert [case.id for case in found.cases] == ["b/case", "far/case"]
    assert (found.unfinished, found.unreadable) == ((), ())


def test_the_folder_itself_may_be_the_case_and_depth_does_not_matter(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path.joinpath(*"abcdefghijklmnopqrstuvwxyz"))
    assert [case.id for case in find_cases(tmp_path).cases] == [".", "/".join("abcdefghijklmnopqrstuvwxyz")]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoInputError, match="no registration below the folder"):
        find_cases(tmp_path)
    with pytest.raises(NoInputError, match="no such folder"):
        find_cases(tmp_path / "absent")
    with pytest.raises(UsageError, match="not a folder"):
        find_cases(tmp_path / "file")


def test_cases_that_a_batch_has_not_registered_are_named(tmp_path: Path) -> None:
    run(tmp_path / "001")
    told = [
        {"id": "001", "state": "failed-io", "message": "an old summary: it is there by now"},
        {"id": "002", "state": "failed-data", "message": "cut <off>\x1b[2J"},
        {"id": "003", "state": "ok", "message": ""},
        {"id": 4, "state": None},
        "no case",
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"cases": told}))
    (tmp_path / "summary-1of2.json").write_text('{"cases": [{"id": "009", "state": "killed"}]}')
    found = find_cases(tmp_path)
    assert [name for name, _ in found.missing] == ["002", "4"]
    assert dict(found.missing)["002"].startswith("failed-data: cut <off>")
    assert "\x1b" not in dict(found.missing)["002"]
    (tmp_path / "summary.json").write_text("{no json")
    assert find_cases(tmp_path).missing == ()
    (tmp_path / "summary.json").unlink()
    assert [name for name, _ in find_cases(tmp_path).missing] == ["009"]
