"""neuroreg invert: the map from moving to fixed."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options


def command(
    transform: Annotated[Path, typer.Argument(help="A transform from FIXED to MOVING points.")],
    output: options.OutputFile,
    to: options.FieldGrid = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Invert a transform, and say by how many mm going there and back misses.

    For a .nii.gz field, --to names the MOVING image: that is where the inverse starts.
    """
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.transforms import invert_file

        progress("invert")
        found = invert_file(transform, output, to=to, overwrite=bool(overwrite))
    console.note(
        f"there and back: mean {found.mean_mm:.2g} mm, 99 % below {found.p99_mm:.2g} mm", quiet=quiet
    )
    if found.rough:
        console.warn("the inverse is rough; the inverse.h5 of a registration may be better", quiet=quiet)
    figures = {"round_trip": {"mean_mm": found.mean_mm, "p99_mm": found.p99_mm}}
    console.show_files(
        [output], command="invert", json=json, quiet=quiet, figures=figures, warnings=found.notes
    )
