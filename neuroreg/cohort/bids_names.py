"""Names of the Brain Imaging Data Structure (BIDS 1.10): what a T1w image is called, and what is made of it.

A scan keeps all of its entities. What is aligned to a space carries ``space-``; a transform says ``from-`` and ``to-``,
the space of the images it reads and the one it makes, as fMRIPrep names them: BIDS has no name for transforms yet.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar
from urllib.parse import quote

from neuroreg.cohort.case import ID
from neuroreg.io.files import suffix_of
from neuroreg.pipeline.inputs import FILES

RAW = "raw"
"""What the dataset that was read is called in the URIs of the one that is made."""

_SAFE = "/+"  # what stays as it is in the path of a BIDS URI, beside letters and digits
LABEL = re.compile(r"[0-9A-Za-z]+")
"""What a space may be called."""

NAME = re.compile(
    r"sub-(?P<subject>[0-9A-Za-z+]+)(_ses-(?P<session>[0-9A-Za-z+]+))?(_[a-z]+-[0-9A-Za-z+]+)*_T1w\.nii(\.gz)?"
)
"""The file name of a T1w image."""

AnyPath = TypeVar("AnyPath", bound=PurePath)

_AFTER_SPACE = re.compile(
    r"_(?:split|recording|chunk)-"
)  # entities that stand behind space- in the order of BIDS
_RUN = re.compile(r"_run-([0-9]+)(?=_)")
_OF_AN_ID = 55  # letters kept of a name that is too long or has letters an id may not have


@dataclass(frozen=True)
class Scan:
    """One T1w image of a dataset."""

    path: Path
    """where it can be opened"""
    relative: str
    """its path in the dataset, with slashes"""
    subject: str
    session: str | None

    @property
    def entities(self) -> str:
        """All of the name before the suffix: ``sub-01_ses-2_acq-fast_run-1``."""
        return self.path.name[: -len("_T1w" + suffix_of(self.path))]

    @property
    def run(self) -> int | None:
        """The index of the run; BIDS allows zeros before it, which mean nothing."""
        found = _RUN.search(self.path.name)
        return None if found is None else int(found[1])

    @property
    def folder(self) -> PurePosixPath:
        """``sub-01[/ses-2]/anat``."""
        return PurePosixPath(self.relative).parent

    @property
    def uri(self) -> str:
        """The BIDS URI of the image."""
        return raw_uri(self.relative)


@dataclass(frozen=True)
class Target:
    """What scans are aligned to."""

    space: str
    """its label in ``space-``, ``from-`` and ``to-``"""
    path: Path
    """the image"""
    uri: str
    """the BIDS URI of the image"""


@dataclass(frozen=True)
class Placed:
    """One scan aligned to one target: the names of everything that comes of it."""

    scan: Scan
    target: Target

    @property
    def id(self) -> str:
        """``sub-01_ses-2_run-1_T1w-to-<space>``; what does not fit into an id is replaced by a digest of the whole."""
        whole = f"{self.scan.entities}_T1w-to-{self.target.space}"
        if ID.fullmatch(whole):
            return whole
        kept = re.sub(r"[^A-Za-z0-9._-]", "", whole)[:_OF_AN_ID]
        return f"{kept}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    @property
    def files(self) -> Mapping[str, PurePosixPath]:
        """Name in ``run.json`` -> path in the derivative dataset, of every output that has its place beside others."""
        scan, space = self.scan, self.target.space
        there, back = (f"from-T1w_to-{space}_mode-image", f"from-{space}_to-T1w_mode-image")
        names = {
            "image": f"{self._in_space}_T1w.nii.gz",
            "field": f"{scan.entities}_{there}_desc-displacement_xfm.nii.gz",
            "transform": f"{scan.entities}_{there}_xfm.h5",
            "inverse": f"{scan.entities}_{back}_xfm.h5",
            "affine": f"{scan.entities}_{there}_desc-affine_xfm.mat",
            "jacobian": f"{self._in_space}_jacobian.nii.gz",
        }
        return {FILES[role]: scan.folder / name for role, name in names.items()}

    @property
    def _in_space(self) -> str:
        """The entities of the scan with ``space-`` among them, where the order of BIDS puts it."""
        behind = _AFTER_SPACE.search(self.scan.entities)
        cut = len(self.scan.entities) if behind is None else behind.start()
        return f"{self.scan.entities[:cut]}_space-{self.target.space}{self.scan.entities[cut:]}"


def raw_uri(relative: str) -> str:
    """The BIDS URI of a file of the dataset that was read."""
    return f"bids:{RAW}:{quote(relative, safe=_SAFE)}"


def own_uri(relative: PurePosixPath | str) -> str:
    """The BIDS URI of a file of the derivative dataset itself."""
    return f"bids::{quote(str(relative), safe=_SAFE)}"


def sidecar_of(path: AnyPath) -> AnyPath:
    """The JSON file that speaks of ``path``: the same name with another suffix."""
    return path.with_name(path.name[: -len(suffix_of(Path(path.name)))] + ".json")


def by_label(label: str | None) -> tuple[tuple[int, int, str], ...]:
    """A key that puts 2 before 10, numbers before words, and no label before all."""
    parts = re.findall(r"[0-9]+|[^0-9]+", label or "")
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)
