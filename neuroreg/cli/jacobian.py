"""neuroreg jacobian: the local volume change of a transform."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options


def command(
    transform: Annotated[Path, typer.Argument(help="A transform from FIXED to MOVING points.")],
    output: options.OutputFile,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FIXED", help="Image whose grid to use (default: the field's own grid)."),
    ] = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Write the determinant of the map's Jacobian: 1 keeps volume, 2 doubles it, 0 and below is a fold."""
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.transforms import jacobian_file

        progress("jacobian")
        found = jacobian_file(transform, output, to=to, overwrite=bool(overwrite))
    console.note(
        f"det J from {found.minimum:.4g} to {found.maximum:.4g}, mean {found.mean:.4g}, "
        f"folded {found.folded_percent:.4g} %",
        quiet=quiet,
    )
    figures = asdict(found)
    notes = figures.pop("notes")
    console.show_files([output], command="jacobian", json=json, quiet=quiet, figures=figures, warnings=notes)
