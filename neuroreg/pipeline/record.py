"""The record of one run, ``run.json``: written last, so its presence says that all other outputs are complete."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from neuroreg import __version__
from neuroreg.errors import DataError, NoInputError
from neuroreg.io import files
from neuroreg.io.images import read_image

RECORD_NAME = "run.json"
_TWO_FILES = (".hdr", ".img", ".mhd", ".nhdr")

Progress = Callable[[str], None]
"""Told the name of each stage as it starts."""


def silent(stage: str) -> None:
    """A Progress that says nothing."""


Verdict = Literal["pass", "look", "fail"]


class Quality(BaseModel):
    """Whether the result may be used, and why not. In JSON the figures stand beside the verdict, in one flat object."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    verdict: Verdict
    """pass: nothing speaks against it; look: somebody should; fail: do not use it"""
    reasons: tuple[str, ...] = ()
    """in plain words, those for a failure first; none for a pass"""
    figures: Mapping[str, float | None] = Field(default_factory=dict)
    """name, with its unit at the end, -> value; None: not defined for this run"""
    worst_place_lps_mm: tuple[float, float, float] | None = None
    """the middle of the region of the fixed brain where the images are least alike"""
    thresholds: Mapping[str, Mapping[str, float]] = Field(default_factory=dict)
    """figure -> from where on to look, and from where on it fails"""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the result."""
        return self.verdict == "pass"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The flat object: every key that is not a field is a figure."""
        inner = schema.get("schema", schema)  # without what takes the flat form apart and what makes it
        plain = {key: value for key, value in inner.items() if key != "serialization"}
        described = handler.resolve_ref_schema(handler(plain))
        figures = described["properties"].pop("figures")
        entry = {**figures["additionalProperties"], "description": figures["description"]}
        return {**described, "additionalProperties": entry}

    @model_serializer
    def _flat(self) -> dict[str, object]:
        own = {name: getattr(self, name) for name in ("worst_place_lps_mm", "thresholds")}
        return {"verdict": self.verdict, "reasons": list(self.reasons), **self.figures, **own}

    @model_validator(mode="wrap")
    @classmethod
    def _from_flat(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(given, Mapping) and "figures" not in given:
            own = {name: value for name, value in given.items() if name in cls.model_fields}
            figures = {name: value for name, value in given.items() if name not in cls.model_fields}
            given = {**own, "figures": figures}
        return handler(given)


def _table(description: str, **properties: str) -> WithJsonSchema:
    """Says in the JSON schema what each entry of a table holds; names that end in "_" may be missing."""
    entry = {
        "type": "object",
        "properties": {name.rstrip("_"): {"type": kind} for name, kind in properties.items()},
        "required": [name for name in properties if not name.endswith("_")],
        "description": description,
    }
    return WithJsonSchema({"type": "object", "additionalProperties": entry})


_Inputs = Annotated[
    dict[str, dict[str, object]],
    _table("path only with --provenance full", name="string", sha256="string", path_="string"),
]
_Outputs = Annotated[dict[str, dict[str, object]], _table("one file", sha256="string", bytes="integer")]
_Weights = Annotated[
    dict[str, object] | None,
    WithJsonSchema(
        {
            "type": ["object", "null"],
            "properties": {"name": {"type": "string"}, "sha256": {"type": "string"}},
            "required": ["name", "sha256"],
        }
    ),
]


class RunRecord(BaseModel):
    """Everything needed to judge and to repeat a run. Times are UTC; paths are base names unless asked otherwise.

    ``neuroreg/schemas/run-2.json`` describes it. A key that comes later gets a default here: older records lack it.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    schema_version: int = 2
    """of this record; another number only when a key goes away or changes its meaning"""
    program: str = f"neuroreg {__version__}"
    """name and version of the program"""
    command: str
    """register or affine"""
    argv: tuple[str, ...]
    """the command line"""
    started: str
    """ISO 8601, UTC"""
    finished: str
    """ISO 8601, UTC"""
    versions: dict[str, str]
    """of what the numbers depend on: neuroreg, python, torch, SimpleITK, numpy"""
    machine: str
    """system, processor kind and cores, without the host's name"""
    device: str
    """where it was computed: cpu, cuda:0, ..."""
    threads: int
    """processor threads"""
    seed: int
    """for methods that draw at random"""
    deterministic: bool
    """whether it repeats to the bit on a graphics card too"""
    config: dict[str, object]
    """what was asked for; ``--config run.json`` asks for it again"""
    method_options: dict[str, dict[str, object]] = {}
    """every option of each stage that ran, defaults and those of the weights included"""
    inputs: _Inputs
    """role -> name, sha256 (and path with --provenance full)"""
    weights: _Weights
    """of the method's network; null for a method without one"""
    affine_weights: _Weights = None
    """of a network that found the affine before another method"""
    brain_weights: _Weights = None
    """of the network that found the brain in a whole head"""
    seconds: dict[str, float]
    """stage -> seconds; total is the whole"""
    qc: Quality
    """the verdict and its figures"""
    warnings: tuple[str, ...]
    """in plain words"""
    outputs: _Outputs
    """file name -> sha256, bytes"""


class Clock:
    """Seconds per stage on a monotonic clock: ``with clock("read"): ...`` adds to the stage "read"."""

    def __init__(self, progress: Progress) -> None:
        self.started = utc_now()
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._origin = time.monotonic()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time one stage; the same name twice adds up."""
        self._progress(stage)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 3)

    def total(self) -> dict[str, float]:
        """All stages and their whole."""
        return {**self.seconds, "total": round(time.monotonic() - self._origin, 3)}


def utc_now() -> str:
    """ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"neuroreg": __version__, "python": platform.python_version()}
    for package in ("torch", "SimpleITK", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def machine() -> str:
    """System, processor kind and cores, without the host's name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def scrubbed_argv(arguments: Sequence[str] | None = None, *, full: bool = False) -> tuple[str, ...]:
    """The command line; every path is cut to its base name unless ``full``."""
    words = list(sys.argv if arguments is None else arguments)
    if words and Path(words[0]).name == "__main__.py":  # python -m neuroreg
        words[0] = "neuroreg"
    return tuple(word if full else _without_folder(word) for word in words)


def _without_folder(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    cleaned = option + equals + (Path(value).name if os.sep in value else value)
    return cleaned.encode("utf-8", "replace").decode("utf-8")


def describe_file(path: Path, sha256: str, *, full: bool) -> dict[str, object]:
    """Base name and sha256 identify an input; the absolute path only when asked for."""
    described: dict[str, object] = {"name": path.name, "sha256": sha256}
    if full:
        described["path"] = str(path.resolve())
    return described


def scrub(config: BaseModel, *, full: bool) -> dict[str, object]:
    """The resolved settings as plain JSON values; paths as base names unless ``full``."""

    def plain(value: object) -> object:
        if isinstance(value, Path):
            return str(value.resolve()) if full else value.name
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    settings = {name: plain(value) for name, value in config if value is not None}
    for name in ("weights", "affine"):
        if not full and isinstance(settings.get(name), str):
            settings[name] = _without_folder(str(settings[name]))
    return settings


def digest(path: Path) -> str:
    """The sha256 of an input as a record has it: an image in two files by both of them. Raises NoInputError."""
    return read_image(path).sha256 if path.suffix in _TWO_FILES else files.sha256(path)


def write_record(record: RunRecord, folder: Path, *, overwrite: bool) -> Path:
    """Write ``run.json`` atomically. Returns its path."""
    path = folder / RECORD_NAME
    text = json.dumps(record.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    files.atomic_write(path, write, overwrite=overwrite)
    return path


def read_record(folder: Path) -> RunRecord:
    """The record of a finished run. Raises NoInputError when the run did not finish, DataError when unreadable."""
    path = folder / RECORD_NAME
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NoInputError(
            "no finished run here", file=path, remedy="name the folder of a run that has finished"
        ) from error
    except ValueError as error:
        raise DataError(
            "not a run record", file=path, remedy="name the folder of a run that has finished"
        ) from error


def locate(role: str, recorded: Mapping[str, object], folders: Sequence[Path], *, remedy: str) -> Path:
    """An input of a recorded run, known by base name and sha256: in its recorded place or in one of ``folders``.

    Raises NoInputError when no file of that name is there, DataError when none of them is the recorded one.
    """
    what = f"{role} image" if role in ("fixed", "moving") else role.replace("_", " ")
    verb = "are" if what.endswith("s") else "is"
    name = Path(str(recorded.get("path") or recorded.get("name")))
    places = (name, *(folder / name.name for folder in folders))
    present = [place for place in places if os.path.isfile(place)]  # also of names no file can have
    if not present:
        raise NoInputError(f"the {what} of the recorded run {verb} not here", file=name, remedy=remedy)
    for place in present:
        if digest(place) == recorded.get("sha256"):
            return place
    raise DataError(
        f"the {what} {verb} not the file of the recorded run (sha256 differs)",
        file=name,
        remedy="give the files the run was made with, or register anew",
    )
