"""neuroreg convert: rewrite a transform or an image in another format."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from neuroreg.cli import console, options
from neuroreg.cli.compose import To


def command(
    source: Annotated[Path, typer.Argument(help="A transform or an image.")],
    output: Annotated[Path, typer.Argument(help="The file to write; its suffix names the format.")],
    to: To = None,
    vectors: Annotated[
        Literal["lps", "ras"] | None,
        typer.Option(help="The source holds displacements in mm in this frame, if its header does not tell."),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The image is a label map: keep its numbers exact.")
    ] = False,
    frame: options.Frame = None,
    xform: Annotated[
        Literal["auto", "sform", "qform"],
        typer.Option(help="Which NIfTI frame to trust where two disagree."),
    ] = "auto",
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Rewrite a transform (.h5, .mat, .tfm, 5-D .nii.gz) or an image (.nii.gz, .mha, .nrrd) in another format.

    A field whose header does not say in which frame its vectors are is refused unless --vectors tells.
    """
    from neuroreg.pipeline.transforms import convert_file

    notes = convert_file(
        source, output, to=to, vectors=vectors, labels=labels, frame=frame, xform=xform,
        overwrite=bool(overwrite),
    )  # fmt: skip
    for note in notes:
        console.warn(note, quiet=quiet)
    if json:
        console.emit({"output": output.name, "warnings": list(notes)}, command="convert")
