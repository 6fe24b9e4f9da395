"""neuroreg invert: the map from moving to fixed."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options
from neuroreg.cli.compose import Output, To


def command(
    transform: Annotated[Path, typer.Argument(help="A transform from FIXED to MOVING points.")],
    output: Output,
    to: To = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Invert a transform, and say by how many mm going there and back misses.

    For a .nii.gz field, --to names the MOVING image: that is where the inverse starts.
    """
    from neuroreg.pipeline.transforms import invert_file

    found = invert_file(transform, output, to=to, overwrite=bool(overwrite))
    if json:
        figures = {"mean_mm": found.mean_mm, "p99_mm": found.p99_mm}
        console.emit({"output": output.name, "round_trip": figures}, command="invert")
    else:
        console.note(
            f"there and back: mean {found.mean_mm:.2g} mm, 99 % below {found.p99_mm:.2g} mm", quiet=quiet
        )
