"""The inverse of a displacement field, in the network frame (see ``field``)."""

import torch
from torch import Tensor

from neuroreg import field


def invert(u: Tensor, *, iterations: int = 20) -> Tensor:
    """The v with v(i) = -u(i + v(i)), by fixed-point iteration from v = -u. (B, 3, D, H, W) voxels.

    Each iterate is averaged with the one before: where u is steep the plain iteration jumps to and fro for ever. The
    few voxels still off by more than 0.01 are finished by Newton steps. On a fold-free field between two brains (det J
    from 0.04 to 9) the largest error is 5 voxels averaged alone, 0.1 finished.
    """
    v = -u
    for _ in range(iterations):
        v = 0.5 * (v - field.warp(u, v))
    return torch.cat([_finish_inverse(u[n : n + 1], v[n : n + 1]) for n in range(len(u))])


def _finish_inverse(u: Tensor, v: Tensor, *, steps: int = 10, tolerance: float = 0.01) -> Tensor:
    """Newton's method for i + v + u(i + v) = i at the voxels where it is off by more than ``tolerance`` voxels."""
    off = (v + field.warp(u, v)).norm(dim=1)[0] > tolerance
    if not bool(off.any()):
        return v
    start = field.identity(tuple(u.shape[2:]), device=u.device, dtype=u.dtype)[0][:, off]  # (3, N)
    known = torch.cat((u, field.jacobian(u).flatten(1, 2)), dim=1)
    best = v[0][:, off]
    error, step = torch.full_like(best[0], torch.inf), torch.zeros_like(best)
    for _ in range(steps):
        tried = best - step
        read = field.sample(known, (start + tried).reshape(1, 3, 1, 1, -1))[0, :, 0, 0]
        rest = tried + read[:3]
        better = rest.norm(dim=0) < error
        best, error = torch.where(better, tried, best), torch.where(better, rest.norm(dim=0), error)
        matrix = read[3:].reshape(3, 3, -1).movedim(-1, 0)
        full = torch.linalg.solve_ex(matrix, rest.T)[0].T.nan_to_num(0.0, 0.0, 0.0).clamp(-1.0, 1.0)
        step = torch.where(better, full, 0.5 * step)
    v = v.clone()
    v[0][:, off] = best
    return v
