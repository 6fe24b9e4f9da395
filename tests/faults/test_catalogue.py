"""The fault catalogue, number by number, through whole commands; the table in the documents is made of the same."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import pipeline_phantoms as phantoms
from catalogue import FAULTS, NUMBERS, PAGE, page
from scene import OUTPUTS, Fault, Scene, check

from neuroreg.methods import METHODS
from neuroreg.registry import Entry

pytestmark = pytest.mark.faults


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A folder with a pair of heads, and the toys among the methods."""
    for name in ("Toy", "OutOfMemoryToy", "BrokenToy"):
        monkeypatch.setitem(METHODS, name.lower(), Entry(f"pipeline_phantoms:{name}", "for tests"))
    phantoms.save_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path, monkeypatch)


def test_without_a_fault_all_is_well(scene: Scene) -> None:
    answer = scene.register()
    assert (answer.code, answer.out, answer.warnings) == (0, "out\n", [])
    assert sorted(path.name for path in (scene.folder / "out").iterdir()) == OUTPUTS
    assert scene.record()["warnings"] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_fault(fault: Fault, scene: Scene) -> None:
    if fault.number != 42:
        phantoms.leave_sides_unjudged(scene.patch)  # which would take most of the time
    check(fault, scene)


def test_a_bug_is_70_and_one_line(scene: Scene) -> None:
    before = scene.files()
    answer = scene.register(toy=("--method", "brokentoy", "--affine", "none"))
    assert answer.code == 70
    assert "no such thing" in answer.error
    assert "report it" in answer.error
    assert scene.files() == before


def test_of_two_bad_inputs_the_first_is_named(scene: Scene) -> None:
    for name in ("fixed", "moving"):
        (scene.folder / f"{name}.nii.gz").write_bytes(b"")
    assert all("fixed.nii.gz" in scene.register().error for _ in range(3))


def test_42_other_handedness_alone_is_ordinary(scene: Scene) -> None:
    from catalogue_geometry import other_handedness

    other_handedness(scene.folder)
    (scene.folder / "whole.nii.gz").rename(scene.folder / "fixed.nii.gz")
    answer = scene.register()
    assert answer.code == 0
    assert not any("handedness" in line for line in answer.warnings)


def test_every_number_is_played() -> None:
    assert {fault.number for fault in FAULTS} == set(NUMBERS)
    assert len({fault.title for fault in FAULTS}) == len(FAULTS)


def test_the_table_is_that_of_the_catalogue() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/faults/catalogue.py"
