"""Everything a registration reads, checked before anything is computed."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from neuroreg.checkpoints import WeightRecord, default_for
from neuroreg.errors import CannotCreateError, DataError, UsageError
from neuroreg.io import files
from neuroreg.io.images import ImageFile, check_frame, check_same_grid, read_image, read_labels
from neuroreg.pipeline.config import AFFINES, BRAIN_FINDER, RegisterConfig, stem
from neuroreg.pipeline.record import RECORD_NAME
from neuroreg.preprocess import brain
from neuroreg.preprocess.labelled import looks_labelled
from neuroreg.volume import Volume

FILES: Mapping[str, str] = {
    "image": "moved.nii.gz",
    "field": "displacement.nii.gz",
    "transform": "transform.h5",
    "inverse": "inverse.h5",
    "affine": "affine.mat",
    "jacobian": "jacobian.nii.gz",
    "report": "report.html",
}
"""``--outputs`` name -> file name."""

MOVED_LABELS = "moved_labels.nii.gz"
ROIS = "rois.csv"
VIEWER = "viewer.html"
"""What ``neuroreg report --viewer`` adds to a finished run."""

_SIDES = ("fixed", "moving")


@dataclass(frozen=True)
class Inputs:
    """The files of one run. ``files`` has every one of them by its role, in the order of the record."""

    files: Mapping[str, ImageFile]
    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None
    """where the fixed image's data count; None: everywhere"""
    moving_mask: Volume | None
    """where the moving image's data count; None: everywhere"""
    warnings: tuple[str, ...]
    more_than_brain: tuple[str, ...] = ()
    """those of the warnings that speak of a skull or face left in what counts"""
    brain_weights: WeightRecord | None = None
    """of the network that found a brain in a whole head"""

    def digest(self, role: str, path: Path) -> str:
        """The sha256 of an input, images from the reading of them."""
        return self.files[role].sha256 if role in self.files else files.sha256(path)

    @property
    def also(self) -> tuple[ImageFile, ...]:
        """The further images to move."""
        return tuple(image for role, image in self.files.items() if role.startswith("also:"))


def named_outputs(config: RegisterConfig) -> dict[str, str]:
    """Every file this run will leave: its role -> its name in the folder, in the order of writing."""
    names = {role: name for role, name in FILES.items() if role in config.outputs and role != "report"}
    if config.moving_labels is not None:
        names["moved_labels"] = MOVED_LABELS
        if config.fixed_labels is not None:
            names["rois"] = ROIS
    for number, path in enumerate(config.also):
        names[f"also:{number}"] = f"{stem(path)}_moved.nii.gz"
    if "report" in config.outputs:
        names["report"] = FILES["report"]
    names["record"] = RECORD_NAME
    doubled = {name for name in names.values() if list(names.values()).count(name) > 1}
    if doubled:
        raise UsageError(
            f"two images would be written as {', '.join(sorted(doubled))}", remedy="rename one of them"
        )
    return names


def given_paths(config: RegisterConfig) -> dict[str, Path]:
    """Every input file by role."""
    roles = ("fixed", "moving", "fixed_labels", "moving_labels", "label_names", "fixed_mask", "moving_mask")
    paths = {role: getattr(config, role) for role in roles if getattr(config, role) is not None}
    paths.update({f"also:{number}": path for number, path in enumerate(config.also)})
    if config.affine not in AFFINES:
        paths["affine"] = Path(config.affine)
    return paths


def check_output_folder(config: RegisterConfig) -> None:
    """Refuse what cannot be written, before anything is computed: UsageError (2), CannotCreateError (73)."""
    folder, names, inputs = config.folder, named_outputs(config), given_paths(config)
    for path in inputs.values():
        files.check_input(path)
    files.check_name(folder)
    targets = {(folder / name).resolve() for name in names.values()} | {folder.resolve()}
    files.check_not_inputs(targets, inputs.values())
    if folder.exists() and not folder.is_dir():
        raise CannotCreateError(
            "the output folder is a file", file=folder, remedy="give the name of a folder"
        )
    if not folder.exists():
        _check_parent(folder)
        return
    for name in names.values():
        files.check_output(folder / name, overwrite=config.overwrite)


def _check_parent(folder: Path) -> None:
    if not folder.resolve().parent.is_dir():
        raise CannotCreateError(
            "the parent folder does not exist", file=folder.resolve().parent, remedy="create it"
        )
    files.check_output(folder, overwrite=False)


