"""Weights: found by name or file, verified by sha256, loaded strictly from safetensors. Nothing else is ever loaded.

``weights/manifest.json`` is the list of what the package carries. Reading it needs no torch, so that listing
and verifying weights is quick. A pickle (.pt, .pth, .ckpt, .bin) can run code on loading and is never opened.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from safetensors import SafetensorError, safe_open

from neuroreg import tensors
from neuroreg.errors import DataError, NoInputError, UnavailableError, UsageError
from neuroreg.parse import from_json, from_yaml, read_text
from neuroreg.registry import unknown_name
from neuroreg.tensors import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_SAFE_SUFFIX = ".safetensors"


class WeightRecord(BaseModel):
    """One row of the manifest: a file, what it holds, and where it comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="What --weights accepts")
    kind: Literal["network", "template", "sides"] = "network"
    method: str | None = Field(None, description="The method whose network this is; None for the other kinds")
    file: str = Field(description="File name inside the weights home")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    also: dict[str, str] = Field({}, description="Further files that belong to it: file name -> sha256")
    recipe: str | None = Field(None, description="The recipe that remakes it")
    card: str | None = Field(None, description="The model card")
    licence: str = "unknown"
    training_data: str = "unknown"
    config: dict[str, JsonValue] = Field({}, description="Options of the method to use it with")
    spacing_mm: float | None = Field(None, description="Spacing of the grid it was trained on, mm")
    steps: int | None = Field(None, description="Step of its training at which these were the best weights")
    budget: int | None = Field(None, description="Steps that its training was given and has used")
    seconds: float | None = None
    machine: str | None = None
    numbers: dict[str, JsonValue] = Field({}, description="Measured figures, as in the card")
    folder: Path = Field(
        Path(), exclude=True, description="Where the files lie; set on reading, never stored"
    )

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder / self.file


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1] = Field(alias="schema")
    defaults: dict[str, str] = {}
    models: tuple[WeightRecord, ...] = ()

    @field_validator("models")
    @classmethod
    def _inside_the_folder(cls, models: tuple[WeightRecord, ...]) -> tuple[WeightRecord, ...]:
        for record in models:
            for name in (record.file, *record.also, record.recipe, record.card):
                if name is not None and not _FILE_NAME.fullmatch(name):
                    raise ValueError(f"{record.name}: a plain file name is expected, got {name!r}")
        return models


def weights_home() -> Path:
    """The folder with manifest.json: $NEUROREG_HOME, else the one inside the package, else the checkout's.

    Never depends on the working directory. Raises UnavailableError when there is none.
    """
    chosen = os.environ.get("NEUROREG_HOME")
    package = Path(__file__).resolve().parent
    candidates = [Path(chosen)] if chosen else [package / "_weights", package.parent / "weights"]
    for folder in candidates:
        with suppress(OSError, RuntimeError):  # a name that is too long, a home of nobody
            if (folder.expanduser() / "manifest.json").is_file():
                return folder.expanduser()
    remedy = "let NEUROREG_HOME name the folder with manifest.json" if chosen else "install neuroreg again"
    raise UnavailableError("no weights folder: manifest.json is missing", file=candidates[-1], remedy=remedy)


def _read_manifest() -> _Manifest:
    home = weights_home()
    path = home / "manifest.json"
    try:
        found = _Manifest.model_validate(from_json(read_text(path)))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the list of weights cannot be read: {first_line(error)}",
            file=path,
            remedy="install neuroreg again",
        ) from error
    names = [record.name for record in found.models]
    doubled = sorted({name for name in names if names.count(name) > 1})
    dangling = sorted(set(found.defaults.values()) - set(names))
    if doubled or dangling:
        raise DataError(
            f"the list of weights has doubled names {doubled} or unknown defaults {dangling}",
            file=path,
            remedy="install neuroreg again, or repair the list that NEUROREG_HOME names",
        )
    return found.model_copy(
        update={"models": tuple(r.model_copy(update={"folder": home}) for r in found.models)}
    )


def manifest() -> tuple[WeightRecord, ...]:
    """Every record of the manifest. Raises UnavailableError (no weights folder), DataError (unreadable)."""
    return _read_manifest().models


def find(name_or_path: str | Path) -> WeightRecord:
    """The record of a name in the manifest, or of a .safetensors file with its recipe beside it.

    Raises UsageError (unknown name), UnavailableError (the manifest's file is not there), NoInputError (no such
    file) and DataError (not safetensors, or nothing says which method it belongs to).
    """
    text = str(name_or_path)
    records = {record.name: record for record in manifest()}
    if text in records:
        return _present(records[text])
    path = Path(text)
    looks_like_file = (
        isinstance(name_or_path, Path)
        or path.suffix.lower() in {_SAFE_SUFFIX, *tensors.PICKLES}
        or "/" in text
    )
    if looks_like_file or _exists(path):
        return _from_file(path, records)
    raise UsageError(
        unknown_name("weights", text, records), remedy="see neuroreg models list, or give a file"
    )


def defaults() -> dict[str, str]:
    """Method -> name of the weights it uses when none are named. Raises like ``manifest``."""
    return dict(_read_manifest().defaults)


