"""gaussnewton: deformable registration by local Gauss-Newton steps on a two-window squared LNCC. No training.

Coarse to fine over image spacings 4, 2 and 1 mm. An iteration reads the moving image at affine(i + u(i)), forms the
local 3 x 3 normal equations of the squared local correlation (centre-voxel form), smooths them, solves them in
closed form, composes the step with the field and smooths the field. The last level compares 1 mm images but keeps
its field on the 2 mm grid, which is what is returned (level 1).
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.methods.base import MethodConfig, Prediction
from neuroreg.methods.gaussnewton_level import Level, LevelImages, LevelSpec

Preset = Literal["fast", "mid", "std", "best"]

ITERATIONS: dict[str, tuple[int, int, int]] = {
    "fast": (20, 12, 4),
    "mid": (30, 20, 6),
    "std": (40, 30, 10),
    "best": (40, 40, 20),
}
_MARGIN = 6  # voxels kept around the region of interest


class GaussNewton:
    """The training-free engine. ``start`` may carry an affine and a first field."""

    class Config(MethodConfig):
        """Options; the defaults are preset ``mid``."""

        preset: Preset = Field("mid", description="fast, mid, std or best: how many iterations")
        iterations: tuple[int, int, int] | None = Field(
            None, description="Iterations at 4, 2 and 1 mm, instead of the preset's"
        )
        windows: tuple[int, ...] = Field((5, 15), description="Sides of the correlation windows, image voxels, odd")
        damping_mm2: float = Field(0.01, gt=0, description="Damping of the normal equations, per mm squared")
        sigma_update: float = Field(1.7, gt=0, description="Smoothing of the normal equations, image voxels")
        sigma_field: float = Field(0.35, gt=0, description="Smoothing of the total field, field voxels")

    divisor = 8
    spacing_mm = 1.0

    def __init__(self, config: "GaussNewton.Config | None" = None) -> None:
        self.config = config or GaussNewton.Config()

    def predict(
        self,
        fixed: Tensor,
        moving: Tensor,
        start: Prediction | None = None,
        *,
        fixed_mask: Tensor | None = None,
    ) -> Prediction:
        iterations = self.config.iterations or ITERATIONS[self.config.preset]
        return run(self.config, iterations, fixed, moving, start, fixed_mask)


def schedule(config: GaussNewton.Config, iterations: tuple[int, int, int], spacing_mm: float) -> list[LevelSpec]:
    """Iterations at 4, 2 and 1 mm -> the levels (4, 4), (2, 2), (1, 2)."""
    specs = []
    for (image_level, ratio), count in zip(((2, 1), (1, 1), (0, 2)), iterations, strict=True):
        t = 2 ** (image_level + ratio - 1) * spacing_mm
        block = (ratio**2 - 1) / 12
        specs.append(
            LevelSpec(
                image_level=image_level,
                ratio=ratio,
                iterations=count,
                windows=tuple(w if ratio == 1 else 2 * (w // 4) + 1 for w in config.windows),
                damping=config.damping_mm2 * t**2,
                sigma_update=(config.sigma_update**2 - block) ** 0.5 / ratio,
                sigma_field=config.sigma_field,
            )
        )
    return specs


def run(config, iterations, fixed, moving, start, fixed_mask):
    torch.set_flush_denormal(True)
    specs = schedule(config, iterations, 1.0)
    start = start or Prediction(fixed.new_zeros((1, 3, *(n // 2 for n in fixed.shape[2:]))), level=1)
    affine = start.affine if start.affine is not None else torch.eye(3, 4)[None]
    mask = (fixed > 0.0) if fixed_mask is None else fixed_mask
    mask = mask[0, 0]
    lo, hi = [], []
    for a in range(3):
        hit = mask.any(dim=[b for b in range(3) if b != a][1]).any(dim=[b for b in range(3) if b != a][0]).nonzero()[:, 0]
        lo.append(max(0, (int(hit[0]) - _MARGIN) // 4 * 4)); hi.append(min(mask.shape[a], -(-(int(hit[-1]) + 1 + _MARGIN) // 4) * 4))
    box = tuple(slice(l, h) for l, h in zip(lo, hi))
    maskf = mask[box].float()[None, None]
    pf = [fixed[0, 0][box][None, None]]; pm = [moving]
    for s in (1.0, 0.75**0.5):
        pf.append(field.smooth(pf[-1], s)[:, :, ::2, ::2, ::2]); pm.append(field.smooth(pm[-1], s)[:, :, ::2, ::2, ::2])
    base = start.at_level(1, tuple(n // 2 for n in fixed.shape[2:]))
    half = tuple(slice(l // 2, h // 2) for l, h in zip(lo, hi))
    first = base[0][(slice(None), *half)].contiguous()
    u = None
    level_now = None
    for spec in specs:
        if spec.iterations == 0: continue
        k = spec.field_level
        if u is None:
            u = first if k == 1 else (field.downsample(first[None]) * 0.5)[0].contiguous()
        elif k != level_now:
            u = field.upsample_field(u[None], first.shape[1:])[0].contiguous()
        level_now = k
        step = 2**k
        w = F.max_pool3d(maskf, step, stride=step)
        halo = config_halo
        w = F.max_pool3d(w, 2 * halo + 1, stride=1, padding=halo)[0, 0]
        A = affine[0].double()
        M = torch.cat([A[:, :3] * step, A[:, :3] @ torch.tensor(lo, dtype=torch.float64)[:, None] + A[:, 3:]], 1) / 2**spec.image_level
        level = Level(spec, LevelImages(pf[spec.image_level][0, 0], pm[spec.image_level][0], M.float(), w))
        for _ in range(spec.iterations):
            u, score = level.step(u)
            if VERBOSE: print(spec.image_level, float(score))
    u = field.unfold(u[None])[0]
    change = (u - first)[None]
    pad = [p for l, h, n in reversed(list(zip(lo, hi, fixed.shape[2:]))) for p in (l // 2, (n - h) // 2)]
    return start.with_displacement(base + F.pad(change, pad, mode="replicate"), level=1)
config_halo = 2
VERBOSE = False
