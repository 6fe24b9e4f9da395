"""From a packed training set to the discriminant of ``pipeline/sides.py``: a symmetric template, a ridge regression."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from neuroreg import field
from neuroreg.io.files import atomic_write
from neuroreg.nn.sides import Aligner, asymmetry, place
from neuroreg.training.data import Augmentation, PackedSet, vary
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Geometry, Volume

_ROUNDS = 4  # of making the template symmetric; it stands still after two
_RIDGE = 0.3  # of the mean squared length of a feature vector
_INTENSITY_STEP = 200.0  # stored value = round(200 * intensity)

VARIATION = Augmentation(gamma=0.2, bias=0.15, blur=0.7, noise=0.02)
"""How the further looks of a training subject differ from it, after a random affine"""


def symmetric_template(image: Volume, align: Aligner) -> tuple[Tensor, Geometry]:
    """The mean of an average brain and its mirror image, laid on each other: (1, 1, D, H, W) and its grid.

    ``image``: (1, Z, Y, X) on a grid along the world's axes.
    """
    grid = odd_grid(image.geometry)
    still = resample(image, Affine(torch.eye(4, dtype=torch.float64)), grid).data[None]
    mean = (still + still.flip(-1)) / 2
    for _ in range(_ROUNDS):
        placed = place(still, mean, align)
        mean = (placed + placed.flip(-1)) / 2
    stored = _stored(mean).to(torch.float32) / _INTENSITY_STEP  # learn with what will be used
    return stored[None, None], grid


def odd_grid(geometry: Geometry) -> Geometry:
    """The grid with the same centre and an odd number of voxels on every side; world axes only."""
    size = tuple(n + 1 - n % 2 for n in geometry.size)
    parts = zip(geometry.origin, geometry.spacing, size, geometry.size, strict=True)
    origin = tuple(start - step * (new - old) / 2 for start, step, new, old in parts)
    return Geometry((size[0], size[1], size[2]), geometry.spacing, (origin[0], origin[1], origin[2]))


def learn_sides(
    data: PackedSet,
    template: Tensor,
    align: Aligner,
    *,
    varied: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Tensor:
    """Weights (N,) for ``asymmetry``: ridge regression of 1 on every subject as it is and in ``varied`` random looks.

    The mirror images, with -1, follow from the sign: the answer is linear and has no constant.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for row in range(len(data)):
        image = data.image(row)
        for look in range(varied + 1):
            shown = image if look == 0 else vary(_turned(image, generator), VARIATION, generator)
            rows.append(asymmetry(place(shown, template, align)))
        progress(row + 1, len(data))
    features = torch.stack(rows).to(torch.float64)
    gram = features @ features.T
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    dual = torch.linalg.solve(gram + ridge, torch.ones(len(gram), dtype=torch.float64))
    weights: Tensor = (dual @ features).to(torch.float32)
    return weights


def _turned(image: Tensor, generator: torch.Generator) -> Tensor:
    """A little turned, sheared and shifted: the affine that follows does not find its way back exactly."""
    shape = tuple(image.shape[2:])
    matrix = torch.eye(3) + 0.05 * torch.randn(3, 3, generator=generator)
    centre = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    shift = 2.0 * torch.randn(3, generator=generator)
    affine = torch.cat((matrix, (centre + shift - matrix @ centre)[:, None]), dim=1)[None]
    return field.sample(image, field.affine_index(affine, field.identity(shape)), fill=0.0)


def save_sides(template: Tensor, weights: Tensor, geometry: Geometry, path: Path) -> None:
    """Write both, atomically: uint8 and float16."""
    said = {"intensity_step": str(_INTENSITY_STEP), "geometry": json.dumps(asdict(geometry))}
    tensors = {"template": _stored(template), "weights": weights.to(torch.float16)}

    def write(temporary: Path) -> None:
        save_file(tensors, temporary, metadata=said)
        temporary.chmod(0o644)  # safetensors makes it readable by its owner alone

    atomic_write(path, write, overwrite=True)


def _stored(template: Tensor) -> Tensor:
    """(1, 1, D, H, W) 0..1.275 -> (D, H, W) uint8."""
    return (template[0, 0] * _INTENSITY_STEP).round().clamp(0, 255).to(torch.uint8).contiguous()
