"""The packed training set in memory, pairs drawn from it, and their augmentation. Needs no image library."""

from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError, NoInputError
from neuroreg.methods.base import Batch
from neuroreg.parse import from_json
from neuroreg.training.fields import StoredFields
from neuroreg.volume import Geometry

_INTENSITY_STEP = 200.0
_W_TURNS = torch.tensor([1.0, 1.0, -1.0]).reshape(
    1, 3, 1, 1, 1
)  # what a left-right mirror does to displacements
_COARSE_BRAIN = 0.02  # smoothing spreads a little intensity beyond the brain


class Augmentation(BaseModel):
    """How a drawn pair is varied. Standard deviations unless said otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared_affine: float = Field(0.06, ge=0, description="Entries of a random matrix applied to both images")
    moving_affine: float = Field(
        0.03, ge=0, description="Entries of a second one applied to the moving image"
    )
    moving_shift: float = Field(0.02, ge=0, description="Shift of the moving image, in sides of the grid")
    mirror: float = Field(
        0.5, ge=0, le=1, description="Probability of a left-right mirror of both, labels swapped"
    )
    gamma: float = Field(0.2, ge=0, description="Log of the intensity exponent, each image its own")
    bias: float = Field(0.1, ge=0, description="Log of a smooth multiplicative field, each image its own")
    blur: float = Field(0.0, ge=0, description="Largest sigma of a random Gaussian blur, voxels")
    noise: float = Field(0.01, ge=0, description="Additive noise inside the brain, each image its own")

    @property
    def moves(self) -> bool:
        """Whether images are moved, apart from the mirror, hence interpolated."""
        return max(self.shared_affine, self.moving_affine, self.moving_shift) > 0


@dataclass(frozen=True)
class PackedSet:
    """Subjects on one grid."""

    images: Tensor
    """(N, D, H, W) uint8, 200 per unit of intensity"""
    labels: Tensor
    """(N, D, H, W) uint8"""
    ids: tuple[str, ...]
    geometry: Geometry
    mirror: Tensor
    """(256,) uint8: the label each label becomes in a left-right mirror"""
    labelled: int | None = None
    """of how many subjects, the first ones, training knows the labels; None: of all"""

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> Tensor:
        """(1, 1, D, H, W) float32, 0..1.275."""
        return self.images[row][None, None].float() / _INTENSITY_STEP

    def label(self, row: int) -> Tensor:
        """(1, 1, D, H, W) uint8."""
        return self.labels[row][None, None]

    def is_labelled(self, row: int) -> bool:
        """Whether training knows the labels of this subject."""
        return self.labelled is None or row < self.labelled

    def labelled_part(self) -> "PackedSet":
        """The subjects whose labels are known."""
        known = slice(self.labelled)
        return replace(self, images=self.images[known], labels=self.labels[known], ids=self.ids[known])


def load_pack(path: Path) -> PackedSet:
    """Read a file written by ``prepare.pack``. Raises NoInputError, DataError."""
    if not path.is_file():
        raise NoInputError(
            "no packed data set", file=path, remedy="make it with neuroreg train RECIPE --prepare DATA"
        )
    try:
        # opened here: numpy leaves a damaged archive open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as contents:
            geometry = from_json(str(contents["geometry"]))
            data = PackedSet(
                images=torch.from_numpy(contents["images"]),
                labels=torch.from_numpy(contents["labels"]),
                ids=tuple(str(name) for name in contents["ids"]),
                geometry=Geometry(**{key: tuple(value) for key, value in geometry.items()}),
                mirror=torch.from_numpy(contents["mirror"]),
            )
    except (KeyError, ValueError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise DataError("not a packed data set", file=path, remedy="make it again") from error
    if len(data) < 2:
        raise DataError(
            f"pairs need two subjects, got {len(data)}", file=path, remedy="put more into the split"
        )
    return data


def draw_pair(
    data: PackedSet,
    augmentation: Augmentation,
    generator: torch.Generator,
    *,
    coarse: bool = False,
    fields: StoredFields | None = None,
) -> Batch:
    """A random ordered pair of two subjects, augmented; everything random comes from ``generator``.

    ``coarse``: at twice the spacing, halved before anything else, so that the drawing costs an eighth as well.
    ``fields``: a pair of those, with its displacement, which follows the augmentation exactly.
    The batch has the labels of the subjects whose labels are known.
    """
    u = None
    if fields is None:
        rows = torch.randperm(len(data), generator=generator)[:2].tolist()
    else:
        number = int(torch.randint(len(fields), (), generator=generator))
        rows, u = fields.pairs[number].tolist(), fields.displacement(number)
    images, labels = [data.image(row) for row in rows], [data.label(row) for row in rows]
    if coarse:
        images, labels = [halved_image(image) for image in images], [x[..., ::2, ::2, ::2] for x in labels]
    if torch.rand((), generator=generator) < augmentation.mirror:
        images = [image.flip(4) for image in images]
        labels = [data.mirror[label.flip(4).long()] for label in labels]
        u = None if u is None else u.flip(4) * _W_TURNS
    shape = tuple(images[0].shape[2:])
    shared = _random_matrix(augmentation.shared_affine, generator)
    own = shared @ _random_matrix(augmentation.moving_affine, generator)
    shift = torch.randn(3, generator=generator) * augmentation.moving_shift * torch.tensor(shape)
    affines = [_about_centre(shared, torch.zeros(3), shape), _about_centre(own, shift, shape)]
    indices = [field.affine_index(affine, field.identity(shape)) for affine in affines]
    if augmentation.moves:
        images = [field.sample(image, index, fill=0.0) for image, index in zip(images, indices, strict=True)]
        labels = [
            field.sample(label, index, mode="nearest", fill=0)
            for label, index in zip(labels, indices, strict=True)
        ]
        u = None if u is None else _carried(u, indices[0], affines[1])
    images = [vary(image, augmentation, generator) for image in images]
    known = [x if data.is_labelled(row) else None for x, row in zip(labels, rows, strict=True)]
    return Batch(images[0], images[1], known[0], known[1], images[0] > 0, generator, u)


def both_ways(batch: Batch) -> Batch:
    """The pair and its swap as a batch of two: one step then learns both directions."""
    return Batch(
        fixed=torch.cat((batch.fixed, batch.moving)),
        moving=torch.cat((batch.moving, batch.fixed)),
        fixed_labels=_swap(batch.fixed_labels, batch.moving_labels),
        moving_labels=_swap(batch.moving_labels, batch.fixed_labels),
        fixed_mask=torch.cat((batch.fixed, batch.moving)) > 0,
        generator=batch.generator,
    )


def halved_image(image: Tensor) -> Tensor:
    """(B, 1, D, H, W) at twice the spacing: smoothed first, what that spreads beyond the brain taken away again."""
    coarse = field.downsample(image)
    return torch.where(coarse > _COARSE_BRAIN, coarse, torch.zeros(()))


def _swap(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat((first, second))


def _random_matrix(sd: float, generator: torch.Generator) -> Tensor:
    return torch.eye(3) + sd * torch.randn(3, 3, generator=generator)


def _about_centre(matrix: Tensor, shift: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The affine i -> matrix (i - c) + c + shift, (1, 3, 4)."""
    centre = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    offset = centre + shift - matrix @ centre
    return torch.cat((matrix, offset[:, None]), dim=1)[None]


