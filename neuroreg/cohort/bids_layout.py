"""A finished case as BIDS derivatives: images and transforms beside those of the subject, its page and record apart.

Every file goes to its final name by one rename. ``OUT/neuroreg/<id>/files.json`` says from the beginning which names
are this case's, and ``run.json`` there, last of all, that they are complete: whatever stops in between is no finished
case, and the next run may replace it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

from neuroreg.cohort.bids_names import Placed, sidecar_of
from neuroreg.cohort.bids_sidecars import sidecars
from neuroreg.cohort.case import Case
from neuroreg.errors import CannotCreateError, DataError, WriteError
from neuroreg.io.files import fsync
from neuroreg.pipeline.finished import INDEX_NAME
from neuroreg.pipeline.inputs import FILES, MOVED_LABELS, ROIS, VIEWER
from neuroreg.pipeline.record import RECORD_NAME, read_record

FOLDER = "neuroreg"
"""Holds for each case what BIDS has no place for: its page, its record, and where its other files lie."""

_APART = (FILES["report"], MOVED_LABELS, ROIS, VIEWER)  # what may lie beside the record

_Step = Callable[[], object]


class BidsLayout:
    """``OUT/sub-X[/ses-Y]/anat/`` has images, transforms and their JSON files, ``OUT/neuroreg/<id>/`` the rest."""

    def __init__(self, folder: Path, placed: Sequence[Placed]) -> None:
        """``placed``: the names of every case that will be asked about. Raises DataError for two cases with one id."""
        self.folder = folder
        self._placed = {one.id: one for one in placed}
        if len(self._placed) < len(placed):
            raise DataError(
                "two images of the dataset would have the same outputs",
                file=folder,
                remedy="rename one of them",
            )

    def own(self, case: Case) -> Path:
        """``OUT/neuroreg/<id>``."""
        return self.folder / FOLDER / case.id

    def mark(self, case: Case) -> Path:
        """``OUT/neuroreg/<id>/run.json``."""
        return self.own(case) / RECORD_NAME

    def output(self, case: Case, name: str) -> Path:
        """The path of an output by its name in ``run.json``: what BIDS has no place for lies beside the record."""
        place = self._placed[case.id].files.get(name)
        return self.own(case) / name if place is None else self.folder / place

    def check(self, case: Case) -> None:
        """Refuse to replace files that no run of ours has left. Raises CannotCreateError."""
        own, claimed = self.own(case), (self.own(case) / INDEX_NAME).is_file()
        for path in [*self._claims(case), *([own] if own.exists() and not own.is_dir() else [])]:
            if path.is_dir() or (not claimed and (path.exists() or path.is_symlink())):
                raise CannotCreateError(
                    f"an output of case {case.id} is there, and not of a run of ours",
                    file=path,
                    remedy="move it away",
                )

    def strangers(self, ids: Set[str]) -> Sequence[str]:
        """None: participants are registered in as many calls as one likes, and the group level knows them all."""
        return ()

    def publish(self, case: Case, work: Path) -> None:
        """Bring a finished run to its final places, ``run.json`` last; ``work`` is gone then.

        Raises WriteError, DataError for a record that cannot be read; then the case has no mark.
        """
        try:
            for step in self._steps(case, work):
                step()
        except OSError as error:
            raise WriteError(
                f"the finished case {case.id} cannot be put in place: {(error.strerror or 'error').lower()}",
                file=error.filename or self.own(case),
                remedy="check the free disk space",
            ) from error

    def _claims(self, case: Case) -> list[Path]:
        """Every path beside others that the case may have, whatever it was asked to leave."""
        places = self._placed[case.id].files.values()
        return [self.folder / path for place in places for path in (place, sidecar_of(place))]

    def _steps(self, case: Case, work: Path) -> list[_Step]:
        """Publishing, step by step: each leaves no half file, and all again after any of them comes to the same end."""
        record, own, one = read_record(work), self.own(case), self._placed[case.id]
        ready = work / ".bids"  # what is written here, before it goes to its place
        said = {sidecar_of(one.files[name]): text for name, text in sidecars(one, record, work).items()}
        index = {name: f"../../{place}" for name, place in one.files.items()}  # as seen from ``own``
        moves = {self.folder / place: ready / place.name for place in said}
        moves |= {self.output(case, name): work / name for name in record.outputs}
        folders = {path.parent for path in moves}
        former = [*self._claims(case), *(own / name for name in _APART)]
        return [
            partial(_write, ready, {**{place.name: text for place, text in said.items()}, INDEX_NAME: index}),
            partial(_make, {own, *folders}, self.folder),
            partial(os.replace, ready / INDEX_NAME, own / INDEX_NAME),
            partial(fsync, own),
            partial(self.mark(case).unlink, missing_ok=True),  # from here on it is not done
            partial(fsync, own),
            *(partial(path.unlink, missing_ok=True) for path in former if path not in moves),
            *(partial(os.replace, source, path) for path, source in moves.items()),
            *(partial(fsync, folder) for folder in sorted(folders)),
            partial(os.replace, work / RECORD_NAME, self.mark(case)),
            partial(fsync, own),
            partial(shutil.rmtree, work, ignore_errors=True),
        ]


def _write(folder: Path, texts: Mapping[str, object]) -> None:
    """JSON files that are on disk when this returns."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(json.dumps(text, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        fsync(folder / name)


def _make(folders: Iterable[Path], top: Path) -> None:
    """Make folders, and wait until their names below ``top`` are on disk."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for parent in folder.relative_to(top).parents:
            fsync(top / parent)
