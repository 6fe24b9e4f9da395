"""The JSON schemas of what neuroreg writes for machines, from the models: neuroreg/schemas/*.json.

python examples/make_schemas.py            # write them
python examples/make_schemas.py --check    # write nothing; leave with 1 where a file is not what the models say

The README beside the schemas says what they promise. What ``--json`` puts on stdout is described here, command by
command; the rest describes itself (``neuroreg.pipeline.record``).
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from neuroreg.cli.console import JSON_SCHEMA
from neuroreg.cohort import journal
from neuroreg.cohort.states import State
from neuroreg.cohort.summary import Summary
from neuroreg.pipeline.evaluate_compare import Contrast
from neuroreg.pipeline.record import RunRecord

FOLDER = Path(__file__).resolve().parents[1] / "neuroreg" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]
Figure = float | None


class Described(BaseModel):
    """Part of an answer; the text under a field describes it."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Failure(Described):
    """What was wrong."""

    what: str
    """in one line"""
    file: str | None
    """base name of the file it is about"""
    remedy: str
    """what to do about it; may be empty"""


class Error(Described):
    """The command failed, and left nothing behind that it had not finished."""

    status: Literal["error"]
    code: int
    """exit code of the process, see README"""
    error: Failure


class Plan(Described):
    """register or affine with --dry-run: what would be done. Nothing was written."""

    dry_run: Literal[True]
    output: str
    """base name of the output folder"""
    outputs: list[str]
    """names of the files in it"""
    device: str
    weights: str | None
    memory_mb: float
    disk_mb: float
    config: dict[str, object]
    """the settings, resolved"""
    warnings: list[str]


class Files(Described):
    """What a command wrote."""

    outputs: list[str]
    """paths, as they were given"""
    warnings: list[str]


class RoundTrip(Described):
    """How far from its start a point ends that goes there and back."""

    mean_mm: float
    p99_mm: float
    """99 % of the points are nearer"""


class Batch(Described):
    """A batch that has ended; its cases are in summary.json. status is "failed" (8: cases failed) or "quality" (3)."""

    code: int
    """exit code of the process"""
    folder: str
    counts: dict[State, int]
    """state -> cases"""
    made_again: dict[str, str]
    """id -> why a case that was done before has been made again"""
    summary: str
    """path of summary.json"""
    page: str | None
    """path of group.html; null when there is none, as for a shard"""


class BidsGroup(Described):
    """bids with the level group: what is there, checked. status is "failed" (8) when something is wrong."""

    code: int
    """exit code of the process"""
    folder: str
    counts: dict[State, int]
    """state -> cases, of all participants"""
    faults: list[str]
    """outputs that are damaged, unfinished or of nobody, in words"""
    summary: str
    """path of summary.json"""
    page: str | None
    """path of group.html; null when there is none"""


class BatchPlan(Described):
    """batch with --dry-run: what would be done. Nothing was written."""

    dry_run: Literal[True]
    cases: int
    to_make: int
    again: dict[str, str]
    """id -> why a case that was done before would be made again"""
    disk_gb: float
    ids: list[str]
    """those to make"""


class BatchPart(Described):
    """One journal: of a whole batch, or of a shard."""

    journal: str
    state: str
    """ended, running, or what became of it, in words"""
    started: str
    engine: str
    counts: dict[State, int]
    running: list[str]
    """ids"""
    cases_per_hour: Figure
    seconds_left: Figure
    exit_code: int | None
    """null while it runs, and when it was killed"""
    lines_not_understood: int


class BatchStatus(Described):
    """batch with --status: how it stands."""

    folder: str
    parts: list[BatchPart]


class Inverted(Files):
    """The inverse of a transform."""

    round_trip: RoundTrip


class Determinants(Files):
    """A map of det J; the figures are over all its voxels."""

    minimum: float
    maximum: float
    mean: float
    folded_percent: float
    """voxels with det J <= 0"""


class Pages(Files):
    """Pages of finished runs; the counts come with --group."""

    cases: int = 0
    passed: int = 0
    look: int = 0
    failed: int = 0
    outliers: int = 0
    unfinished: int = 0
    not_registered: int = 0
    """cases that a batch has failed to register, or not come to"""
    unreadable: int = 0


