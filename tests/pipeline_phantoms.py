"""Small ugly heads and toy methods for the tests of the pipeline: oblique, anisotropic, off-centre, unlike sizes."""

import math
import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from neuroreg.io.images import write_image
from neuroreg.methods.base import MethodConfig, Prediction
from neuroreg.pipeline import quality
from neuroreg.volume import Geometry, Volume

SHIFT_MM = (4.0, -3.0, 2.0)
"""The moving head is the fixed one moved by this: T(p) = p + SHIFT_MM."""


def rotation(degrees: float) -> tuple[float, ...]:
    """About z, then a little about x: nine cosines, row-major."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = math.cos(0.1), math.sin(0.1)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1.0]], dtype=torch.float64)
    tilt = torch.tensor([[1.0, 0, 0], [0, a, -b], [0, b, a]], dtype=torch.float64)
    return tuple((turn @ tilt).reshape(-1).tolist())


def grid(*, degrees: float = 10.0, size: tuple[int, int, int] = (38, 44, 34)) -> Geometry:
    """A grid of about 120 mm, centred some way off the origin."""
    spacing, direction = (3.2, 3.0, 3.5), rotation(degrees)
    half = torch.tensor([(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)], dtype=torch.float64)
    corner = (
        torch.tensor([5.0, -8.0, 12.0]) - torch.tensor(direction, dtype=torch.float64).reshape(3, 3) @ half
    )
    x, y, z = corner.tolist()
    return Geometry(size, spacing, (x, y, z), direction)


def head(points: Tensor) -> Tensor:
    """Intensity at points (..., 3) LPS mm: an ellipsoid with a few unlike blobs in it, 0 outside."""
    q = points - torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    inside = ((q / torch.tensor([44.0, 52.0, 42.0])) ** 2).sum(-1) < 1
    value = 300.0 + 1.5 * q[..., 0] + 0.9 * q[..., 1]
    for centre, width, height in (
        ((18.0, 10.0, 5.0), 9.0, 380.0),
        ((-20.0, 16.0, -8.0), 12.0, -180.0),
        ((-6.0, -24.0, 14.0), 7.0, 420.0),
        ((12.0, -20.0, -18.0), 10.0, 250.0),
    ):
        distance = ((q - torch.tensor(centre, dtype=torch.float64)) ** 2).sum(-1)
        value = value + height * torch.exp(-distance / (2 * width**2))
    return torch.where(inside, value, 0.0).to(torch.float32)


def labels(points: Tensor) -> Tensor:
    """Three regions and the background at points (..., 3) LPS mm, int32; one id needs 32 bits."""
    q = points - torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    out = torch.zeros(q.shape[:-1], dtype=torch.int32)
    out[((q / torch.tensor([30.0, 36.0, 28.0])) ** 2).sum(-1) < 1] = 4
    out[((q - torch.tensor([14.0, 8.0, 4.0])) ** 2).sum(-1) < 12.0**2] = 16_777_217
    out[((q + torch.tensor([14.0, -8.0, 4.0])) ** 2).sum(-1) < 10.0**2] = 23
    return out


def save_pair(folder: Path, *, moving_offset_mm: tuple[float, float, float] = SHIFT_MM) -> tuple[Path, Path]:
    """fixed.nii.gz and moving.nii.gz on unlike grids; the moving head lies ``moving_offset_mm`` from the fixed one."""
    fixed, moving = grid(), grid(degrees=-7.0, size=(42, 40, 36))
    offset = torch.tensor(moving_offset_mm, dtype=torch.float64)
    x, y, z = (torch.tensor(moving.origin, dtype=torch.float64) + offset).tolist()
    moving = Geometry(moving.size, moving.spacing, (x, y, z), moving.direction)
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    write_image(Volume(head(fixed.points())[None], fixed), paths[0])
    write_image(Volume(head(moving.points() - offset)[None], moving), paths[1])
    return paths


def save_labels(folder: Path) -> tuple[Path, Path]:
    """fixed_seg.nii.gz and moving_seg.nii.gz on the grids of ``save_pair``."""
    from neuroreg.io.images import read_image

    paths = folder / "fixed_seg.nii.gz", folder / "moving_seg.nii.gz"
    for path, name, offset in zip(paths, ("fixed", "moving"), ((0.0, 0.0, 0.0), SHIFT_MM), strict=True):
        where = read_image(folder / f"{name}.nii.gz").volume.geometry
        data = labels(where.points() - torch.tensor(offset, dtype=torch.float64))
        write_image(Volume(data[None], where, is_label=True), path)
    return paths


class ToyConfig(MethodConfig):
    """Options of the toys."""

    amplitude: float = 1.5
    seconds: float = 0.0


class Toy:
    """A smooth known residual, unlike along each axis, on level 1; the affine is what it is given."""

    Config: ClassVar[type[MethodConfig]] = ToyConfig
    divisor = 8
    spacing_mm = 2.0

    def __init__(self, config: ToyConfig) -> None:
        self.config = config

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (1, 1, D, H, W) -> a field on level 1."""
        time.sleep(self.config.seconds)
        shape = [-(-n // 2) for n in fixed.shape[2:]]
        axes = [torch.linspace(0, math.pi, n) for n in shape]
        d, h, w = torch.meshgrid(*axes, indexing="ij")
        bump = torch.sin(d) * torch.sin(h) * torch.sin(w)
        u = self.config.amplitude * torch.stack(
            (0.5 * bump * torch.cos(d), -0.8 * bump, bump * torch.sin(2 * h))
        )
        return Prediction(u[None], affine=None if start is None else start.affine, level=1)


class OutOfMemoryToy(Toy):
    """A graphics card that is full."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """Always fails, as torch does."""
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


class BrokenToy(Toy):
    """A method with a bug."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """Always fails, as nobody foresaw."""
        raise KeyError("no such thing")


class NotANumberToy(Toy):
    """A method that diverges."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """A field without values."""
        found = super().predict(fixed, moving, start)
        return Prediction(found.displacement * math.nan, affine=found.affine, level=1)


class KillConfig(ToyConfig):
    """Options of KillToy."""

    marker: str = ""
    """a file; while it is there, nothing is killed any more"""


class KillToy(Toy):
    """A method that takes its process with it: always, or with a ``marker`` the first time only."""

    Config: ClassVar[type[MethodConfig]] = KillConfig
    config: KillConfig

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """SIGKILL to this very process, as the kernel sends it when memory is short."""
        marker = Path(self.config.marker) if self.config.marker else None
        if marker is None or not marker.exists():
            if marker is not None:
                marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(fixed, moving, start)


class HangToy(Toy):
    """A method that never comes back."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """Sleeps for good."""
        while True:
            time.sleep(60)


class MemoryConfig(ToyConfig):
    """Options of MemoryToy."""

    megabytes: int = 1500


class MemoryToy(Toy):
    """A method that takes more memory than others, and keeps it for a minute."""

    Config: ClassVar[type[MethodConfig]] = MemoryConfig
    config: MemoryConfig

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """Resident at once: every page is written."""
        taken = bytearray(os.urandom(1)) * (self.config.megabytes * 1_000_000)
        time.sleep(60)
        assert taken
        return super().predict(fixed, moving, start)


def leave_sides_unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No question about left and right: a phantom has no answer, and two affine alignments a run take the time."""
    names = ("sides_fixed", "sides_moving")
    monkeypatch.setattr(quality, "_sides", lambda *given, **options: (dict.fromkeys(names), ()))
