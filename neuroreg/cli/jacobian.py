"""neuroreg jacobian: the local volume change of a transform."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options


def command(
    transform: Annotated[Path, typer.Argument(help="A transform from FIXED to MOVING points.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The image to write.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FIXED", help="Image whose grid to use [default: the field's own grid]."),
    ] = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write the determinant of the map's Jacobian: 1 keeps volume, 2 doubles it, 0 and below is a fold."""
    from neuroreg.pipeline.transforms import jacobian_file

    figures = asdict(jacobian_file(transform, output, to=to, overwrite=bool(overwrite)))
    if json:
        console.emit({"output": output.name, **figures}, command="jacobian")
    else:
        console.show_table(
            "", ("figure", "value"), [(name, f"{value:.4g}") for name, value in figures.items()]
        )
