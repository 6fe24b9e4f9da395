"""Files: paths checked before any native library sees them, atomic verified writes, locks, hashes.

A write goes to a temporary file beside its target, is flushed to disk, read back, and only then renamed: a final
path holds the old file or the whole new one, never a part (RELIABILITY findings 1 and 11).
"""

import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from neuroreg.errors import (
    BusyError,
    CannotCreateError,
    NeuroregError,
    NoInputError,
    UsageError,
    WriteError,
)
from neuroreg.io import free_memory

LOCK_NAME = ".neuroreg.lock"
_CANNOT_CREATE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
_TEMPORARY = re.compile(
    r"^\..*\.tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<run>[0-9a-f]{8})[0-9a-f]*(\..*)?$"
)
_STALE_S = 86_400.0  # a temporary file of another machine may be in use; after a day it is not
_DOUBLE_SUFFIXES = (".nii.gz", ".img.gz", ".hdr.gz")


def suffix_of(path: Path) -> str:
    """The file type in lower case, ``.nii.gz`` counted as one: what the name ends with from the last dot on."""
    name = path.name.lower()
    return next((double for double in _DOUBLE_SUFFIXES if name.endswith(double)), path.suffix.lower())


def check_name(path: Path) -> None:
    """Refuse a name no native library can take. Raises UsageError.

    An undecodable byte aborts the whole process inside SimpleITK (RELIABILITY finding 7), so this comes first.
    """
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode("ascii", "replace")
        raise UsageError("the file name is not valid UTF-8", file=shown, remedy="rename the file") from error
    if "\0" in text:
        raise UsageError("the file name contains a NUL character", remedy="rename the file")


def check_input(path: Path) -> Path:
    """The path of an existing regular, readable file. Raises UsageError (2) or NoInputError (66)."""
    path = Path(path)
    check_name(path)
    if str(path) == "-":
        raise UsageError("standard input cannot be read as an image", remedy="give the path of a file")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoInputError("no such file", file=path, remedy="check the path") from error
    except OSError as error:
        raise NoInputError(
            f"cannot look at the file: {_reason(error)}",
            file=path,
            remedy="check the path and its permissions",
        ) from error
    if stat.S_ISDIR(mode):
        raise UsageError("the path is a folder", file=path, remedy="give the path of a file")
    if not stat.S_ISREG(mode):
        raise UsageError(
            "the path is a pipe or device, not a file", file=path, remedy="save it to a file first"
        )
    if not os.access(path, os.R_OK):
        raise NoInputError("the file may not be read", file=path, remedy="check its permissions")
    return path


def sha256(path: Path) -> str:
    """The hex digest of a file's bytes. Raises NoInputError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise NoInputError(
            f"cannot read: {_reason(error)}", file=path, remedy="check its permissions"
        ) from error


def available_memory() -> int | None:
    """Bytes of memory that can be had now, by the machine and by every limit set on this process (container, batch job,
    ulimit); None where it cannot be told."""
    found = [*free_memory.of_the_machine(), *free_memory.of_the_groups(), *free_memory.of_the_process()]
    return min(found) if found else None


def prepare_folder(folder: Path) -> Path:
    """An existing writable folder; its last level is made when missing. Raises CannotCreateError, WriteError (full)."""
    check_name(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise WriteError("the disk is full", file=folder, remedy="free some space") from error
        what = "the parent folder does not exist" if error.errno == errno.ENOENT else _reason(error)
        raise CannotCreateError(
            f"cannot create the folder: {what}",
            file=folder,
            remedy="create the folder above it, or choose another",
        ) from error
    _check_writable(folder, folder)
    return folder


def check_not_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises UsageError when an output is one of the inputs, by whatever name."""
    targets = {path.resolve() for path in outputs}
    for path in inputs:
        if path.resolve() in targets:
            raise UsageError("the output would overwrite an input", file=path, remedy="choose another output")


def check_output(path: Path, *, overwrite: bool = False) -> Path:
    """The resolved path of a file that may be written. Raises CannotCreateError (73) or UsageError (2).

    Symbolic links are resolved: the file they lead to is replaced, not the link.
    """
    check_name(path)
    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise CannotCreateError("the folder does not exist", file=final.parent, remedy="create it first")
    if final.is_dir():
        raise CannotCreateError("the output path is a folder", file=final, remedy="give a file name")
    if final.exists() and not overwrite:
        raise CannotCreateError("the output exists", file=final, remedy="use --overwrite to replace it")
    _check_writable(final.parent, final)
    return final


