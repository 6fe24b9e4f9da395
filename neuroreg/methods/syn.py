"""SyN of ANTs, by antspyx (extra ``ants``): symmetric diffeomorphic registration, Avants et al. 2008.

ANTs starts from our affine and reads the moving image through it. It sees voxels as millimetres: spacing 1, origin 0,
identity direction, physical (x, y, z) = tensor index (w, h, d).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

import ants
import numpy as np
import SimpleITK as sitk
import torch
from pydantic import Field
from torch import Tensor

from neuroreg.methods.base import MethodConfig, Prediction

_SAMPLING = {"mattes": 32, "CC": 4}  # histogram bins; radius of the correlation window


class SyNConfig(MethodConfig):
    """Options of ``syn``; the defaults are antspyx's own for type_of_transform SyN."""

    metric: Literal["mattes", "CC"] = Field(
        "mattes", description="mattes: mutual information; CC: local correlation"
    )
    iterations: tuple[int, ...] = Field((40, 20, 0), min_length=1, description="per level, coarse to fine")
    gradient_step: float = Field(0.2, gt=0, description="step length, voxels")
    spacing_mm: float = Field(1.0, gt=0, description="spacing of the network grid, mm")


class SyN:
    """See the module. A start's displacement is not used."""

    Config: ClassVar[type[SyNConfig]] = SyNConfig
    divisor: int = 4

    def __init__(self, config: SyNConfig | None = None) -> None:
        self.config = config or SyNConfig()
        self.spacing_mm = self.config.spacing_mm

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> Prediction with its inverse, on the fixed grid."""
        affine = torch.eye(3, 4)[None].expand(len(fixed), 3, 4)
        if start is not None and start.affine is not None:
            affine = start.affine.cpu()
        found = [self._register(*pair) for pair in zip(fixed.cpu(), moving.cpu(), affine, strict=True)]
        forward, inverse = (torch.cat(fields).to(fixed.device) for fields in zip(*found, strict=True))
        return Prediction(forward, inverse=inverse, affine=None if start is None else start.affine)

    def _register(self, fixed: Tensor, moving: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
        with TemporaryDirectory(prefix="neuroreg-syn-") as name:
            first = Path(name) / "affine.mat"
            sitk.WriteTransform(itk_affine(affine), str(first))
            result = ants.registration(
                ants.from_numpy(fixed[0].numpy().T),
                ants.from_numpy(moving[0].numpy().T),
                type_of_transform="SyNOnly",
                initial_transform=[str(first)],
                syn_metric=self.config.metric,
                syn_sampling=_SAMPLING[self.config.metric],
                reg_iterations=self.config.iterations,
                grad_step=self.config.gradient_step,
                outprefix=f"{name}/",
                random_seed=1,
            )
            return _field(result["fwdtransforms"][0]), _field(result["invtransforms"][-1])


def _field(path: str) -> Tensor:
    """An ITK displacement file on a voxel grid: (1, 3, D, H, W) voxels, (d, h, w)."""
    data = torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(path, sitk.sitkVectorFloat32)))
    return data.movedim(-1, 0).flip(0)[None].contiguous()


def itk_affine(affine: Tensor) -> sitk.AffineTransform:
    """affine (3, 4) of (d, h, w) voxels as an ITK map of (x, y, z)."""
    matrix = affine.to(torch.float64).numpy()
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(np.ascontiguousarray(matrix[::-1, 2::-1]).ravel().tolist())
    transform.SetTranslation(matrix[::-1, 3].tolist())
    return transform
