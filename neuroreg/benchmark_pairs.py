"""The labelled pairs of a benchmark: from a manifest, or all those of a folder."""

import itertools
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuroreg.errors import DataError
from neuroreg.io.files import check_input, prepare_folder
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.tables import read_csv
from neuroreg.preprocess.synthesis import fewer_slices


@dataclass(frozen=True)
class LabelledPair:
    """Two images and their label maps. Ids name the pair in the table."""

    fixed_id: str
    moving_id: str
    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    tissues: tuple[Path, Path] | None = None
    """tissue maps of fixed and moving, where they are measured too"""


def manifest_pairs(path: Path) -> tuple[LabelledPair, ...]:
    """Pairs from a CSV with the columns fixed, moving, fixed_labels, moving_labels; paths relative to the CSV.

    A scan is called by its file's name, and where files of several folders have one name by its folder too.
    Raises DataError naming the first missing column, or for no pair at all, NoInputError naming the first missing file.
    """
    columns = ("fixed", "moving", "fixed_labels", "moving_labels")
    found = []
    for number, record in enumerate(read_csv(path), start=2):
        missing = [column for column in columns if not record.get(column)]
        if missing:
            raise DataError(
                f"line {number}: no {missing[0]}", file=path, remedy=f"columns: {', '.join(columns)}"
            )
        found.append([check_input(path.parent / record[column]) for column in columns])
    if not found:
        raise DataError(
            "the table names no pairs",
            file=path,
            remedy="give a row to each pair: fixed, moving, fixed_labels, moving_labels",
        )
    ids = _scan_ids({image for row in found for image in row[:2]})
    return tuple(LabelledPair(ids[a], ids[b], a, b, of_a, of_b) for a, b, of_a, of_b in found)


def _scan_ids(images: Set[Path]) -> dict[Path, str]:
    """Of each file its name without suffixes, with as many folders before it as tell it from the others."""
    words = {image: (*image.absolute().parts[1:-1], _stem(image)) for image in images}

    def called(image: Path, depth: int) -> str:
        return "-".join(words[image][-depth:])

    ids = {}
    for image in images:
        alone = (
            depth
            for depth in range(1, len(words[image]) + 1)
            if sum(called(other, depth) == called(image, depth) for other in images) == 1
        )
        ids[image] = called(image, next(alone, len(words[image])))
    return ids


def folder_pairs(folder: Path, split: str, *, tissues: bool = False) -> tuple[LabelledPair, ...]:
    """All ordered pairs of one split of a folder with t1/ID.nii.gz, seg/ID.nii.gz and splits.csv (id, split, person).

    ``tissues``: with the maps tissue/ID.nii.gz too.
    Pairs of different people; where the split holds people scanned twice, the two scans of each person instead.
    Ordered so that any first part of the list uses everyone about equally often.
    """
    people = {
        r["id"]: r.get("person") or r["id"] for r in read_csv(folder / "splits.csv") if r["split"] == split
    }
    if len(people) < 2:
        raise DataError(
            f"the split {split!r} has {len(people)} scans",
            file=folder / "splits.csv",
            remedy="choose a split that has scans",
        )
    scans = list(people)
    twice = len(set(people.values())) < len(people)
    pairs = []
    for shift, k in itertools.product(range(1, len(scans)), range(len(scans))):
        fixed, moving = scans[k], scans[(k + shift) % len(scans)]
        if (people[fixed] == people[moving]) == twice:
            images = [check_input(folder / "t1" / f"{scan}.nii.gz") for scan in (fixed, moving)]
            labels = [check_input(folder / "seg" / f"{scan}.nii.gz") for scan in (fixed, moving)]
            pair = LabelledPair(fixed, moving, images[0], images[1], labels[0], labels[1])
            if tissues:
                maps = [check_input(folder / "tissue" / f"{scan}.nii.gz") for scan in (fixed, moving)]
                pair = replace(pair, tissues=(maps[0], maps[1]))
            pairs.append(pair)
    return tuple(pairs)


def with_fewer_slices(pair: LabelledPair, folder: Path, *, keep: int) -> LabelledPair:
    """The pair with a moving image known at ``keep`` slices from front to back alone, written to ``folder``.

    It is interpolated linearly between them, on its own grid. A file that is there already is used as it is.
    """
    path = folder / f"{pair.moving_id}-{keep}-slices.nii.gz"
    if not path.exists():
        prepare_folder(folder)
        image = read_image(pair.moving).volume
        along_y = np.abs(np.reshape(image.geometry.direction, (3, 3))[1])
        axis = 3 - int(along_y.argmax())  # of (C, Z, Y, X): the voxel axis nearest to front and back
        write_image(image.with_data(fewer_slices(image.data, axis, keep=keep)), path)
    return replace(pair, moving=path)


def common_ids(pairs: Sequence[LabelledPair]) -> tuple[int, ...]:
    """The region ids above 0 that every label map of the pairs holds, rising. Raises DataError if there is none."""
    paths = {path for pair in pairs for path in (pair.fixed_labels, pair.moving_labels)}
    found = [set(np.unique(read_labels(path).volume.data.numpy()).tolist()) for path in sorted(paths)]
    ids = sorted(set.intersection(*found) - {0}) if found else []
    if not ids:
        raise DataError("the label maps have no region in common", remedy="give --ids, or other pairs")
    return tuple(ids)


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
