"""The error family: every error knows its exit code, the file it is about and its one-line remedy."""

from pathlib import Path
from typing import ClassVar


class NeuroregError(Exception):
    """Something a user or caller can cure. Reads as ``what; which file; what to do``.

    Only the base name of the file is shown: absolute paths can carry a patient's name into a log.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, what: str, *, file: str | Path | None = None, remedy: str = "") -> None:
        self.what = what.rstrip(". ")
        self.file = None if file is None else Path(file).name
        self.remedy = remedy
        super().__init__("; ".join(part for part in (self.what, self.file, self.remedy) if part))


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
