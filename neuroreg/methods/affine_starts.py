"""Where the affine search starts: centres of mass on each other, in a ball of orientations. Network voxels."""

import torch
from torch import Tensor

from neuroreg import field


def moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (3,) and covariance (3, 3) of the bright part of image (1, 1, D, H, W); float64 voxels."""
    mass = image.cpu().clamp(0.0, 0.3).to(torch.float64)[0, 0].reshape(-1)
    index = field.identity(image.shape[2:], dtype=torch.float64).reshape(3, -1)
    mass = mass / mass.sum()
    centre = index @ mass
    spread = index - centre[:, None]
    return centre, (spread * mass) @ spread.T


def starting(fixed: Tensor, moving: Tensor, fixed_centre: Tensor, turn: Tensor | None = None) -> Tensor:
    """Affines (N, 3, 4) that lay the centres of mass on each other, in many orientations and the principal one.

    The orientations lie around ``turn`` (3, 3) float64, by default none.
    """
    centre, covariance = moments(moving)
    _, fixed_covariance = moments(fixed)
    turn = torch.eye(3, dtype=torch.float64) if turn is None else turn
    rotations = torch.cat((_ball() @ turn, _principal(fixed_covariance, covariance, turn)[None]))
    return torch.cat((rotations, (centre - rotations @ fixed_centre)[..., None]), dim=2)


def _ball() -> Tensor:
    """Rotations (15, 3, 3): none, and 35 degrees about the faces' and the corners' axes of a cube."""
    faces = torch.cat((torch.eye(3), -torch.eye(3)))
    corners = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0])] * 3))
    axes = torch.nn.functional.normalize(torch.cat((faces, corners)).to(torch.float64), dim=1)
    turns = torch.linalg.matrix_exp(skew(axes * (35.0 * torch.pi / 180)))
    return torch.cat((torch.eye(3, dtype=torch.float64)[None], turns))


def _principal(fixed: Tensor, moving: Tensor, turn: Tensor) -> Tensor:
    """The rotation (3, 3) of one covariance's principal axes onto the other's that is nearest to ``turn``."""
    a, b = torch.linalg.eigh(fixed)[1], torch.linalg.eigh(moving)[1]
    signs = torch.cartesian_prod(*([torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3))
    turns: Tensor = (b * signs[:, None, :]) @ a.T
    trace = (turns @ turn.T).diagonal(dim1=1, dim2=2).sum(dim=1)
    return turns[torch.where(torch.linalg.det(turns) > 0, trace, -4.0).argmax()]


def skew(w: Tensor) -> Tensor:
    """The matrices (N, 3, 3) of the cross products with w (N, 3)."""
    x, y, z = w.unbind(dim=1)
    o = torch.zeros_like(x)
    return torch.stack((o, -z, y, z, o, -x, -y, x, o), dim=1).reshape(-1, 3, 3)
