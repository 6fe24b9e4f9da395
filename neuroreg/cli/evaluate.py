"""neuroreg evaluate: compare two label maps region by region."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options

_FIXED = typer.Argument(help="Label map of the fixed image.")
_MOVED = typer.Argument(help="Label map of the moving image, moved onto the fixed grid.")
_TRANSFORM = typer.Option("--transform", "--field", help="The map, or its displacement field, to measure.")
_MASK = typer.Option(help="Where to measure the map (default: fixed labels > 0).")


def command(
    fixed_labels: Annotated[Path, _FIXED],
    moved_labels: Annotated[Path, _MOVED],
    csv: Annotated[Path | None, typer.Option(help="Write one row per region here.")] = None,
    label_names: Annotated[Path | None, typer.Option(help="CSV with the columns label and name.")] = None,
    labels: Annotated[str | None, typer.Option(help="Ids to compare: 4,11,23-25, or a file of ids.")] = None,
    transform: Annotated[Path | None, _TRANSFORM] = None,
    inverse: Annotated[Path | None, typer.Option(help="The map back: measures inverse consistency.")] = None,
    mask: Annotated[Path | None, _MASK] = None,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Compare two label maps: Dice, HD, HD95, ASSD (mm) and volumes of every region.

    With --transform also: percent of det J <= 0, non-diffeomorphic volume, SD log J, and with --inverse the inverse
    consistency error in mm. A region missing on one side has Dice 0; figures that do not exist stay blank.
    """
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.evaluate import EvaluateConfig, evaluate, parse_ids

        progress("compare")
        config = EvaluateConfig(
            fixed_labels=fixed_labels, moved_labels=moved_labels, csv=csv, label_names=label_names,
            ids=None if labels is None else parse_ids(labels), transform=transform, inverse=inverse, mask=mask,
            overwrite=bool(overwrite), **options.given(frame=frame, xform=xform, max_voxels=max_voxels),
        )  # fmt: skip
        outcome = evaluate(config)
    for note in outcome.notes:
        console.warn(note, quiet=quiet)
    if json:
        console.emit({**outcome.summary(), "rois": outcome.rows()}, command="evaluate")
    else:
        _show(outcome.summary(), [] if csv else outcome.rows())


def _show(summary: dict[str, object], rows: list[dict[str, str | float | None]]) -> None:
    if rows:
        console.show_table("", list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])
    deformation = summary.pop("deformation")
    figures = {**summary, **(deformation if isinstance(deformation, dict) else {})}
    console.show_table("", ("figure", "value"), [(name, _cell(value)) for name, value in figures.items()])


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
