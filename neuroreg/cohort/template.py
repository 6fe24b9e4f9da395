"""The template of the package as files of a cohort, so that its cases can be registered onto it.

Its image is the fixed image; its labels, their names and its mask lie beside it for whoever carries them to the
subjects with the inverse transforms. No case is compared with those labels: subjects come with labels of their own.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from neuroreg.errors import CannotCreateError, NeuroregError
from neuroreg.io.files import prepare_folder
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.tables import Cell, plain, read_label_names, write_csv
from neuroreg.pipeline.template import DEFAULT, load_template
from neuroreg.volume import Volume

FOLDER = "template"
"""In the output folder of the cohort; no case may be called so."""


def template_files(output: Path) -> tuple[Path, Callable[[], None]]:
    """Where the template's image is to lie below ``output``, and the call that puts it and its companions there.

    The call raises CannotCreateError (73) for a file of that name that is not the template's, WriteError (74), and
    the errors of ``load_template``. Files that are there already and hold the same are left alone.
    """
    folder = output / FOLDER
    return folder / f"{DEFAULT}.nii.gz", partial(_prepare, folder)


def _prepare(folder: Path) -> None:
    template = load_template()
    prepare_folder(folder)
    _image(folder / f"{DEFAULT}.nii.gz", template.image)
    _image(folder / f"{DEFAULT}_labels.nii.gz", template.labels)
    _image(folder / f"{DEFAULT}_mask.nii.gz", template.mask)
    table = folder / f"{DEFAULT}_labels.csv"
    rows: list[dict[str, Cell]] = [
        {"id": label, "name": name} for label, name in sorted(template.names.items())
    ]
    _put(
        table,
        write=lambda: write_csv(table, ("id", "name"), rows),
        same=lambda: {k: plain(name) for k, name in read_label_names(table).items()} == template.names,
    )


def _image(path: Path, volume: Volume) -> None:
    read = read_labels if volume.is_label else read_image

    def same() -> bool:
        found = read(path).volume
        return found.geometry.same_grid(volume.geometry) and torch.equal(
            found.data.to(volume.data.dtype), volume.data
        )

    _put(path, write=lambda: write_image(volume, path, description="template"), same=same)


def _put(path: Path, *, write: Callable[[], object], same: Callable[[], bool]) -> None:
    """Write a file, or see that the one which is there (another part of the cohort may just have made it) is it."""
    if not path.exists():
        try:
            write()
            return
        except CannotCreateError:
            if not path.exists():
                raise
    try:
        if same():
            return
    except NeuroregError as error:
        raise _other(path) from error
    raise _other(path)


def _other(path: Path) -> CannotCreateError:
    return CannotCreateError(
        "the file is not the template of this version",
        file=path,
        remedy="move it away, or choose another output folder",
    )
