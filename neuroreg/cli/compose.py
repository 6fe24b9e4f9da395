"""neuroreg compose: join transforms into one."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options


def command(
    transforms: Annotated[
        list[Path], typer.Argument(help="Transforms, the one that acts on FIXED points first.")
    ],
    output: options.OutputFile,
    to: options.FieldGrid = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Join transforms into one file: compose FIXED_TO_MIDDLE.h5 MIDDLE_TO_MOVING.h5 -o fixed_to_moving.h5.

    Maps lead from fixed to moving points, and the first one named acts first. Formats: .h5, .mat, .tfm, .nii.gz.
    """
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.transforms import compose_files

        progress("compose")
        notes = compose_files(transforms, output, to=to, overwrite=bool(overwrite))
    console.show_files([output], command="compose", json=json, quiet=quiet, warnings=notes)
