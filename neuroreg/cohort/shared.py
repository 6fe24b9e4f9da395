"""What all the cases of a cohort have in common: settings of the whole batch, and perhaps the fixed image."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from neuroreg.cohort.template import template_files
from neuroreg.errors import UsageError
from neuroreg.io.files import check_input
from neuroreg.pipeline.config import AFFINES, RegisterConfig
from neuroreg.validation import sentence

TEMPLATE: Literal["template"] = "template"
"""What stands for the template of the package where a fixed image is named."""

FixedChoice = Path | Literal["template"]

_OF_ONE_CASE = ("fixed", "moving", "output", "moving_labels", "moving_mask", "also")
_OF_ONE_FIXED = ("fixed_labels", "fixed_mask")
_WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Fixed:
    """The one image that all cases are registered onto."""

    path: Path
    """absolute; of the template one that ``prepare`` makes"""
    prepare: Callable[[], None] | None = None
    real: Path = field(init=False)
    """without symbolic links"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "real", real(self.path))

    @property
    def cells(self) -> dict[str, str]:
        """What a manifest says to name it: nothing for the template, which is meant where no image is named."""
        return {} if self.prepare else {"fixed": str(self.path)}

    @property
    def lies(self) -> tuple[Path, ...]:
        """Where the file is that ``cells`` names."""
        return () if self.prepare else (self.real,)


def fixed_image(choice: FixedChoice, output: Path) -> Fixed:
    """The image named, which must be there, or the template in the folder of the cohort.

    Raises UsageError, NoInputError.
    """
    if choice == TEMPLATE:
        path, prepare = template_files(output.absolute())
        return Fixed(path, prepare)
    return Fixed(check_input(Path(choice)).absolute())


def shared_settings(settings: Mapping[str, object], *, one_fixed: bool) -> dict[str, object]:
    """The settings of the whole cohort, checked, their files absolute: a case may run in another folder.

    What belongs to one case (its images, its output) is refused, and what belongs to one fixed image unless all cases
    share it. Raises UsageError, NoInputError.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for name in _OF_ONE_CASE if one_fixed else (*_OF_ONE_CASE, *_OF_ONE_FIXED):
        if given.pop(name, None):
            raise UsageError(
                f"option {name} belongs to one image, which is not that of all cases",
                remedy="name the files of each case in a manifest",
            )
    for name in (*_OF_ONE_FIXED, "label_names"):
        if name in given:
            given[name] = check_input(Path(str(given[name]))).absolute()
    affine, weights = str(given.get("affine", "none")), str(given.get("weights", ""))
    if affine not in AFFINES and os.path.exists(affine):
        given["affine"] = str(Path(affine).absolute())
    if is_weights_file(weights):
        given["weights"] = str(Path(weights).absolute())
    try:
        configure(given, Path("fixed"), Path("moving"))
    except ValidationError as error:
        raise UsageError(
            sentence(error), remedy="correct the setting; neuroreg batch --help lists them"
        ) from error
    return given


def configure(settings: Mapping[str, object], fixed: Path, moving: Path) -> RegisterConfig:
    """One case with the settings of all. Raises ValidationError."""
    return RegisterConfig.model_validate({**settings, "fixed": fixed, "moving": moving})


def is_weights_file(text: str) -> bool:
    """Whether weights are named by a file, not by their name in the package."""
    return "/" in text or text.endswith(_WEIGHTS_SUFFIX)


def row_of(
    cells: Mapping[str, str], files: Mapping[str, str], root: Path, lies: Iterable[Path]
) -> dict[str, str]:
    """The cells of a manifest that ask for a case again wherever that manifest lies: its folder stands in ``root``.

    ``cells`` as they were given, ``files`` those of them that name files, made absolute, ``lies`` where the files are
    without symbolic links. When one lies elsewhere, the root becomes the folder that holds them all.
    """
    outside = [path for path in lies if not holds(root, path)]
    if not outside:
        return {**cells, "root": str(root)}
    return {**cells, **files, "root": os.path.commonpath((root, *outside))}


def holds(folder: Path, path: Path) -> bool:
    """Whether a path lies below a folder; both without symbolic links."""
    return str(path).startswith(
        os.path.join(folder, "")
    )  # pathlib takes ten times as long, and rows are many


def real(path: Path) -> Path:
    """The absolute path without symbolic links and ``..``; a file that is not there is no error."""
    return Path(os.path.realpath(path))