def read_inputs(config: RegisterConfig) -> Inputs:
    """Read and check every image, two at a time. Raises the error of the first bad file in the order of roles."""
    paths = {
        role: path for role, path in given_paths(config).items() if role not in ("label_names", "affine")
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        jobs = {role: pool.submit(_read, role, path, config) for role, path in paths.items()}
        try:
            images = {role: job.result() for role, job in jobs.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    check_frame(config.frame, images["fixed"], images["moving"])
    for side in _SIDES:
        for role in (f"{side}_labels", f"{side}_mask"):
            if role in images:
                check_same_grid(images[role], images[side])
    given = {side: images[f"{side}_mask"].volume for side in _SIDES if f"{side}_mask" in images}
    found = _find_brains(images, given) if config.find_brain else {}
    given |= found
    masks = {side: _mask(images, side, given.get(side)) for side in _SIDES}
    more = dict(_more_than_brain(images, given, masks))
    if config.method != "affine" and not given:
        _check_same_kind(images, more)
    return Inputs(
        files=images,
        fixed=images["fixed"].volume,
        moving=images["moving"].volume,
        fixed_mask=masks["fixed"],
        moving_mask=masks["moving"],
        warnings=(*_warnings(images), *more.values(), *_said_of_found(images, found)),
        more_than_brain=tuple(more.values()),
        brain_weights=default_for(BRAIN_FINDER) if found else None,
    )


def _read(role: str, path: Path, config: RegisterConfig) -> ImageFile:
    labels = role.endswith(("_labels", "_mask"))
    frame = config.frame if role in ("fixed", "moving") else None
    reader = read_labels if labels else read_image
    return reader(path, frame=frame, xform=config.xform, max_voxels=config.max_voxels)


def _find_brains(images: Mapping[str, ImageFile], given: Mapping[str, Volume]) -> dict[str, Volume]:
    """Side -> mask of each image that has none and holds more than a brain. Raises DataError where none is found."""
    from neuroreg.pipeline.head_mask import NoBrainError, find_brain  # a network, only when it is asked for

    found = {}
    for side in _SIDES:
        image = images[side]
        if side in given or not brain.exceeds_brain(image.volume):
            continue
        try:
            found[side] = find_brain(image.volume)
        except NoBrainError as error:
            raise DataError(
                f"the brain was not found in the {side} image: {error.what}",
                file=image.path,
                remedy=f"give --{side}-mask",
            ) from error
    return found


def _said_of_found(images: Mapping[str, ImageFile], found: Iterable[str]) -> Iterable[str]:
    for side in found:
        yield (
            f"the brain of the {side} image {images[side].path.name} was found by the template; "
            "look at the outlines in the report"
        )


def _mask(images: Mapping[str, ImageFile], side: str, given: Volume | None) -> Volume | None:
    """The given mask without the voxels that are not finite; those alone when no mask was given; None when none."""
    image = images[side]
    if given is None and image.invalid is None:
        return None
    inside = (brain.brain_mask(image.volume) if given is None else given).data > 0
    if image.invalid is not None:
        inside = inside & ~image.invalid
    if not bool(inside.any()):
        path = images.get(f"{side}_mask", image).path
        raise DataError("the mask is empty", file=path, remedy="give a mask of the brain")
    return Volume(inside.to(torch.uint8), image.volume.geometry, is_label=True)


def _turn(image: ImageFile) -> float:
    """Above 0 where the voxel axes are right-handed in the world, below where they are left-handed."""
    return float(torch.tensor(image.volume.geometry.direction).reshape(3, 3).det())


def _more_than_brain(
    images: Mapping[str, ImageFile], given: Mapping[str, Volume], masks: Mapping[str, Volume | None]
) -> Iterable[tuple[str, str]]:
    """(side, one line) for each side whose image, inside its mask if one was given, holds more than a brain."""
    for side, mask in masks.items():
        image, masked = images[side], side in given
        counts = mask.data > 0 if masked and mask is not None else None
        if brain.exceeds_brain(image.volume, counts):
            cure = f"strip it, give --{side}-mask or use --find-brain"
            cure = "give a mask of the brain alone" if masked else cure
            yield (
                side,
                f"the {side} image {image.path.name} seems to hold more than the brain"
                f"{' inside its mask' if masked else ''}; {cure} for a better result",
            )


def _check_same_kind(images: Mapping[str, ImageFile], heads: Iterable[str]) -> None:
    """A stripped brain and a whole head without a mask are refused. ``heads``: the sides with more than a brain.

    Raises DataError.
    """
    for head in heads:
        other = "moving" if head == "fixed" else "fixed"
        if not brain.looks_stripped(images[head].volume) and brain.looks_stripped(images[other].volume):
            raise DataError(
                f"the {head} image is a whole head, the {other} image a brain without its skull",
                file=images[head].path,
                remedy=f"use --find-brain, give --{head}-mask, or strip it",
            )


def _warnings(images: Mapping[str, ImageFile]) -> Iterable[str]:
    for image in images.values():
        yield from image.notes
    fixed, moving = images["fixed"], images["moving"]
    if fixed.path.resolve() == moving.path.resolve() or fixed.sha256 == moving.sha256:
        yield "fixed and moving are the same image"
    # Other handedness alone is ordinary (LAS beside RAS): good headers settle it. Not so where one is in doubt.
    if (fixed.unsure_sides or moving.unsure_sides) and _turn(fixed) * _turn(moving) < 0:
        yield (
            "the axes of the two images have different handedness and a header leaves left and right in doubt; "
            "make sure that left is left in both"
        )
    for role, image in images.items():
        if role.startswith("also:") and looks_labelled(image.volume.data):
            yield (
                f"{image.path.name}: this looks like a label map, and --also interpolates; "
                "give it as --moving-labels, or move it with neuroreg apply --labels"
            )
    if "fixed_labels" in images and "moving_labels" not in images:
        yield "no regions are compared: --fixed-labels needs --moving-labels too"
