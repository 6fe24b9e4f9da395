"""A cohort as a folder of images: every one onto every other, or all onto one."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from neuroreg.cohort.case import ID, RESERVED, Case, Cohort
from neuroreg.cohort.row import is_reserved
from neuroreg.cohort.shared import (
    FixedChoice,
    configure,
    fixed_image,
    real,
    row_of,
    shared_settings,
)
from neuroreg.errors import NeuroregError, NoInputError, UsageError
from neuroreg.io.files import check_input, check_name, suffix_of
from neuroreg.io.images import READ_SUFFIXES
from neuroreg.pipeline.config import stem

_NO_IMAGE = re.compile(r".*[_-](dseg|seg|labels?|mask)", re.IGNORECASE | re.DOTALL)
_MOST_NAMES = 5


def every_pair(folder: Path, settings: Mapping[str, object], *, reserved: Set[str] = RESERVED) -> Cohort:
    """Each image directly in the folder onto each other; ids are ``<moving>_to_<fixed>``.

    Cases with the same fixed image follow one another. Raises UsageError and NoInputError for a folder, files, names
    and settings that cannot be used.
    """
    images, notes = find_images(folder)
    if len(images) < 2:
        raise UsageError(
            "a pair needs two images, the folder has fewer",
            file=folder,
            remedy="add images, or leave --pairs out",
        )
    pairs = [(fixed, moving) for fixed in images for moving in images if moving is not fixed]
    names = [f"{stem(moving)}_to_{stem(fixed)}" for fixed, moving in pairs]
    _check_ids(names, [moving for _, moving in pairs], folder, reserved)
    config = configure(shared_settings(settings, one_fixed=False), *pairs[0])
    root, lies = real(folder), {path: real(path) for path in images}
    cases = []
    for name, (fixed, moving) in zip(names, pairs, strict=True):
        cells = {"id": name, "fixed": fixed.name, "moving": moving.name}
        absolute = {"fixed": str(fixed), "moving": str(moving)}
        cases.append(
            Case(
                name,
                config.model_copy(update={"fixed": fixed, "moving": moving}),
                row_of(cells, absolute, root, (lies[fixed], lies[moving])),
            )
        )
    return Cohort(cases, notes)


def onto_fixed(
    folder: Path,
    fixed: FixedChoice,
    settings: Mapping[str, object],
    *,
    output: Path,
    reserved: Set[str] = RESERVED,
) -> Cohort:
    """Each image directly in the folder onto one, or onto the template; ids are the images' names without suffix.

    ``output`` is the folder of the cohort, where ``Cohort.prepare`` puts the template. The fixed image itself is left
    out when it lies in the folder. Raises as ``every_pair``.
    """
    target = fixed_image(fixed, output)
    found, notes = find_images(folder)
    images = [path for path in found if real(path) not in _names(target.real)]
    if not images:
        raise UsageError(
            "the folder holds no image to move",
            file=folder,
            remedy="name a folder of NIfTI, MetaImage or NRRD images",
        )
    if len(images) < len(found):
        notes.append(f"the fixed image {target.path.name} is not moved onto itself")
    names = [stem(path) for path in images]
    _check_ids(names, images, folder, reserved)
    config = configure(shared_settings(settings, one_fixed=True), target.path, images[0])
    root, cases = real(folder), []
    for name, path in zip(names, images, strict=True):
        cells = {"id": name, **target.cells, "moving": path.name}
        row = row_of(cells, {"moving": str(path)}, root, (*target.lies, real(path)))
        cases.append(Case(name, config.model_copy(update={"moving": path}), row))
    return Cohort(cases, notes, target.prepare)


def _names(path: Path) -> tuple[Path, ...]:
    """The paths that mean one image: that of the header too, where the .img was named."""
    headers = (".hdr", ".HDR") if suffix_of(path) == ".img" else ()
    return path, *(path.with_suffix(suffix) for suffix in headers)


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """The images directly in a folder, in natural order (2 before 10), and notes on what was left out.

    Label maps and masks, known by the end of their names, are no images; a header and its .img are one. Names with a
    dot in front are passed over. Raises UsageError, NoInputError when one of them cannot be opened.
    """
    check_name(folder)
    if not folder.is_dir():
        raise NoInputError("no such folder", file=folder, remedy="check the path")
    here = real(folder)
    files = [
        path
        for path in sorted(here.iterdir(), key=natural)
        if suffix_of(path) in READ_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    faults = []
    for path in files:
        try:
            check_input(path)
        except NeuroregError as error:
            faults.append(f"{error.what} ({error.file})")
    if faults:
        raise NoInputError(_few(faults), file=folder, remedy="mend the files or take them out of the folder")
    headers = {path.stem for path in files if suffix_of(path) == ".hdr"}
    bodies = [path for path in files if suffix_of(path) == ".img"]
    alone = [path for path in bodies if path.stem not in headers]
    labels = [path for path in files if path not in bodies and _NO_IMAGE.fullmatch(stem(path))]
    notes = []
    if labels:
        notes.append(f"left out as label maps or masks: {_few([path.name for path in labels])}")
    if alone:
        notes.append(f"left out without their headers: {_few([path.name for path in alone])}")
    apart = {*bodies, *labels}
    return [path for path in files if path not in apart], notes


def natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """What to sort file names by so that numbers in them count as numbers and capitals do not count."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], path.name


def _check_ids(names: Sequence[str], images: Sequence[Path], folder: Path, reserved: Set[str]) -> None:
    """Raises UsageError for names that are no ids or not each its own."""
    first: dict[str, Path] = {}
    faults = []
    for name, image in zip(names, images, strict=True):
        if not ID.fullmatch(name) or is_reserved(name, reserved):
            faults.append(f"{name[:80]!r} cannot be the id of a case")
        elif first.setdefault(name.lower(), image) != image:
            faults.append(f"{name!r} would be the id of two cases")
    if faults:
        raise UsageError(
            _few(faults),
            file=folder,
            remedy="write a manifest with ids of your own, 1 to 64 of A-Z a-z 0-9 . _ -, or rename the images",
        )


def _few(words: Iterable[str]) -> str:
    """The first of many words."""
    words = list(words)
    more = f" and {len(words) - _MOST_NAMES} more" if len(words) > _MOST_NAMES else ""
    return ", ".join(words[:_MOST_NAMES]) + more
