"""neuroreg train from the command line: four steps end to end, and every way to get it wrong."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training_phantoms import save_pack, toy_set

from neuroreg.cli import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of four steps beside its two packs; the working directory."""
    monkeypatch.chdir(tmp_path)
    save_pack(toy_set(), tmp_path / "train.npz")
    save_pack(toy_set(2), tmp_path / "val.npz")
    return write(tmp_path)


def write(folder: Path, **changes: object) -> Path:
    contents: dict[str, object] = {
        "name": "toy",
        "method": "neuroreg",
        "config": {"spacing_mm": 2.0, "plan": [[4, 1], [2, 1]], "features": 4, "width": 8},
        "data": {"train": "train.npz", "val": "val.npz"},
        "steps": 4,
        "learning_rate": 1e-3,
        "precision": "float32",
        "validate_every": 2,
        "val_pairs": 2,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(contents | changes), encoding="utf-8")
    return path


def train(*arguments: object) -> int:
    return run(["train", *map(str, arguments), "--device", "cpu", "--threads", "1"])


def test_four_steps_end_to_end(recipe: Path, capsys: Capture) -> None:
    assert train(recipe, "--json") == 0
    out = capsys.readouterr()
    result = json.loads(out.out)
    assert (result["command"], result["status"], result["steps"]) == ("train", "ok", 4)
    assert result["weights"] == "runs/toy/best.safetensors"
    assert 0 < result["best_dice"] <= 1
    assert result["best_step"] in (2, 4)
    assert result["stopped_early"] is False
    assert "step 2: validation Dice" in out.err
    folder = recipe.parent / "runs" / "toy"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.safetensors",
        "log.csv",
        "state.safetensors",
    ]
    assert {value.dtype for value in load_file(folder / "best.safetensors").values()} == {torch.float16}
    with (folder / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert max(float(row["dice"]) for row in rows) == pytest.approx(result["best_dice"], abs=1e-5)


def test_a_second_run_resumes_and_restart_begins_again(recipe: Path, capsys: Capture) -> None:
    out = recipe.parent / "out"
    assert train(recipe, "-o", out, "--quiet") == 0
    first, err = capsys.readouterr()
    assert err == ""
    assert first == f"{out / 'best.safetensors'}\n"
    log = (out / "log.csv").read_text()
    assert train(recipe, "-o", out) == 0
    assert capsys.readouterr().out == first
    assert (out / "log.csv").read_text() == log
    write(recipe.parent, seed=9)
    assert train(recipe, "-o", out) == 65
    assert "another recipe" in capsys.readouterr().err
    assert train(recipe, "-o", out, "--restart") == 0
    assert len((out / "log.csv").read_text().splitlines()) == 3


def test_a_bad_recipe_is_a_data_error(recipe: Path, capsys: Capture) -> None:
    write(recipe.parent, learning_rte=1)
    assert train(recipe) == 65
    err = capsys.readouterr().err
    assert "neuroreg: error[65]: option learning_rte: Extra inputs are not permitted; toy.yaml" in err
    write(recipe.parent, config={"widht": 8})
    assert train(recipe, "--json") == 65
    error = json.loads(capsys.readouterr().out)
    assert (error["status"], error["code"]) == ("error", 65)
    assert "widht" in error["error"]["what"]


def test_missing_files_are_66(recipe: Path, capsys: Capture) -> None:
    assert train("none.yaml") == 66
    (recipe.parent / "val.npz").unlink()
    assert train(recipe) == 66
    assert "val.npz; make it with neuroreg train RECIPE --prepare DATA" in capsys.readouterr().err
    assert train(recipe, "--prepare", recipe.parent / "nowhere") == 66


def test_what_cannot_be_meant_is_2(recipe: Path, capsys: Capture) -> None:
    write(recipe.parent, method="neurorg")
    assert train(recipe) == 2
    assert "Did you mean 'neuroreg'" in capsys.readouterr().err
    write(recipe.parent, method="affine")
    assert train(recipe) == 2
    assert run(["train", str(write(recipe.parent)), "--device", "abacus"]) == 2
    assert train(recipe, "--prepare-only") == 2
    assert "--prepare DATA" in capsys.readouterr().err
    assert run(["train"]) == 2


def test_divergence_leaves_with_3_and_a_remedy(recipe: Path, capsys: Capture) -> None:
    write(recipe.parent, learning_rate=1e30, steps=30, validate_every=30)
    assert train(recipe) == 3
    assert "lower learning_rate and restart" in capsys.readouterr().err


def test_packs_that_exist_are_kept(recipe: Path, capsys: Capture) -> None:
    before = (recipe.parent / "train.npz").read_bytes()
    assert train(recipe, "--prepare", recipe.parent, "--prepare-only", "--json") == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == []
    assert (recipe.parent / "train.npz").read_bytes() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_scalars_are_written_on_request(recipe: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = recipe.parent / "runs" / "toy" / "tensorboard"
    assert train(recipe, "--tensorboard", "--quiet") == 0
    assert [path.name.startswith("events.out") for path in folder.iterdir()] == [True]