class Region(Described):
    """One region, group or group mean; figures that do not exist are null (README, Evaluate)."""

    id: str
    """label number, as text; empty for a group"""
    name: str
    kind: Literal["roi", "group", "group mean"]
    status: str
    """ok, or why figures are missing"""
    tolerance_mm: float
    """of the surface Dice"""
    dice: Figure
    jaccard: Figure
    hd_mm: Figure
    hd95_mm: Figure
    assd_mm: Figure
    surface_dice: Figure


class Compared(Described):
    """Two label maps; mean_... are over the regions that have the figure."""

    regions: int
    regions_incomplete: int
    """present in one of the maps only"""
    mean_dice: Figure
    deformation: dict[str, object] | None
    """of --transform"""
    landmarks: dict[str, object] | None
    landmarks_mapped: dict[str, object] | None
    rois: list[Region]


class MissedPair(Described):
    """A pair that could not be used."""

    id: str
    method: str
    status: str
    """why"""


class Evaluated(Described):
    """A table of pairs; status is "error" when pairs failed."""

    outputs: list[str]
    program: str
    pairs: int
    failed: list[MissedPair]
    interval: str
    bootstrap_draws: int
    seed: int
    methods: list[dict[str, object]]
    """method, pairs, tolerance_mm, figures, structures"""


class Tested(Described):
    """Methods against the first of them."""

    reference: str
    methods: list[str]
    cases: list[str]
    correction: str
    tests: list[Contrast]
    warnings: list[str]


class Trained(Described):
    """A finished training."""

    weights: str
    """path of the best weights"""
    best_dice: float
    best_step: int
    steps: int
    seconds: float
    stopped_early: bool


class Benchmarked(Described):
    """A finished benchmark."""

    program: str
    machine: str
    threads: int
    reference: str | None
    regions: int
    ids: list[int]
    methods: list[dict[str, object]]
    """one object per method: method, pairs, failures, dice_mean, wall_s, ..."""


class Method(Described):
    """What --method accepts."""

    name: str
    summary: str
    extra: str | None
    """the extra it needs: pip install 'neuroreg[extra]'"""
    installed: bool


class Methods(Described):
    """All methods."""

    methods: list[Method]


class Weights(Described):
    """One weight file."""

    name: str
    kind: str
    method: str | None
    file: str
    sha256: str
    licence: str
    training_data: str
    spacing_mm: Figure
    default: bool
    """whether its method takes it without --weights"""


class ModelsList(Described):
    """All weights of this installation."""

    models: list[Weights]


class ModelsVerify(Described):
    """Weights that are what was published."""

    verified: list[str]


class ModelsPath(Described):
    """Where weights lie."""

    path: str


class Check(Described):
    """One line of the examination."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str


class Doctor(Described):
    """The examination; status is "error" when a check failed."""

    checks: list[Check]


class Refused(Failure):
    """Why a file is refused."""

    code: int
    """exit code of a command that needs it"""


class Grid(Described):
    """Where voxels lie. A number that overflows is null, here and in the rest of a file's figures."""

    size: tuple[int, int, int]
    """voxels, (x, y, z)"""
    spacing_mm: tuple[Figure, Figure, Figure]
    field_of_view_mm: tuple[Figure, Figure, Figure]
    axes: str
    """the side of the body that each voxel axis runs towards, as RAS or LIA (nibabel's and FreeSurfer's convention)"""
    oblique_degrees: Figure
    """the largest angle between a voxel axis and the body axis next to it"""


class Image(Described):
    """What an image holds, or the one frame of it that was read."""

    grid: Grid
    pixel_type: str
    """as stored: uint8, int16, float32, ..."""
    frames: int
    minimum: Figure
    """NaN and infinite voxels count as 0"""
    maximum: Figure
    zero_percent: float
    """without the NaN and infinite ones"""
    invalid_percent: float
    """of NaN and infinite voxels"""
    content: Literal["brain", "head", "little", "labels"]
    """brain: without skull; head: more than a brain; little: less than a brain; labels: a label map"""
    label_ids: int | None
    """how many besides 0; null when it is no label map"""
    sides_in_doubt: bool
    """the header does not say beyond doubt which side is left"""
    sha256: str


