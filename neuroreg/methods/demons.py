"""Demons by SimpleITK, the classical reference in the core: diffeomorphic (Vercauteren et al. 2009) or fast symmetric.

Three-level pyramid after histogram matching. ITK sees voxels as millimetres: spacing 1, origin 0, identity direction.
"""

from typing import ClassVar, Literal

import numpy as np
import SimpleITK as sitk
import torch
from pydantic import Field
from torch import Tensor

from neuroreg import field
from neuroreg.methods.base import MethodConfig, Prediction, align_moving

_FILTERS = {
    "diffeomorphic": sitk.DiffeomorphicDemonsRegistrationFilter,
    "symmetric": sitk.FastSymmetricForcesDemonsRegistrationFilter,
}


class DemonsConfig(MethodConfig):
    """Options of ``demons``."""

    variant: Literal["diffeomorphic", "symmetric"] = Field(
        "diffeomorphic", description="diffeomorphic: invertible by construction; symmetric: quicker, may fold"
    )
    iterations: tuple[int, ...] = Field((60, 40, 15), min_length=1, description="per level, coarse to fine")
    sigma: float = Field(
        1.5, gt=0, description="Gaussian on the field after each iteration, voxels of its level"
    )
    spacing_mm: float = Field(1.0, gt=0, description="spacing of the network grid, mm")


class Demons:
    """See the module. Warps the moving image through the start's affine; a start's displacement is not used."""

    Config: ClassVar[type[DemonsConfig]] = DemonsConfig
    divisor: int = 4

    def __init__(self, config: DemonsConfig | None = None) -> None:
        self.config = config or DemonsConfig()
        self.spacing_mm = self.config.spacing_mm

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> Prediction on the fixed grid."""
        aligned = align_moving(moving, tuple(fixed.shape[2:]), start)
        fields = [self._register(f[None].cpu(), m[None].cpu()) for f, m in zip(fixed, aligned, strict=True)]
        affine = None if start is None else start.affine
        return Prediction(torch.cat(fields).to(fixed.device), affine=affine)

    def _register(self, fixed: Tensor, moving: Tensor) -> Tensor:
        matched = sitk.HistogramMatching(to_itk(moving), to_itk(fixed), 128, 10, True)
        pairs = [(fixed, torch.from_numpy(sitk.GetArrayFromImage(matched))[None, None])]
        for _ in self.config.iterations[1:]:
            pairs.append((field.downsample(pairs[-1][0]), field.downsample(pairs[-1][1])))
        u = torch.zeros(1, 3, *pairs[-1][0].shape[2:])
        for count, (f, m) in zip(self.config.iterations, reversed(pairs), strict=True):
            if u.shape[2:] != f.shape[2:]:
                u = field.upsample_field(u, tuple(f.shape[2:]))
            u = self._level(f, m, u, count)
        return u

    def _level(self, fixed: Tensor, moving: Tensor, u: Tensor, iterations: int) -> Tensor:
        demons = _FILTERS[self.config.variant]()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations(self.config.sigma)
        demons.SetSmoothDisplacementField(True)
        components = u[0].flip(0).movedim(0, -1).to(torch.float64).numpy()  # (D, H, W, 3), x first
        initial = sitk.GetImageFromArray(np.ascontiguousarray(components), isVector=True)
        found = demons.Execute(to_itk(fixed), to_itk(moving), initial)
        data = torch.from_numpy(sitk.GetArrayFromImage(found)).to(torch.float32)
        return data.movedim(-1, 0).flip(0)[None].contiguous()


def to_itk(image: Tensor) -> sitk.Image:
    """image (1, 1, D, H, W) as a scalar ITK image whose physical space is its voxel index (x, y, z)."""
    return sitk.GetImageFromArray(image[0, 0].contiguous().numpy())
