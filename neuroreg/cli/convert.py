"""neuroreg convert: rewrite a transform or an image in another format."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from neuroreg.cli import console, options


def command(
    source: Annotated[Path, typer.Argument(help="A transform or an image.")],
    output: Annotated[Path, typer.Argument(help="The file to write; its suffix names the format.")],
    to: options.FieldGrid = None,
    vectors: Annotated[
        Literal["lps", "ras"] | None,
        typer.Option(help="The source holds displacements in mm in this frame, if its header does not tell."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The image is a label map: keep its numbers exact.")
    ] = False,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Rewrite a transform (.h5, .mat, .tfm, 5-D .nii.gz) or an image (.nii.gz, .mha, .nrrd) in another format.

    A field whose header does not say in which frame its vectors are is refused unless --vectors tells.
    """
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.transforms import convert_file

        progress("convert")
        reading = options.given(frame=frame, xform=xform, max_voxels=max_voxels)
        notes = convert_file(
            source, output, to=to, vectors=vectors, labels=labels, overwrite=bool(overwrite), **reading
        )
    console.show_files([output], command="convert", json=json, quiet=quiet, warnings=notes)
