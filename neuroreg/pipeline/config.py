"""What a registration is asked to do, and where each setting comes from: flags > NEUROREG_* > file > default."""

import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.parse import from_json
from neuroreg.pipeline.record import locate
from neuroreg.registry import unknown_name
from neuroreg.validation import sentence

OUTPUTS = ("image", "field", "transform", "inverse", "affine", "jacobian", "report")
"""Everything ``--outputs`` can name, in the order of writing; ``standard`` is all of them."""

INPUTS = (
    "fixed",
    "moving",
    "fixed_labels",
    "moving_labels",
    "label_names",
    "fixed_mask",
    "moving_mask",
    "also",
)
"""The settings of RegisterConfig that name the files of one pair."""

AFFINES: Mapping[str, str] = {
    "affine": "found by the method of that name",
    "jointaffine": "found by the affine part of the method of that name",
    "none": "the images' own frames",
}
"""What ``--affine`` accepts beside a file."""

BRAIN_FINDER = "jointaffine"
"""The method whose affine part finds the brain in a whole head."""

REFINE_PRESETS = ("fast", "mid", "std", "best")

Outputs = Annotated[tuple[str, ...], NoDecode]
Paths = Annotated[tuple[Path, ...], NoDecode]


class RegisterConfig(BaseModel):
    """One registration: inputs, method, and what to leave behind. Frozen; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed: Path
    """the image that stays"""
    moving: Path
    """the image that is moved onto it"""
    output: Path | None = None
    """the output folder; None: ./<moving>_to_<fixed>"""
    method: str = "neuroreg"
    weights: str | None = None
    """name in the manifest or a .safetensors file; None: the method's default"""
    affine: str = "affine"
    """a name in AFFINES or a transform file; method affine starts from the file, the others take it as it is; left out:
    what a method in AFFINES brings, for the others "affine" """
    refine: str | None = None
    """preset name or number of iterations"""
    options: dict[str, object] = Field(default_factory=dict)
    """settings of the method's own Config"""
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    label_names: Path | None = None
    fixed_mask: Path | None = None
    """where (above 0) the fixed image's data count; what it leaves out follows the field and is never blanked"""
    moving_mask: Path | None = None
    """where the moving image's data count, likewise"""
    find_brain: bool = False
    """whole heads without a mask get one: the brain is looked for, see ``pipeline/head_mask.py``"""
    also: Paths = ()
    """further images in the moving image's space"""
    device: str = "auto"
    threads: int | None = Field(None, ge=1, le=1024)
    seed: int = Field(0, ge=0)
    deterministic: bool = False
    overwrite: bool = False
    outputs: Outputs = OUTPUTS
    strict_qc: bool = False
    strict_report: bool = False
    """a report that cannot be made fails the run, which otherwise says so and goes on"""
    frame: int | None = Field(None, ge=0)
    xform: Literal["auto", "sform", "qform"] = "auto"
    max_voxels: int = Field(768**3, ge=1)
    provenance: Literal["base", "full"] = "base"

    @model_validator(mode="before")
    @classmethod
    def _own_affine(cls, given: object) -> object:
        if not isinstance(given, Mapping) or given.get("affine") is not None:
            return given
        return {**given, "affine": given["method"] if given.get("method") in AFFINES else "affine"}

    @field_validator("outputs", mode="before")
    @classmethod
    def _split_outputs(cls, value: object) -> object:
        names = _split(value)
        if not isinstance(names, tuple):
            return names
        names = tuple(n for name in names for n in (OUTPUTS if name == "standard" else (name,)))
        unknown = [name for name in names if name not in OUTPUTS]
        if unknown or not names:
            raise ValueError(
                f"unknown output {', '.join(map(str, unknown)) or '(none)'}; known: {', '.join(OUTPUTS)}"
            )
        return tuple(name for name in OUTPUTS if name in names)

    @field_validator("also", mode="before")
    @classmethod
    def _split_also(cls, value: object) -> object:
        return _split(value)

    @field_validator("refine", mode="before")
    @classmethod
    def _check_refine(cls, value: object) -> object:
        text = None if value is None else str(value)
        if text is None or text in REFINE_PRESETS or (text.isdecimal() and int(text) > 0):
            return text
        raise ValueError(f"give {', '.join(REFINE_PRESETS)} or a number of iterations (got {text!r})")

    @field_validator("affine")
    @classmethod
    def _check_affine(cls, value: str) -> str:
        if value in AFFINES or "." in Path(value).name or Path(value).exists():
            return value
        raise ValueError(unknown_name("affine", value, AFFINES) + ", or a transform file")

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.output or Path(f"{stem(self.moving)}_to_{stem(self.fixed)}")


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list | tuple) else value


def stem(path: Path) -> str:
    """The base name without its image suffix: ``a.b.nii.gz`` -> ``a.b``."""
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] or name


def resolve(
    flags: Mapping[str, object], file: Path | None = None, *, defaults: Mapping[str, object] | None = None
) -> RegisterConfig:
    """Merge flags, NEUROREG_*, a configuration file and ``defaults``. Flags set to None count as not given.

    The file is TOML or JSON with the names of RegisterConfig, or the ``run.json`` of an earlier run.
    Raises NoInputError, DataError for the file, UsageError for a setting.
    """
    given = _given(flags)
    below = {} if file is None else read_config(file, given=given.keys())
    merged = _merge(given, below, defaults or {})
    missing = [role for role in ("fixed", "moving") if role not in merged]
    if missing:
        raise UsageError(
            f"the {' and the '.join(missing)} image is missing",
            remedy="name both: FIXED, the image that stays, then MOVING",
        )
    try:
        return RegisterConfig.model_validate(merged)
    except ValidationError as error:
        raise UsageError(
            sentence(error), file=file, remedy="correct the setting; neuroreg register --help lists them"
        ) from error