def default_for(method: str) -> WeightRecord:
    """The weights a method uses when none are named. Raises UnavailableError when it has none."""
    name = defaults().get(method)
    if name is None:
        raise UnavailableError(
            f"method {method!r} has no default weights", remedy="name a file with --weights"
        )
    return find(name)


def _present(record: WeightRecord) -> WeightRecord:
    for file in (record.file, *record.also):
        if not (record.folder / file).is_file():
            raise UnavailableError(
                f"the weights {record.name!r} are not on this machine",
                file=file,
                remedy="install neuroreg again, or point NEUROREG_HOME to a folder that has them",
            )
    return record


def _from_file(path: Path, records: dict[str, WeightRecord]) -> WeightRecord:
    """A record for a file the user named. One that the manifest lists keeps its record, hence its checks."""
    if not _exists(path):
        raise NoInputError("no such weights file", file=path, remedy="see neuroreg models list for names")
    if not path.is_file():
        raise UsageError("the weights are not a file", file=path, remedy="give a .safetensors file")
    data = tensors.read_bytes(path)
    for record in records.values():
        if record.path.exists() and record.path.samefile(path):
            return record
    method, config = _recipe_of(path)
    try:
        return WeightRecord(
            name=re.sub(r"[^a-z0-9._-]", "-", path.stem.lower()).lstrip("._-") or "weights",
            method=method,
            file=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            config=config,
            folder=path.resolve().parent,
        )
    except ValidationError as error:
        raise DataError(
            f"the recipe of these weights: {first_line(error)}",
            file=path,
            remedy="put the recipe that made them beside them",
        ) from error


def _recipe_of(path: Path) -> tuple[str, dict[str, JsonValue]]:
    """Method and the options to use it with: from the file's metadata if it says both, else from <stem>.yaml."""
    said = read_metadata(path)
    if "method" in said and "config" in said:
        try:
            return said["method"], from_json(said["config"])
        except ValueError as error:
            raise DataError(
                f"the metadata is damaged: {first_line(error)}",
                file=path,
                remedy="get the file again from its source",
            ) from error
    recipe = path.with_suffix(".yaml")
    if not recipe.is_file():
        raise DataError(
            "nothing says which method and options these weights belong to",
            file=path,
            remedy=f"put its recipe {recipe.name} beside it",
        )
    try:
        read = from_yaml(read_text(recipe))
    except (OSError, ValueError) as error:
        raise DataError(
            f"the recipe cannot be read: {first_line(error)}",
            file=recipe,
            remedy="put the recipe that made them beside them",
        ) from error
    if not isinstance(read, dict) or not isinstance(read.get("method"), str):
        raise DataError("the recipe does not name a method", file=recipe, remedy="add a line 'method: NAME'")
    options = [read.get(name) or {} for name in ("config", "inference")]
    if not all(isinstance(table, dict) for table in options):
        raise DataError(
            "config and inference of the recipe are no tables of options",
            file=recipe,
            remedy="put the recipe that made them beside them",
        )
    # As they are used, not as they were trained: a network trained at 2 mm may be meant to run at 1 mm.
    return read["method"], {**options[0], **options[1]}


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise NoInputError(
            f"no such weights file: {error.strerror}", file=path, remedy="check the path"
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a .safetensors file, read without its tensors. Raises DataError."""
    try:
        with safe_open(path, framework="numpy") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise tensors.unreadable(error, path) from error


def verify(record: WeightRecord) -> None:
    """Compare every file of the record with its sha256. Raises DataError, UnavailableError."""
    _present(record)
    for file, expected in {record.file: record.sha256, **record.also}.items():
        _verified_bytes(record.folder / file, expected)


def _verified_bytes(path: Path, expected: str) -> bytes:
    """The file's bytes, hashed as they will be used: nothing can change between the check and the load."""
    data = tensors.read_bytes(path)
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise DataError(
            f"damaged weights: sha256 {actual[:12]}... where {expected[:12]}... was promised",
            file=path,
            remedy="install neuroreg again",
        )
    return data


def load_tensors(record: WeightRecord) -> "dict[str, Tensor]":
    """The tensors of a record, by name, on the CPU in the type stored.

    Raises DataError when the sha256 differs, the file is not safetensors, it belongs to another method, it holds
    other types of numbers than ``tensors.NUMBERS``, or a value is not finite (as float32, where it is a float64).
    """
    data = _verified_bytes(_present(record).path, record.sha256)
    said = read_metadata(record.path).get("method")
    if record.method is not None and said not in (None, record.method):
        raise DataError(
            f"these weights belong to method {said!r}, not {record.method!r}",
            file=record.path,
            remedy="choose that method, or other weights",
        )
    return tensors.load(data, record.path)


def load_into(network: "nn.Module", record: WeightRecord) -> None:
    """Put the record's tensors into a network, strictly: same names, same shapes. Raises DataError otherwise.

    The network keeps its own dtype and device; half-precision files are widened on the way.
    """
    values = load_tensors(record)
    tensors.check_fit(network, record.path)
    network.load_state_dict(values, strict=True)
