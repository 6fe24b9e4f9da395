"""Objects written down by hand as former versions of the program left them, and the check against a schema."""

import functools
import json
from importlib import resources
from typing import Any

import jsonschema

DIGEST = "0" * 64
RUN = {"verdict": "look", "reasons": ["so"], "lncc_after": 0.4, "dice_mean": None}
RUN_2: dict[str, Any] = {
    "schema_version": 2,
    "program": "neuroreg 0.1.0",
    "command": "register",
    "argv": ["neuroreg", "register", "f.nii", "m.nii"],
    "started": "2026-01-02T03:04:05+00:00",
    "finished": "2026-01-02T03:04:09+00:00",
    "versions": {"neuroreg": "0.1.0"},
    "machine": "Linux x86_64, 2 cores",
    "device": "cpu",
    "threads": 2,
    "seed": 0,
    "deterministic": False,
    "config": {"method": "affine", "options": {}},
    "method_options": {"affine": {"dof": 12}},
    "inputs": {role: {"name": f"{role}.nii", "sha256": DIGEST} for role in ("fixed", "moving")},
    "weights": None,
    "affine_weights": None,
    "seconds": {"read": 0.1, "total": 4},
    "qc": {**RUN, "worst_place_lps_mm": None, "thresholds": {"lncc_after": {"look": 0.5, "fail": 0.35}}},
    "warnings": [],
    "outputs": {"moved.nii.gz": {"sha256": DIGEST, "bytes": 12}},
}
"""What every run.json of version 2 has; the program may add to it, never take away."""

_IN_1 = {key: value for key, value in RUN_2.items() if key != "qc"}
RUN_1: dict[str, Any] = {
    **_IN_1,
    "schema_version": 1,
    "figures": {"lncc_after": 0.4},
    "quality": {"passed": False, "reasons": ["so"]},
}

_HEAD = {"schema": 1, "status": "ok"}
_FILES = {**_HEAD, "outputs": ["a"], "warnings": []}
_REFUSED: dict[str, Any] = {
    **dict.fromkeys(("image", "transform", "weights"), None),
    **{"file": "a", "warnings": [], "error": {"code": 66, "what": "so", "file": "a", "remedy": ""}},
}
ANSWERS: tuple[dict[str, Any], ...] = (
    {"schema": 1, "status": "error", "code": 66, "error": {"what": "so", "file": None, "remedy": ""}},
    {**_HEAD, "command": "register", "folder": "out", **RUN_2},
    {
        **{**_HEAD, "command": "affine", "dry_run": True, "output": "out", "outputs": ["run.json"]},
        **{"device": "cpu", "weights": None, "memory_mb": 1, "disk_mb": 1, "config": {}, "warnings": []},
    },
    {
        **{**_HEAD, "status": "failed", "command": "batch", "code": 8, "folder": "out", "page": None},
        **{"counts": {"killed": 1}, "made_again": {"a": "inputs differ"}, "summary": "out/summary.json"},
    },
    {
        **{**_HEAD, "command": "batch", "dry_run": True, "cases": 2, "to_make": 1, "again": {"a": "so"}},
        **{"disk_gb": 0.1, "ids": ["a"]},
    },
    {**_HEAD, "command": "batch", "folder": "out", "parts": []},
    {**_FILES, "command": "apply"},
    {**_FILES, "command": "compose"},
    {**_FILES, "command": "convert"},
    {**_FILES, "command": "invert", "round_trip": {"mean_mm": 0.1, "p99_mm": 0.2}},
    {**_FILES, "command": "jacobian", "minimum": 0.5, "maximum": 2, "mean": 1, "folded_percent": 0},
    {**_FILES, "command": "report"},
    {**_HEAD, "command": "models path", "path": "weights"},
    {**_HEAD, "command": "models verify", "verified": ["a"]},
    {**_HEAD, "status": "error", "command": "doctor", "checks": []},
    {**_HEAD, "status": "error", "command": "doctor", "code": 66, "files": [_REFUSED]},
    {**_HEAD, "command": "of a later version"},
)

_WHEN = "2026-01-02T03:04:05+00:00"
_ONE = {"time": _WHEN, "id": "a"}
_TRY = {**_ONE, "attempt": 1}
JOURNAL_1: tuple[dict[str, Any], ...] = (
    {
        **{"time": _WHEN, "event": "begin", "schema_version": 1, "program": "neuroreg 0.1.0", "pid": 1},
        **{"host": "a", "planned": 2, "engine": "serial", "slots": 1, "argv": []},
    },
    {**_ONE, "event": "planned", "why": ""},
    {**_ONE, "event": "skipped", "state": "ok"},
    {**_TRY, "event": "started", "pid": 2, "host": "a"},
    {
        **{**_TRY, "event": "ok", "state": "ok", "verdict": "pass", "reasons": [], "seconds": 1.5},
        **{"key": DIGEST, "outputs": {"moved.nii.gz": DIGEST}},
    },
    {
        **{**_TRY, "event": "failed", "state": "failed-data", "kind": "DataError", "message": "so"},
        **{"seconds": 1, "again": False},
    },
    {"time": _WHEN, "event": "end", "counts": {"ok": 1, "failed-data": 1}, "code": 8},
)
"""A line of each kind, with what every one of version 1 has."""

SUMMARY_1: dict[str, Any] = {
    **{"schema_version": 1, "program": "neuroreg 0.1.0", "shard": None, "started": _WHEN, "finished": _WHEN},
    **{"exit_code": 8, "counts": {"failed-data": 1}, "seconds": 9.5, "journal_seconds": 0},
    "cases": [
        {
            **{"id": "a", "state": "failed-data", "verdict": None, "reasons": [], "attempts": 1},
            **{"seconds": 1.5, "exit_code": 65, "kind": "DataError", "message": "so"},
        }
    ],
}


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """Of the schema that the package carries by that name."""
    text = (resources.files("neuroreg") / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def check(told: object, name: str) -> None:
    """Fail where an object is not what schema ``name`` says, with the reason nearest to the cause."""
    error = jsonschema.exceptions.best_match(validator(name).iter_errors(told))
    assert error is None, f"{name}: {error.json_path}: {error.message}"
