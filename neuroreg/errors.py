"""The error family: every error knows its exit code, the file it is about and its one-line remedy."""

import errno
from pathlib import Path
from typing import ClassVar

SOME_FAILED = 8
"""Exit code of a batch, or of a table of pairs, of which some cases failed; the rest is done."""


class NeuroregError(Exception):
    """Something a user or caller can cure. Reads as ``what; which file; what to do``.

    Only the base name of the file is shown: absolute paths can carry a patient's name into a log.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, file: str | Path | None = None, remedy: str = "") -> None:
        self.what = _one_line(what).rstrip(". ")
        self.file = None if file is None else Path(file).name
        self.remedy = _one_line(remedy)
        parts = (self.what, _one_line(self.file or ""), self.remedy)
        super().__init__("; ".join(part for part in parts if part))


def _one_line(text: str) -> str:
    """A name or a cell that is quoted may hold line breaks of any kind."""
    return " ".join(text.splitlines())


class UsageError(NeuroregError):
    """The command or an option cannot mean what was typed."""

    exit_code = 2


class QualityError(NeuroregError):
    """The result failed quality control under ``--strict-qc``; the outputs are written."""

    exit_code = 3


class DataError(NeuroregError):
    """An input exists but cannot be trusted or used."""

    exit_code = 65


class NoInputError(NeuroregError):
    """An input does not exist or cannot be opened."""

    exit_code = 66


class UnavailableError(NeuroregError):
    """A device, a weight file or an optional package is not there."""

    exit_code = 69


class InternalError(NeuroregError):
    """A bug of ours."""

    exit_code = 70


class CannotCreateError(NeuroregError):
    """An output cannot be created: it exists, or its folder is missing or read-only."""

    exit_code = 73


class WriteError(NeuroregError):
    """Writing failed or what was written does not read back; the final path is untouched."""

    exit_code = 74


class BusyError(NeuroregError):
    """Another run holds the output, or memory is too short now; trying again later can help."""

    exit_code = 75


_WRITE_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG})
_CREATE_ERRNO = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR})


def as_known(error: Exception) -> NeuroregError:
    """Any exception as one of ours: memory (75), disk (73, 74), a name too long (2), nesting (65), else a bug (70)."""
    if isinstance(error, NeuroregError):
        return error
    if _is_out_of_memory(error):
        return BusyError(
            "memory ran out", remedy="close other programs, or use fewer --threads or a smaller image"
        )
    if isinstance(error, OSError) and error.errno in _WRITE_ERRNO:
        return WriteError(
            error.strerror or "write failed", file=error.filename, remedy="free some disk space"
        )
    if isinstance(error, OSError) and error.errno in _CREATE_ERRNO:
        return CannotCreateError(
            error.strerror or "not permitted", file=error.filename, remedy="check the permissions"
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(
            "the name is too long for a file", file=error.filename, remedy="choose a shorter one"
        )
    if isinstance(error, RecursionError):
        return DataError("an input is nested too deeply", remedy="check where it comes from")
    first = str(error).strip().split("\n")[0]
    return InternalError(
        f"unexpected {type(error).__name__}: {first}",
        remedy="this is a bug; run again with --debug and report it",
    )


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, RuntimeError)
            and ("can't allocate memory" in text or "not enough memory" in text)
        )
    )
