"""simcnn (Cao et al., MICCAI 2017): similarity-steered CNN regression of displacements, patch by patch.

A network looks at a template patch, the subject patch at the same place and maps of how alike the template's centre is
to every place of the subject patch, and says how far that centre has moved. It is asked at voxels with strong edges;
a thin-plate spline makes a dense field of the answers. The subject is warped by it and all is done once more.

Trained on displacements known beforehand: those another method found between two people (the recipe's ``fields``),
drawn so that all sizes are as frequent; without ``fields`` on random smooth warps of one image, whose truth is exact.

Filled in, because the paper does not say: patches of 27 voxels with the pooling after the fourth convolution (at 1 mm),
or of 22 with it after the sixth (at 2 mm); kernels of 3, 5, 7 and 9 voxels; fully connected layers of 512, 1024, 512
and 3, the last starting small so that tanh begins in its linear part; displacements divided by tau; patches normalised
by their common mean and standard deviation, the similarity taken of the intensities as they are, to whose scale it is
blind; omega by bisection; the gradient magnitude divided by its 99th percentile; outliers clipped towards the median
of their 20 neighbours; the thin-plate spline local, since an exact one of all points cannot be solved; active points
drawn anew in every iteration; beyond two spacings of its lattice the spline's nearest value goes on; demons (``targets:
syn_demons``) read one map of the tissues, not one each. AdamW instead of SGD.

Where the text contradicts itself: displacements above tau are discarded, as Eq. 1 has it (the text says "saturated");
Eq. 1 does not make the sizes uniform, as the text says it does, so by default it is followed by histogram equalisation.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.methods.base import Batch, MethodConfig, Prediction, Stage, align_moving, fast_convolutions
from neuroreg.methods.simcnn_patches import PairPatches
from neuroreg.methods.simcnn_points import (
    clip_outliers,
    draw,
    draw_voxels,
    edges,
    equalise,
    interpolate,
    keep_probability,
    omega_for,
)
from neuroreg.parallel import workers

_WIDTHS = (64, 64, 128, 128, 256, 256, 512, 512)
_DENSE = (512, 1024, 512)
_DIVIDE = {"paper": 1, "half": 2, "slim": 4}
_POOL_AFTER = {27: 4, 22: 6}
_OUTPUT_SD = 0.01
_PIECE = {"cpu": 32}  # patches that go through the network together
_LARGE_PIECE = 1024  # on other devices
_LEAST_POINTS = 60  # active points of small grids: as many as the spline wants around every place


class SimCNNConfig(MethodConfig):
    """Options of ``simcnn``."""

    spacing_mm: float = Field(2.0, gt=0, description="Spacing of the network grid, mm")
    preset: Literal["paper", "half", "slim"] = Field(
        "slim", description="Channels: the paper's 64 to 512 (15.1 M parameters), half or a quarter of them"
    )
    patch: Literal[22, 27] = Field(22, description="Side of the patches, voxels; 27 pools after four layers")
    batch_norm: bool = Field(
        False, description="Normalise after every convolution (not in the paper: learns sooner)"
    )
    kernels: tuple[int, ...] = Field((3, 5, 7, 9), description="Odd sides of the similarity kernels, voxels")
    similarity: Literal["cosine", "centred"] = Field(
        "cosine", description="cosine: as printed; centred: less local means, blind to brightness too"
    )
    tau: float = Field(3.5, gt=0, description="Largest displacement learned and answered, voxels")
    points: int = Field(128, ge=1, description="Patches of a training step")
    samples: int = Field(5000, ge=1, description="Points of a training pair that Eq. 1 keeps; decides omega")
    equalise: Literal["histogram", "formula"] = Field(
        "histogram", description="formula: Eq. 1 alone; histogram: then every size of displacement as often"
    )
    synthetic: float = Field(
        1.5, gt=0, description="Typical size of random warps, where no displacement is known, voxels"
    )
    iterations: int = Field(2, ge=1, description="Passes, each on the subject warped by those before")
    active_percent: float = Field(0.9, gt=0, le=100, description="Voxels that are active points, percent")
    outliers: float = Field(2.0, gt=0, description="Robust deviations from the neighbours' median allowed")
    neighbours: int = Field(50, ge=8, description="Points around each place that the spline goes through")
    smoothing: float = Field(10.0, ge=0, description="How far the spline may miss them")
    lattice: int = Field(4, ge=1, description="The spline is evaluated at every so many voxels")
    seed: int = Field(0, description="Of the draw of active points")


class Network(nn.Module):
    """Eight valid convolutions, one pooling, three fully connected layers: (N, C, P, P, P) -> (N, 3) in -1..1."""

    def __init__(self, config: SimCNNConfig) -> None:
        super().__init__()
        divide = _DIVIDE[config.preset]
        widths = [2 + len(config.kernels), *(width // divide for width in _WIDTHS)]
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(pairwise(widths), start=1):
            layers.append(nn.Conv3d(a, b, 3, bias=not config.batch_norm))
            if config.batch_norm:
                layers.append(nn.BatchNorm3d(b))
            layers.append(nn.ReLU())
            if number == _POOL_AFTER[config.patch]:
                layers.append(nn.MaxPool3d(2))
        self.features = nn.Sequential(*layers)
        dense = [width // divide for width in _DENSE]
        hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(dense)]
        self.regress = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(dense[-1], 3))
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.regress[-1].weight, std=_OUTPUT_SD)  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """Displacements of the patches' centres in units of tau, float32."""
        patches = patches.contiguous(memory_format=torch.channels_last_3d)
        return torch.tanh(self.regress(self.features(patches)).float())


