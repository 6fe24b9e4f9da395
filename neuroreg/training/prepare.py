"""From a folder of labelled heads to compact files: stripped and roughly aligned, or whole in their own poses; 2 mm.

The folder holds ``t1/ID.nii.gz``, ``seg/ID.nii.gz`` and ``splits.csv`` (columns id, split). Every brain is aligned
by the affine that carries the mean region centroids of the training split onto its own, in least squares: closed
form, no image is looked at, no initialisation can fail. Pairs drawn from the file are then affinely aligned, as
they will be when the tool runs. Whole heads keep the pose they were scanned in, for what must learn to align.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from neuroreg import transforms
from neuroreg.errors import DataError, NoInputError
from neuroreg.io.files import atomic_write
from neuroreg.io.images import ImageFile, check_same_grid, read_image, read_labels
from neuroreg.io.tables import read_csv, read_label_names
from neuroreg.preprocess.brain import foreground
from neuroreg.preprocess.intensity import scale
from neuroreg.volume import Geometry, Volume

SHAPE = (80, 96, 80)
HEAD_SHAPE = (120, 120, 96)
SPACING_MM = 2.0
INTENSITY_STEP = 200.0  # stored value = round(200 * intensity): 0..255 covers 0..1.275
_FIRST_ROI = 2  # 0 is background, 1 is unlabelled fluid

Centroids = dict[int, NDArray[np.float64]]


def pack(folder: Path, split: str, out: Path, *, names: Path, progress: Callable[[int, int], None]) -> int:
    """Write the subjects of ``split`` into ``out`` (.npz) and return how many.

    Arrays: images uint8 and labels uint8 (N, 80, 96, 80) on a 2 mm LPS grid, ids, the geometry, and ``mirror``
    (256,), the label each label becomes in a left-right mirror (partners are found by their names' _L / _R).
    Raises NoInputError for a missing folder, DataError for an empty split, a label above 255, too few regions in
    common, or a label map on another grid than its image.
    """
    subjects = _subjects(folder)
    train = [name for name, kind in subjects.items() if kind == "train"]
    chosen = [name for name, kind in subjects.items() if kind == split]
    if not chosen or not train:
        raise DataError(
            f"no subject of split {split!r}",
            file=folder / "splits.csv",
            remedy="check the column split of the table",
        )
    reference, geometry = _reference(folder, train)
    place = partial(_place, folder, reference=reference, grid=geometry)
    return _write(chosen, place, geometry, out, names=names, progress=progress)


def pack_heads(
    folder: Path, split: str, out: Path, *, names: Path, progress: Callable[[int, int], None]
) -> int:
    """Write the subjects of ``split`` as they were scanned into ``out`` (.npz) and return how many.

    The arrays of ``pack`` with the sides (120, 120, 96): nothing is stripped or turned, the middle of each image lies
    in the middle of the grid. Brain voxels without a region have label 1, so that the labels above 0 are the brain.
    Raises what ``pack`` raises.
    """
    chosen = [name for name, kind in _subjects(folder).items() if kind == split]
    if not chosen:
        raise DataError(
            f"no subject of split {split!r}",
            file=folder / "splits.csv",
            remedy="check the column split of the table",
        )
    grid = _centred(HEAD_SHAPE)
    return _write(chosen, partial(_place_head, folder, grid=grid), grid, out, names=names, progress=progress)


def _write(
    chosen: list[str],
    place: Callable[[str], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    geometry: Geometry,
    out: Path,
    *,
    names: Path,
    progress: Callable[[int, int], None],
) -> int:
    images = np.zeros((len(chosen), *geometry.shape), np.uint8)
    labels = np.zeros((len(chosen), *geometry.shape), np.uint8)
    for row, name in enumerate(chosen):
        images[row], labels[row] = place(name)
        progress(row + 1, len(chosen))
    contents = {
        "images": images,
        "labels": labels,
        "ids": np.array(chosen),
        "geometry": np.array(json.dumps(asdict(geometry))),
        "mirror": mirror_table(read_label_names(names)),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, lambda path: _save(path, contents), overwrite=True)
    return len(chosen)


def mirror_table(names: dict[int, str]) -> NDArray[np.uint8]:
    """(256,) uint8: each label's partner on the other side, by name; labels without one stay."""
    table = np.arange(256, dtype=np.uint8)
    ids = {name: label for label, name in names.items()}
    for name, label in ids.items():
        other = {"_L": "_R", "_R": "_L"}.get(name[-2:])
        partner = None if other is None else ids.get(name[:-2] + other)
        if partner is not None and max(label, partner) < 256:
            table[label] = partner
    return table


def _save(path: Path, contents: dict[str, NDArray[np.generic]]) -> None:
    with path.open("wb") as stream:  # an open stream: numpy would append .npz to a temporary name
        np.savez_compressed(stream, allow_pickle=False, **contents)


def _subjects(folder: Path) -> dict[str, str]:
    if not (folder / "splits.csv").is_file():
        raise NoInputError(
            "no splits.csv in the data folder", file=folder, remedy="expected t1/, seg/, splits.csv"
        )
    return {row["id"]: row["split"] for row in read_csv(folder / "splits.csv")}


def _labels(folder: Path, name: str) -> Volume:
    return _label_file(folder, name).volume


def _label_file(folder: Path, name: str) -> ImageFile:
    file = read_labels(folder / "seg" / f"{name}.nii.gz")
    largest = int(file.volume.data.max())
    if largest > 255:
        raise DataError(f"label {largest} is above 255", file=file.path, remedy="renumber the regions")
    return file


def _centroids(labels: Volume) -> Centroids:
    array = labels.data[0].numpy()
    ids = [int(label) for label in np.unique(array) if label >= _FIRST_ROI]
    index = np.array(ndimage.center_of_mass(array > 0, array, ids))[:, ::-1]
    matrix = labels.geometry.voxel_to_world.numpy()
    return dict(zip(ids, index @ matrix[:3, :3].T + matrix[:3, 3], strict=True))


def _reference(folder: Path, train: list[str]) -> tuple[Centroids, Geometry]:
    """Mean centroids of the training split (mm about their own centre) and the grid around the mean brain."""
    all_centroids = [_centroids(_labels(folder, name)) for name in train]
    common = sorted(set.intersection(*(set(c) for c in all_centroids)))
    stacked = np.stack([[c[label] for label in common] for c in all_centroids])
    stacked = stacked - stacked.mean(axis=1, keepdims=True)
    reference = dict(zip(common, stacked.mean(axis=0), strict=True))
    loose = _centred(SHAPE)
    x, y, z = loose.origin
    centre = np.mean([_box_centre(folder, name, reference, loose) for name in train[:20]], axis=0)
    return reference, Geometry(loose.size, loose.spacing, (x + centre[0], y + centre[1], z + centre[2]))


def _centred(shape: tuple[int, int, int]) -> Geometry:
    """The LPS grid of that many voxels about the origin."""
    x, y, z = (-(n - 1) / 2 * SPACING_MM for n in reversed(shape))
    return Geometry((shape[2], shape[1], shape[0]), (SPACING_MM,) * 3, (x, y, z))


def _box_centre(folder: Path, name: str, reference: Centroids, grid: Geometry) -> NDArray[np.float64]:
    """LPS mm of the middle of one aligned brain's bounding box."""
    labels = _labels(folder, name)
    affine = _fit(reference, _centroids(labels))
    inside = np.argwhere(transforms.resample(labels, affine, grid).data[0].numpy() > 0)
    middle = (inside.min(axis=0) + inside.max(axis=0))[::-1] / 2
    matrix = grid.voxel_to_world.numpy()
    return np.asarray(matrix[:3, :3] @ middle + matrix[:3, 3])


def _fit(reference: Centroids, own: Centroids) -> transforms.Affine:
    """The affine from reference to subject that brings shared centroids together in least squares."""
    shared = sorted(set(reference) & set(own))
    if len(shared) < 4:
        raise DataError(
            f"an affine needs four regions that every subject has, got {len(shared)}",
            remedy="label at least four regions in every subject",
        )
    source = np.c_[np.array([reference[k] for k in shared]), np.ones(len(shared))]
    solution, *_ = np.linalg.lstsq(source, np.array([own[k] for k in shared]), rcond=None)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.from_numpy(solution.T)
    return transforms.Affine(matrix)


def _place(
    folder: Path, name: str, *, reference: Centroids, grid: Geometry
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One subject on the common grid: stripped, scaled intensities and labels."""
    image, labels, brain = _read(folder, name)
    stripped = image.with_data(scale(image.data * brain))
    affine = _fit(reference, _centroids(labels))
    moved = transforms.resample(stripped, affine, grid)
    return _bytes(moved), transforms.resample(labels, affine, grid).data[0].numpy().astype(np.uint8)


def _place_head(folder: Path, name: str, *, grid: Geometry) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One subject as it was scanned, middle on middle: scaled intensities, labels with the whole brain above 0."""
    image, labels, brain = _read(folder, name)
    regions = labels.with_data(torch.where(brain & (labels.data == 0), 1, labels.data.to(torch.int64)))
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = image.geometry.centre_mm - grid.centre_mm
    to_image = transforms.Affine(shift)
    whole = image.with_data(scale(image.data, foreground(image)))
    moved = transforms.resample(whole, to_image, grid)
    return _bytes(moved), transforms.resample(regions, to_image, grid).data[0].numpy().astype(np.uint8)


def _read(folder: Path, name: str) -> tuple[Volume, Volume, Tensor]:
    """Image, labels and the brain (1, Z, Y, X) bool: the union of the labels, closed and filled."""
    image_file, label_file = read_image(folder / "t1" / f"{name}.nii.gz"), _label_file(folder, name)
    check_same_grid(label_file, image_file)
    labels = label_file.volume
    brain = ndimage.binary_closing(np.pad(labels.data[0].numpy() > 0, 3), iterations=2)
    brain = ndimage.binary_fill_holes(brain)[3:-3, 3:-3, 3:-3]
    return image_file.volume, labels, torch.from_numpy(brain)[None]


def _bytes(image: Volume) -> NDArray[np.uint8]:
    return np.round(np.clip(image.data[0].numpy() * INTENSITY_STEP, 0, 255)).astype(np.uint8)
