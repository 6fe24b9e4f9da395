"""examples/calibrate_qc.py: what it plants is what it says, and it counts right."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.pipeline.verdict import RULES

PATH = Path(__file__).parents[1] / "examples" / "calibrate_qc.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibrate_qc", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("axes", [(1, 2, 0), (0, 1, 2), (2, 0, 1)])
def test_a_mirrored_image_has_its_marker_on_the_other_side_and_the_same_header(
    script: ModuleType, axes: tuple[int, int, int]
) -> None:
    direction = np.zeros((3, 3))
    for column, row in enumerate(axes):  # voxel axis ``column`` runs along world axis ``row``
        direction[row, column] = -1.0 if column == 1 else 1.0
    image = sitk.Image(10, 12, 14, sitk.sitkFloat32)
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing((1.0, 2.0, 1.5))
    image[2, 3, 4] = 7.0
    out = script.mirrored(image)
    assert out.GetDirection() == image.GetDirection()
    assert out.GetOrigin() == image.GetOrigin()
    before, after = marker(image), marker(out)
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    assert after[0] - middle[0] == pytest.approx(-(before[0] - middle[0]))
    assert after[1:] == pytest.approx(before[1:])
    assert np.array_equal(sitk.GetArrayFromImage(script.mirrored(out)), sitk.GetArrayFromImage(image))


def marker(image: sitk.Image) -> np.ndarray:
    """Where the brightest voxel lies, LPS mm."""
    index = np.argwhere(sitk.GetArrayFromImage(image) == 7)[0][::-1]
    return np.array(image.TransformIndexToPhysicalPoint([int(i) for i in index]))


def test_pairs_are_of_two_people_and_good_ones_twice_as_many(script: ModuleType) -> None:
    ids = ["a", "b", "c", "d", "e"]
    found = list(script.wanted(ids, ["stripped", "flipped"], 4))
    assert len(set(found)) == len(found) == 12
    assert all(fixed != moving for _, fixed, moving in found)
    assert [condition for condition, _, _ in found].count("stripped") == 8


def test_verdicts_are_counted_by_condition(script: ModuleType) -> None:
    def row(condition: str, status: str = "ok", **figures: str) -> dict[str, str]:
        own = {"condition": condition, "method": "neuroreg", "status": status, "doubts": "", "dice": "0.5"}
        return {**own, **figures}

    low = next(rule for rule in RULES if rule.figure == "lncc_after")
    rows = [
        row("stripped", lncc_after="0.9"),
        row("stripped", lncc_after=str((low.look + low.fail) / 2)),
        row("flipped", lncc_after=str(low.fail - 0.1)),
        row("flipped", status="refused (65): no overlap"),
        row("flipped", lncc_after="0.9"),
    ]
    text = script.summary(rows)
    assert "| stripped | 2 | 1 | 1 | 0 | 0 | 0.500 |" in text
    assert "| flipped | 3 | 1 | 0 | 1 | 1 | 0.500 |" in text
    assert "2 of 3 (66.7 %) of the planted failures, 1 of 2 (50.0 %) of the good registrations" in text


def test_a_table_comes_back_as_it_went(script: ModuleType, tmp_path: Path) -> None:
    rows = [{"condition": "stripped", "dice": "0.5", "contrast": "-0.25", "lncc_after": ""}]
    script.save(rows, tmp_path / "t.csv")
    [found] = script.read(tmp_path / "t.csv")
    assert {name: found[name] for name in rows[0]} == rows[0]
