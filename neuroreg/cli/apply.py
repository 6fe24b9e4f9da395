"""neuroreg apply: move images or labels by transforms that exist already."""

from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="TRANSFORM... IMAGE...", help="Transforms, then the images to move."),
    ],
    to: Annotated[Path, typer.Option("--to", help="An image on the grid to fill: the fixed one.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A file, or a folder (default: ./<image>_to_<fixed>.nii.gz)."),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="The images are label maps.")] = False,
    inverse: Annotated[bool, typer.Option("--inverse", help="Go the other way.")] = False,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Move images by transforms: neuroreg apply TRANSFORM... --to FIXED IMAGE...

    Of several transforms the first acts first on a fixed point, as in antsApplyTransforms -t FIRST -t SECOND.
    """
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.apply import ApplyConfig, apply, split_files

        transforms, images = split_files(paths)
        reading = options.given(frame=frame, xform=xform, max_voxels=max_voxels)
        config = ApplyConfig(transforms, images, to, output, labels, inverse, bool(overwrite), **reading)
        done = apply(config, progress=progress)
    console.show_files(done.outputs, command="apply", json=json, quiet=quiet, warnings=done.warnings)
