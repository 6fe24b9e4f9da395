"""The brain template: an average of the training split made by the project's own registration.

Start from the mean of the affinely aligned subjects. Each round registers the template to every subject, takes the
mean displacement out of all of them (the template then has the mean shape, not that of its start) and averages the
subjects, each read once through its whole map. Rounds on a subset end when the average stops sharpening; a last
round takes everybody. Labels are the majority of all subjects' labels, the mask is where most have brain.
Joshi et al., Unbiased diffeomorphic atlas construction for computational anatomy, NeuroImage 2004.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from neuroreg import field
from neuroreg.inverse import invert
from neuroreg.io.files import atomic_write
from neuroreg.methods.gaussnewton_level import Level, LevelImages, LevelSpec
from neuroreg.metrics.segmentation import mean_dice
from neuroreg.preprocess import brain, intensity
from neuroreg.training.data import PackedSet
from neuroreg.volume import Geometry

INTENSITY_STEP = 200.0
_ENOUGH = 1.01  # a round that sharpens the average by less than 1 % is the last one on the subset
_SPECS = (
    LevelSpec(1, 1, 20, windows=(5, 15), damping=0.01 * 4**2, sigma_update=1.7, sigma_field=0.35),
    LevelSpec(0, 1, 10, windows=(5, 15), damping=0.01 * 2**2, sigma_update=1.7, sigma_field=0.35),
)
"""20 iterations at 4 mm and 10 at 2 mm on 2 mm images: preset mid of gaussnewton without its last level, halved"""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Template:
    """A template on its grid."""

    intensity: Tensor
    """(D, H, W) float32, 0..1.275, 0 outside the mask"""
    labels: Tensor
    """(D, H, W) int16, 0 outside the mask"""
    mask: Tensor
    """(D, H, W) bool"""
    geometry: Geometry
    sharpness: tuple[float, ...]
    """of the affine average, of each round on the subset, of the round on everybody, and after sharpening"""
    subjects: int


def build(
    data: PackedSet, cache: Path, *, named: set[int], subset: int, rounds: int, progress: Progress
) -> Template:
    """Build the template of all subjects in ``data``; the labels in ``named`` are kept.

    At most ``rounds`` rounds use the first ``subset`` subjects. Every displacement found is kept in ``cache``, so a
    build that was stopped goes on where it was.
    """
    everybody = list(range(len(data)))
    few = everybody[:subset]
    template = _mean([data.image(row) for row in everybody])
    sharpness = [sharpness_of(template)]
    number = 0
    while number < rounds:
        number += 1
        template = _round(data, few, template, cache, number, progress)
        sharpness.append(sharpness_of(template))
        if sharpness[-1] < _ENOUGH * sharpness[-2]:
            break
    final = number + 1
    template = _round(data, everybody, template, cache, final, progress)
    sharpness.append(sharpness_of(template))
    labels, mask = _vote(data, everybody, cache, final, named)
    single = sum(sharpness_of(data.image(row)) for row in few) / len(few)
    crisp = sharpen(template, single)[0, 0]
    scaled = intensity.scale(torch.where(mask, crisp, torch.zeros(())), mask)
    return Template(
        scaled, labels, mask, data.geometry, (*sharpness, sharpness_of(crisp[None, None])), len(everybody)
    )


def sharpen(image: Tensor, wanted: float, *, sigma: float = 1.0) -> Tensor:
    """image (1, 1, D, H, W) plus as much of what Gaussian smoothing takes from it as makes its sharpness ``wanted``.

    Averaging blurs even well aligned heads; ANTs sharpens its templates likewise. The background stays 0.
    """
    detail = image - field.smooth(image, sigma)
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        if sharpness_of((image + middle * detail).clamp_min(0.0)) < wanted:
            low = middle
        else:
            high = middle
    return torch.where(image > 0.0, (image + low * detail).clamp_min(0.0), torch.zeros(()))


def sharpness_of(image: Tensor) -> float:
    """Mean size of the gradient of image (1, 1, D, H, W) inside the head, intensity per voxel."""
    gradient = torch.stack(torch.gradient(image[0, 0])).norm(dim=0)
    return float(gradient[image[0, 0] > 0.2].mean())


def _round(
    data: PackedSet, rows: list[int], template: Tensor, cache: Path, number: int, progress: Progress
) -> Tensor:
    """Register, remove the mean displacement, average: the next template (1, 1, D, H, W)."""
    kept = _folder(cache, number) / "template.npy"
    if kept.is_file():
        return torch.from_numpy(np.load(kept)).float()
    total = torch.zeros(1, 3, *template.shape[2:])
    for count, row in enumerate(rows, 1):
        progress(f"round {number}: subject {count} of {len(rows)}")
        total += _displacement(data, row, template, cache, number)
    back = invert(total / len(rows))
    _save(_folder(cache, number) / "back.npy", back)
    mean = _mean([field.warp(data.image(row), _through(data, row, cache, number), fill=0.0) for row in rows])
    _save(kept, mean)
    return torch.from_numpy(np.load(kept)).float()  # what a build that goes on later would read


def _displacement(data: PackedSet, row: int, template: Tensor, cache: Path, number: int) -> Tensor:
    """From the template of this round to one subject: (1, 3, D, H, W) voxels, from the cache where it is there."""
    path = _folder(cache, number) / f"{data.ids[row]}.npy"
    if not path.is_file():
        earlier = number - 1
        while earlier > 0 and not (_folder(cache, earlier) / path.name).is_file():
            earlier -= 1
        start = _through(data, row, cache, earlier) if earlier else None
        _save(path, align(template, data.image(row), start))
    return torch.from_numpy(np.load(path)).float()


def _through(data: PackedSet, row: int, cache: Path, number: int) -> Tensor:
    """From the template a round has made to one subject: the mean displacement undone, then the subject's own."""
    folder = _folder(cache, number)
    back, own = (
        torch.from_numpy(np.load(folder / f"{name}.npy")).float() for name in ("back", data.ids[row])
    )
    return field.compose(own, back)