def _carried(u: Tensor, index: Tensor, own: Tensor) -> Tensor:
    """The displacement between images read at ``index`` and through the affine ``own`` of where u had them."""
    there = index + field.sample(u, index)
    matrix = torch.linalg.inv(own[:, :, :3])
    back = torch.cat((matrix, -matrix @ own[:, :, 3:]), dim=2)
    return field.affine_index(back, there) - field.identity(tuple(index.shape[2:]))


def vary(image: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """image (1, 1, D, H, W) with a random blur, exponent, smooth bias field and noise; the background stays zero."""
    if augmentation.blur:
        sigma = float(torch.rand((), generator=generator)) * augmentation.blur
        image = torch.where(image > 0, field.smooth(image, max(round(sigma, 1), 0.1)), torch.zeros(()))
    exponent = torch.exp(augmentation.gamma * torch.randn((), generator=generator))
    coarse = torch.randn(1, 1, 4, 4, 4, generator=generator) * augmentation.bias
    bias = torch.nn.functional.interpolate(coarse, size=image.shape[2:], mode="trilinear", align_corners=True)
    noise = augmentation.noise * torch.randn(image.shape, generator=generator)
    varied = image.clamp_min(0).pow(exponent) * torch.exp(bias) + noise
    return torch.where(image > 0, varied.clamp(0.001, 1.275), torch.zeros(()))
