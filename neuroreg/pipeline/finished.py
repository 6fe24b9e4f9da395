"""A finished run, read back: its record, its outputs and inputs known by their sha256, and what follows from them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from neuroreg.errors import DataError, NoInputError
from neuroreg.io import files
from neuroreg.io.images import ImageFile, read_image, read_labels
from neuroreg.io.layout import MAX_VOXELS
from neuroreg.io.nifti_header import Xform
from neuroreg.io.tables import plain, read_label_names
from neuroreg.io.transforms import read_transform
from neuroreg.pipeline.outputs import jacobian_map
from neuroreg.pipeline.record import RECORD_NAME, locate
from neuroreg.transforms import Affine, DisplacementField, Transform, resample, total_field
from neuroreg.validation import parse_json, sentence
from neuroreg.volume import Volume

INDEX_NAME = "files.json"
"""Beside the record of a run whose outputs lie elsewhere, as in BIDS derivatives: name -> path from the record on."""

_MAPS = ("transform.h5", "displacement.nii.gz")


class Settings(BaseModel):
    """Those settings of a run that say how its files are read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str = ""
    find_brain: bool = False
    frame: int | None = None
    xform: Xform = "auto"
    max_voxels: int = MAX_VOXELS


class Recorded(BaseModel):
    """What ``run.json`` says, as far as every version of it says it. Other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int
    command: str
    started: str = ""
    finished: str = ""
    config: Settings
    inputs: dict[str, dict[str, object]]
    """role -> name, sha256 (and path)"""
    outputs: dict[str, dict[str, object]]
    """file name -> sha256, bytes"""
    warnings: tuple[str, ...] = ()
    qc: dict[str, object] | None = None
    """verdict, reasons and figures since version 2"""
    quality: dict[str, object] | None = None
    """passed and reasons in version 1"""

    @property
    def verdict(self) -> str | None:
        """One of pass, look and fail; None when the record does not say."""
        if self.qc is not None:
            found = self.qc.get("verdict")
            return found if found in ("pass", "look", "fail") else None
        passed = (self.quality or {}).get("passed")
        return None if passed is None else "pass" if passed is True else "look"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not "pass", in plain words."""
        found = (self.qc or self.quality or {}).get("reasons", ())
        return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


