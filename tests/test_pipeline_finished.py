"""A finished run read back: nothing is believed without its sha256, and what is missing follows from the map."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from finished_runs import change_record, forget, sha256
from pipeline_phantoms import SHIFT_MM, grid

from neuroreg.errors import DataError, NoInputError
from neuroreg.io.transforms import write_transform
from neuroreg.pipeline.finished import open_run
from neuroreg.transforms import Affine, Chain, DisplacementField


def affine() -> Affine:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] += torch.tensor([[0.1, 0.02, 0.0], [0.0, -0.05, 0.03], [0.01, 0.0, 0.04]])
    matrix[:3, 3] = torch.tensor(SHIFT_MM)
    return Affine(matrix)


def wave() -> DisplacementField:
    """Another slope along every axis, zero nowhere by symmetry."""
    geometry = grid(degrees=3.0, size=(30, 34, 28))
    q = geometry.points() / 40.0
    u = torch.stack((torch.sin(q[..., 1]), 2 * torch.cos(q[..., 2]), torch.sin(q[..., 0] + q[..., 1])))
    return DisplacementField(u.to(torch.float32), geometry)


def record_output(run: Path, name: str) -> None:
    record = json.loads((run / "run.json").read_text())
    record["outputs"][name] = {"sha256": sha256(run / name)}
    (run / "run.json").write_text(json.dumps(record))


def test_files_are_found_and_known_by_their_hash(own_run: Path, tmp_path: Path) -> None:
    run = open_run(own_run)
    assert run.input("fixed") == tmp_path / "fixed.nii.gz"
    assert run.input("fixed_mask") is None
    assert run.output("moved.nii.gz") == tmp_path / "run" / "moved.nii.gz"
    assert run.output("transform.h5") is None
    assert run.label_names() == {4: "Outer", 23: "Right blob", 16_777_217: "Left blob"}


def test_inputs_elsewhere_are_found_where_they_are_said_to_be(own_run: Path, tmp_path: Path) -> None:
    far = tmp_path / "far" / "away"
    far.mkdir(parents=True)
    (tmp_path / "fixed.nii.gz").rename(far / "fixed.nii.gz")
    with pytest.raises(NoInputError, match="the fixed image of the recorded run is not here.*--inputs"):
        open_run(own_run).input("fixed")
    assert open_run(own_run, inputs=(far,)).input("fixed") == far / "fixed.nii.gz"


def test_a_file_that_changed_is_refused(own_run: Path, tmp_path: Path) -> None:
    for path in (own_run / "moved.nii.gz", tmp_path / "fixed.nii.gz"):
        path.write_bytes((own_run / "jacobian.nii.gz").read_bytes())
    run = open_run(own_run)
    with pytest.raises(DataError, match="not the file the run left"):
        run.moved()
    with pytest.raises(DataError, match="sha256 differs"):
        _ = run.fixed
    (own_run / "jacobian.nii.gz").unlink()
    with pytest.raises(NoInputError):
        run.output("jacobian.nii.gz")


def test_an_unfinished_run_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no finished run here"):
        open_run(tmp_path)
    for text in ("{", "[]", '{"schema_version": 1}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(DataError, match="record"):
            open_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "verdict", "reasons"),
    [
        ({}, "pass", ()),
        ({"quality": {"passed": False, "reasons": ["a", "b"]}}, "look", ("a", "b")),
        ({"quality": None}, None, ()),
        ({"quality": None, "qc": {"verdict": "look", "reasons": ["c"]}, "schema_version": 2}, "look", ("c",)),
        ({"qc": {"verdict": "<b>", "reasons": 7}}, None, ()),
    ],
)
def test_every_version_of_the_record_has_a_verdict(
    own_run: Path, changes: dict[str, object], verdict: str | None, reasons: tuple[str, ...]
) -> None:
    change_record(own_run, **changes)
    recorded = open_run(own_run).recorded
    assert (recorded.verdict, recorded.reasons) == (verdict, reasons)


def test_what_was_not_written_follows_from_the_transform(own_run: Path, tmp_path: Path) -> None:
    forget(own_run, "moved.nii.gz", "jacobian.nii.gz", "moved_labels.nii.gz")
    run = open_run(own_run)
    assert (run.moved(), run.jacobian(), run.moved("moving_labels"), run.transform) == (None,) * 4
    write_transform(Chain((wave(), affine())), own_run / "transform.h5")
    record_output(own_run, "transform.h5")
    run = open_run(own_run)
    moved, jacobian, regions = run.moved(), run.jacobian(), run.moved("moving_labels")
    assert moved is not None
    assert jacobian is not None
    assert regions is not None
    fixed = sitk.ReadImage(str(tmp_path / "fixed.nii.gz"))
    transform = sitk.ReadTransform(str(own_run / "transform.h5"))
    moving = sitk.ReadImage(str(tmp_path / "moving.nii.gz"))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
    assert np.abs(moved.data[0].numpy() - expected).max() < 0.05  # of intensities up to 3500, float32
    seg = sitk.ReadImage(str(tmp_path / "moving_seg.nii.gz"))
    ids = sitk.GetArrayFromImage(sitk.Resample(seg, fixed, transform, sitk.sitkNearestNeighbor))
    assert (regions.data[0].numpy() == ids).mean() > 0.999
    step = np.array(fixed.GetDirection()).reshape(3, 3) * fixed.GetSpacing()
    for index in ((12, 20, 9), (25, 17, 22), (19, 30, 16)):
        point = np.array(fixed.TransformIndexToPhysicalPoint(index))
        ends = [[transform.TransformPoint(point + sign * step[:, k]) for k in range(3)] for sign in (1, -1)]
        difference = (np.array(ends[0]) - np.array(ends[1])).T / 2  # over one voxel along each voxel axis, mm
        determinant = np.linalg.det(difference @ np.linalg.inv(step))
        assert jacobian.data[0, index[2], index[1], index[0]] == pytest.approx(determinant, abs=1e-4)


def test_an_affine_run_has_one_determinant(own_run: Path) -> None:
    forget(own_run, "jacobian.nii.gz")
    write_transform(affine(), own_run / "affine.mat")
    record_output(own_run, "affine.mat")
    assert open_run(own_run).jacobian() is None  # the affine is a part of the map only
    change_record(own_run, command="affine")
    found = open_run(own_run).jacobian()
    assert found is not None
    expected = float(np.linalg.det(affine().matrix[:3, :3].numpy()))
    assert torch.allclose(found.data, torch.tensor(expected, dtype=torch.float32))