def align(template: Tensor, subject: Tensor, start: Tensor | None) -> Tensor:
    """The displacement u with subject(i + u(i)) like template(i): (1, 3, D, H, W) voxels.

    Both (1, 1, D, H, W) on one grid; with a ``start`` the coarse level is left out.
    """
    fixed, moving = (template, field.downsample(template)), (subject, field.downsample(subject))
    specs = _SPECS if start is None else _SPECS[1:]
    u = start[0].clone() if start is not None else torch.zeros(3, *fixed[1].shape[2:])
    for spec in specs:
        level = spec.image_level
        if u.shape[1:] != fixed[level].shape[2:]:
            u = field.upsample_field(u[None], tuple(fixed[level].shape[2:]))[0].contiguous()
        near = (field.smooth((fixed[level] > 0.05).float(), 2.0) > 0.01).float()[0, 0]
        engine = Level(spec, LevelImages(fixed[level][0, 0], moving[level][0], torch.eye(3, 4), near))
        for _ in range(spec.iterations):
            u = engine.step(u)[0]
    return u[None]


def overlap(template: Template, data: PackedSet, *, progress: Progress) -> tuple[float, float]:
    """Mean Dice of the template's regions with those of every subject, moved onto it: affine alone, and aligned."""
    ids = [int(label) for label in np.unique(template.labels.numpy()) if label]
    image = template.intensity[None, None]
    before, after = 0.0, 0.0
    for row in range(len(data)):
        progress(f"overlap: subject {row + 1} of {len(data)}")
        moved = field.warp(data.label(row), align(image, data.image(row), None), mode="nearest", fill=0)
        before += mean_dice(template.labels, data.label(row)[0, 0], ids) / len(data)
        after += mean_dice(template.labels, moved[0, 0], ids) / len(data)
    return before, after


def _vote(
    data: PackedSet, rows: list[int], cache: Path, number: int, named: set[int]
) -> tuple[Tensor, Tensor]:
    """The majority label int16 and the majority mask bool, both (D, H, W)."""
    shape = data.geometry.shape
    counts = torch.zeros(256, *shape, dtype=torch.uint8)
    inside = torch.zeros(shape)
    for row in rows:
        u = _through(data, row, cache, number)
        label = field.warp(data.label(row), u, mode="nearest", fill=0)[0, 0]
        counts.scatter_add_(0, label.long()[None], torch.ones(1, *shape, dtype=torch.uint8))
        inside += (label > 0).float()
    mask = brain.close_and_fill(inside > len(rows) / 2, radius=1)
    labels = counts.argmax(dim=0).to(torch.int16)
    known = torch.zeros(256, dtype=torch.bool)
    known[sorted(named)] = True
    return torch.where(mask & known[labels.long()], labels, torch.zeros((), dtype=torch.int16)), mask


def _mean(images: list[Tensor]) -> Tensor:
    total = torch.zeros_like(images[0])
    for image in images:
        total += image
    return total / len(images)


def _folder(cache: Path, number: int) -> Path:
    return cache / f"round-{number}"


def _save(path: Path, tensor: Tensor) -> None:
    """Half precision: a hundredth of a voxel is far below what one registration is worth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    with temporary.open("wb") as stream:
        np.save(stream, tensor.to(torch.float16).numpy())
    temporary.replace(path)


def save(template: Template, path: Path, *, names: dict[int, str]) -> None:
    """Write intensity (uint8, 200 per unit), labels and mask with the geometry (LPS mm) and the labels' names."""
    used = np.unique(template.labels.numpy()[template.mask.numpy() & (template.labels.numpy() > 0)]).tolist()
    metadata = {
        "kind": "template",
        "geometry": json.dumps(asdict(template.geometry)),
        "intensity_step": str(INTENSITY_STEP),
        "names": json.dumps({str(label): names[label] for label in used}),
    }
    tensors = {
        "intensity": (template.intensity * INTENSITY_STEP).round().clamp(0, 255).to(torch.uint8).contiguous(),
        "labels": template.labels.contiguous(),
        "mask": template.mask.to(torch.uint8).contiguous(),
    }

    def write(part: Path) -> None:
        save_file(tensors, part, metadata)
        part.chmod(0o644)  # safetensors makes it readable by its owner alone

    atomic_write(path, write, overwrite=True)
