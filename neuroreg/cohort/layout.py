"""Where the files of a finished case go. Publishing is the commit: before it nothing of a case is at a final path."""

import os
import shutil
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from neuroreg.cohort.case import Case
from neuroreg.errors import CannotCreateError, WriteError
from neuroreg.io.files import LOCK_NAME, fsync
from neuroreg.pipeline.inputs import FILES, MOVED_LABELS, ROIS, VIEWER
from neuroreg.pipeline.record import RECORD_NAME

_OURS = frozenset({*FILES.values(), MOVED_LABELS, ROIS, VIEWER, RECORD_NAME, LOCK_NAME})


class Layout(Protocol):
    """Where a case's files lie. ``folder`` is the output folder of the cohort."""

    folder: Path

    def mark(self, case: Case) -> Path:
        """The final path of the case's ``run.json``: it is there when the case is done."""
        ...

    def output(self, case: Case, name: str) -> Path:
        """The final path of one output, by its name in ``run.json``."""
        ...

    def check(self, case: Case) -> None:
        """Raise CannotCreateError when publishing would replace what no run of ours has left."""
        ...

    def strangers(self, ids: Set[str]) -> Sequence[str]:
        """Finished cases in the output folder that are not among ``ids``."""
        ...

    def publish(self, case: Case, work: Path) -> None:
        """Bring the finished run in ``work`` (on the same file system) to its final place, ``run.json`` last.

        Raises WriteError, CannotCreateError; then the case has no mark.
        """
        ...


class FolderLayout:
    """``OUT/<id>/`` with the files of ``neuroreg register`` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mark(self, case: Case) -> Path:
        """``OUT/<id>/run.json``."""
        return self.folder / case.id / RECORD_NAME

    def output(self, case: Case, name: str) -> Path:
        """``OUT/<id>/<name>``."""
        return self.folder / case.id / name

    def check(self, case: Case) -> None:
        """Refuse a folder with files in it that no registration leaves. Raises CannotCreateError."""
        place = self.folder / case.id
        if not place.exists() and not place.is_symlink():
            return
        if place.is_symlink() or not place.is_dir():
            raise CannotCreateError(
                f"the output of case {case.id} is not a folder", file=place, remedy="move it away"
            )
        others = [
            name for name in os.listdir(place) if name not in _OURS and not name.endswith("_moved.nii.gz")
        ]
        if others:
            raise CannotCreateError(
                f"the output folder of case {case.id} holds other files ({others[0]}, ...)",
                file=place,
                remedy="move them away: the folder is replaced as a whole",
            )

    def strangers(self, ids: Set[str]) -> Sequence[str]:
        """Folders of earlier cases."""
        return sorted({path.parent.name for path in self.folder.glob(f"*/{RECORD_NAME}")} - ids)

    def publish(self, case: Case, work: Path) -> None:
        """Put the whole folder in place by one rename; a former one moves aside first and is deleted after."""
        final, aside = self.folder / case.id, work.with_name(work.name + ".old")
        self.check(case)  # again: somebody may have put a file there meanwhile
        try:
            if final.exists():
                (final / RECORD_NAME).unlink(missing_ok=True)  # from here on it is not done
                final.rename(aside)
            work.rename(final)
            fsync(self.folder)
        except OSError as error:
            raise WriteError(
                f"the finished case cannot be put in place: {error.strerror}",
                file=final,
                remedy="check the permissions and the disk, then go on with --resume",
            ) from error
        finally:
            with suppress(OSError):
                shutil.rmtree(aside)
