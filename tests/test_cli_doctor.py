"""doctor FILE...: exit codes, one line per refused file, one object, hostile names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nifti_bytes import nifti, phantom, save

from neuroreg.cli import run
from neuroreg.io.transforms import write_transform
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import Geometry


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    good = save(tmp_path / "a.nii.gz", nifti(phantom()))
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(good.read_bytes()[:-100])
    write_transform(Affine(torch.eye(4, dtype=torch.float64)), tmp_path / "t.mat")
    return {"good": good, "cut": cut, "map": tmp_path / "t.mat", "none": tmp_path / "none.nii"}


def test_sound_files(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", str(files["good"]), str(files["map"])]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split("\t") for line in out.splitlines() if "\t" in line)
    assert rows["axes"] == "RAS: towards right, anterior, superior"
    assert rows["size"] == "33 x 30 x 27 voxels"
    assert rows["determinant"] == "1"
    assert err == ""


def test_the_first_refused_file_gives_the_code(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", *map(str, (files["none"], files["cut"], files["good"]))]) == 66
    out, err = capsys.readouterr()
    assert [line.split("]")[0] for line in err.splitlines()] == ["neuroreg: error[66", "neuroreg: error[65"]
    assert "33 x 30 x 27" in out
    assert run(["doctor", *map(str, (files["cut"], files["none"]))]) == 65


def test_one_object(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json", *map(str, files.values())]) == 65
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["status"], found["code"]) == ("error", 65)
    assert [one["file"] for one in found["files"]] == ["a.nii.gz", "cut.nii.gz", "t.mat", "none.nii"]
    assert [one["error"] and one["error"]["code"] for one in found["files"]] == [None, 65, None, 66]
    assert found["files"][0]["image"]["grid"]["axes"] == "RAS"
    assert found["files"][2]["transform"][0]["kind"] == "affine"
    assert err.count("error[") == 2
    assert str(tmp_path) not in out + err


def test_notes_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.nii.gz", nifti(phantom(), xyzt_units=0))
    assert run(["doctor", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "millimetres assumed" in json.loads(out)["files"][0]["warnings"][0]
    assert err.startswith("neuroreg: warning: a.nii.gz: ")
    assert run(["doctor", "-q", str(path)]) == 0
    assert capsys.readouterr().err == ""


def test_hostile_names_and_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[red]x\x1b[31m\u202e[bold]"
    save(tmp_path / f"{name}.nii.gz", nifti(phantom(), descrip=b"\x1b[2J"))
    (tmp_path / f"{name}.nrrd").write_bytes(b"NRRD0004\ntype: \x1b[31mx\ndimension: 3\n")
    words = [str(path) for path in sorted(tmp_path.iterdir())]
    for options in ([], ["--json"]):
        assert run(["doctor", *options, *words]) == 65
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "\u202e" not in out + err
        assert "[red]x?" in out
        assert err.count("error[65]") == err.count("\n") == 1


def test_numbers_that_overflow_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    u = torch.from_numpy(np.random.default_rng(0).uniform(-3e38, 3e38, (3, 5, 5, 5)).astype("f4"))
    write_transform(
        DisplacementField(u, Geometry((5, 5, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))), tmp_path / "t.h5"
    )
    assert run(["doctor", "--json", str(tmp_path / "t.h5")]) == 0
    (part,) = json.loads(capsys.readouterr().out)["files"][0]["transform"]
    assert None in part["determinant"]
    assert run(["doctor", str(tmp_path / "t.h5")]) == 0
