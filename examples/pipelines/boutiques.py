"""Boutiques descriptors of neuroreg, made from the command line itself: <command>.boutiques.json beside this file.

python examples/pipelines/boutiques.py

Then: ``bosh exec launch register.boutiques.json invocation.json`` (pip install boutiques).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neuroreg import __version__
from neuroreg.cli import COMMANDS
from neuroreg.cli.parameters import Parameter, parameters

FOLDER = Path(__file__).resolve().parent

LEFT_OUT = {"fixed_option", "moving_option", "status", "help"}
"""Other spellings of an input, and what registers nothing."""

NEEDED = {"fixed", "moving", "cohort", "output"}
"""Boutiques has to know the output folder; the images the command line would take from --config too."""

NOT_FILES = {"output", "root"}
"""Paths that are folders, or that the command makes."""

OUTPUTS = {
    "register": {
        "run.json": "The record: written last, so it says that the others are complete",
        "moved.nii.gz": "The moving image on the fixed grid",
        "displacement.nii.gz": "The whole map as a field: LPS mm on the fixed grid",
        "transform.h5": "The whole map, exactly",
        "inverse.h5": "The map from moving to fixed",
        "affine.mat": "The affine alone",
        "jacobian.nii.gz": "Its determinant",
        "report.html": "The verdict and the pictures",
    },
    "batch": {
        "summary.json": "How every case ended",
        "journal.jsonl": "Everything that happened",
        "failed.csv": "The cases to repeat, as a manifest",
        "group.html": "One page about all cases",
    },
}
"""The first is there after every run that came to its end."""

CODES = {
    2: "usage error",
    3: "quality control failed under --strict-qc; the outputs are written",
    8: "some cases of the batch failed",
    65: "bad data",
    66: "an input is not there",
    69: "a device, weights or an extra are not available",
    70: "a bug",
    73: "an output cannot be created",
    74: "writing failed",
    75: "busy, or too little memory now",
}


def kind(parameter: Parameter) -> dict[str, Any]:
    """The type of one parameter, in the words of Boutiques."""
    match parameter.kind:
        case "flag":
            return {"type": "Flag"}
        case "integer" | "number":
            lowest = {} if parameter.minimum is None else {"minimum": parameter.minimum}
            return {"type": "Number", "integer": parameter.kind == "integer", **lowest}
        case "choice":
            return {"type": "String", "value-choices": list(parameter.choices)}
    return {"type": "File" if parameter.kind == "path" and parameter.name not in NOT_FILES else "String"}


def inputs(command: str) -> Iterator[dict[str, Any]]:
    """Every parameter of a command as an input."""
    for parameter in parameters(command):
        if parameter.name in LEFT_OUT:
            continue
        word = parameter.name.strip("_")
        entry = {"id": word, "name": word.replace("_", " "), **kind(parameter)}
        entry |= {"description": parameter.help} if parameter.help else {}
        entry |= {"optional": parameter.name not in NEEDED, "value-key": f"[{word.upper()}]"}
        if parameter.option is not None:
            entry["command-line-flag"] = parameter.option
        if parameter.many:  # the option is said again before each value
            entry |= {"list": True, "list-separator": f" {parameter.option} "}
        yield entry


def descriptor(name: str) -> dict[str, Any]:
    """The whole descriptor of one command."""
    found = list(inputs(name))
    first, *others = OUTPUTS[name]
    files = [
        {
            "id": file.split(".")[0] + "_file",
            "name": file,
            "description": OUTPUTS[name][file],
            "path-template": f"[OUTPUT]/{file}",
            "optional": file != first,
        }
        for file in (first, *others)
    ]
    return {
        "schema-version": "0.5",
        "name": f"neuroreg {name}",
        "tool-version": __version__,
        "description": COMMANDS[name].summary,
        "command-line": " ".join(["neuroreg", name, *(entry["value-key"] for entry in found)]),
        "inputs": found,
        "output-files": files,
        "error-codes": [{"code": code, "description": said} for code, said in CODES.items()],
    }


def descriptors() -> Mapping[str, str]:
    """File name -> text."""
    return {f"{name}.boutiques.json": json.dumps(descriptor(name), indent=2) + "\n" for name in OUTPUTS}


if __name__ == "__main__":
    for file, text in descriptors().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
        print(file)
