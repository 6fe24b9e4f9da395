"""Nipype interfaces: ``Register``, ``Affine`` and ``Apply`` are nodes of a workflow. Needs the extra ``[nipype]``.

Their inputs are made from the command line itself, so that both say the same. Nipype asks a server of its own for the
newest version when it is imported; ``NO_ET=1`` in the environment keeps it quiet. neuroreg asks nobody.

    node = Node(Register(method="neuroreg", refine="mid", threads=2), name="register", n_procs=2)
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    CommandLine,
    CommandLineInputSpec,
    File,
    InputMultiPath,
    OutputMultiPath,
    TraitedSpec,
    traits,
)

from neuroreg.cli.parameters import Parameter, parameters
from neuroreg.errors import DataError, NoInputError

_NOT_INPUTS = frozenset({"fixed_option", "moving_option", "dry_run", "json", "quiet", "verbose", "debug"})
"""Other spellings, and what is for people at a terminal."""

NAMES: Mapping[str, str] = {"set_": "options"}
"""Inputs that are called otherwise than on the command line: traits keep an underscore at the end for themselves."""

_FILES: Mapping[str, str] = {
    "moved": "moved.nii.gz",
    "moved_labels": "moved_labels.nii.gz",
    "displacement": "displacement.nii.gz",
    "transform": "transform.h5",
    "inverse": "inverse.h5",
    "affine": "affine.mat",
    "jacobian": "jacobian.nii.gz",
    "rois": "rois.csv",
    "report": "report.html",
}
"""Output -> the file of that name in the folder of a run (its own constants would bring torch along)."""


def _trait(parameter: Parameter, position: int | None, default: str | None) -> Any:
    """One parameter as a trait of an input spec."""
    said: dict[str, Any] = {"desc": parameter.help}
    if position is not None:
        said |= {"position": position, "mandatory": True, "argstr": "%s"}
        return File(exists=True, **said)
    said["argstr"] = parameter.option if parameter.kind == "flag" else f"{parameter.option} %s"
    if parameter.kind == "flag":
        return traits.Bool(**said)
    if default is not None:
        return traits.Str(default, usedefault=True, **said)
    many = {**said, "argstr": said["argstr"] + "..."}  # the option again before each value
    match parameter.kind:
        case "integer":
            return traits.Int(**said)
        case "choice":
            return traits.Enum(*parameter.choices, **said)
        case "path":
            return InputMultiPath(File(exists=True), **many) if parameter.many else File(exists=True, **said)
    return traits.List(traits.Str(), **many) if parameter.many else traits.Str(**said)


def _inputs(command: str) -> type[CommandLineInputSpec]:
    """The input spec of a registering command: its parameters by their names, ``--set`` as ``options``."""
    found = [parameter for parameter in parameters(command) if parameter.name not in _NOT_INPUTS]
    places = {"fixed": 0, "moving": 1}
    made = {
        NAMES.get(one.name, one.name): _trait(
            one, places.get(one.name), "registered" if one.name == "output" else None
        )
        for one in found
    }
    name = f"{command.title()}Inputs"
    return type(
        name, (CommandLineInputSpec,), {**made, "__module__": __name__}
    )  # workflows pickle it by its name


RegisterInputs = _inputs("register")
AffineInputs = _inputs("affine")


class RunOutputs(TraitedSpec):  # type: ignore[misc]  # nipype says nothing of its types
    """What a registration leaves, taken from its run.json; undefined where the run did not write it."""

    folder = traits.Str(desc="the output folder")
    record = File(desc="run.json")
    verdict = traits.Enum("pass", "look", "fail", desc="whether the result can be used")
    reasons = traits.List(traits.Str(), desc="why the verdict is not pass")
    figures = traits.Dict(desc="figures of quality control by name; None where one does not exist")
    moved = File(desc="the moving image on the fixed grid")
    moved_labels = File(desc="the moving labels on the fixed grid")
    moved_also = OutputMultiPath(File(), desc="the other images, moved likewise, in the order of their names")
    displacement = File(desc="the whole map as a field: LPS mm on the fixed grid")
    transform = File(desc="the whole map, exactly")
    inverse = File(desc="the map from moving to fixed")
    affine = File(desc="the affine alone")
    jacobian = File(desc="its determinant")
    rois = File(desc="figures of every region")
    report = File(desc="the page about the run")


class _Quoted(CommandLine):  # type: ignore[misc]
    """A command line for the shell that Nipype hands it to, which by itself quotes single files and nothing else."""

    def _format_arg(self, name: str, spec: Any, value: object) -> str | None:
        if isinstance(value, bool):
            return str(spec.argstr) if value else None
        pattern = str(spec.argstr).removesuffix("...")
        values = value if isinstance(value, list) else [value]
        return " ".join(pattern % shlex.quote(str(one)) for one in values)


class _Registration(_Quoted):
    """What both registering commands share."""

    output_spec = RunOutputs

    def _list_outputs(self) -> dict[str, Any]:
        """The files that run.json names. Raises NoInputError without it, DataError when it is of another version."""
        folder = Path(self.inputs.output).absolute()
        path = folder / "run.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise NoInputError("the run did not finish", file=path, remedy="run the node again") from error
        if record.get("schema_version") != 2:
            raise DataError("the record is of another version", file=path, remedy="use one neuroreg for both")
        written, quality = record["outputs"], record["qc"]
        outputs: dict[str, Any] = self.output_spec().trait_get()
        outputs |= {"folder": str(folder), "record": str(path)}
        outputs |= {name: str(folder / file) for name, file in _FILES.items() if file in written}
        also = sorted(name for name in written if name.endswith("_moved.nii.gz"))
        if also:
            outputs["moved_also"] = [str(folder / name) for name in also]
        outputs |= {"verdict": quality["verdict"], "reasons": quality["reasons"]}
        told = ("verdict", "reasons", "thresholds", "worst_place_lps_mm")
        outputs["figures"] = {name: value for name, value in quality.items() if name not in told}
        return outputs


class Register(_Registration):
    """``neuroreg register``: align a moving image to a fixed one."""

    _cmd = "neuroreg register"
    input_spec = RegisterInputs


class Affine(_Registration):
    """``neuroreg affine``: align by an affine map alone."""

    _cmd = "neuroreg affine"
    input_spec = AffineInputs


class ApplyInputs(CommandLineInputSpec):  # type: ignore[misc]
    """One image and the maps that move it."""

    transforms = InputMultiPath(
        File(exists=True),
        argstr="%s",
        position=0,
        mandatory=True,
        desc="the first acts first on a fixed point",
    )
    image = File(exists=True, argstr="%s", position=1, mandatory=True, desc="the image to move")
    to = File(
        exists=True, argstr="--to %s", mandatory=True, desc="an image on the grid to fill: the fixed one"
    )
    output = traits.Str("moved.nii.gz", usedefault=True, argstr="--output %s", desc="the file to write")
    labels = traits.Bool(argstr="--labels", desc="the image is a label map")
    inverse = traits.Bool(argstr="--inverse", desc="go the other way")
    overwrite = traits.Bool(argstr="--overwrite", desc="replace an output that exists")


class ApplyOutputs(TraitedSpec):  # type: ignore[misc]
    """The image, moved."""

    moved = File(exists=True, desc="on the grid of the fixed image")


class Apply(_Quoted):
    """``neuroreg apply``: move one image by transforms that exist already."""

    _cmd = "neuroreg apply"
    input_spec = ApplyInputs
    output_spec = ApplyOutputs

    def _list_outputs(self) -> dict[str, Any]:
        """The file that was asked for."""
        return {"moved": str(Path(self.inputs.output).absolute())}