class SimCNN:
    """Similarity-steered regression; the field lives on the full grid (level 0)."""

    Config: ClassVar[type[SimCNNConfig]] = SimCNNConfig
    divisor = 8

    def __init__(self, config: SimCNNConfig) -> None:
        if any(k % 2 == 0 or not 1 <= k <= config.patch for k in config.kernels):
            raise DataError(f"kernels have odd sides of at most a patch, got {list(config.kernels)}")
        self.config = config
        self.spacing_mm = config.spacing_mm
        self.network: nn.Module = Network(config)

    @torch.no_grad()
    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w), 0..1 -> field on the fixed grid, without a gradient.

        Raises DataError for a fixed image without edges.
        """
        moving = align_moving(moving, tuple(fixed.shape[2:]), start)
        fields = [self._register(fixed[b : b + 1], moving[b : b + 1]) for b in range(len(fixed))]
        return Prediction(torch.cat(fields), affine=None if start is None else start.affine)

    def _register(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(1, 1, D, H, W) twice -> (1, 3, D, H, W)."""
        generator = torch.Generator().manual_seed(self.config.seed)
        strength = edges(fixed[0, 0])
        count = max(_LEAST_POINTS, round(self.config.active_percent / 100 * strength.numel()))
        u = fixed.new_zeros((1, 3, *fixed.shape[2:]), dtype=torch.float32)
        for _ in range(self.config.iterations):
            points = draw_voxels(strength, count, generator)
            if len(points) < _LEAST_POINTS:
                raise DataError("the fixed image has no edges", remedy="check that it shows a brain")
            values = self._ask(fixed, field.warp(moving.float(), u), points)
            u = field.compose(u, self._dense(points, values, tuple(fixed.shape[2:])).to(u.device)[None])
        return u

    def _ask(self, fixed: Tensor, moved: Tensor, points: Tensor) -> Tensor:
        """The displacements (N, 3) voxels that the network sees at points (N, 3)."""
        patches = self._patches(fixed, moved, many=True)

        def answer(some: Tensor) -> Tensor:
            with fast_convolutions(some.device):
                out: Tensor = self.network(patches.cut(some))
            return out

        with workers(fixed.device) as team:
            pieces = torch.split(points, _PIECE.get(fixed.device.type, _LARGE_PIECE))
            return self.config.tau * torch.cat(team.map(answer, pieces))

    def _dense(self, points: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        config = self.config
        at: NDArray[np.float64] = points.cpu().double().numpy()
        found = clip_outliers(at, values.cpu().double().numpy(), neighbours=20, bound=config.outliers)
        return interpolate(
            at, found, shape, spacing=config.lattice, neighbours=config.neighbours, smoothing=config.smoothing
        )

    def _patches(self, fixed: Tensor, moved: Tensor, *, many: bool = False) -> PairPatches:
        config = self.config
        centred = config.similarity == "centred"
        return PairPatches(
            fixed[0, 0], moved[0, 0], side=config.patch, kernels=config.kernels, centred=centred, many=many
        )

    def losses(self, prediction: Prediction, batch: Batch) -> Mapping[str, Tensor]:
        """The mean squared error at sampled points, in units of tau; the dense prediction plays no part in it."""
        return self.objective(batch)

    def objective(self, batch: Batch) -> Mapping[str, Tensor]:
        """See ``losses``: training needs no dense field."""
        inputs, targets = self.examples(batch, self.config.points)
        return {"displacement": F.mse_loss(self.network(inputs), targets)}

    @torch.no_grad()
    def score(self, batch: Batch) -> float:
        """The share of the squared displacements at sampled points that the network explains; 1 is perfect."""
        inputs, targets = self.examples(batch, self.config.points)
        with fast_convolutions(inputs.device):
            found = self.network(inputs)
        return 1.0 - float((found - targets).square().sum() / targets.square().sum())

    @torch.no_grad()
    def examples(self, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        """Inputs (N, C, P, P, P) and targets (N, 3) in units of tau, at ``count`` points shared among the pairs.

        Raises DataError where no voxel has an edge and a displacement of at most tau.
        """
        u, fixed = batch.displacement, batch.fixed
        if u is None:
            u = random_warp(batch.fixed, self.config.synthetic, batch.generator)
            fixed = field.warp(batch.moving.float(), u)
        inputs, targets = [], []
        for b in range(len(u)):
            points = self.sample(fixed[b, 0], u[b], max(1, count // len(u)), batch.generator)
            inputs.append(self._patches(fixed[b : b + 1], batch.moving[b : b + 1]).cut(points))
            targets.append(u[b][:, points[:, 0], points[:, 1], points[:, 2]].T / self.config.tau)
        return torch.cat(inputs), torch.cat(targets)

    def sample(self, fixed: Tensor, u: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Points (N, 3) of fixed (D, H, W) to learn the displacement u (3, D, H, W) at (Eq. 1)."""
        config = self.config
        edge = edges(fixed)
        some = edge.nonzero(as_tuple=True)
        edge, size = edge[some], u.square().sum(0).sqrt()[some]
        omega = omega_for(size, edge, tau=config.tau, count=config.samples)
        weights = keep_probability(size, edge, tau=config.tau, omega=omega)
        if config.equalise == "histogram":
            weights = equalise(weights, size, width=config.tau / 14)  # 0.5 of 7 mm
        points = torch.stack(some, dim=1)[draw(weights, count, generator)]
        if len(points) == 0:
            raise DataError("no voxel of the training pair has an edge and a displacement up to tau")
        return points

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        """One stage, on points instead of whole images."""
        parameters = tuple(self.network.parameters())
        return (
            Stage("all", parameters, steps, learning_rate, objective=self.objective, score_pair=self.score),
        )


def random_warp(like: Tensor, size: float, generator: torch.Generator | None) -> Tensor:
    """Smooth invertible displacements (B, 3, D, H, W) for like (B, 1, D, H, W), ``size`` voxels on average.

    The exponential of noise smoothed by 5 and by 14 voxels, in equal parts.
    """
    half = tuple(-(-n // 2) for n in like.shape[2:])
    velocity = like.new_zeros((len(like), 3, *half), dtype=torch.float32)
    for sigma in (2.5, 7.0):
        noise = torch.randn(velocity.shape, generator=generator).to(velocity)
        smooth = field.smooth(noise, sigma)
        velocity += smooth / smooth.square().mean().sqrt()
    mean = velocity.norm(dim=1).mean()
    u = field.exponential(velocity * (0.5 * size / mean), steps=5)
    return field.upsample_field(u, tuple(like.shape[2:]))
