"""Points that a network finds in an image, and the affine that brings two sets of them together. Voxels (d, h, w)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neuroreg import field

FRONT = 0.1
"""intensity above which a voxel is head or brain"""

_MOSTLY = 0.65  # of a stripped brain about .87 lies around its regions' centres, of a whole head about .35
_REACH = 8.0  # voxels: at 2 mm about the distance of one region's centre from the next and from the surface
_CELL_LEVEL = 2  # pyramid level on which points are counted


@dataclass(frozen=True)
class Sighting:
    """Heat maps of K regions in one image and where these are, in voxels of the image."""

    logits: Tensor
    """(1, K, d, h, w)"""
    corner: Tensor
    """(3,): where the first voxel of the heat maps lies"""
    step: int
    """voxels of the image between neighbours of the heat maps"""

    @cached_property
    def log_share(self) -> Tensor:
        """(1, K, d h w) float32: of each region's mass, the logarithm of the share in each voxel."""
        return self.logits.float().flatten(2).log_softmax(2)

    @cached_property
    def centres(self) -> Tensor:
        """(1, K, 3) float32."""
        share = self.log_share.exp().reshape(self.logits.shape)
        return self.step * centres_of_mass(share) + self.corner

    def surprise(self, labels: Tensor, ids: Tensor) -> Tensor:
        """Cross entropy of the heat maps and the regions ``ids`` (K,) of labels (1, 1, D, H, W), mean over regions.

        Each region's voxels weigh together as one; log of the number of voxels a region covers is the least there is.
        """
        places = (labels[0, 0] > 0).nonzero()
        row = torch.full((256,), -1, device=labels.device)
        row[ids] = torch.arange(len(ids), device=labels.device)
        region = row[labels[0, 0][places.unbind(1)].long()]
        places, region = places[region >= 0], region[region >= 0]
        shape = torch.tensor(self.logits.shape[2:], device=labels.device)
        cell = ((places - self.corner) / self.step).round().long().clamp_min(0).minimum(shape - 1)
        flat = (cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2]
        count = torch.bincount(region, minlength=len(ids)).clamp_min(1)
        return -(self.log_share[0][region, flat] / count[region]).sum() / len(ids)


def centres_of_mass(share: Tensor) -> Tensor:
    """Where maps (B, K, D, H, W) that sum to 1 over space have their centres: (B, K, 3) voxels, float32."""
    centres = []
    lines = share.sum(4), share.sum(2)  # (B, K, D, H) and (B, K, H, W)
    for along in (lines[0].sum(3), lines[0].sum(2), lines[1].sum(2)):
        # no matrix product: autocast would make it one of half precision
        centres.append((along * torch.arange(along.shape[2], device=along.device)).sum(2))
    return torch.stack(centres, dim=2)


def fit_affine(
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    tolerance: float = 0.0,
    rounds: int = 0,
    ridge: float = 1e-4,
) -> Tensor:
    """The affine (B, 3, 4) float64 with least sum of weight |affine(source) - target|^2, in closed form.

    source, target (B, K, 3), weight (B, K) not negative. Four points in general position decide it; ``ridge``, as a
    share of the spread of the source, draws what they leave open towards a shift. With ``rounds`` the fit is
    repeated, each weight divided by 1 + (residual / ``tolerance``)^2: points that disagree with the rest fade.
    """
    source, target, weight = source.double(), target.double(), weight.double()
    affine = _least_squares(source, target, weight, ridge)
    for _ in range(rounds):
        residual = source @ affine[:, :, :3].mT + affine[:, None, :, 3] - target
        faded = weight / (1.0 + residual.square().sum(2) / tolerance**2)
        affine = _least_squares(source, target, faded, ridge)
    return affine


def _least_squares(source: Tensor, target: Tensor, weight: Tensor, ridge: float) -> Tensor:
    share = (weight / weight.sum(1, keepdim=True).clamp_min(1e-12))[..., None]
    from_, to = (share * source).sum(1), (share * target).sum(1)
    centred, moved = source - from_[:, None], target - to[:, None]
    spread = (share * centred).mT @ centred
    cross = (share * moved).mT @ centred
    eye = torch.eye(3, dtype=source.dtype, device=source.device)
    size = spread.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] / 3
    pull = (ridge * size + 1e-9) * eye
    linear = torch.linalg.solve(spread + pull, cross + pull, left=False)
    return torch.cat((linear, (to - (linear @ from_[..., None])[..., 0])[..., None]), dim=2)


def centroids(labels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids (B, K, 3) float32 of the regions ``ids`` (K,) in labels (B, 1, D, H, W), ids below 256, and how many
    voxels each has, (B, K); a region without any is at 0."""
    flat = labels.flatten(1).long()
    places = torch.meshgrid(
        *[torch.arange(n, device=labels.device, dtype=torch.float32) for n in labels.shape[2:]], indexing="ij"
    )
    rows = []
    for one in flat:
        count = torch.bincount(one, minlength=256).float()
        sums = [torch.bincount(one, weights=p.flatten(), minlength=256).float() for p in places]
        rows.append(torch.stack((count, *sums)))
    found = torch.stack(rows)[:, :, ids]
    return (found[:, 1:] / found[:, :1].clamp_min(1.0)).mT, found[:, 0]


def around(points: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Where many points (K, 3), voxels, are near: (1, 1, *shape) bool.

    The density of the points, smoothed by _REACH, is at least a third there of what it is at the points themselves.
    """
    grids = [shape]
    for _ in range(_CELL_LEVEL):
        grids.append(tuple(-(-n // 2) for n in grids[-1]))
    last = torch.tensor(grids[-1], device=points.device) - 1
    cells = tuple((points / 2**_CELL_LEVEL).round().long().clamp_min(0).minimum(last).unbind(1))
    density = torch.zeros(1, 1, *grids[-1], device=points.device)
    density[0, 0].index_put_(cells, torch.ones(len(points), device=points.device), accumulate=True)
    density = field.smooth(density, _REACH / 2**_CELL_LEVEL)
    enough = density[0, 0][cells].median() / 3
    for finer in grids[-2::-1]:
        density = field.upsample(density, finer)
    return density >= enough


def brain_around(points: Tensor, image: Tensor) -> Tensor:
    """Where the brain of image (1, 1, D, H, W) is, given the centres (K, 3) of its regions: bool, the same shape.

    What lies around them; of an image that hardly shows more, hence has no skull, everything.
    """
    near, front = around(points, tuple(image.shape[2:])), image > FRONT
    return near | (front & near).sum().ge(_MOSTLY * front.sum())


def chain(first: Tensor, then: Tensor) -> Tensor:
    """The affine (B, 3, 4) p -> then(first(p))."""
    linear = then[:, :, :3] @ first[:, :, :3]
    return torch.cat((linear, then[:, :, :3] @ first[:, :, 3:] + then[:, :, 3:]), dim=2)