def atomic_write(
    path: Path,
    write: Callable[[Path], None],
    *,
    verify: Callable[[Path], None] | None = None,
    overwrite: bool = False,
) -> Path:
    """Let ``write`` make a temporary file beside ``path``, ``verify`` it, then put it in place; returns the path.

    The temporary name keeps the suffix, because writers choose the format by it. Whatever goes wrong, the final
    path is untouched and the temporary file is removed. Raises CannotCreateError (73) or WriteError (74).
    """
    final = check_output(path, overwrite=overwrite)
    remove_orphans(final.parent)
    temporary = temporary_beside(final)
    try:
        _write_and_verify(temporary, final, write, verify)
        put_in_place(temporary, final, overwrite=overwrite)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return final


def _write_and_verify(
    temporary: Path, final: Path, write: Callable[[Path], None], verify: Callable[[Path], None] | None
) -> None:
    try:
        write(temporary)
        fsync(temporary)
        if verify is not None:
            verify(temporary)
    except (CannotCreateError, WriteError, UsageError):
        raise
    except OSError as error:
        raise write_error(error, final) from error
    except (NeuroregError, RuntimeError) as error:  # RuntimeError is what SimpleITK raises
        detail = error.what if isinstance(error, NeuroregError) else str(error).strip().splitlines()[-1]
        raise WriteError(
            f"what was written does not read back ({detail})", file=final, remedy="check the free disk space"
        ) from error


def put_in_place(temporary: Path, final: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, in the same folder or file system. Raises CannotCreateError, WriteError."""
    try:
        if overwrite:
            temporary.replace(final)
        else:
            _link_new(temporary, final)
        fsync(final.parent)
    except FileExistsError as error:
        raise CannotCreateError(
            "the output exists", file=final, remedy="use --overwrite to replace it"
        ) from error
    except OSError as error:
        raise write_error(error, final) from error


def _link_new(temporary: Path, final: Path) -> None:
    # A hard link fails when the name is taken, so of two writers at once exactly one wins; a rename would not tell.
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links
        if final.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(final)) from None
        temporary.replace(final)


def remove_orphans(folder: Path) -> int:
    """Delete the temporary files and folders that killed runs left in ``folder``; returns how many."""
    removed = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.match(entry.name)
            if match and _is_orphan(entry, match["host"], int(match["pid"]), match["run"]):
                with suppress(OSError):
                    remove = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink
                    remove(entry.path)
                    removed += 1
    return removed


@contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one run; a second run gets BusyError (75). Orphans are removed on entry."""
    lock = FileLock(folder / LOCK_NAME, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(
            "another run is writing there", file=folder, remedy="wait for it, or choose another output"
        ) from error
    except OSError as error:
        if error.errno in _FULL:
            raise WriteError("the disk is full", file=folder, remedy="free some space") from error
        raise CannotCreateError(
            f"cannot lock the folder: {_reason(error)}", file=folder, remedy="choose another output folder"
        ) from error
    try:
        remove_orphans(folder)
        yield
    finally:
        with suppress(OSError):  # removed while still held: filelock notices a lock file that lost its name
            Path(lock.lock_file).unlink()
        lock.release()


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def temporary_beside(final: Path) -> Path:
    """A name beside ``final`` that ``remove_orphans`` knows when this process is dead; it keeps the suffix."""
    suffix = final.name[len(final.name) - len(suffix_of(final)) :]
    stem = final.name[: len(final.name) - len(suffix)]
    mark = _mark()
    room = 255 - len((mark + suffix).encode()) - 1  # a file name holds 255 bytes
    return final.with_name("." + stem.encode()[:room].decode("utf-8", "ignore") + mark + suffix)


def _mark() -> str:
    """Whose a temporary file is, and a number of its own."""
    return f".tmp-{_host()}-{os.getpid()}-{_run()}{secrets.token_hex(4)}"


@functools.cache
def _run() -> str:
    """Tells this process from a dead one of its number: in a container started again every program has the same."""
    return secrets.token_hex(4)


def _is_orphan(entry: os.DirEntry[str], host: str, pid: int, run: str) -> bool:
    if host != _host():
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_S
    if pid == os.getpid():
        return run != _run()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _check_writable(folder: Path, told: Path) -> None:
    # Trying is the only sure answer: permission bits say nothing about read-only mounts or quotas on inodes.
    probe = folder / f".probe{_mark()}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        if error.errno in _FULL:
            raise WriteError("the disk is full", file=told, remedy="free some space") from error
        raise CannotCreateError(
            f"the folder cannot be written: {_reason(error)}",
            file=folder,
            remedy="choose another output folder",
        ) from error


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
            errno.EBADF,
        ):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def write_error(error: OSError, final: Path) -> NeuroregError:
    """What to tell when ``final`` cannot be written: CannotCreateError (73) or WriteError (74)."""
    if error.errno in _CANNOT_CREATE:
        return CannotCreateError(
            f"cannot create: {_reason(error)}",
            file=final,
            remedy="check the permissions, or choose another output",
        )
    return WriteError(
        f"writing failed: {_reason(error)}",
        file=final,
        remedy="check the free disk space and the limits of file sizes",
    )


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
