"""A deformation is left out where the images fit without it and less with it, and nowhere else."""

from pathlib import Path

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.io.images import read_image, write_image
from neuroreg.methods import METHODS
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.gain import FITS, _likeness, makes_worse
from neuroreg.pipeline.register import register
from neuroreg.preprocess.conform import conform
from neuroreg.registry import Entry
from neuroreg.transforms import Affine
from neuroreg.volume import Volume


def shift(x: float) -> Affine:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 3] = x
    return Affine(matrix)


@pytest.fixture
def head() -> Volume:
    """A phantom with noise: without it nothing tells one place of a smooth blob from the next."""
    grid = phantoms.grid()
    noise = 60.0 * torch.rand(grid.shape, generator=torch.Generator().manual_seed(0))
    smooth = phantoms.head(grid.points())
    return Volume(torch.where(smooth > 0, smooth + noise, 0.0)[None], grid)


def test_away_from_a_fit_is_worse_and_towards_it_is_not(head: Volume) -> None:
    pair = conform(head, head, spacing_mm=2.0, divisor=8)
    still, moved = shift(0.0), shift(3.0)
    assert _likeness(pair, still) > FITS > _likeness(pair, moved)
    assert makes_worse(pair, still, moved)
    assert not makes_worse(pair, moved, still)
    assert not makes_worse(pair, still, still)
    assert not makes_worse(pair, moved, shift(6.0)), "unlike images are for the method to judge"


def test_a_scan_onto_itself_stays_where_it_is(
    head: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))
    phantoms.leave_sides_unjudged(monkeypatch)
    path = tmp_path / "head.nii.gz"
    write_image(head, path)
    settings = {"method": "toy", "affine": "none", "threads": 1, "outputs": "image,field"}
    done = register(RegisterConfig(fixed=path, moving=path, output=tmp_path / "out", **settings))
    assert any("the affine alone" in warning for warning in done.warnings)
    assert done.qc.figures["residual_max_mm"] == 0.0
    moved = read_image(tmp_path / "out" / "moved.nii.gz").volume
    assert torch.allclose(moved.data, head.data, atol=1e-3)
