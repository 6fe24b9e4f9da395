"""The evaluate verb and its command, from label files to CSV and JSON."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.cli import run
from neuroreg.errors import CannotCreateError, DataError, UsageError
from neuroreg.pipeline.evaluate import COLUMNS, EvaluateConfig, evaluate, parse_ids

SIZE = (20, 24, 22)  # (x, y, z)
SPACING = (3.0, 2.5, 2.75)
ORIGIN = (-40.0, 17.0, -8.5)
DIRECTION = (0.8, 0.6, 0.0, 0.6, -0.8, 0.0, 0.0, 0.0, 1.0)  # oblique and mirrored


def write(path: Path, regions: dict[int, tuple[slice, slice, slice]], **other: object) -> Path:
    """A label file with boxes (z, y, x) on an oblique anisotropic grid."""
    labels = np.zeros(SIZE[::-1], dtype=np.int32)
    for label, box in regions.items():
        labels[box] = label
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(SPACING)
    image.SetOrigin(other.get("origin", ORIGIN))
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path))
    return path


BOX = (slice(5, 11), slice(6, 12), slice(4, 10))
BOX_MOVED = (slice(5, 11), slice(6, 12), slice(6, 12))  # by two voxels along x: 6 mm
SMALL = (slice(15, 17), slice(15, 18), slice(13, 15))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    fixed = write(tmp_path / "fixed seg.nii.gz", {9: BOX, 100_000_007: SMALL})
    return fixed, write(tmp_path / "moved.nii.gz", {9: BOX_MOVED, 12: SMALL})


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_rows_hold_what_the_boxes_say(pair: tuple[Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text('label,name\n9,"=cmd|calc, left"\n12,Thalamus\n', encoding="utf-8")
    out = tmp_path / "rois.csv"
    outcome = evaluate(EvaluateConfig(fixed_labels=pair[0], moved_labels=pair[1], csv=out, label_names=names))
    rows = read_rows(out)
    assert list(rows) == ["9", "12", "100000007"]
    assert tuple(rows["9"]) == COLUMNS
    assert float(rows["9"]["dice"]) == pytest.approx(4 / 6)
    assert float(rows["9"]["hd_mm"]) == pytest.approx(6.0)
    assert float(rows["9"]["fixed_mm3"]) == pytest.approx(216 * math.prod(SPACING))
    assert rows["9"]["name"] == "'=cmd|calc, left"  # a spreadsheet would run it
    assert rows["12"]["name"] == "Thalamus"
    assert rows["12"]["status"] == "missing in fixed"
    assert rows["100000007"]["status"] == "missing in moved"
    for column in ("hd_mm", "hd95_mm", "assd_mm"):
        assert rows["12"][column] == rows["100000007"][column] == ""
    assert outcome.mean("dice") == pytest.approx(4 / 6 / 3)
    assert outcome.mean("hd_mm") == pytest.approx(6.0)


def test_asked_ids_keep_their_order_and_blank_when_absent(pair: tuple[Path, Path]) -> None:
    outcome = evaluate(EvaluateConfig(fixed_labels=pair[0], moved_labels=pair[1], ids=(77, 9)))
    assert [region.label for region in outcome.regions] == [77, 9]
    assert outcome.regions[0].status == "missing in both"
    assert [outcome.rows()[0][column] for column in ("dice", "hd_mm", "assd_mm")] == [None] * 3
    assert outcome.summary()["regions_incomplete"] == 1


def test_other_grids_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere.nii.gz", {9: BOX}, origin=(-40.0, 17.0, -8.4))
    with pytest.raises(DataError) as caught:
        evaluate(EvaluateConfig(fixed_labels=pair[0], moved_labels=elsewhere))
    assert caught.value.exit_code == 65
    assert caught.value.file == "elsewhere.nii.gz"
    assert caught.value.remedy == "move the labels first: neuroreg apply TRANSFORM LABELS --to FIXED --labels"


def test_an_existing_table_is_kept(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "rois.csv"
    out.write_text("mine")
    config = EvaluateConfig(fixed_labels=pair[0], moved_labels=pair[1], csv=out)
    with pytest.raises(CannotCreateError):
        evaluate(config)
    assert out.read_text() == "mine"
    evaluate(config.model_copy(update={"overwrite": True}))
    assert "9" in read_rows(out)


def displacement(path: Path, along_x: np.ndarray) -> Path:
    """A field file: ``along_x`` (x,) voxels, along the grid's own x axis, carried in LPS mm."""
    column = np.array(DIRECTION).reshape(3, 3)[:, 0] * SPACING[0]
    data = np.broadcast_to(along_x[None, None, :, None] * column, (*SIZE[::-1], 3)).astype(np.float64)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data), isVector=True)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION)
    sitk.WriteTransform(sitk.DisplacementFieldTransform(image), str(path))
    return path


