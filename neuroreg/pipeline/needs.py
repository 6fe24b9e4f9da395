"""How much memory a registration takes at its peak, reckoned from sizes alone before anything is computed.

The bytes per voxel are measured (`examples/ceilings.py` holds them to whole processes).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from neuroreg.pipeline import resources
from neuroreg.pipeline.align import COARSE_MM, DIVISOR, REFINE_MM
from neuroreg.pipeline.case import page_grid
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine
from neuroreg.pipeline.inputs import Inputs
from neuroreg.preprocess.conform import grid_around
from neuroreg.volume import Volume

_PROGRAM = 450e6  # libraries and weights
_HELD = 4  # bytes of a voxel read and kept
_CONFORMED = 12  # of both images at once: masks, scaled and smoothed copies
_NETWORK = 300  # of a voxel of the network grid: the dearest method, at 1 mm
_PAGE = 30  # of a voxel of the page's grid
_WRITTEN = {"image": 8, "field": 20, "jacobian": 8}
"""Output -> bytes of a fixed voxel while outputs are worked out and compressed; two are at once"""


@dataclass(frozen=True)
class Need:
    """Bytes of memory."""

    read: float
    """what the program and the images take already"""
    more: float
    """what the dearest stage takes on top of them"""

    @property
    def peak(self) -> float:
        """The whole process at its largest."""
        return self.read + self.more


def needed(config: RegisterConfig, engine: Engine, inputs: Inputs) -> Need:
    """The memory of one registration. Raises DataError for images without a head."""
    fixed, moving = (volume.data.numel() for volume in (inputs.fixed, inputs.moving))
    everything = sum(image.volume.data.numel() for image in inputs.files.values())
    outputs = sum(size for name, size in _WRITTEN.items() if name in config.outputs) * fixed
    if "report" in config.outputs:
        x, y, z = page_grid(inputs.fixed.geometry).size
        outputs += _PAGE * x * y * z
    stages = (
        _CONFORMED * (fixed + moving),
        max(_NETWORK * voxels for voxels in _network_voxels(config, engine, inputs)),
        outputs,
    )
    return Need(_PROGRAM + _HELD * max(everything, fixed + moving), float(max(stages)))


def preflight(config: RegisterConfig, engine: Engine, inputs: Inputs) -> None:
    """Refuse a pair that cannot be registered in the memory there is. Raises BusyError."""
    need = needed(config, engine, inputs)
    x, y, z = inputs.fixed.geometry.size
    resources.preflight(round(need.more), what=f"registering onto {x} x {y} x {z} voxels")


def _network_voxels(config: RegisterConfig, engine: Engine, inputs: Inputs) -> Iterable[int]:
    """Voxels of the larger image on every grid that is computed on."""
    grids = {(COARSE_MM, DIVISOR)}
    if engine.name != "affine":
        grids.add((engine.method.spacing_mm, engine.method.divisor))
        if config.refine is not None:
            grids.add((REFINE_MM, DIVISOR))
    for spacing_mm, divisor in grids:
        yield max(
            _count(volume, mask, spacing_mm, divisor)
            for volume, mask in ((inputs.fixed, inputs.fixed_mask), (inputs.moving, inputs.moving_mask))
        )


def _count(volume: Volume, mask: Volume | None, spacing_mm: float, divisor: int) -> int:
    x, y, z = grid_around(volume, mask, spacing_mm=spacing_mm, divisor=divisor).size
    return x * y * z
