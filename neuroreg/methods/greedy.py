"""Greedy by picsl_greedy (extra ``greedy``): greedy diffeomorphic registration, Yushkevich et al. 2016.

Greedy starts from our affine and reads the moving image through it. It sees voxels as millimetres: spacing 1, origin
0, identity direction, physical LPS (x, y, z) = tensor index (w, h, d); its matrices are RAS.
"""

from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
import torch
from picsl_greedy import Greedy3D
from pydantic import Field
from torch import Tensor

from neuroreg.errors import InternalError
from neuroreg.methods.base import MethodConfig, Prediction


class GreedyConfig(MethodConfig):
    """Options of ``greedy``."""

    metric: str = Field("NCC 2x2x2", description="as Greedy's -m")
    iterations: tuple[int, ...] = Field((100, 50, 10), min_length=1, description="per level, coarse to fine")
    noise: float = Field(
        0.0, ge=0, description="as Greedy's -noise; its own default .001 is drawn anew in every run"
    )
    threads: int = Field(0, ge=0, description="0: as many as there are cores")
    spacing_mm: float = Field(1.0, gt=0, description="spacing of the network grid, mm")


class Greedy:
    """See the module. A start's displacement is not used."""

    Config: ClassVar[type[GreedyConfig]] = GreedyConfig
    divisor: int = 4

    def __init__(self, config: GreedyConfig | None = None) -> None:
        self.config = config or GreedyConfig()
        self.spacing_mm = self.config.spacing_mm

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> Prediction on the fixed grid.

        Raises InternalError when Greedy fails.
        """
        affine = torch.eye(3, 4)[None].expand(len(fixed), 3, 4)
        if start is not None and start.affine is not None:
            affine = start.affine.cpu()
        fields = [self._register(*pair) for pair in zip(fixed.cpu(), moving.cpu(), affine, strict=True)]
        return Prediction(torch.cat(fields).to(fixed.device), affine=None if start is None else start.affine)

    def _register(self, fixed: Tensor, moving: Tensor, affine: Tensor) -> Tensor:
        c = self.config
        threads = f"-threads {c.threads}" if c.threads else ""
        rounds = "x".join(str(n) for n in c.iterations)
        program, said = Greedy3D(), StringIO()
        # The matrix goes by a file: a cached one is refused after -it.
        with TemporaryDirectory(prefix="neuroreg-greedy-") as name:
            first = Path(name) / "affine.mat"
            np.savetxt(first, ras_matrix(affine), fmt="%.17g")
            try:
                program.execute(
                    f"-V 0 {threads} -i fixed moving -it {first} -n {rounds} "
                    f" -m {c.metric} -noise {c.noise} -sv -o warp",
                    said,
                    said,
                    fixed=sitk.GetImageFromArray(fixed[0].numpy()),
                    moving=sitk.GetImageFromArray(moving[0].numpy()),
                    warp=None,
                )
            except RuntimeError as error:
                raise InternalError(
                    f"Greedy failed: {error}", remedy="run with --debug; another method may do"
                ) from error
        data = torch.from_numpy(sitk.GetArrayFromImage(program["warp"])).to(torch.float32)
        return data.movedim(-1, 0).flip(0)[None].contiguous()


def ras_matrix(affine: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """affine (3, 4) of (d, h, w) voxels as Greedy's (4, 4) of RAS (-x, -y, z)."""
    matrix = np.eye(4)
    matrix[:3] = affine.to(torch.float64).numpy()
    order = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0]) @ order
    return flip @ matrix @ np.linalg.inv(flip)
