"""neuroreg report: pages of finished runs, without running them again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options
from neuroreg.errors import NoInputError, UsageError

_FOLDERS = typer.Argument(metavar="DIR", help="Output folders of neuroreg register.", show_default=False)
_VIEWER = typer.Option("--viewer", help="Write viewer.html, a 3-D page that works offline (at most 10 MB).")
_FACE = typer.Option(
    "--with-face",
    help="Show all of a whole head. Such a page identifies a person; without this it is masked to the brain, or "
    "shown without the 3-D view where no mask and no labels tell where the brain is.",
)
_GROUP = typer.Option("--group", metavar="DIR", help="Write one page about all the runs below this folder.")
_INPUTS = typer.Option(
    "--inputs",
    metavar="DIR",
    help="Where inputs lie if not here, in the run's folder or beside it; repeatable.",
)
_OUTPUT = typer.Option(
    "-o",
    "--output",
    help="The page to write (default: viewer.html in DIR; group.html in the group's folder).",
)

_COUNTED = ("cases", "passed", "look", "failed", "outliers", "unfinished", "unreadable", "not_registered")


def command(
    folders: Annotated[list[Path] | None, _FOLDERS] = None,
    viewer: Annotated[bool, _VIEWER] = False,
    with_face: Annotated[bool, _FACE] = False,
    group: Annotated[Path | None, _GROUP] = None,
    inputs: Annotated[list[Path] | None, _INPUTS] = None,
    output: Annotated[Path | None, _OUTPUT] = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Make report.html of finished runs again; with --viewer a 3-D page of each, with --group one of all.

    The inputs of a run are known by name and sha256; its outputs must be those it wrote.
    """
    runs = folders or []
    _check(runs, viewer=viewer, group=group, output=output, with_face=with_face)
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        if group is not None:
            _group(group, output or group / "group.html", overwrite=bool(overwrite), json=json, quiet=quiet)
            return
        if viewer:
            done = _viewers(
                runs, inputs or [], output, progress, with_face=with_face, overwrite=bool(overwrite)
            )
        else:
            done = _reports(runs, inputs or [], progress, overwrite=bool(overwrite)), []
    console.show_files(done[0], command="report", json=json, quiet=quiet, warnings=done[1])


def _check(
    runs: Sequence[Path], *, viewer: bool, group: Path | None, output: Path | None, with_face: bool
) -> None:
    """Refuse what cannot be meant, and folders that are not there. Raises UsageError, NoInputError."""
    if group is not None and (runs or viewer):
        raise UsageError("--group takes one folder and makes one page", remedy="leave DIR and --viewer out")
    if group is None and not runs:
        raise UsageError("the folder of a run is missing", remedy="neuroreg report DIR, or --group DIR")
    if with_face and not viewer:
        raise UsageError("--with-face is for the 3-D page", remedy="add --viewer")
    if output is not None and group is None and (len(runs) > 1 or not viewer):
        raise UsageError("-o names one page", remedy="give one DIR with --viewer, or leave -o out")
    for folder in [*runs, *([] if group is None else [group])]:
        if not folder.exists():
            raise NoInputError("no such folder", file=folder, remedy="check the path")


def _viewers(
    runs: Sequence[Path],
    inputs: Sequence[Path],
    output: Path | None,
    progress: Callable[[str], None],
    *,
    with_face: bool,
    overwrite: bool,
) -> tuple[list[Path], list[str]]:
    from neuroreg.pipeline.finished import open_run
    from neuroreg.pipeline.inputs import VIEWER
    from neuroreg.report.viewer import write_viewer

    paths: list[Path] = []
    notes: list[str] = []
    for folder in runs:
        progress(f"viewer of {folder.name}")
        run = open_run(folder, inputs=inputs)
        page = write_viewer(run, output or folder / VIEWER, with_face=with_face, overwrite=overwrite)
        paths.append(page.path)
        notes += page.notes if len(runs) == 1 else [f"{folder.name}: {note}" for note in page.notes]
    return paths, notes


def _reports(
    runs: Sequence[Path], inputs: Sequence[Path], progress: Callable[[str], None], *, overwrite: bool
) -> list[Path]:
    from neuroreg.pipeline.remake import remake_report
    from neuroreg.report.page import write_report

    for folder in runs:
        progress(f"report of {folder.name}")
        remake_report(folder, overwrite=overwrite, reporter=write_report, inputs=inputs)
    return [folder / "report.html" for folder in runs]


def _group(folder: Path, output: Path, *, overwrite: bool, json: bool, quiet: bool) -> None:
    from neuroreg.report.group import write_group

    found = write_group(folder, output, overwrite=overwrite)
    counts = {name: getattr(found, name) for name in _COUNTED}
    console.note(", ".join(f"{name} {count}" for name, count in counts.items()), quiet=quiet)
    console.show_files([found.path, found.table], command="report", json=json, quiet=quiet, figures=counts)
