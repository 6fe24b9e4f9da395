"""The page of a cohort: every case below a folder in one sortable table, the worst first, and the same as a CSV."""

from dataclasses import dataclass
from pathlib import Path

from neuroreg import __version__
from neuroreg.errors import UsageError
from neuroreg.io.files import atomic_write, check_output
from neuroreg.io.tables import write_csv
from neuroreg.io.together import together
from neuroreg.report.group_cases import VERDICTS, Cohort, find_cases
from neuroreg.report.group_data import (
    MAIN_FIGURES,
    STATIC_ROWS,
    Group,
    differences,
    figures_shown,
    link_to,
    payload,
    problems,
    standing_text,
    table,
    thumbnails,
)
from neuroreg.report.html import SYMBOLS, environment, own, plain, policy
from neuroreg.report.page import label_of, number

PAGE_NAME = "group.html"
"""What the page is called unless asked otherwise; the CSV beside it has the same name with its own suffix."""

_MOST_LISTED = 200  # unfinished or unreadable folders


@dataclass(frozen=True)
class GroupSummary:
    """What was found below the folder, and where it was written."""

    cases: int
    passed: int
    look: int
    failed: int
    outliers: int
    """cases that stand out from the others of their method, whatever their verdict"""
    unfinished: int
    """folders with outputs but no record: runs that were stopped, or are still going"""
    unreadable: int
    """folders that cannot be opened, or whose record cannot be read"""
    path: Path
    """the page"""
    table: Path
    """the CSV"""
    not_registered: int = 0
    """cases that a batch has failed to register, or not come to"""


def write_group(folder: Path, output: Path, *, overwrite: bool = False) -> GroupSummary:
    """Write the page of all cases below ``folder`` to ``output`` (.html), and the CSV beside it, atomically.

    Raises NoInputError when there is no trace of a registration, UsageError for a name that is no page's,
    CannotCreateError and WriteError as any output. A case that cannot be read is counted, never an error.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError("the page of a cohort is an HTML file", file=output, remedy=f"call it {PAGE_NAME}")
    beside = output.with_suffix(".csv")
    for path in (output, beside):
        check_output(path, overwrite=overwrite)
    cohort = find_cases(folder)
    group = Group.of(cohort)
    text = _render(cohort, group, title=plain(folder.resolve().name), page=output)
    columns, rows = table(group)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    with together(output.parent, (beside.name, output.name), overwrite=overwrite) as stage:
        write_csv(stage / beside.name, columns, rows)
        atomic_write(stage / output.name, write)
    return GroupSummary(
        cases=len(group.cases),
        passed=group.count("pass"),
        look=group.count("look"),
        failed=group.count("fail"),
        outliers=_outliers(group),
        unfinished=len(cohort.unfinished),
        unreadable=len(cohort.unreadable),
        path=output,
        table=beside,
        not_registered=len(cohort.missing),
    )


def _outliers(group: Group) -> int:
    return sum(standing.outlier for standing in group.standings)


def _render(cohort: Cohort, group: Group, *, title: str, page: Path) -> str:
    style, script = own("group.css"), "\n".join(map(own, ("group_strips.js", "group.js")))
    return (
        environment()
        .get_template("group.html")
        .render(
            title=title,
            version=__version__,
            style=style,
            script=script,
            policy=policy([script], style),
            total=len(group.cases),
            counts=[(verdict, SYMBOLS[verdict], group.count(verdict)) for verdict in VERDICTS],
            outliers=_outliers(group),
            problems=problems(group.cases),
            differences=differences(group.cases),
            missing=_listed(list(cohort.missing)),
            unfinished=_listed([(name, "") for name in cohort.unfinished]),
            unreadable=_listed(list(cohort.unreadable)),
            table_name=plain(page.with_suffix(".csv").name),
            table_link=link_to(page.with_suffix(".csv"), page),
            columns=[label_of(name) for name in _static_figures(group)],
            rows=_static_rows(group, page),
            data=payload(group, page),
        )
    )


def _listed(entries: list[tuple[str, str]]) -> dict[str, object]:
    return {"count": len(entries), "entries": entries[:_MOST_LISTED], "more": len(entries[_MOST_LISTED:])}


def _static_figures(group: Group) -> list[str]:
    return [name for name in figures_shown(group) if name in MAIN_FIGURES]


def _static_rows(group: Group, page: Path) -> list[dict[str, object]]:
    """The worst cases for readers without scripts, each cell as text."""
    names, pictures = _static_figures(group), thumbnails(group.cases[:STATIC_ROWS])
    return [
        {
            "id": case.id,
            "verdict": case.verdict,
            "symbol": SYMBOLS[case.verdict],
            "outlier": standing_text(standing.largest),
            "stands_out": standing.outlier,
            "reasons": case.reasons,
            "figures": [number(case.figures.get(name)) for name in names],
            "seconds": number(case.seconds),
            "method": case.method,
            "link": link_to(case.report, page),
            "picture": picture,
        }
        for case, standing, picture in zip(group.cases, group.standings, pictures, strict=False)
    ]