@dataclass(frozen=True)
class FinishedRun:
    """One folder that a registration left, with what can still be read or worked out. All volumes in the world frame.

    Every file is compared with its sha256 in the record before it is read: DataError when it is another one.
    """

    folder: Path
    recorded: Recorded
    places: tuple[Path, ...]
    """where inputs are looked for"""

    def output(self, name: str) -> Path | None:
        """An output file; None when the run did not leave it. Raises NoInputError, DataError."""
        recorded = self.recorded.outputs.get(name)
        if recorded is None:
            return None
        path = files.check_input(self.elsewhere.get(name, self.folder / name))
        if files.sha256(path) != recorded.get("sha256"):
            raise DataError(
                "this is not the file the run left (sha256 differs)", file=path, remedy="register again"
            )
        return path

    def input(self, role: str) -> Path | None:
        """An input file by its role; None when the run had none. Raises NoInputError, DataError."""
        recorded = self.recorded.inputs.get(role)
        if recorded is None:
            return None
        remedy = "run in its folder, or name that folder with --inputs"
        return locate(role, recorded, self.places, remedy=remedy)

    def image(self, role: str) -> ImageFile | None:
        """An input image, label map or mask, read as the run read it; None when the run had none."""
        path = self.input(role)
        if path is None:
            return None
        config, reader = (
            self.recorded.config,
            read_labels if role.endswith(("_labels", "_mask")) else read_image,
        )
        frame = config.frame if role in ("fixed", "moving") else None
        return reader(path, frame=frame, xform=config.xform, max_voxels=config.max_voxels)

    @cached_property
    def elsewhere(self) -> dict[str, Path]:
        """Outputs that do not lie in the folder. Raises DataError."""
        return read_index(self.folder)

    @cached_property
    def fixed(self) -> Volume:
        """The fixed image. Raises NoInputError when it is not found."""
        image = self.image("fixed")
        if image is None:
            raise DataError("the record names no fixed image", file=self.folder / RECORD_NAME)
        return image.volume

    @cached_property
    def transform(self) -> Transform | None:
        """The map from fixed to moving points; None when the run left none."""
        names = ("affine.mat", *_MAPS) if self.linear else _MAPS
        found = next((path for path in map(self.output, names) if path is not None), None)
        return None if found is None else read_transform(found)

    @property
    def exact(self) -> Transform:
        """The map as found, of transform.h5 (affine.mat for an affine). Raises DataError when the run left none."""
        names = ("affine.mat", "transform.h5") if self.linear else ("transform.h5",)
        path = next((path for path in map(self.output, names) if path is not None), None)
        if path is None:
            raise DataError(
                "the run left no exact transform",
                file=self.folder,
                remedy="register again with --outputs transform,affine,report",
            )
        return read_transform(path)

    @property
    def linear(self) -> bool:
        """Whether the run looked for an affine alone."""
        return self.recorded.command == "affine" or self.recorded.config.method == "affine"

    def moved(self, role: str = "moving") -> Volume | None:
        """A volume of the moving side on the fixed grid: as written, else read through the map; None without both."""
        names = {"moving": "moved.nii.gz", "moving_labels": "moved_labels.nii.gz"}
        written = self.output(names[role]) if role in names else None
        if written is not None:
            reader = read_labels if role == "moving_labels" else read_image
            return reader(written, max_voxels=self.recorded.config.max_voxels).volume
        if self.transform is None:
            return None
        image = self.image(role)
        return None if image is None else resample(image.volume, self.transform, self.fixed.geometry)

    def jacobian(self) -> Volume | None:
        """The determinant of the whole map on the fixed grid: as written, else from the map; None without both."""
        grid, transform = self.fixed.geometry, self.transform
        if isinstance(transform, Affine):  # a constant, which no image reader takes
            value = float(torch.linalg.det(transform.matrix[:3, :3]))
            return Volume(torch.full((1, *grid.shape), value), grid)
        written = self.output("jacobian.nii.gz")
        if written is not None:
            return read_image(written, max_voxels=self.recorded.config.max_voxels).volume
        if transform is None:
            return None
        ready = isinstance(transform, DisplacementField) and transform.geometry.same_grid(grid)
        return Volume(jacobian_map(transform if ready else total_field(transform, grid)), grid)  # type: ignore[arg-type]

    def label_names(self) -> dict[int, str]:
        """Label number -> name, of ``rois.csv`` or of the table the run was given; empty without both."""
        table = self.output("rois.csv")
        if table is not None:
            return {number: plain(name) for number, name in read_label_names(table).items()}
        path = self.input("label_names")
        return {} if path is None else read_label_names(path)


def read_index(folder: Path) -> dict[str, Path]:
    """Name in ``run.json`` -> path, of outputs that lie elsewhere; empty without an index. Raises DataError."""
    path = folder / INDEX_NAME
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError("the index of the outputs cannot be read", file=path) from error
    if not isinstance(found, dict) or not all(isinstance(place, str) for place in found.values()):
        raise DataError("the index of the outputs must be names and paths", file=path)
    return {name: Path(os.path.normpath(folder / place)) for name, place in found.items()}


def open_run(folder: Path, *, inputs: Sequence[Path] = ()) -> FinishedRun:
    """A finished run. Its inputs are looked for here, in the folder, beside it and in the folders ``inputs``.

    Raises NoInputError when the run did not finish, DataError when its record cannot be read.
    """
    path = folder / RECORD_NAME
    try:
        recorded = Recorded.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoInputError(
            "no finished run here", file=folder, remedy="give the output folder of neuroreg register"
        ) from error
    except ValidationError as error:
        raise DataError(f"not the record of a registration: {sentence(error)}", file=path) from error
    except ValueError as error:
        raise DataError("not a run record", file=path) from error
    return FinishedRun(folder, recorded, (*inputs, Path(), folder, folder.parent))
