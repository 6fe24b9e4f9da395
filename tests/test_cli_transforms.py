"""compose, invert, jacobian and convert as commands: options, exit codes, one line per failure."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from nifti_bytes import patched, save

from neuroreg.cli import run
from neuroreg.io.images import write_image
from neuroreg.io.transforms import read_transform, write_field, write_transform
from neuroreg.transforms import Affine, DisplacementField
from neuroreg.volume import Geometry, Volume

GRID = Geometry(
    (20, 18, 16), (3.0, 3.5, 4.0), (-30.0, 12.0, 5.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """shift.mat, field.nii.gz (2, 1, -3 mm everywhere), fixed.nii.gz on GRID."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([4.0, -2.0, 1.0])
    write_transform(Affine(matrix), tmp_path / "shift.mat")
    data = torch.tensor([2.0, 1.0, -3.0]).reshape(3, 1, 1, 1).expand(3, *GRID.shape).contiguous()
    write_field(DisplacementField(data, GRID), tmp_path / "field.nii.gz")
    image = torch.rand(1, *GRID.shape, generator=torch.Generator().manual_seed(0))
    write_image(Volume(image, GRID), tmp_path / "fixed.nii.gz")
    return tmp_path


def middle() -> torch.Tensor:
    return GRID.centre_mm[None]


def test_compose_joins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "compose",
        str(folder / "field.nii.gz"),
        str(folder / "shift.mat"),
        "-o",
        str(folder / "both.h5"),
    ]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == [str(folder / "both.h5")]
    moved = read_transform(folder / "both.h5")(middle()) - middle()
    assert moved[0].tolist() == pytest.approx([6.0, -1.0, -2.0], abs=1e-5)
    assert run(arguments) == 73
    assert run([*arguments, "--overwrite"]) == 0


def test_invert_says_how_exact_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["invert", str(folder / "shift.mat"), "-o", str(folder / "back.tfm")]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["round_trip"] == {"mean_mm": 0.0, "p99_mm": 0.0}
    assert (read_transform(folder / "back.tfm")(middle()) - middle())[0].tolist() == pytest.approx(
        [-4, 2, -1]
    )
    assert run([*arguments, "--overwrite"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder / 'back.tfm'}\n"
    assert "there and back" in err


def test_invert_writes_a_field_on_the_moving_grid(folder: Path) -> None:
    arguments = ["invert", str(folder / "shift.mat"), "-o", str(folder / "back.nii.gz")]
    assert run(arguments) == 2
    assert run([*arguments, "--to", str(folder / "fixed.nii.gz")]) == 0
    assert (read_transform(folder / "back.nii.gz")(middle()) - middle())[0].tolist() == pytest.approx(
        [-4, 2, -1]
    )


def test_jacobian_writes_a_map_and_shows_its_figures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["jacobian", str(folder / "field.nii.gz"), "-o", str(folder / "jac.nii.gz")]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mean"] == pytest.approx(1.0)
    assert found["folded_percent"] == 0.0
    assert run([*arguments, "--overwrite"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder / 'jac.nii.gz'}\n"
    assert err == "det J from 1 to 1, mean 1, folded 0 %\n"


@pytest.mark.parametrize(
    "words",
    [
        ["apply", "shift.mat", "fixed.nii.gz", "--to", "fixed.nii.gz", "-o", "out file.nii.gz"],
        ["compose", "field.nii.gz", "shift.mat", "-o", "out file.nii.gz", "--to", "fixed.nii.gz"],
        ["invert", "field.nii.gz", "-o", "out file.nii.gz"],
        ["jacobian", "field.nii.gz", "-o", "out file.nii.gz"],
        ["convert", "field.nii.gz", "out file.nii.gz"],
    ],
    ids=lambda words: str(words[0]),
)
def test_stdout_is_what_was_written_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run([*words, "-q"]) == 0
    assert capsys.readouterr() == ("out file.nii.gz\n", "")
    assert run([*words, "--overwrite", "-v"]) == 0
    out, err = capsys.readouterr()
    assert out == "out file.nii.gz\n"
    assert " s  load" in err
    assert run([*words, "--overwrite", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["command"], told["status"], told["outputs"]) == (words[0], "ok", ["out file.nii.gz"])
    assert isinstance(told["warnings"], list)
    assert err == ""


def test_convert_changes_the_format(folder: Path) -> None:
    assert run(["convert", str(folder / "field.nii.gz"), str(folder / "field.h5")]) == 0
    moved = read_transform(folder / "field.h5")(middle()) - middle()
    assert moved[0].tolist() == pytest.approx([2.0, 1.0, -3.0])
    assert run(["convert", str(folder / "fixed.nii.gz"), str(folder / "fixed.mha")]) == 0
    assert run(["convert", str(folder / "fixed.nii.gz"), str(folder / "fixed.mha")]) == 73


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["convert", "none.h5", "out.h5"], 66, "no such file; none.h5"),
        (["convert", "fixed.nii.gz", "out.xyz"], 2, "is not written; out.xyz"),
        (["convert", "field.nii.gz", "out.mat"], 2, "holds affines only; out.mat; use .h5"),
        (["convert", "field.nii.gz", "out.h5", "--vectors", "abc"], 2, "'abc' is not one of 'lps', 'ras'"),
        (["convert", "shift.mat", "missing/out.h5"], 73, "the folder does not exist; missing"),
        (["compose", "fixed.nii.gz", "-o", "out.h5"], 65, "expected a displacement field (x, y, z, 1, 3)"),
        (["invert", "shift.mat", "-o", "shift.mat", "--overwrite"], 2, "the output is one of the inputs"),
        (["jacobian", "shift.mat", "-o", "out.nii.gz"], 2, "no grid of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_failure_is_one_line_with_a_remedy(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith(f"neuroreg: error[{code}]: ")
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [("compose", "field.nii.gz", "field.nii.gz"), ("invert", "field.nii.gz"), ("jacobian", "field.nii.gz")],
)
def test_what_a_field_leaves_in_doubt_is_said_by_every_command(
    words: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    whole = gzip.decompress((folder / "field.nii.gz").read_bytes())
    save(folder / "field.nii.gz", patched(whole, qform_code=0, sform_code=0))
    output = "o.nii.gz" if words[0] == "jacobian" else "o.h5"
    assert run([*words, "-o", output]) == 0
    assert "field.nii.gz: no world frame" in capsys.readouterr().err
