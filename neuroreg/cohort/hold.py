"""Who may write to the output folder of a cohort: one coordinator for the whole, or one for each part of it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuroreg.errors import BusyError, CannotCreateError

WORK = ".work"
"""The folder for unfinished things, on the file system of the outputs."""


@contextmanager
def held(folder: Path, part: str) -> Iterator[Path]:
    """Hold the output folder and give the folder to work in; ``part`` is "" for the whole cohort, or names a shard.

    The whole excludes everybody, a shard itself and the whole. What killed coordinators left in the folder to work in
    is swept. Raises BusyError (75), CannotCreateError (73).
    """
    work = folder / WORK
    with suppress(FileExistsError):
        work.mkdir()
    with _locked(work / "lock", shared=bool(part), folder=folder):
        if not part:
            mine = work / "whole"
            _sweep(work)
            mine.mkdir()
            try:
                yield mine
            finally:
                _sweep(work)
            return
        with _locked(work / f"lock{part}", shared=False, folder=folder):
            mine = work / f"part{part}"
            shutil.rmtree(mine, ignore_errors=True)
            mine.mkdir()
            try:
                yield mine
            finally:
                shutil.rmtree(mine, ignore_errors=True)


@contextmanager
def _locked(path: Path, *, shared: bool, folder: Path) -> Iterator[None]:
    """A lock of the kernel: it is gone with its holder, however that ended. The file stays."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise CannotCreateError(f"the folder cannot be locked: {error.strerror}", file=folder) from error
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BusyError(
            "another batch is writing there", file=folder, remedy="wait for it, or choose another -o"
        ) from error
    finally:
        os.close(handle)


def _sweep(work: Path) -> None:
    for entry in work.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
