"""The verb ``apply``: images or labels through transforms that exist already."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neuroreg.errors import CannotCreateError, UsageError
from neuroreg.io import files
from neuroreg.io.field_headers import FIELD_SUFFIXES, holds_vectors
from neuroreg.io.images import WRITE_SUFFIXES, check_frame, read_image, read_labels, write_image
from neuroreg.io.layout import MAX_VOXELS
from neuroreg.io.nifti_header import Xform
from neuroreg.io.together import new_folder, together
from neuroreg.io.transforms import READ_SUFFIXES as TRANSFORM_SUFFIXES
from neuroreg.io.transforms import read_transform
from neuroreg.pipeline.config import stem
from neuroreg.pipeline.record import Progress, silent
from neuroreg.pipeline.transforms import invert, map_notes
from neuroreg.preprocess.labelled import looks_labelled
from neuroreg.transforms import Chain, Transform, resample


@dataclass(frozen=True)
class ApplyConfig:
    """What to move, through what, onto what."""

    transforms: tuple[Path, ...]
    """the first acts first on a fixed point"""
    images: tuple[Path, ...]
    to: Path
    """any image on the grid to fill"""
    output: Path | None = None
    """a file for one image, else a folder; None: ./<image>_to_<to>.nii.gz"""
    labels: bool = False
    """the images are label maps: nearest neighbour, ids exact"""
    inverse: bool = False
    """go the other way: moving is what the transforms call fixed"""
    overwrite: bool = False
    frame: int | None = None
    """which frame of 4-D images to move"""
    xform: Xform = "auto"
    """which NIfTI frame to trust where two disagree"""
    max_voxels: int = MAX_VOXELS


@dataclass(frozen=True)
class Applied:
    """What was written, and what had to be said."""

    outputs: tuple[Path, ...]
    warnings: tuple[str, ...]


def split_files(paths: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """(transforms, images): the leading files that hold transforms, then the rest.

    A NIfTI counts as a transform when it holds vectors. Raises UsageError when either is missing or they are mixed.
    """
    kinds = [_is_transform(path) for path in paths]
    count = kinds.index(False) if False in kinds else len(kinds)
    if count == 0 or count == len(paths):
        what = "a transform is missing, this is none" if count == 0 else "an image to move is missing"
        file = paths[0] if count == 0 else None
        raise UsageError(what, file=file, remedy="neuroreg apply TRANSFORM... --to FIXED IMAGE...")
    if any(kinds[count:]):
        late = paths[kinds.index(True, count)]
        raise UsageError("a transform stands among the images", file=late, remedy="name the transforms first")
    return tuple(paths[:count]), tuple(paths[count:])


def _is_transform(path: Path) -> bool:
    files.check_input(path)
    suffix = files.suffix_of(path)
    return holds_vectors(path) if suffix in FIELD_SUFFIXES else suffix in TRANSFORM_SUFFIXES


def apply(config: ApplyConfig, *, progress: Progress = silent) -> Applied:
    """Move every image; each is interpolated once, through the whole chain.

    Raises UsageError (2), DataError (65), NoInputError (66), CannotCreateError (73), WriteError (74), BusyError (75).
    """
    with _into(config) as targets:
        return _apply(config, targets, progress)


@contextmanager
def _into(config: ApplyConfig) -> Iterator[list[Path]]:
    """Where each moved image goes; a folder is made for them when it is missing, and only kept when all goes well."""
    targets = _targets(config)
    with nullcontext() if config.output in (None, *targets) else new_folder(targets[0].parent):
        for target in targets:
            files.check_output(target, overwrite=config.overwrite)
        yield targets


def _apply(config: ApplyConfig, targets: Sequence[Path], progress: Progress) -> Applied:
    progress("read")
    reader = partial(
        read_labels if config.labels else read_image,
        frame=config.frame, xform=config.xform, max_voxels=config.max_voxels,
    )  # fmt: skip
    with ThreadPoolExecutor(max_workers=2) as pool:
        images = list(pool.map(reader, config.images))
    check_frame(config.frame, *images)
    # frame 0: all frames lie on the one grid
    fixed = read_image(config.to, frame=0, xform=config.xform, max_voxels=config.max_voxels)
    transform, warnings = _transform(config)
    warnings += fixed.notes
    names = [target.name for target in targets]
    with together(targets[0].parent, names, overwrite=config.overwrite) as stage:
        for image, name in zip(images, names, strict=True):
            progress(f"move {image.path.name}")
            if not config.labels and looks_labelled(image.volume.data):
                warnings.append(
                    f"{image.path.name}: this looks like a label map, and its numbers were interpolated; "
                    "--labels keeps them"
                )
            moved = resample(image.volume, transform, fixed.volume.geometry)
            kind = None if config.labels else "float32"
            warnings += [*image.notes, *write_image(moved, stage / name, pixel_type=kind)]
            if not bool((moved.data != 0).any()):
                warnings.append(f"{name}: nothing but zeros; do the transform and the image belong together?")
    return Applied(tuple(targets), tuple(warnings))


def _transform(config: ApplyConfig) -> tuple[Transform, list[str]]:
    parts = tuple(read_transform(path) for path in config.transforms)
    transform: Transform = Chain(parts)
    warnings = [
        note for part, path in zip(parts, config.transforms, strict=True) for note in map_notes(part, path)
    ]
    if not config.inverse:
        return transform, warnings
    found = invert(transform)
    if found.p99_mm > 1.0:
        warnings.append(
            f"the inverse misses by {found.p99_mm:.1f} mm in places; use the inverse file of the run"
        )
    return found.transform, warnings


def _targets(config: ApplyConfig) -> list[Path]:
    """Where each moved image goes, all in one folder. Raises UsageError, CannotCreateError before anything is read."""
    names = [f"{stem(image)}_to_{stem(config.to)}.nii.gz" for image in config.images]
    if config.output is None:
        targets = [Path(name) for name in names]
    elif files.suffix_of(config.output) in WRITE_SUFFIXES and not config.output.is_dir():
        if len(names) > 1:
            raise UsageError(f"{len(names)} images cannot go into one file", remedy="give a folder to -o")
        targets = [config.output]
    else:
        if config.output.exists() and not config.output.is_dir():
            raise CannotCreateError(
                "the output is neither an image file nor a folder",
                file=config.output,
                remedy="give an image file or a folder to -o",
            )
        targets = [config.output / name for name in names]
    if len(set(targets)) < len(targets):
        raise UsageError("two images have the same name", remedy="move them one at a time")
    inputs = {path.resolve() for path in (*config.images, *config.transforms, config.to)}
    for target in targets:
        if target.resolve() in inputs:
            raise UsageError("the output would overwrite an input", file=target, remedy="choose another -o")
    return targets
