"""Dense operations of the Gauss-Newton engine on its lattice of field nodes (d, h, w)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroreg.parallel import ALONE, Workers


def gaussian_matrix(size: int, sigma: float, shift: float, like: Tensor) -> Tensor:
    """(size, size): row i is the Gaussian around i of samples that lie at j + shift, cut at 3.5 sigma, sum 1."""
    index = torch.arange(size, device=like.device, dtype=torch.float64)
    distance = (index[:, None] - index[None] - shift) / sigma
    kernel = torch.exp(-0.5 * distance**2) * (distance.abs() <= 3.5)
    return (kernel / kernel.sum(1, keepdim=True)).to(like.dtype)


class Smoother:
    """Separable Gaussian on (C, d, h, w) as one small dense matrix per axis: faster than short convolutions."""

    def __init__(self, shape: tuple[int, ...], sigma: float, shift: float, like: Tensor) -> None:
        self._matrices = [gaussian_matrix(n, sigma, shift, like) for n in shape]

    def __call__(self, x: Tensor, spare: Tensor) -> Tensor:
        """x (C, d, h, w) smoothed, in ``spare``; x is overwritten."""
        channels, depth, height, width = x.shape
        along_d, along_h, along_w = self._matrices
        torch.matmul(along_d, x.view(channels, depth, -1), out=spare.view(channels, depth, -1))
        torch.matmul(along_h, spare.view(-1, height, width), out=x.view(-1, height, width))
        torch.mm(x.view(-1, width), along_w.T, out=spare.view(-1, width))
        return spare


def shares(channels: int, device: torch.device) -> list[slice]:
    """How channels are shared among workers: one by one, on a graphics card all at once."""
    if device.type != "cpu":
        return [slice(0, channels)]
    return [slice(k, k + 1) for k in range(channels)]


def box_sums(x: Tensor, windows: tuple[int, ...], workers: Workers = ALONE) -> list[Tensor]:
    """Sums of x (C, d, h, w) over centred boxes of the given odd sides; zero outside the lattice."""
    parts = [x[share] for share in shares(len(x), x.device)]
    pieces = [(part, window) for window in reversed(windows) for part in parts]  # the dearest first
    sums = workers.map(lambda piece: _box(*piece), pieces)
    return [torch.cat(sums[i : i + len(parts)]) for i in range(0, len(sums), len(parts))][::-1]


def _box(x: Tensor, window: int) -> Tensor:
    # Doubling: a run of 15 is 1 + 2 + 4 + 8, so four additions per axis in place of fourteen.
    radius = window // 2
    for axis in (1, 2, 3):
        size = x.shape[axis]
        shape = list(x.shape)
        shape[axis] = size + 2 * radius
        run = x.new_zeros(shape)
        run.narrow(axis, radius, size).copy_(x)
        total, done, length = None, 0, 1
        while True:
            if window & length:
                part = run.narrow(axis, done, size)
                total = part.clone() if total is None else total.add_(part)
                done += length
            if 2 * length > window:
                break
            run = run.narrow(axis, 0, run.shape[axis] - length) + run.narrow(
                axis, length, run.shape[axis] - length
            )
            length *= 2
        assert total is not None
        x = total
    return x


def clear_rim(x: Tensor) -> Tensor:
    """x (d, h, w) with its outermost nodes set to 0: neighbours are read without asking whether they exist."""
    return F.pad(x[1:-1, 1:-1, 1:-1], (1,) * 6)


def split_phases(image: Tensor, ratio: int) -> Tensor:
    """(D, H, W) -> (ratio**3, V): phase p holds voxel ratio * i + p of every block i."""
    if ratio == 1:
        return image.reshape(1, -1)
    parts = [image[a::2, b::2, c::2] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    return torch.stack(parts).reshape(8, -1)
