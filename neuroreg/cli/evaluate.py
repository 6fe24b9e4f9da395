"""neuroreg evaluate: compare two label maps region by region."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console


def command(
    fixed_labels: Annotated[Path, typer.Argument(help="Label map of the fixed image.")],
    moved_labels: Annotated[
        Path, typer.Argument(help="Label map of the moving image, moved onto the fixed grid.")
    ],
    csv: Annotated[Path | None, typer.Option(help="Write one row per region here.")] = None,
    label_names: Annotated[Path | None, typer.Option(help="CSV with the columns label and name.")] = None,
    labels: Annotated[str | None, typer.Option(help="Ids to compare: 4,11,23-25, or a file of ids.")] = None,
    transform: Annotated[
        Path | None,
        typer.Option("--transform", "--field", help="The map, or its displacement field, to measure."),
    ] = None,
    inverse: Annotated[Path | None, typer.Option(help="The map back: measures inverse consistency.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Where to measure the map [default: fixed labels > 0].")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the CSV if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No warnings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compare two label maps: Dice, HD, HD95, ASSD (mm) and volumes of every region.

    With --transform also: percent of det J <= 0, non-diffeomorphic volume, SD log J, and with --inverse the inverse
    consistency error in mm. A region missing on one side has Dice 0; figures that do not exist stay blank.
    """
    from neuroreg.pipeline.evaluate import COLUMNS, EvaluateConfig, evaluate, parse_ids

    outcome = evaluate(
        EvaluateConfig(
            fixed_labels=fixed_labels,
            moved_labels=moved_labels,
            csv=csv,
            label_names=label_names,
            ids=None if labels is None else parse_ids(labels),
            transform=transform,
            inverse=inverse,
            mask=mask,
            overwrite=overwrite,
        )
    )
    for note in outcome.notes:
        console.warn(note, quiet=quiet)
    summary = outcome.summary()
    if json:
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in outcome.rows()]
        console.emit({**summary, "rois": rows}, command="evaluate")
        return
    if csv is None:
        console.show_table("", COLUMNS, [[_cell(value) for value in row] for row in outcome.rows()])
    deformation = summary.pop("deformation") or {}
    assert isinstance(deformation, dict)
    console.show_table(
        "", ("figure", "value"), [(k, _cell(v)) for k, v in {**summary, **deformation}.items()]
    )


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
