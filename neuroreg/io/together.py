"""Files that belong together: made in a folder of their own, then put in place, all of them or none."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from neuroreg.errors import CannotCreateError
from neuroreg.io import files


@contextmanager
def together(
    folder: Path, names: Sequence[str], *, mark: str | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """A folder to make the files ``names`` in: they go to ``folder`` when the block ends well, in that order.

    Until then nothing in ``folder`` changes, so that a full disk leaves an earlier run as it was; when putting them in
    place fails, what was there before is put back. Former files of those ``names`` that have not been made go away,
    and the former ``mark``, which says that the others are whole, before any other.
    Raises CannotCreateError (73), WriteError (74).
    """
    stage = files.temporary_beside(folder / "run")
    files.remove_orphans(folder)
    try:
        stage.mkdir()
    except OSError as error:
        raise files.write_error(error, folder) from error
    try:
        yield stage
        _put(stage, folder, names, mark=mark, overwrite=overwrite)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """The output folder, made when missing; taken away again when the block fails and it is empty.

    Raises CannotCreateError (73), WriteError (74).
    """
    made = not folder.exists()
    files.prepare_folder(folder)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):  # not empty: it holds someone else's files by now
                folder.rmdir()
        raise


def _put(stage: Path, folder: Path, names: Sequence[str], *, mark: str | None, overwrite: bool) -> None:
    finals = {name: files.check_output(folder / name, overwrite=overwrite) for name in names}
    ready: dict[str, Path] = {}
    kept: dict[str, Path] = {}
    try:
        for name, final in finals.items():
            if (stage / name).exists():
                ready[name] = files.temporary_beside(final)
                _move(stage / name, ready[name])
            if final.exists():
                kept[name] = files.temporary_beside(final)
                with suppress(OSError):  # a file system without hard links: then nothing can be put back
                    kept[name].hardlink_to(final)
        _replace(ready, finals, kept, mark=mark, overwrite=overwrite)
    except OSError as error:
        raise files.write_error(error, Path(error.filename or folder)) from error
    finally:
        for path in (*ready.values(), *kept.values()):
            with suppress(OSError):
                path.unlink()


def _move(made: Path, beside: Path) -> None:
    """A finished file to where one rename will bring it to its place, which a link may have led elsewhere."""
    try:
        made.rename(beside)
    except OSError:  # another file system
        shutil.copyfile(made, beside)
        files.fsync(beside)


def _replace(
    ready: Mapping[str, Path],
    finals: Mapping[str, Path],
    kept: Mapping[str, Path],
    *,
    mark: str | None,
    overwrite: bool,
) -> None:
    new: list[Path] = []
    try:
        for name in sorted(kept, key=lambda name: name != mark):
            if name == mark or name not in ready:
                finals[name].unlink()
                files.fsync(finals[name].parent)
        for name, path in ready.items():
            if name not in kept:
                new.append(finals[name])
            files.put_in_place(path, finals[name], overwrite=overwrite)
    except BaseException as error:
        if isinstance(error, CannotCreateError) and new:
            new.pop()  # somebody else's, made meanwhile
        for path in new:
            path.unlink(missing_ok=True)
        for name, path in kept.items():
            with suppress(OSError):
                path.replace(finals[name])
        raise
