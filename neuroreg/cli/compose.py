"""neuroreg compose: join transforms into one."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options

Output = Annotated[
    Path, typer.Option("-o", "--output", help="The file to write: .h5, .mat, .tfm or .nii.gz.")
]
To = Annotated[
    Path | None, typer.Option(metavar="IMAGE", help="Image whose grid a .nii.gz field is written on.")
]


def command(
    transforms: Annotated[
        list[Path], typer.Argument(help="Transforms, the one that acts on FIXED points first.")
    ],
    output: Output,
    to: To = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Join transforms into one file: compose FIXED_TO_MIDDLE.h5 MIDDLE_TO_MOVING.h5 -o fixed_to_moving.h5.

    Maps lead from fixed to moving points, and the first one named acts first.
    """
    from neuroreg.pipeline.transforms import compose_files

    compose_files(transforms, output, to=to, overwrite=bool(overwrite))
    if json:
        console.emit({"output": output.name}, command="compose")
