"""Files that appear together or not at all: made aside, put in place by renames once every one of them is whole."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuroreg.io.files import check_output, fsync, put_in_place, temporary_beside, write_error


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder within ``folder`` for files that shall appear together (see ``publish``); gone at the end."""
    aside = temporary_beside(folder / "run")
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def publish(aside: Path, folder: Path, names: Sequence[str], *, overwrite: bool = False) -> None:
    """Put the files of a staging folder into ``folder``, in order; until all are whole, nothing there is touched.

    The last name is the commit mark: an old one is taken away before the first file is replaced, so that no moment
    shows it beside files of another run. Raises CannotCreateError (73) or WriteError (74).
    """
    finals = [check_output(folder / name, overwrite=overwrite) for name in names]
    ready: list[Path] = []
    placed: list[Path] = []
    try:
        for name, final in zip(names, finals, strict=True):
            ready.append(_on_disk_of(final, aside / name))
        if overwrite:
            finals[-1].unlink(missing_ok=True)
        for temporary, final in zip(ready, finals, strict=True):
            put_in_place(temporary, final, overwrite=overwrite)
            placed.append(final)
    except BaseException:
        for path in () if overwrite else placed:
            path.unlink(missing_ok=True)
        raise
    finally:
        for temporary in ready:
            temporary.unlink(missing_ok=True)


def _on_disk_of(final: Path, source: Path) -> Path:
    """The source itself, or its copy beside ``final`` where a link led to another disk: a rename cannot go there."""
    if final.parent.stat().st_dev == source.stat().st_dev:
        return source
    copy = temporary_beside(final)
    try:
        shutil.copyfile(source, copy)
        fsync(copy)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise write_error(error, final) from error
    return copy
