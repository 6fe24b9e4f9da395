"""The options that commands share. One left out is None: environment, file or default decide (pipeline.config)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from neuroreg.errors import UsageError

_input = partial(typer.Option, rich_help_panel="Inputs")
_output = partial(typer.Option, rich_help_panel="Outputs")
_run = partial(typer.Option, rich_help_panel="Run")

FixedArgument = Annotated[
    Path | None, typer.Argument(metavar="FIXED", help="The image that stays.", show_default=False)
]
MovingArgument = Annotated[
    Path | None, typer.Argument(metavar="MOVING", help="The image that is moved onto it.", show_default=False)
]
FixedOption = Annotated[Path | None, _input("-f", "--fixed", help="The fixed image, by name.")]
MovingOption = Annotated[Path | None, _input("-m", "--moving", help="The moving image, by name.")]
FixedLabels = Annotated[Path | None, _input(help="Label map on the fixed image's grid.")]
MovingLabels = Annotated[Path | None, _input(help="Label map on the moving image's grid; it is moved too.")]
LabelNames = Annotated[Path | None, _input(help="CSV of label numbers and names.")]
FixedMask = Annotated[
    Path | None,
    _input(
        help="Where the fixed image's data count (> 0): a brain, or all but a lesion. Nothing is blanked."
    ),
]
MovingMask = Annotated[Path | None, _input(help="The same for the moving image, on its grid.")]
FindBrain = Annotated[
    bool | None,
    _input(
        "--find-brain/--no-find-brain",
        help="Whole heads without a mask: find the brain by the template and register that.",
    ),
]
Also = Annotated[
    list[Path] | None,
    _input(metavar="IMG", help="Another image in the moving image's space, moved likewise; may be repeated."),
]
Frame = Annotated[int | None, _input(min=0, help="Which frame of a 4-D image, from 0.")]
Xform = Annotated[
    Literal["auto", "sform", "qform"] | None,
    _input(help="Which NIfTI frame to trust where two disagree (default: auto)."),
]
MaxVoxels = Annotated[int | None, _input(min=1, help="Refuse larger images (default: 768 cubed).")]
Config = Annotated[
    Path | None, _input(help="Settings from a .toml or .json file, or the run.json of a run to repeat.")
]

Method = Annotated[str | None, typer.Option(help="See neuroreg methods (default: neuroreg).")]
AffineMethod = Annotated[
    Literal["affine", "jointaffine"] | None,
    typer.Option(
        "--method", help="affine: many starts, then optimised (default); jointaffine: one network pass."
    ),
]
Weights = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="See neuroreg models list (default: the method's).")
]
AffinePart = Annotated[
    str | None,
    typer.Option(
        "--affine",
        metavar="NAME|FILE|none",
        help="How the affine part is found: affine (default) or jointaffine (its default), or a file that holds it; "
        "method affine starts from it.",
    ),
]
Refine = Annotated[
    str | None,
    typer.Option(metavar="fast|mid|std|best|N", help="Refine the result at 1 mm: an effort, or iterations."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the method; may be repeated."),
]
Dof = Annotated[
    int | None, typer.Option(help="Degrees of freedom: 6 rigid, 7 with scale, 9 with three scales, 12.")
]

Output = Annotated[
    Path | None, _output("-o", "--output", help="Output folder (default: ./<moving>_to_<fixed>).")
]
OutputFile = Annotated[
    Path, _output("-o", "--output", help="The file to write; its suffix names the format.")
]
FieldGrid = Annotated[
    Path | None, _output("--to", metavar="IMAGE", help="Image whose grid a .nii.gz field is written on.")
]
Outputs = Annotated[
    str | None,
    _output(help="Some of image,field,transform,inverse,affine,jacobian,report (default: standard, all)."),
]
AffineOutputs = Annotated[
    str | None,
    _output(help="Some of image,transform,inverse,affine,jacobian,field,report (default: image,affine)."),
]
Overwrite = Annotated[bool | None, _output("--overwrite", help="Replace outputs that exist.")]
StrictQc = Annotated[bool | None, _output("--strict-qc", help="Exit with 3 unless the verdict is pass.")]
StrictReport = Annotated[
    bool | None, _output("--strict-report", help="Fail when the report cannot be made, else a warning.")
]
Provenance = Annotated[str | None, _output(metavar="base|full", help="full: absolute paths in run.json.")]

Device = Annotated[
    str | None, _run(metavar="auto|cpu|cuda[:N]|mps", help="Where to compute (default: auto).")
]
Threads = Annotated[int | None, _run(min=1, help="Processor threads (default: all).")]
Seed = Annotated[int | None, _run(min=0, help="For methods that draw at random.")]
Deterministic = Annotated[
    bool | None, _run("--deterministic", help="Repeatable to the bit on a graphics card too.")
]
DryRun = Annotated[bool, _run("--dry-run", help="Check everything, show the plan, write nothing.")]
Json = Annotated[bool, _run("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, _run("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[int, _run("-v", "--verbose", count=True, help="Show the stages and their seconds.")]
Debug = Annotated[bool, _run("--debug", help="Show the traceback of an error.")]

_NOT_SETTINGS = frozenset(
    {"fixed_option", "moving_option", "set_", "config", "dry_run", "json", "quiet", "verbose", "debug"}
)


def settings(given: Mapping[str, object]) -> dict[str, object]:
    """A command's arguments as settings of RegisterConfig; None where something was left out."""
    flags = {name: value for name, value in given.items() if name not in _NOT_SETTINGS}
    for role in ("fixed", "moving"):
        named = given.get(f"{role}_option")
        if named is not None and flags.get(role) is not None:
            raise UsageError(
                f"the {role} image is given twice", remedy=f"by position or by --{role}, not both"
            )
        flags[role] = flags.get(role) or named
    if not flags.get("also"):
        flags["also"] = None
    pairs = given.get("set_")
    flags["options"] = None
    if isinstance(pairs, Sequence) and pairs:
        from neuroreg.validation import parse_pairs  # pydantic comes with it

        flags["options"] = parse_pairs(pairs)
    return flags


def given(**values: object) -> dict[str, Any]:
    """The values that are not None: what was left out is for the one who is called to decide."""
    return {name: value for name, value in values.items() if value is not None}
