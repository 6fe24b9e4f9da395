"""The cases of a cohort: every finished registration below a folder, and the folders of those that did not finish."""

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.io.files import LOCK_NAME
from neuroreg.pipeline.inputs import FILES, MOVED_LABELS
from neuroreg.pipeline.record import RECORD_NAME
from neuroreg.report.group_thumbnail import read_thumbnail
from neuroreg.report.html import plain

Verdict = Literal["fail", "look", "pass"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""The worst first."""

_COMMANDS = ("register", "affine")
_LEFT_BEHIND = frozenset({*FILES.values(), MOVED_LABELS, LOCK_NAME})  # not rois.csv: evaluate leaves one too
_MAX_RECORD_BYTES = 4_000_000
_MAX_TEXT = 400  # characters of one reason or name; the rest is cut
_MAX_REASONS = 20
_FIGURE_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_NO_FIGURES = frozenset(
    {"verdict", "reasons", "thresholds", "id", "z", "outlier_z", "seconds", "method", "weights", "version"}
)
_MAX_NUMBER = 1e30  # what is larger measures nothing, and would overflow in a median


@dataclass(frozen=True)
class Case:
    """One finished registration, as its record tells it. All text is plain (no control characters)."""

    id: str
    """its folder below that of the cohort, with slashes"""
    verdict: Verdict
    reasons: tuple[str, ...]
    figures: Mapping[str, float | None]
    """None: not measured"""
    seconds: float | None
    method: str
    """the method, and how it was refined"""
    weights: str
    """names and the first letters of their sha256; "none" for methods without"""
    version: str
    """the program that made it"""
    thresholds: Mapping[str, Mapping[str, float]]
    """figure -> "look" or "fail" -> the value from which on it is that; empty where the record has none"""
    report: Path | None
    """its report.html, if that is there"""
    thumbnail: str | None
    """a small picture as a data URI"""


@dataclass(frozen=True)
class Cohort:
    """What lies below a folder, each part sorted by id."""

    cases: tuple[Case, ...]
    unfinished: tuple[str, ...]
    """folders that hold outputs or the lock of a run, but no record"""
    unreadable: tuple[tuple[str, str], ...]
    """(folder, why)"""
    missing: tuple[tuple[str, str], ...] = ()
    """(id, why) of the cases that a batch has not registered, as its summary tells it"""


def find_cases(folder: Path) -> Cohort:
    """Read every run below ``folder``, itself included; a bad one never stops the rest.

    Links to folders are followed, and each folder is read once. Raises UsageError when ``folder`` is no folder,
    NoInputError when it is missing, or when there is no trace of a run below it.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UsageError("not a folder", file=folder, remedy="name the folder that holds the cases")
        raise NoInputError("no such folder", file=folder, remedy="check the path")
    cases, unfinished, unreadable = [], [], []
    for place, names in _folders(folder):
        identity = _identity(place, folder)
        if names is None:
            unreadable.append((identity, "the folder cannot be opened"))
        elif RECORD_NAME in names:
            try:
                cases.append(read_case(place, identity))
            except DataError as error:
                unreadable.append((identity, error.what))
        elif names & _LEFT_BEHIND:
            unfinished.append(identity)
    missing = _missing(folder, {case.id.rpartition("/")[2] for case in cases})
    if not (cases or unfinished or unreadable or missing):
        raise NoInputError(
            "no registration below the folder", file=folder, remedy="name the folder that holds the cases"
        )
    cases.sort(key=lambda case: case.id)
    return Cohort(tuple(cases), tuple(sorted(unfinished)), tuple(sorted(unreadable)), missing)


def _missing(folder: Path, there: Set[str]) -> tuple[tuple[str, str], ...]:
    """What the summaries of a batch in ``folder`` (of the whole, else of its shards) say of cases that are not there.

    A summary that cannot be understood says nothing: the page is about what is there.
    """
    found = {}
    for path in sorted(folder.glob("summary.json")) or sorted(folder.glob("summary-*of*.json")):
        with suppress(OSError, ValueError, RecursionError):
            told = _mapping(json.loads(path.read_text("utf-8"))).get("cases")
            for case in map(_mapping, told if isinstance(told, list) else ()):
                name, state = _text(case.get("id") or ""), _text(case.get("state"))
                if name and name not in there and not state.startswith("ok"):
                    found[name] = f"{state}: {_text(case.get('message'))}"
    return tuple(sorted(found.items()))


def _identity(place: Path, folder: Path) -> str:
    return plain(place.relative_to(folder).as_posix())


def _folders(top: Path) -> Iterator[tuple[Path, frozenset[str] | None]]:
    """Every folder from ``top`` down with the names in it (None: it cannot be opened), links after what they may name.

    Hidden folders are left out: a batch at work keeps unfinished cases in one. A folder that was seen is not entered
    again, nor one that contains ``top``: no link can lead round in a circle, or out to the whole disk by way of the
    parents.
    """
    seen = {_node(parent) for parent in top.resolve().parents}
    waiting, links = [top], deque[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        try:
            node = _node(folder)
            if node in seen:
                continue
            seen.add(node)
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            yield folder, None
            continue
        for entry in entries:
            if entry.is_symlink():
                links.extend([folder / entry.name] if os.path.isdir(entry.path) else [])
            elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                waiting.append(folder / entry.name)
        yield folder, frozenset(entry.name for entry in entries)


def _node(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def read_case(folder: Path, identity: str) -> Case:
    """The case whose record lies in ``folder``; records of both schemas are understood.

    Raises DataError when the record cannot be opened, is no JSON, or is not that of a registration.
    """
    record = _record(folder / RECORD_NAME)
    if record.get("command") not in _COMMANDS:
        raise DataError("not the record of neuroreg register or affine", remedy="register the pair again")
    qc = _judgement(record)
    verdict = next((known for known in VERDICTS if qc.get("verdict") == known), None)
    if verdict is None:
        raise DataError("the record has no verdict", remedy="register the pair again")
    reasons, report = qc.get("reasons"), folder / FILES["report"]
    return Case(
        id=identity,
        verdict=verdict,
        reasons=tuple(map(_text, reasons[:_MAX_REASONS])) if isinstance(reasons, list) else (),
        figures=_figures(qc),
        seconds=_number(_mapping(record.get("seconds")).get("total")),
        method=_method(_mapping(record.get("config"))),
        weights=_weights(record),
        version=_text(record.get("program") or "unknown"),
        thresholds=_thresholds(_mapping(qc.get("thresholds"))),
        report=report if report.is_file() else None,
        thumbnail=read_thumbnail(report),
    )


def _record(path: Path) -> Mapping[str, object]:
    try:
        if not path.is_file():
            raise DataError("run.json is no file that can be opened", remedy="check what it is")
        with path.open("rb") as stream:
            content = stream.read(_MAX_RECORD_BYTES + 1)
        if len(content) > _MAX_RECORD_BYTES:
            raise DataError("run.json is too large for a record", remedy="check what it is")
        found = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise DataError(
            f"run.json cannot be opened: {(error.strerror or 'error').lower()}",
            remedy="check its permissions",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError("run.json is not valid JSON", remedy="register the pair again") from error
    if not isinstance(found, dict):
        raise DataError("run.json is not a record", remedy="register the pair again")
    return found


def _judgement(record: Mapping[str, object]) -> Mapping[str, object]:
    """The ``qc`` of the record. One of schema 1 says "figures" and "quality", which knew pass and look alone."""
    if isinstance(record.get("qc"), dict):
        return _mapping(record["qc"])
    quality = _mapping(record.get("quality"))
    passed = quality.get("passed")
    verdict = ("pass" if passed else "look") if isinstance(passed, bool) else None
    return {**_mapping(record.get("figures")), "verdict": verdict, "reasons": quality.get("reasons")}


def _figures(qc: Mapping[str, object]) -> dict[str, float | None]:
    """Whatever is a number or null under a name of the usual form; NaN and infinities count as null."""
    return {
        name: _number(value)
        for name, value in qc.items()
        if name not in _NO_FIGURES
        and _FIGURE_NAME.fullmatch(name)
        and (value is None or (isinstance(value, int | float) and not isinstance(value, bool)))
    }


def _thresholds(given: Mapping[str, object]) -> dict[str, dict[str, float]]:
    found = {}
    for name, levels in given.items():
        numbers = {level: _number(_mapping(levels).get(level)) for level in ("look", "fail")}
        known = {level: value for level, value in numbers.items() if value is not None}
        if known:
            found[name] = known
    return found


def _method(config: Mapping[str, object]) -> str:
    method, refine = _text(config.get("method") or "unknown"), config.get("refine")
    return f"{method}, refined ({_text(refine)})" if refine else method


def _weights(record: Mapping[str, object]) -> str:
    """Names and hashes of what the method, and before it the affine, were run with."""
    found = []
    for key, words in (("weights", ""), ("affine_weights", "affine by "), ("brain_weights", "brain by ")):
        weights = _mapping(record.get(key))
        if weights:
            found.append(f"{words}{_text(weights.get('name'))} ({_text(weights.get('sha256'))[:8]})")
    return ", ".join(found) or "none"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if abs(number) <= _MAX_NUMBER else None  # NaN is not


def _text(value: object) -> str:
    text = plain(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
