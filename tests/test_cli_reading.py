"""--frame, --xform and --max-voxels: the same questions and the same answers in every command that reads images."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nifti_bytes import AFFINE_RAS, nifti, phantom, save

from neuroreg.cli import run
from neuroreg.io.transforms import write_transform
from neuroreg.pipeline import head_mask
from neuroreg.transforms import Affine
from neuroreg.volume import Volume

ONE_VOXEL_ON = AFFINE_RAS[:3, 3] + AFFINE_RAS[:3, 0]
"""Where the sform of the unsure files puts the first voxel: their qform, one voxel further along x."""

COMMANDS = {
    "register": ["register", "fixed.nii.gz", "{}", "--method", "affine"],
    "apply": ["apply", "same.mat", "{}", "--to", "fixed.nii.gz"],
    "evaluate": ["evaluate", "{}", "{}"],
    "convert": ["convert", "{}", "out.mha"],
}


def words(command: str, image: str) -> list[str]:
    return [word.format(image) for word in COMMANDS[command]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """fixed, two (frames), unsure (sform one voxel off the qform) and same.mat, the identity."""
    monkeypatch.chdir(tmp_path)
    one, other = phantom(), phantom(seed=1)
    save(Path("fixed.nii.gz"), nifti(one))
    save(Path("two.nii.gz"), nifti(np.stack((one, other), axis=-1)))
    matrix = AFFINE_RAS.copy()
    matrix[:3, 3] = ONE_VOXEL_ON
    save(Path("unsure.nii.gz"), nifti(one, srow=list(matrix[:3].reshape(-1))))
    write_transform(Affine(torch.eye(4, dtype=torch.float64)), Path("same.mat"))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run([*arguments])
    return code, capsys.readouterr().err


def read(name: str) -> np.ndarray:
    """(x, y, z)"""
    return sitk.GetArrayFromImage(sitk.ReadImage(name)).transpose()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_reader_asks_the_same(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = told(capsys, *words(command, "two.nii.gz"))
    assert code == 65
    assert "expected one 3-D volume, got 2 frames; two.nii.gz; choose one with --frame N, from 0" in err
    code, err = told(capsys, *words(command, "two.nii.gz"), "--frame", "-1")
    assert code == 2
    assert "--frame" in err
    code, err = told(capsys, *words(command, "unsure.nii.gz"))
    assert code == 65
    assert "choose with --xform sform or --xform qform" in err
    code, err = told(capsys, *words(command, "unsure.nii.gz"), "--xform", "qfrom")
    assert code == 2
    assert "'qfrom' is not one of 'auto', 'sform', 'qform'" in err
    code, err = told(capsys, *words(command, "fixed.nii.gz"), "--max-voxels", "1000")
    assert code == 65
    assert "more than the 1000 allowed" in err


def test_apply_moves_the_frame_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words("apply", "two.nii.gz"), "--frame", "1", "-o", "out.nii.gz"]) == 0
    assert np.abs(read("out.nii.gz") - phantom(seed=1)).max() < 1e-3
    capsys.readouterr()
    code, err = told(capsys, *words("apply", "two.nii.gz"), "--frame", "2", "-o", "other.nii.gz")
    assert code == 2
    assert "frame 2 does not exist, the file has 2; two.nii.gz" in err
    assert not Path("other.nii.gz").exists()


def test_apply_fills_the_grid_of_a_4d_image() -> None:
    assert run(["apply", "same.mat", "fixed.nii.gz", "--to", "two.nii.gz", "-o", "out.nii.gz"]) == 0
    assert np.abs(read("out.nii.gz") - phantom()).max() < 1e-3


def test_apply_trusts_the_frame_that_was_chosen() -> None:
    for name, expected in (("qform", phantom()), ("sform", np.roll(phantom(), 1, axis=0))):
        assert run([*words("apply", "unsure.nii.gz"), "--xform", name, "-o", f"{name}.nii.gz"]) == 0
        inner = (slice(2, -2),) * 3
        assert np.abs(read(f"{name}.nii.gz")[inner] - expected[inner]).max() < 1e-2


def test_evaluate_reads_one_frame_and_one_world_frame(capsys: pytest.CaptureFixture[str]) -> None:
    labels = (phantom() > 40).astype("i2") * 3
    save(Path("seg.nii.gz"), nifti(labels))
    save(Path("seg4.nii.gz"), nifti(np.stack((labels * 0 + 1, labels), axis=-1)))
    matrix = AFFINE_RAS.copy()
    matrix[:3, 3] = ONE_VOXEL_ON
    save(Path("seg_unsure.nii.gz"), nifti(labels, srow=list(matrix[:3].reshape(-1))))
    assert run(["evaluate", "seg4.nii.gz", "seg4.nii.gz", "--frame", "1", "--json", "-q"]) == 0
    assert [(r["id"], r["dice"]) for r in json.loads(capsys.readouterr().out)["rois"]] == [("3", 1.0)]
    assert run(["evaluate", "seg.nii.gz", "seg_unsure.nii.gz", "--xform", "qform", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_dice"] == 1.0
    code, err = told(capsys, "evaluate", "seg.nii.gz", "seg_unsure.nii.gz", "--xform", "sform")
    assert code == 65
    assert "neuroreg apply TRANSFORM LABELS --to FIXED --labels" in err


@pytest.mark.parametrize("command", ["register", "affine"])
def test_a_plan_carries_the_name_of_its_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command, "fixed.nii.gz", "unsure.nii.gz", "--xform", "qform", "--dry-run", "--json", "-q"]
    assert run([*arguments, *(["--method", "affine"] if command == "register" else [])]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["dry_run"]) == (command, True)
    assert not Path("unsure_to_fixed").exists()


@pytest.mark.parametrize("command", ["register", "affine"])
def test_brains_are_found_when_a_flag_says_so(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        command,
        "fixed.nii.gz",
        "two.nii.gz",
        "--frame",
        "1",
        "--method",
        "affine",
        "--dry-run",
        "--json",
        "-q",
    ]

    def found(*words: str) -> object:
        assert run([*arguments, *words]) == 0
        return json.loads(capsys.readouterr().out)["config"]["find_brain"]

    def everywhere(head: Volume) -> Volume:
        return Volume(torch.ones(head.data.shape, dtype=torch.uint8), head.geometry, is_label=True)

    monkeypatch.setattr(head_mask, "find_brain", everywhere)
    assert found() is False
    assert found("--find-brain") is True
    monkeypatch.setenv("NEUROREG_FIND_BRAIN", "1")
    assert found() is True
    assert found("--no-find-brain") is False


def test_affine_writes_the_outputs_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["affine", "fixed.nii.gz", "two.nii.gz", "--frame", "1", "--dry-run", "--json", "-q"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["moved.nii.gz", "affine.mat", "run.json"]
    assert run([*arguments, "--outputs", "transform"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["transform.h5", "run.json"]
    Path("config.toml").write_text('outputs = ["transform"]\n', encoding="utf-8")
    assert run([*arguments, "--config", "config.toml"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == ["transform.h5", "run.json"]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_frame_that_no_image_has_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = told(capsys, *words(command, "fixed.nii.gz"), "--frame", "1")
    assert (code, "frame 1 does not exist" in err) == (2, True)


def test_nothing_is_said_of_the_one_frame_of_a_volume(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = told(capsys, *words("apply", "fixed.nii.gz"))
    assert (code, "frame" in err) == (0, False)