def test_folds_of_a_field_on_a_mirrored_grid(pair: tuple[Path, Path], tmp_path: Path) -> None:
    # Sawtooth along x: +2.4 voxels at x = 6 alone. Central differences: det = 1 - 2.4 / 2 < 0 at x = 7 alone.
    # The mask is the fixed labels: planes x = 4..9 of the large box hold 36 voxels each, the small box 12.
    teeth = np.zeros(SIZE[0])
    teeth[6] = 2.4
    field = displacement(tmp_path / "field.h5", teeth)
    outcome = evaluate(EvaluateConfig(fixed_labels=pair[0], moved_labels=pair[1], transform=field))
    assert outcome.deformation is not None
    assert outcome.deformation.folded_percent == pytest.approx(100 * 36 / (216 + 12))
    mask = write(tmp_path / "mask.nii.gz", {1: (slice(2, 20), slice(3, 20), slice(7, 8))})
    outcome = evaluate(EvaluateConfig(fixed_labels=pair[0], moved_labels=pair[1], transform=field, mask=mask))
    assert outcome.deformation is not None
    assert outcome.deformation.folded_percent == 100.0


def test_an_affine_and_its_inverse(pair: tuple[Path, Path], tmp_path: Path) -> None:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.1, 0.1, 0.0, -0.1, 0.9, 0.0, 0.0, 0.2, 1.0))
    affine.SetTranslation((4.0, -3.0, 2.0))
    back = sitk.AffineTransform(affine.GetInverse())
    back.SetTranslation(np.add(back.GetTranslation(), (0.0, 0.3, 0.4)).tolist())
    sitk.WriteTransform(affine, str(tmp_path / "affine.mat"))
    sitk.WriteTransform(back, str(tmp_path / "back.mat"))
    outcome = evaluate(
        EvaluateConfig(
            fixed_labels=pair[0],
            moved_labels=pair[1],
            transform=tmp_path / "affine.mat",
            inverse=tmp_path / "back.mat",
        )
    )
    figures = outcome.deformation
    assert figures is not None
    assert (figures.folded_percent, figures.ndv_percent) == (0.0, 0.0)
    assert figures.sd_log_jacobian == pytest.approx(0.0, abs=1e-5)
    assert figures.inverse_mean_mm == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(UsageError):
        evaluate(EvaluateConfig(fixed_labels=pair[0], moved_labels=pair[1], inverse=tmp_path / "back.mat"))


def test_ids_as_text_and_as_a_file(tmp_path: Path) -> None:
    assert parse_ids("4, 11,23-25 4") == (4, 11, 23, 24, 25)
    listed = tmp_path / "ids.txt"
    listed.write_text("# common ids\n4 11\n23-25\n")
    assert parse_ids(str(listed)) == (4, 11, 23, 24, 25)
    for wrong in ("", "0", "4-2", "x", "1-999999999999", "-3"):
        with pytest.raises(UsageError):
            parse_ids(wrong)


def test_the_command_prints_one_json_object(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", str(pair[0]), str(pair[1]), "--labels", "9", "--json"]) == 0
    out = capsys.readouterr().out
    record = json.loads(out)
    assert record["command"] == "evaluate"
    assert record["mean_dice"] == pytest.approx(4 / 6)
    assert record["rois"][0]["id"] == "9"
    assert record["deformation"] is None


def test_the_command_shows_a_table_and_fails_with_a_code(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["evaluate", str(pair[0]), str(pair[1])]) == 0
    assert "missing in moved" in capsys.readouterr().out
    assert run(["evaluate", str(pair[0]), str(tmp_path / "nothing.nii.gz")]) == 66
    assert "error[66]" in capsys.readouterr().err