def resolve_shared(
    flags: Mapping[str, object], file: Path | None = None, *, defaults: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The settings that many registrations share, merged and checked as by ``resolve``, without any images.

    Files and variables are read once, however many there are. Of an earlier run's ``run.json`` everything holds but
    its images. Raises as ``resolve``.
    """
    given = _given(flags)
    below = {} if file is None else read_config(file, given={*given, *INPUTS})
    merged = _merge(given, below, defaults or {})
    try:
        checked = RegisterConfig.model_validate({"fixed": Path("fixed"), "moving": Path("moving"), **merged})
    except ValidationError as error:
        raise UsageError(
            sentence(error), file=file, remedy="correct the setting; neuroreg register --help lists them"
        ) from error
    return {name: getattr(checked, name) for name in merged}


def _given(flags: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


def _merge(
    given: Mapping[str, object], below: Mapping[str, object], defaults: Mapping[str, object]
) -> dict[str, object]:
    """Flags over NEUROREG_* over a file over defaults; options of the method one by one."""
    merged = {**defaults, **below, **_environment(), **given}
    merged["options"] = {**_options(below), **_options(given)}
    return merged


def _options(source: Mapping[str, object]) -> Mapping[str, object]:
    options = source.get("options", {})
    if not isinstance(options, Mapping):
        raise UsageError(
            f"options must be a table of names and values, got {options!r}",
            remedy="write them as a table in TOML or an object in JSON",
        )
    return options


class _Environment(BaseSettings):
    """The settings that make sense for every run of a user or a machine."""

    model_config = SettingsConfigDict(env_prefix="NEUROREG_", extra="ignore")

    method: str | None = None
    weights: str | None = None
    affine: str | None = None
    refine: str | None = None
    device: str | None = None
    threads: int | None = None
    seed: int | None = None
    deterministic: bool | None = None
    find_brain: bool | None = None
    outputs: Outputs | None = None
    strict_qc: bool | None = None
    strict_report: bool | None = None
    max_voxels: int | None = None
    provenance: str | None = None


def _environment() -> dict[str, object]:
    return dict(EnvSettingsSource(_Environment)())


def read_config(file: Path, *, given: Set[str]) -> dict[str, object]:
    """The settings of a .toml or .json file, or of a run record, which need not provide what is ``given`` already."""
    try:
        text = file.read_text(encoding="utf-8")
        data = tomllib.loads(text) if file.suffix == ".toml" else from_json(text)
    except OSError as error:
        raise NoInputError("cannot read the configuration", file=file, remedy="check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid TOML or JSON: {error}", file=file, remedy="correct the file") from error
    if not isinstance(data, dict):
        raise DataError(
            "a configuration is a table of names and values",
            file=file,
            remedy="write it as a table in TOML or an object in JSON",
        )
    if "schema_version" not in data:
        return data
    return _replayed(data, file, given)


def _replayed(run: Mapping[str, object], file: Path, given: Set[str]) -> dict[str, object]:
    """The settings of a run record; its inputs are looked for by base name and known by their sha256."""
    config, inputs = run.get("config"), run.get("inputs")
    if (
        not isinstance(config, dict)
        or not isinstance(inputs, dict)
        or not all(map(_is_file, inputs.values()))
    ):
        raise DataError(
            "not the record of a registration", file=file, remedy="give a run.json of neuroreg register"
        )
    apart = {"output", "overwrite", *(given & set(INPUTS))}
    settings = {key: value for key, value in config.items() if key not in apart}
    for role, recorded in inputs.items():
        name = role.partition(":")[0]
        if name in given:
            continue
        cure = f"run in its folder, or name every input on the command line (here: {name.replace('_', '-')})"
        found = str(locate(name, recorded, (Path(), file.parent, file.parent.parent), remedy=cure))
        if name == "also":
            settings["also"] = [
                *[p for p in _texts(settings.get("also")) if Path(p).name != recorded["name"]],
                found,
            ]
        else:
            settings[name] = found
    method, named = str(settings.get("method")), settings.get("weights")
    affine = str(settings.get("affine"))
    if not given & {"method", "weights"}:
        _check_weights(run.get("weights"), affine if method == "affine" else method, named, file)
    if not given & {"method", "affine"}:
        _check_weights(run.get("affine_weights"), affine, None, file)
    if settings.get("find_brain") and "find_brain" not in given:
        _check_weights(run.get("brain_weights"), BRAIN_FINDER, None, file)
    return settings


def _is_file(recorded: object) -> bool:
    """Whether a record names a file, as ``record.describe_file`` does."""
    return isinstance(recorded, Mapping) and all(
        isinstance(recorded.get(key), str) for key in ("name", "sha256")
    )


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _check_weights(recorded: object, method: str, named: object, file: Path) -> None:
    """Raises DataError when the weights this run would use are not those of the recorded run."""
    if not isinstance(recorded, Mapping):
        return
    from neuroreg import checkpoints

    weights = checkpoints.find(str(named)) if named else checkpoints.default_for(method)
    if weights.sha256 != recorded.get("sha256"):
        raise DataError(
            f"the weights {weights.name!r} are not those of the recorded run (sha256 differs)",
            file=file,
            remedy="name the recorded ones with --weights FILE, or accept today's with --weights NAME",
        )
