"""One case of a cohort: what to register, and how it stands."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuroreg.pipeline.config import AFFINES, RegisterConfig

ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")
"""What an id may be: it becomes the name of a folder."""

RESERVED = frozenset(
    {"template", "journal.jsonl", "summary.csv", "summary.json", "failed.csv", "group.html", "group.csv"}
)
"""Names in the output folder that are not free for cases, in lower case; also everything that begins with a dot."""


@dataclass(frozen=True)
class Case:
    """One registration of a cohort."""

    id: str
    """matches ``ID``; the name of its folder in the output"""
    config: RegisterConfig
    """without an output folder: whoever runs the case gives it one"""
    row: Mapping[str, str] = field(default_factory=dict)
    """the cells of a manifest that would ask for this case again, ``root`` (an absolute folder) among them"""


@dataclass(frozen=True)
class Cohort:
    """Everything that one call of the program is asked to register."""

    cases: Sequence[Case]
    notes: Sequence[str] = ()
    """what the user should know about the manifest: columns not used, and the like"""
    prepare: Callable[[], None] | None = None
    """makes the files that cases read and the program brings along (the template); called when the output is held"""


def absolute(config: RegisterConfig) -> RegisterConfig:
    """The same settings with absolute paths, for a process that works elsewhere."""
    changes: dict[str, object] = {name: value.absolute() for name, value in config if isinstance(value, Path)}
    changes["also"] = tuple(path.absolute() for path in config.also)
    if config.affine not in AFFINES:
        changes["affine"] = str(Path(config.affine).absolute())
    if config.weights is not None and Path(config.weights).is_file():
        changes["weights"] = str(Path(config.weights).absolute())
    return config.model_copy(update=changes)
