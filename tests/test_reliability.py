"""The laws of examples/reliability.py: on a made-up head for what is optimised, its own motions and grids by hand."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.io.images import write_image
from neuroreg.preprocess.conform import conform
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Geometry, Volume

ROOT = Path(__file__).parents[1]
AXIAL = Geometry((60, 66, 56), (2.0, 2.0, 2.0), (-54.0, -74.0, -43.0))
FINE = Geometry((120, 132, 112), (1.0, 1.0, 1.0), AXIAL.origin)
ORDERS = (
    ((0, 1, 2), (True, False, False)),
    ((2, 0, 1), (False, True, False)),
    ((1, 2, 0), (True, True, True)),
)


@pytest.fixture(scope="module")
def laws() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("reliability", ROOT / "examples" / "reliability.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reliability"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reliability"]


def brain(grid: Geometry = AXIAL, move: Affine | None = None) -> Volume:
    """The phantom read on a grid, moved."""
    points = grid.points()
    return Volume(phantoms.head(points if move is None else move.inverse()(points))[None], grid)


def other(grid: Geometry = AXIAL) -> Volume:
    """A head of another size and pose: what the affine finds is no identity."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.tensor(
        [[1.04, 0.05, 0, 3.0], [-0.04, 0.97, 0.03, -2.0], [0, -0.02, 1.02, 4.0]], dtype=torch.float64
    )
    return brain(grid, Affine(matrix))


def test_a_motion_keeps_lengths_and_goes_where_it_says(laws: ModuleType) -> None:
    middle = torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    move = laws.motion(20.0, 30.0, middle)
    turn = move.matrix[:3, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert float((turn.trace() - 1) / 2) == pytest.approx(0.93969262)  # cos 20 degrees
    assert float((move(middle) - middle).norm()) == pytest.approx(30.0)


def test_moved_and_stored_otherwise_every_point_keeps_its_value(laws: ModuleType) -> None:
    image, move = brain(phantoms.grid()), laws.motion(8.0, 5.0, torch.zeros(3, dtype=torch.float64))
    moved = laws.carried(image, move)
    torch.testing.assert_close(moved.geometry.points(), move(image.geometry.points()))
    assert torch.equal(moved.data, image.data)
    for axes, flips in ORDERS:
        turned = laws.stored(image, axes, flips)
        read = resample(turned, laws.IDENTITY, image.geometry, mode="nearest")
        assert torch.equal(read.data, image.data)
    again = laws.regridded(image, move, (3.0, 2.5, 4.0))
    assert again.geometry.spacing == (3.0, 2.5, 4.0)
    inside = phantoms.head(move.inverse()(again.geometry.points())) > 0
    gap = (again.data[0] - phantoms.head(move.inverse()(again.geometry.points())))[inside]
    assert float(gap.abs().median()) < 5  # of several hundred: read between voxels


@pytest.mark.parametrize("spacing", [2.0, 1.0, 3.0])
def test_the_network_grid_does_not_see_how_a_file_is_stored(laws: ModuleType, spacing: float) -> None:
    grid = Geometry((44, 50, 40), (2.7, 2.4, 2.9), (-53.3, -67.1, -45.2))
    plain = conform(brain(grid), other(grid), spacing_mm=spacing, divisor=8)
    for axes, flips in ORDERS:
        pair = (laws.stored(image, axes, flips) for image in (brain(grid), other(grid)))
        found = conform(*pair, spacing_mm=spacing, divisor=8)
        assert torch.equal(found.fixed, plain.fixed)
        assert torch.equal(found.moving, plain.moving)
        assert found.fixed_grid.same_grid(plain.fixed_grid, tolerance_mm=1e-9)


def test_the_affine_of_a_scan_to_itself(laws: ModuleType) -> None:
    pair = laws.Pair("phantom", brain(), other())
    found = laws.register("affine", pair.fixed, pair.moving)
    assert laws.itself("affine", pair, found)["max"] <= 0.1


@pytest.mark.faults
def test_the_affine_follows_known_motions(laws: ModuleType) -> None:
    pair = laws.Pair("phantom", brain(FINE), other(FINE))
    plain = laws.register("affine", pair.fixed, pair.moving)
    assert laws.order("affine", pair, plain)["max"] == 0.0
    assert laws.LAWS["shift"][0]("affine", pair, plain)["max"] < 1e-6
    assert laws.LAWS["turn 20"][0]("affine", pair, plain)["max"] < 1e-6
    assert laws.LAWS["coarse copy"][0]("affine", pair, plain)["mean"] <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussnewton", "neuroreg", "neuroreg+mid"])
def test_a_deformation_keeps_what_is_exact(laws: ModuleType, name: str) -> None:
    pair = laws.Pair("phantom", brain(), other())
    plain = laws.register(name, pair.fixed, pair.moving)
    assert laws.threads(name, pair, plain)["max"] <= 1e-4
    assert laws.order(name, pair, plain)["max"] == 0.0
    assert laws.LAWS["shift"][0](name, pair, plain)["max"] < 1e-6
    assert laws.LAWS["turn 5"][0](name, pair, plain)["max"] <= 1e-3
    assert laws.LAWS["turn 20"][0](name, pair, plain)["max"] <= 1e-3
    assert laws.itself(name, pair, plain)["max"] <= 0.1


def test_the_script_measures_what_is_missing_and_writes_the_page(
    laws: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("t1", "seg"):
        (tmp_path / "ixi" / folder).mkdir(parents=True)
    for name, image in (("a", brain()), ("b", other())):
        write_image(image, tmp_path / "ixi" / "t1" / f"{name}.nii.gz")
        solid = Volume((image.data > 0).to(torch.int32), image.geometry, is_label=True)
        write_image(solid, tmp_path / "ixi" / "seg" / f"{name}.nii.gz")
    (tmp_path / "ixi" / "splits.csv").write_text("id,split\na,test\nb,test\n")
    page, words = tmp_path / "page.md", ["--pairs", "1", "--oasis", "0", "--methods", "affine"]
    words = ["reliability", str(tmp_path), str(tmp_path / "out"), *words, "--page", str(page)]
    monkeypatch.setattr(sys, "argv", [*words, "--laws", "itself"])
    laws.main()
    kept = tmp_path / "out" / "reliability.json"
    found = json.loads(kept.read_text())
    assert [*found["ixi b to a"]["affine"]] == ["itself"]
    # By hand: beyond its bound is bold, the worst pair counts, the run's own inverse stands in brackets.
    found["ixi b to a"]["affine"] |= {
        "threads": {"mean": 0.0, "max": 0.5},
        "gpu": {"note": "no GPU here"},
        "exchange": {"mean": 0.25, "max": 1.0, "own_mean": 0.125, "own_max": 1.0},
    }
    kept.write_text(json.dumps(found))
    laws.main()
    (row,) = (line for line in page.read_text().splitlines() if line.startswith("| `affine`"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert [cells[0], cells[2], cells[-1]] == ["**0.500**", "no GPU here", "0.250 (0.125)"]
