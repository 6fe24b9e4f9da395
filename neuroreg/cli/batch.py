"""neuroreg batch: register a cohort, resumable, one bad case never stopping the others."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neuroreg.cli import batch_options, batch_view, console
from neuroreg.errors import SOME_FAILED, QualityError, UsageError, WriteError

if TYPE_CHECKING:
    from neuroreg.cohort.case import Cohort
    from neuroreg.cohort.config import BatchConfig
    from neuroreg.cohort.engine import CaseEngine
    from neuroreg.cohort.runner import Outcome

REPORTER = "neuroreg.report.page:write_report"

_COHORT = typer.Argument(
    metavar="COHORT", help="A manifest (CSV, TSV), or a folder of images.", show_default=False
)
_FIXED = typer.Option(
    "-f",
    "--fixed",
    metavar="IMAGE|template",
    help="The fixed image of all cases (default: the manifest's; else the template that comes with the package).",
    rich_help_panel="Inputs",
)
_PAIRS = typer.Option("--pairs", help="all: every ordered pair of a folder.", rich_help_panel="Inputs")
_ROOT = typer.Option(
    "--root",
    metavar="DIR",
    help="Where paths of the manifest start, and must stay (default: its folder).",
    rich_help_panel="Inputs",
)
_STATUS = typer.Option(
    "--status", metavar="OUT", help="Show how a batch stands, from any terminal.", show_default=False
)


@batch_options.with_shared
def command(
    cohort: Annotated[Path | None, _COHORT] = None,
    output: batch_options.BatchOutput = None,
    fixed: Annotated[str | None, _FIXED] = None,
    pairs: Annotated[Literal["all"] | None, _PAIRS] = None,
    root: Annotated[Path | None, _ROOT] = None,
    status: Annotated[Path | None, _STATUS] = None,
    **given: Any,
) -> None:
    """Register every pair of a cohort: a folder for each, a journal, a summary, a page of them all.

    What is done is done: a batch that was stopped or killed goes on with --resume. A case that fails is a line of
    failed.csv, which is a manifest itself; the exit code is then 8.
    """
    if status is not None:
        if cohort is not None or output is not None:
            raise UsageError(
                "--status runs nothing", remedy="neuroreg batch --status OUT, without COHORT and -o"
            )
        show_status(status, json=given["json"])
        return
    if cohort is None or output is None:
        what = "the cohort" if cohort is None else "the output folder"
        raise UsageError(f"{what} is missing", remedy="neuroreg batch COHORT -o OUT")
    config = batch_options.batch_config(given, output)
    with working_early(config, given) as engine:
        from neuroreg.cohort.find import find_cohort

        found = find_cohort(
            cohort,
            batch_options.register_settings(given),
            output=output,
            config_file=given["config"],
            fixed=fixed,
            pairs=pairs == "all",
            root=root,
        )
        execute(found, config, given, command="batch", engine=engine)


@contextmanager
def working_early(config: "BatchConfig", given: Mapping[str, Any]) -> "Iterator[CaseEngine | None]":
    """The working process, started while the cohort is found: each of the two imports torch, which takes seconds."""
    if config.engine != "serial" or given["dry_run"]:
        yield None
        return
    from neuroreg.cohort.engine import SerialEngine
    from neuroreg.cohort.messages import WorkerOptions

    engine = SerialEngine(config, WorkerOptions(reporter=REPORTER, argv=tuple(sys.argv)))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def execute(
    cohort: "Cohort",
    config: "BatchConfig",
    given: Mapping[str, Any],
    *,
    command: str,
    engine: "CaseEngine | None" = None,
    **more: Any,
) -> None:
    """Run (or plan) the cohort, show how it goes, make the group page, leave with the exit code of the outcome."""
    from neuroreg.cohort.runner import run_batch

    quiet, json = bool(given["quiet"]), bool(given["json"])
    for note in cohort.notes:
        console.warn(note, quiet=quiet)
    if given["dry_run"]:
        _show_plan(cohort, config, given, command=command, **more)
        return
    with batch_view.live(quiet=quiet, verbose=given["verbose"] > 0) as watch:
        outcome = run_batch(cohort, config, watch=watch, reporter=REPORTER, engine=engine, **more)
    batch_view.show_failures(outcome, quiet=quiet)
    page = _group(config, outcome, quiet=quiet)
    _leave(config, outcome, page, json=json, quiet=quiet, command=command)


def _group(config: "BatchConfig", outcome: "Outcome", *, quiet: bool) -> Path | None:
    """The page about all cases; none of a shard, whose sisters may be at work. One that fails is a warning."""
    if config.shard is not None or not outcome.snapshot.done:
        return None
    from neuroreg.report.group import PAGE_NAME, write_group

    page = config.output / PAGE_NAME
    try:
        write_group(config.output, page, overwrite=True)
    except WriteError:  # the disk is full
        raise
    except Exception as error:  # noqa: BLE001  # the cases are done and good: they must not fail for a page
        console.warn(
            f"the page of the cohort could not be made: {type(error).__name__}: {error}", quiet=quiet
        )
        return None
    return page


def _leave(
    config: "BatchConfig", outcome: "Outcome", page: Path | None, *, json: bool, quiet: bool, command: str
) -> None:
    console.note(batch_view.in_one_line(outcome.snapshot), quiet=quiet)
    failed = config.output / f"failed{config.name}.csv"
    if outcome.exit_code == SOME_FAILED:
        console.note(f"what failed, as a manifest: {failed}", quiet=quiet)
    if json:
        status = {0: "ok", QualityError.exit_code: "quality"}.get(outcome.exit_code, "failed")
        console.emit(
            {
                "status": status,
                "code": outcome.exit_code,
                "folder": str(config.output),
                "counts": outcome.snapshot.counts,
                "made_again": dict(outcome.again),
                "summary": str(config.output / f"summary{config.name}.json"),
                "page": None if page is None else str(page),
            },
            command=command,
        )
    else:
        console.show(str(config.output))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _show_plan(
    cohort: "Cohort", config: "BatchConfig", given: Mapping[str, Any], *, command: str, **more: Any
) -> None:
    from neuroreg.cohort.plan import dry_run

    plan = dry_run(cohort, config, **more)
    if given["json"]:
        console.emit({"dry_run": True, **plan}, command=command)
        return
    console.show(
        f"{plan['cases']} cases, {plan['to_make']} to make, about {plan['disk_gb']} GB of disk, "
        f"into {config.output.name}"
    )
    for name, why in plan["again"].items():
        console.show(f"again: {name}: {why}")


def show_status(folder: Path, *, json: bool) -> None:
    """How a batch stands, part by part."""
    from neuroreg.cohort.status import status

    parts = status(folder)
    if json:
        console.emit(
            {"folder": str(folder), "parts": [batch_view.part(one) for one in parts]}, command="batch"
        )
        return
    for one in parts:
        batch_view.show_part(one)
