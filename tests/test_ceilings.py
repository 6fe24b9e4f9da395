"""examples/ceilings.py: its grids by hand, its rows on a program that does nothing, its page from made-up rows."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.volume import Geometry, Volume

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("ceilings", ROOT / "examples" / "ceilings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ceilings"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ceilings"]


def test_a_grid_keeps_the_middle_and_the_directions(script: ModuleType) -> None:
    image = phantoms.grid()
    grid = script.Grid((20, 16, 30), (2.0, 4.0, 1.0)).around(image)
    torch.testing.assert_close(grid.centre_mm, image.centre_mm)
    assert (grid.size, grid.spacing, grid.direction) == ((20, 16, 30), (2.0, 4.0, 1.0), image.direction)
    assert str(script.Grid((24, 24, 24), (8.0, 8.0, 8.0))) == "24 x 24 x 24, 8 mm"
    assert str(script.FEW) == "512 x 512 x 7, 0.45 x 0.45 x 6 mm"


def test_a_thick_slice_is_the_mean_across_it(script: ModuleType) -> None:
    # Along z the intensity is z mm: the mean across any slice inside is that of its middle.
    thin = Geometry((8, 8, 61), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    ramp = torch.arange(61.0)[:, None, None].expand(61, 8, 8)[None].contiguous()
    thick = script.read_on(Volume(ramp, thin), script.Grid((8, 8, 7), (1.0, 1.0, 6.0)))
    assert thick.geometry.size == (8, 8, 7)
    middles = thick.geometry.points()[..., 2]
    torch.testing.assert_close(thick.data[0].double(), middles.round())


def test_memory_and_words_of_a_command(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, time; x = bytearray(80_000_000); time.sleep(.4); "
        "sys.stderr.write('neuroreg: error[75]: no\\n'); sys.exit(75)"
    )
    monkeypatch.setattr(script, "PROGRAM", [sys.executable, "-c", code])
    row = script.measured([])
    assert (row["exit"], row["said"]) == (75, "error[75]: no")
    assert 80 <= row["peak_mb"] < 200


def test_the_page_has_a_line_for_every_row(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {
        "exit": 65,
        "seconds": 1.2,
        "peak_mb": 300,
        "said": "error[65]: too small",
        "estimate_mb": None,
    }
    done = {"exit": 0, "seconds": 9.6, "peak_mb": 1500, "said": "", "estimate_mb": 2000}
    done |= {"verdict": "look", "error_mm": 2.011, "disk_mb": 91}
    found = {"7 slices fixed": {"register": refused}, "28 slices both": {"register": done}}
    (tmp_path / "ceilings.json").write_text(json.dumps(found))
    monkeypatch.setattr(
        sys, "argv", ["c", str(tmp_path), "--only", "none", "--page", str(tmp_path / "page.md")]
    )
    script.main()
    page = (tmp_path / "page.md").read_text()
    thick = "512 x 512 x 28, 0.45 x 0.45 x 6 mm"
    assert f"| {thick} | {thick} | `register` | 0 | look | 2.01 | 10 | 1.5 | 2.0 | 91 |" in page
    assert "| `register` | 65 |  |  | 1 | 0.3 |  |  |" in page
    assert "    error[65]: too small" in page