class Part(Described):
    """One part of a transform, in the order in which they act on the (fixed) point."""

    kind: Literal["affine", "field"]
    largest_mm: Figure
    """affine: how far the world's origin is moved; field: the longest displacement"""
    determinant: tuple[Figure, Figure] | None
    """lowest and highest of the Jacobian; null where a field has a side of one voxel"""
    folded_percent: float | None
    """of the field's voxels with a determinant of 0 or less"""
    grid: Grid | None
    """of a field"""


class WeightFile(Described):
    """A weight file."""

    name: str
    method: str | None
    published: bool
    """it is in the list of this installation, and what was published"""
    tensors: int
    sha256: str


class ExaminedFile(Described):
    """One file: refused, or exactly one of image, transform and weights."""

    file: str
    """base name"""
    image: Image | None
    transform: list[Part] | None
    weights: WeightFile | None
    warnings: list[str]
    error: Refused | None


class DoctorFiles(Described):
    """The files that were given, in their order; status is "error" when one was refused."""

    code: int
    """exit code of the process: that of the first file refused, or 0"""
    files: list[ExaminedFile]


class Distance(Described):
    """From the known answer."""

    mean_mm: float
    p95_mm: float
    dice: float


class Errors(Described):
    """Without a registration, after the affine, at the end."""

    before: Distance
    affine: Distance
    after: Distance


class Demo(Described):
    """A registration whose answer is known."""

    errors: Errors
    folder: str
    record: RunRecord


REGISTRATION = "Registration"
ANSWERS: Mapping[str, tuple[type[BaseModel] | str, ...]] = {
    "register": (REGISTRATION, Plan),
    "affine": (REGISTRATION, Plan),
    "batch": (Batch, BatchPlan, BatchStatus),
    "bids": (Batch, BatchPlan, BidsGroup),
    "apply": (Files,),
    "evaluate": (Compared, Evaluated, Tested),
    "train": (Trained, Files),
    "methods": (Methods,),
    "models list": (ModelsList,),
    "models verify": (ModelsVerify,),
    "models path": (ModelsPath,),
    "doctor": (Doctor, DoctorFiles),
    "demo": (Demo,),
    "compose": (Files,),
    "invert": (Inverted,),
    "jacobian": (Determinants,),
    "convert": (Files,),
    "report": (Pages,),
    "benchmark": (Benchmarked,),
}
"""command, as the object names it -> the forms its answer can have"""

ALWAYS = {
    "RunRecord": ("schema_version", "program", "method_options", "affine_weights"),
    "Quality": ("reasons", "worst_place_lps_mm", "thresholds"),
    "Summary": ("schema_version", "program", "shard"),
    "CaseSummary": ("verdict", "reasons", "attempts", "seconds", "exit_code", "kind", "message"),
    "Begin": ("event", "schema_version", "argv"),
    "Planned": ("event", "why"),
    "Ok": ("event", "reasons"),
    "Failed": ("event", "again"),
    **dict.fromkeys(("Skipped", "Started", "End"), ("event",)),
}
"""Keys with a default in the model that were in every record of this version all the same."""


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: object) -> bool:
        """A key's name is title enough."""
        return False


def definitions(*models: type[BaseModel]) -> dict[str, Schema]:
    """Each model, and each that it holds, by its name."""
    asked = [(model, "validation") for model in models]  # its required keys are those without a default
    _, found = models_json_schema(asked, schema_generator=_Generator)
    parts: dict[str, Schema] = _tidy(found["$defs"])
    for name, keys in ALWAYS.items():
        if name in parts:
            required = {*parts[name].get("required", ()), *keys}
            parts[name]["required"] = [key for key in parts[name]["properties"] if key in required]
    for model in models:
        if "schema_version" in model.model_fields:
            parts[model.__name__]["properties"]["schema_version"]["const"] = version(model)
    return parts


