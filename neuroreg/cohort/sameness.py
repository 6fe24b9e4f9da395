"""Is what lies there what would be made again? Told from the record of the run, its files, and today's settings.

The key of a case is the sha256 of its inputs' sha256, the settings that matter, the weights and the program's version
(RELIABILITY section 4). Where two keys differ, the differences are named in plain words.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroreg import __version__
from neuroreg.cohort.case import Case
from neuroreg.cohort.layout import Layout
from neuroreg.cohort.preflight import Weights
from neuroreg.errors import NeuroregError
from neuroreg.io import files
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.inputs import given_paths, named_outputs
from neuroreg.pipeline.record import RunRecord, digest, read_record, scrub

_WHERE_NOT_WHAT = (
    "output", "overwrite", "device", "threads", "provenance", "strict_qc", "strict_report", "weights",
)  # fmt: skip
"""Settings that decide where and how a case is made; ``weights`` count by their sha256."""


@dataclass(frozen=True)
class Identity:
    """What a result depends on, as plain JSON values."""

    inputs: Mapping[str, str]
    """role -> sha256"""
    settings: Mapping[str, object]
    weights: Mapping[str, str]
    """stage -> sha256"""
    version: str

    @property
    def key(self) -> str:
        """sha256 of it all."""
        return hashlib.sha256(json.dumps(self.__dict__, sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Identity") -> list[str]:
        """What of ``self`` is not as in ``other``, in plain words."""
        found = [f"the {_in_words(role)} changed" for role in _unlike(self.inputs, other.inputs)]
        found += [f"the setting {name} changed" for name in _unlike(self.settings, other.settings)]
        found += [f"the {_in_words(stage)} changed" for stage in _unlike(self.weights, other.weights)]
        if self.version != other.version:
            found.append(f"it was made by version {other.version}")
        return found


def _in_words(role: str) -> str:
    return f"{role} image" if role in ("fixed", "moving") else role.replace("_", " ")


def _unlike(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def identity(config: RegisterConfig, weights: Weights) -> Identity:
    """Of a case as it would be made now. Reads its inputs; raises NoInputError, DataError."""
    plain = json.loads(json.dumps(scrub(config, full=False)))
    inputs = given_paths(config)
    loaded = {"weights": weights.method, "affine_weights": weights.affine}
    return Identity(
        inputs={role: _digest(path) for role, path in inputs.items()},
        settings=_settings(plain, inputs),
        weights={stage: sha256 for stage, sha256 in loaded.items() if sha256},
        version=_version(__version__),
    )


def identity_of(record: RunRecord) -> Identity:
    """Of a run that was made."""
    weights = {"weights": record.weights, "affine_weights": record.affine_weights}
    return Identity(
        inputs={role: str(described.get("sha256")) for role, described in record.inputs.items()},
        settings=_settings(record.config, record.inputs),
        weights={stage: str(found.get("sha256")) for stage, found in weights.items() if found is not None},
        version=_version(record.versions.get("neuroreg", "?")),
    )


def _settings(config: Mapping[str, object], inputs: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value for name, value in config.items() if name not in inputs and name not in _WHERE_NOT_WHAT
    }


def _version(version: str) -> str:
    """The part that says whether results may differ: the major version; before 1.0 also the minor one."""
    major, _, rest = version.partition(".")
    return major if major != "0" else f"0.{rest.partition('.')[0]}"


def _digest(path: Path) -> str:
    """Of a file that many cases share (the fixed image) once."""
    found = files.check_input(path).stat()
    return _digest_of(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=1024)
def _digest_of(path: Path, *state: int) -> str:
    return digest(path)


def why_again(case: Case, layout: Layout, weights: Weights) -> tuple[str, RunRecord | None]:
    """Why the case must be made (again), and the record of what is there; "" when it need not be.

    Every input and every output is read and hashed: a file that merely exists proves nothing.
    """
    if not layout.mark(case).is_file():
        return "it is not done", None
    try:
        record = read_record(layout.mark(case).parent)
        there = identity_of(record)
        differences = identity(case.config, weights).differences(there)
        missing = set(named_outputs(case.config).values()) - {layout.mark(case).name} - set(record.outputs)
        differences += [f"{name} is not among its outputs" for name in sorted(missing)]
        differences += _damaged(case, layout, record)
    except NeuroregError as error:
        return f"it cannot be checked: {error}", None
    return "; ".join(differences), record


def _damaged(case: Case, layout: Layout, record: RunRecord) -> list[str]:
    found = []
    for name, described in record.outputs.items():
        path = layout.output(case, name)
        if not path.is_file():
            found.append(f"{name} is gone")
        elif path.stat().st_size != described.get("bytes") or files.sha256(path) != described.get("sha256"):
            found.append(f"{name} is not what the run left")
    return found
