"""What the page of a cohort is told: counts of reasons, links, thresholds, room for pictures, the CSV."""

from dataclasses import replace
from pathlib import Path

import pytest

from neuroreg.report import group_data
from neuroreg.report.group_cases import Case, Cohort
from neuroreg.report.group_data import (
    Group,
    differences,
    kind_of_problem,
    link_to,
    payload,
    problems,
    table,
    thumbnails,
)

PLAIN = Case(
    id="a",
    verdict="pass",
    reasons=(),
    figures={"lncc_after": 0.9},
    seconds=1.0,
    method="m",
    weights="none",
    version="v",
    thresholds={},
    report=None,
    thumbnail=None,
)


def _group(*cases: Case) -> Group:
    return Group.of(Cohort(cases, (), ()))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("the map folds in 0.73 % of the brain", "the map folds in … % of the brain"),
        ("shear -1.5e-3 and 12 mm", "shear … and … mm"),
        ("T1w and p95 differ", "T1w and p95 differ"),
    ],
)
def test_reasons_that_differ_in_numbers_alone_are_one_kind(reason: str, kind: str) -> None:
    assert kind_of_problem(reason) == kind


def test_problems_are_counted_by_case_the_most_frequent_first() -> None:
    cases = [
        replace(PLAIN, reasons=("folds in 1 %", "other")),
        replace(PLAIN, reasons=("folds in 2 %", "folds in 3 %")),
        replace(PLAIN, reasons=("another",)),
    ]
    assert problems(cases) == [("folds in … %", 2), ("another", 1), ("other", 1)]


def test_what_is_not_alike_is_said() -> None:
    cases = [PLAIN, PLAIN, replace(PLAIN, method="affine", version="w")]
    assert differences(cases) == [("method", [("m", 2), ("affine", 1)]), ("version", [("v", 2), ("w", 1)])]
    assert differences([PLAIN, PLAIN]) == []


@pytest.mark.parametrize(
    ("file", "link"),
    [
        ("/top/javascript:alert(1)/report.html", "./javascript%3Aalert%281%29/report.html"),
        ("/top/a b/?#%2e/report.html", "./a%20b/%3F%23%252e/report.html"),
        ("/other/c/report.html", "./../other/c/report.html"),
        ("/top/n\udcff/report.html", "./n%FF/report.html"),
    ],
)
def test_links_are_relative_and_quoted(file: str, link: str) -> None:
    assert link_to(Path(file), Path("/top/group.html")) == link


def test_pictures_have_room_for_the_first_cases() -> None:
    room = group_data.THUMBNAIL_LETTERS
    cases = [replace(PLAIN, thumbnail="x" * (room // 3)) for _ in range(5)]
    assert [picture is not None for picture in thumbnails(cases)] == [True, True, True, False, False]


def test_the_data_refer_to_shared_texts_and_keep_numbers_exact() -> None:
    odd = 0.1 + 0.2
    first = replace(
        PLAIN,
        verdict="look",
        id="b",
        reasons=("folds in 1 %",),
        figures={"lncc_after": odd, "never": None},
        thresholds={"lncc_after": {"fail": 0.2, "look": 0.5}, "absent": {"look": 1.0}},
    )
    data = payload(_group(PLAIN, first), Path("/top/group.html"))
    cases, figures = data["cases"], data["figures"]
    assert isinstance(cases, list)
    assert isinstance(figures, list)
    assert [(case["id"], case["verdict"], case["values"]) for case in cases] == [
        ("b", 1, [odd]),
        ("a", 2, [0.9]),
    ]
    assert (data["reasons"], data["kinds"], cases[0]["reasons"]) == (["folds in 1 %"], [0], [0])
    assert [figure["name"] for figure in figures] == ["lncc_after"]  # "never" was measured nowhere
    assert figures[0]["marks"] == [("fail", 0.2), ("look", 0.5)]
    assert data["described"] == {"method": ["m"], "weights": ["none"], "version": ["v"]}


def test_known_figures_come_first_and_others_by_name() -> None:
    figures = {"zeta": 1.0, "alpha": 1.0, "folded_percent": 1.0, "lncc_after": 1.0}
    assert _group(replace(PLAIN, figures=figures)).figures == (
        "lncc_after",
        "folded_percent",
        "alpha",
        "zeta",
    )


def test_the_table_has_every_figure_and_case() -> None:
    columns, rows = table(_group(replace(PLAIN, figures={"b": None, "a": 1.5}, reasons=("x", "y"))))
    assert columns == (
        *("id", "verdict", "reasons", "outlier_figure", "outlier_z"),
        *("a", "b", "seconds", "method", "weights", "version"),
    )
    assert [rows[0][name] for name in ("reasons", "a", "b", "outlier_z")] == ["x; y", 1.5, None, None]