def version(model: type[BaseModel]) -> int:
    """What an object of a model says of its version."""
    return int(model.model_fields["schema_version"].default)


def _tidy(node: Any) -> Any:
    """Without defaults, which change with each version, and open to keys that come later."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = node.get("additionalProperties") is False
    kept = {k: v for k, v in node.items() if k != "default" and not (closed and k == "additionalProperties")}
    return {k: _line(v) if k == "description" and isinstance(v, str) else _tidy(v) for k, v in kept.items()}


def _line(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def _document(name: str, title: str, description: str, body: Schema) -> Schema:
    head = {"$schema": DIALECT, "$id": f"neuroreg:{name}", "title": title, "description": description}
    return {**head, **body}


def _of_model(model: type[BaseModel], name: str) -> Schema:
    """The file ``name``.json holds one object."""
    parts = definitions(model)
    whole = parts.pop(model.__name__)
    body = {key: value for key, value in whole.items() if key not in ("title", "description")}
    return _document(
        f"{name}-{version(model)}", f"{name}.json", whole["description"], {**body, "$defs": parts}
    )


def _of_journal() -> Schema:
    """Each line of journal.jsonl is one event."""
    events = get_args(journal.Event)
    parts = definitions(*events)
    known = {event.model_fields["event"].default: event for event in events}
    rules = [
        {"if": {"properties": {"event": {"const": name}}}, "then": _reference(event)}
        for name, event in known.items()
    ]
    properties = {"event": {"type": "string", "examples": list(known)}, "time": {"type": "string"}}
    about = "One line of journal.jsonl, in the order of time. Leave events out that are not named here."
    body = {"type": "object", "properties": properties, "required": ["event", "time"], "allOf": rules}
    return _document(f"journal-{journal.JOURNAL_SCHEMA}", "journal.jsonl", about, {**body, "$defs": parts})


def _of_answer() -> Schema:
    models = {form for forms in ANSWERS.values() for form in forms if not isinstance(form, str)}
    parts = definitions(RunRecord, Error, *sorted(models, key=lambda model: model.__name__))
    parts[REGISTRATION] = {
        "description": "A finished registration: its folder and its run.json.",
        "allOf": [{"$ref": "#/$defs/RunRecord"}],
        "properties": {"folder": {"type": "string"}},
        "required": ["folder"],
    }
    rules: list[Schema] = [
        {
            "if": {"properties": {"command": {"const": command}}, "required": ["command"]},
            "then": {"anyOf": [_reference(form) for form in forms]},
        }
        for command, forms in ANSWERS.items()
    ]
    rules.append({"if": {"not": {"required": ["command"]}}, "then": _reference(Error)})
    properties = {
        "schema": {"const": JSON_SCHEMA, "description": "version of this object"},
        "command": {"type": "string", "description": "what was called; missing when the command failed"},
        "status": {
            "enum": ["ok", "error", "failed", "quality"],
            "description": "ok: exit code 0; failed and quality: of a batch that came to its end",
        },
    }
    body: Schema = {
        "type": "object",
        "properties": properties,
        "required": ["schema", "status"],
        "allOf": rules,
    }
    about = "The one object on stdout of a command with --json. Commands that are not named here may come."
    return _document(
        f"json-{JSON_SCHEMA}", "neuroreg --json", about, {**body, "$defs": dict(sorted(parts.items()))}
    )


def _reference(form: type[BaseModel] | str) -> Schema:
    return {"$ref": f"#/$defs/{form if isinstance(form, str) else form.__name__}"}


def schemas() -> Iterator[tuple[str, str]]:
    """(file name, text) of every schema."""
    for document in (_of_model(RunRecord, "run"), _of_answer(), _of_journal(), _of_model(Summary, "summary")):
        yield document["$id"].partition(":")[2] + ".json", json.dumps(document, indent=2) + "\n"


def main(*arguments: str) -> int:
    """0, or 1 when ``--check`` finds a difference."""
    differ = []
    for name, text in schemas():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differ.append(name)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    for name in differ:
        print(f"{name}: {'not what the models say' if '--check' in arguments else 'written'}")
    return int(bool(differ) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
