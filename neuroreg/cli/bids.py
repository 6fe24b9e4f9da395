"""neuroreg bids: the T1w images of a dataset in the Brain Imaging Data Structure, as a BIDS App."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from neuroreg.cli import batch_options, console
from neuroreg.cli.batch import execute
from neuroreg.errors import SOME_FAILED, UsageError

if TYPE_CHECKING:
    from neuroreg.cohort.bids_group import Checked

_LEVELS = ("participant", "group")
_MANY = frozenset(f"--{name}{dash}label" for name in ("participant", "session", "run") for dash in "-_")

_DATASET = typer.Argument(metavar="BIDS_DIR", help="The raw dataset.", show_default=False)
_OUTPUT = typer.Argument(
    metavar="OUTPUT_DIR",
    help="The derivatives: made when missing, for example BIDS_DIR/derivatives/neuroreg.",
    show_default=False,
)
_LEVEL = typer.Argument(
    metavar="participant|group",
    help="participant: register; group: check what is there and sum it up.",
    show_default=False,
)


def _labels(kind: str, text: str) -> Any:
    names = (f"--{kind}-label", f"--{kind}_label")
    return typer.Option(*names, metavar="LABEL...", help=text, rich_help_panel="Inputs")


_TO = typer.Option(
    "--to",
    metavar="template|first-session|IMAGE",
    help="What the images are aligned to: the template that comes with the package, the first session of the same "
    "subject (then those of later sessions), or one image.",
    rich_help_panel="Inputs",
)
_SPACE = typer.Option(
    "--space",
    metavar="LABEL",
    help="What its space is called in file names (default: neuroregIXI2mm, ses<first>, or after the image).",
    rich_help_panel="Outputs",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class BidsCommand(TyperCommand):
    """A command whose labels may be written as every BIDS App takes them: ``--participant-label 01 02 03``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Each of several words after a label option gets the option to itself."""
        return super().parse_args(ctx, spread(args))


def spread(words: Sequence[str]) -> list[str]:
    """``IN OUT participant --run-label 1 2`` -> ``... --run-label 1 --run-label 2``; before the level all stays."""
    found: list[str] = []
    level, option, taken = False, None, 0
    for word in words:
        if word.startswith("-"):
            option, taken = (word if word in _MANY and level else None), 0
        elif option is not None:
            found += [option] if taken else []
            taken += 1
        level = level or word in _LEVELS
        found.append(word)
    return found


@app.command(cls=BidsCommand)
@batch_options.with_shared
def command(
    dataset: Annotated[Path, _DATASET],
    output: Annotated[Path, _OUTPUT],
    level: Annotated[Literal["participant", "group"], _LEVEL],
    participants: Annotated[
        list[str] | None, _labels("participant", "These subjects alone, with or without sub-.")
    ] = None,
    sessions: Annotated[list[str] | None, _labels("session", "These sessions alone.")] = None,
    runs: Annotated[list[str] | None, _labels("run", "These runs alone.")] = None,
    to: Annotated[str, _TO] = "template",
    space: Annotated[str | None, _SPACE] = None,
    **given: Any,
) -> None:
    """Register the T1w images of a BIDS dataset, every session and run, and leave BIDS derivatives.

    The brains of whole heads are found first; --no-find-brain takes the images as they are.

    The level group registers nothing: it checks that every output is there as its run left it, and writes the summary
    and the page of all cases, those of shards too. It uses only the folders, --json and --quiet.
    """
    if level == "group":
        _group(dataset, output, json=given["json"], quiet=given["quiet"])
        return
    config = batch_options.batch_config(given, output)
    from neuroreg.cohort.bids import Selection
    from neuroreg.cohort.bids_targets import find_bids

    cohort, layout = find_bids(
        dataset,
        output,
        batch_options.register_settings(given),
        Selection(participants or None, sessions or None, _numbers(runs or ()) or None),
        config_file=given["config"],
        to=to,
        space=space,
    )
    if (
        output.parent.name == "derivatives" and not given["dry_run"]
    ):  # where BIDS wants it, and often the first one
        output.parent.mkdir(exist_ok=True)
    execute(cohort, config, given, command="bids", layout=layout)


def _numbers(runs: Sequence[str]) -> list[int]:
    """``1``, ``01`` and ``run-1`` are one run. Raises UsageError."""
    words = [run.removeprefix("run-") for run in runs]
    wrong = [word for word in words if not (word.isascii() and word.isdecimal())]
    if wrong:
        raise UsageError(f"a run is a whole number, got {wrong[0]!r}", remedy="give numbers such as 1 or 2")
    return [int(word) for word in words]


def _group(dataset: Path, output: Path, *, json: bool, quiet: bool) -> None:
    """Check the outputs, write the summary and the page, leave with 8 when a case is not done or damaged."""
    from neuroreg.cohort.bids import read_description
    from neuroreg.cohort.bids_group import check_derivatives
    from neuroreg.report.group import PAGE_NAME, write_group

    read_description(dataset)
    checked = check_derivatives(output)
    page = output / PAGE_NAME
    write_group(output, page, overwrite=True)
    for fault in checked.faults:
        console.warn(fault, quiet=quiet)
    console.note(_in_one_line(checked), quiet=quiet)
    if json:
        console.emit(
            {
                "status": "failed" if checked.bad else "ok",
                "code": SOME_FAILED if checked.bad else 0,
                "folder": str(output),
                "counts": checked.counts,
                "faults": list(checked.faults),
                "summary": str(checked.summary),
                "page": str(page),
            },
            command="bids",
        )
    else:
        console.show(str(page))
    if checked.bad:
        raise typer.Exit(SOME_FAILED)


def _in_one_line(checked: "Checked") -> str:
    return ", ".join(f"{state} {count}" for state, count in checked.counts.items() if count) or "no cases"
