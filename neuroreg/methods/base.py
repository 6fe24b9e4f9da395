"""The contract of every method. Network frame only: a method never sees a file, a spacing or a header."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from neuroreg import field


class MethodConfig(BaseModel):
    """Options of a method: frozen, unknown names forbidden. Subclasses give each field a Field with its meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Prediction:
    """What a method returns, in the network frame: the whole map is i -> affine(i + displacement(i)).

    ``level`` says on which pyramid level of the fixed network grid the displacement lives (its voxel i lies on
    voxel i * 2**level, its values are voxels of its own grid); ``affine`` is always in voxels of level 0, and
    leads from the fixed network grid to the moving one.
    """

    displacement: Tensor
    """(B, 3, D, H, W) voxels of its own grid; the residual: the affine is NOT in it"""
    inverse: Tensor | None = None
    """of the residual, same shape and units"""
    affine: Tensor | None = None
    """(B, 3, 4) voxel frame"""
    levels: tuple[Tensor, ...] = ()
    """coarse-to-fine fields, for multi-scale losses"""
    labels: tuple[Tensor, Tensor] | None = None
    """of the fixed image and of the moving one after the affine, both on the fixed grid, if the method segments: class
    probabilities (B, C, ...), background first, or region numbers (B, 1, ...), 0 outside the brain"""
    level: int = 0
    """pyramid level of the displacement"""
    guides: tuple[Tensor, Tensor] | None = None
    """(B, K, ...) of fixed and moving, on pyramid level ``guide_level`` of their grids: what should match beside the
    intensities, and what refinement matches too"""
    guide_level: int = 0
    label_level: int = 0
    """pyramid level of ``labels``"""

    def at_level(self, level: int, shape: tuple[int, ...]) -> Tensor:
        """The displacement on pyramid level ``level`` with grid ``shape``, in voxels of that level."""
        u = self.displacement
        for step in range(self.level - 1, level - 1, -1):
            u = field.upsample_field(u, tuple(-(-n // 2 ** (step - level)) for n in shape))
        for _ in range(level - self.level):
            u = field.downsample(u) * 0.5
        return u

    def with_displacement(self, displacement: Tensor, *, level: int) -> "Prediction":
        """The same affine with another residual."""
        return replace(self, displacement=displacement, level=level, inverse=None, levels=())


@dataclass(frozen=True)
class Batch:
    """What a trainer hands to ``losses``: a pair on one grid, roughly aligned, labels and brain masks if known."""

    fixed: Tensor
    """(B, 1, D, H, W) in 0..1"""
    moving: Tensor
    """(B, 1, D, H, W) in 0..1"""
    fixed_labels: Tensor | None = None
    """(B, 1, D, H, W) integer"""
    moving_labels: Tensor | None = None
    """(B, 1, D, H, W) integer"""
    fixed_mask: Tensor | None = None
    """(B, 1, D, H, W) bool"""
    generator: torch.Generator | None = None
    """the source of every random choice a loss makes"""
    displacement: Tensor | None = None
    """(B, 3, D, H, W) voxels, from fixed to moving, if known beforehand"""


@dataclass(frozen=True)
class Stage:
    """One phase of training: which parameters learn, for how many steps, at which peak rate.

    A phase that does not train the registration itself brings what it minimises and how it is judged.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    steps: int
    learning_rate: float
    objective: Callable[[Batch], Mapping[str, Tensor]] | None = None
    """named weighted terms; None: ``losses`` of ``predict``"""
    score: Callable[[Tensor, Tensor], float] | None = None
    """image and labels (1, 1, D, H, W) of a validation subject -> more is better; None: Dice of validation pairs"""
    predict: Callable[[Tensor, Tensor], Prediction] | None = None
    """fixed, moving -> what validation measures; None: the method's ``predict``"""
    poses: Literal["aligned", "raw"] = "aligned"
    """raw: each head as it was scanned, then turned, scaled and shifted by itself, with its skull or without"""
    level: int = 0
    """pyramid level of the images it learns from; raw poses only"""
    score_pair: Callable[[Batch], float] | None = None
    """instead of Dice: a validation pair, with its displacement if known -> more is better"""


@runtime_checkable
class Method(Protocol):
    """Anything that can register. ``start`` carries an affine and a first field; None means aligned by index."""

    Config: ClassVar[type[MethodConfig]]
    divisor: int
    """each side of the network grid is a multiple of this"""
    spacing_mm: float
    """the isotropic spacing of the network grid it wants"""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), intensities 0..1 -> Prediction on the fixed grid."""
        ...


@runtime_checkable
class TrainableMethod(Method, Protocol):
    """A method with a network."""

    network: nn.Module

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """Named weighted terms; the trainer minimises their sum."""
        ...

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """The phases of training within a budget of ``steps``."""
        ...


def align_moving(moving: Tensor, shape: tuple[int, ...], start: Prediction | None) -> Tensor:
    """The moving image on the fixed grid through ``start``'s affine (border filled with 0), or as it is.

    moving (B, C, d, h, w), ``shape`` the sides of the fixed grid; returns (B, C, D, H, W).
    """
    if start is None or start.affine is None:
        return moving
    index = field.identity(shape, device=moving.device, dtype=torch.float32)
    index = field.affine_index(start.affine, index.expand(moving.shape[0], -1, -1, -1, -1))
    return field.sample(moving, index, fill=0.0)


def fast_convolutions(device: torch.device) -> torch.autocast:
    """Half precision for a network's convolutions at inference, where the device is quicker at it.

    bfloat16 on graphics cards and on processors with native bfloat16 instructions; elsewhere float32. Fields,
    warps and local statistics stay float32 everywhere.
    """
    native = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=native)


@contextmanager
def flush_denormal() -> Iterator[None]:
    """Tiny numbers count as zero inside, and as themselves again after: their arithmetic is many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
