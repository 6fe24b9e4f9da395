"""Who may write to the output folder of a cohort: one coordinator for the whole, or one for each part of it."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuroreg.errors import BusyError, CannotCreateError
from neuroreg.io.files import write_error

WORK = ".work"
"""The folder for unfinished things, on the file system of the outputs."""


@contextmanager
def held(folder: Path, part: str) -> Iterator[Path]:
    """Hold the output folder and give the folder to work in; ``part`` is "" for the whole cohort, or names a shard.

    The whole excludes everybody, a shard itself and the whole. What killed coordinators left in the folder to work in
    is swept. Raises BusyError (75), CannotCreateError (73), WriteError (74) for a full disk.
    """
    work = folder / WORK
    with suppress(FileExistsError):
        work.mkdir()
    if work.is_symlink() or not work.is_dir():
        raise CannotCreateError(
            f"{WORK} is not a folder", file=folder, remedy="remove it, or choose another -o"
        )
    with _locked(work / "lock", shared=bool(part), folder=folder):
        if not part:
            mine = work / "whole"
            _sweep(work)
            _make(mine)
            try:
                yield mine
            finally:
                _sweep(work)
            return
        with _locked(work / f"lock{part}", shared=False, folder=folder):
            mine = work / f"part{part}"
            shutil.rmtree(mine, ignore_errors=True)
            _make(mine)
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
        raise write_error(error, folder) from error
    try:
        _lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, kind: int, folder: Path) -> None:
    """Try for a moment: who only asks whether it is held holds it for no time at all."""
    for patience in (0.1, 0.2, 0.4, 0.0):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if not patience:
                raise BusyError(
                    "another batch is writing there", file=folder, remedy="wait for it, or choose another -o"
                ) from error
        time.sleep(patience)


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise write_error(error, folder) from error


def _sweep(work: Path) -> None:
    """Remove the folders that unfinished cases of ours are made in."""
    for entry in (work / "whole", *work.glob("part-*of*")):
        if not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)


def is_held(folder: Path, part: str) -> bool:
    """Whether somebody holds the folder for the whole cohort (``part`` "") or for that shard."""
    try:
        handle = os.open(folder / WORK / f"lock{part}", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
