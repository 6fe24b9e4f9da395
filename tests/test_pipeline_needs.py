"""Memory reckoned from sizes: what grows makes it grow, and a run that cannot fit is refused before it computes."""

import subprocess
import sys
from pathlib import Path

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.errors import BusyError
from neuroreg.io import files
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine, load_engine
from neuroreg.pipeline.inputs import Inputs
from neuroreg.pipeline.needs import needed, preflight
from neuroreg.preprocess.conform import conform, grid_around
from neuroreg.volume import Geometry, Volume


def volume(grid: Geometry) -> Volume:
    return Volume(phantoms.head(grid.points())[None], grid)


def ready(method: str = "affine", **options: object) -> tuple[RegisterConfig, Engine]:
    config = RegisterConfig(fixed=Path("f"), moving=Path("m"), method=method, **options)
    return config, load_engine(config)


def pair(fixed: Volume, moving: Volume) -> Inputs:
    return Inputs({}, fixed, moving, None, None, ())


UNDER_A_LIMIT = """
import os, resource, sys
from neuroreg.cli import run
words = ["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", "--method", "affine", "--threads", "1", "-q"]
assert run([*words, "--dry-run"]) == 0
taken = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (taken + 32 * 2**20, resource.RLIM_INFINITY))
sys.exit(run(words))
"""
"""the same command first without, then with a limit as `ulimit -v` sets it: 32 MB above what is taken"""

SMALL = volume(phantoms.grid())
PAIR = pair(SMALL, volume(phantoms.grid(degrees=-7.0, size=(42, 40, 36))))


def test_the_grid_is_that_of_conform() -> None:
    done = conform(PAIR.fixed, PAIR.moving, spacing_mm=2.0, divisor=8)
    assert grid_around(PAIR.fixed, None, spacing_mm=2.0, divisor=8) == done.fixed_grid
    assert grid_around(PAIR.moving, None, spacing_mm=2.0, divisor=8) == done.moving_grid


def test_finer_grids_air_and_outputs_cost_memory() -> None:
    plain = needed(*ready("gaussnewton"), PAIR)
    assert needed(*ready(), PAIR).peak < plain.peak, "the affine stays at 2 mm"
    assert needed(*ready(refine="mid"), PAIR) == needed(*ready(), PAIR), "an affine has nothing to refine"
    # A field of view full of air: the network grid is the same, the images and what is written are not.
    air = torch.zeros(1, 200, 220, 190)
    air[:, 80:114, 90:134, 70:108] = SMALL.data
    large = Geometry((190, 220, 200), SMALL.geometry.spacing, SMALL.geometry.origin, SMALL.geometry.direction)
    airy = pair(Volume(air, large), PAIR.moving)
    assert needed(*ready(), airy).read - needed(*ready(), PAIR).read == 4 * (air.numel() - SMALL.data.numel())
    few, all_of_them = (
        needed(*ready(outputs=o), airy).more for o in (("affine",), ("field", "jacobian", "report"))
    )
    assert few < all_of_them
    assert all_of_them == (20 + 8 + 30) * air.numel()


def test_what_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ready("gaussnewton")
    more = needed(*settings, PAIR).more
    monkeypatch.setattr(files, "available_memory", lambda: int(more) + 1)
    preflight(*settings, PAIR)
    monkeypatch.setattr(files, "available_memory", lambda: int(more) - 1)
    with pytest.raises(BusyError, match="registering onto 38 x 44 x 34 voxels needs about"):
        preflight(*settings, PAIR)


@pytest.mark.faults
def test_34_under_ulimit_the_run_is_refused_before_it_computes(tmp_path: Path) -> None:
    phantoms.save_pair(tmp_path)
    words = [sys.executable, "-c", UNDER_A_LIMIT]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert "error[75]: registering onto 38 x 44 x 34 voxels needs about 0.1 GiB of memory" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fixed.nii.gz", "moving.nii.gz"]
