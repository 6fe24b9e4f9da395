"""The JSON files beside BIDS derivatives: what a file is, what it was made of, and where it lies in the head."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from neuroreg.cohort.bids_names import Placed, own_uri
from neuroreg.io.images import read_image
from neuroreg.pipeline.inputs import FILES
from neuroreg.pipeline.record import RunRecord
from neuroreg.preprocess.brain import looks_stripped

_THERE = (
    "It takes points of {space} to points of the T1w image (mm, LPS), and so brings images from the space of the T1w "
    "image into {space}."
)
_DESCRIPTIONS: Mapping[str, str] = {
    "image": "The T1w image in {space}, interpolated once, through the whole of the transform.",
    "field": f"Displacements on the grid of the reference image, affine included. {_THERE}",
    "transform": f"Composite transform of ITK: an affine and a displacement field. {_THERE}",
    "inverse": "Composite transform of ITK. It takes points of the T1w image to points of {space} (mm, LPS), and so "
    "brings images from {space} into the space of the T1w image.",
    "affine": f"Affine transform of ITK, the affine part of the registration alone. {_THERE}",
    "jacobian": "Determinant of the Jacobian of the whole map from {space} to the T1w image, affine included: above 1 "
    "where the T1w image is larger than the reference image.",
}


def sidecars(one: Placed, record: RunRecord, work: Path) -> dict[str, dict[str, object]]:
    """Name in ``run.json`` -> the JSON that belongs beside it, for each output of the run that BIDS has a place for.

    Raises DataError, NoInputError when the moved image in ``work`` cannot be read.
    """
    roles = {name: role for role, name in FILES.items()}
    names = [name for name in one.files if name in record.outputs]
    transform = next((name for name in ("transform.h5", "affine.mat") if name in names), None)
    return {
        name: _sidecar(one, roles[name], work / name, None if transform is None else one.files[transform])
        for name in names
    }


def _sidecar(one: Placed, role: str, path: Path, transform: PurePosixPath | None) -> dict[str, object]:
    """``transform`` is where the map lies that images were made with, if the run left one."""
    scan, target = one.scan.uri, one.target.uri
    sources = [scan, target]
    if role in ("image", "jacobian") and transform is not None:
        sources = [*([scan] if role == "image" else []), own_uri(transform)]
    found: dict[str, object] = {
        "Description": _DESCRIPTIONS[role].format(space=f"space-{one.target.space}"),
        "Sources": sources,
        "SpatialReference": scan if role == "inverse" else target,
    }
    return {**found, "SkullStripped": skull_stripped(path)} if role == "image" else found


def skull_stripped(path: Path) -> bool:
    """Whether nothing is left around the brain, as far as an image tells. Raises DataError, NoInputError."""
    return looks_stripped(read_image(path).volume)
