"""Faults 64 to 66 of the catalogue through whole commands: damaged, foreign and malicious weights."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_phantoms import Planted, save_home

from neuroreg.cli import run
from neuroreg.methods import METHODS

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files to register, and a weights folder whose 'net' is an untrained network of the method neuroreg."""
    monkeypatch.chdir(tmp_path)
    for name in ("fixed.nii.gz", "moving.nii.gz"):
        Path(name).write_bytes(b"never read: the weights come first")
    home = save_home(tmp_path / "home")
    monkeypatch.setenv("NEUROREG_HOME", str(home))
    return home


def refused(capsys: pytest.CaptureFixture[str], weights: str) -> str:
    """The error line of a registration with these weights, which must leave with 65 and nothing else."""
    assert run(["register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", "--weights", weights]) == 65
    out, err = capsys.readouterr()
    assert out == ""
    assert not Path("out").exists()
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("neuroreg: error[65]: ")
    return lines[0]


def test_without_a_fault_the_weights_are_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "fixed.nii.gz" in refused(capsys, "net")  # the images are next, and they are no images


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_64_damaged_weights(folder: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    file = folder / "net.safetensors"
    data = file.read_bytes()
    flipped = data[:-3] + bytes([data[-3] ^ 0b100]) + data[-2:]
    file.write_bytes({"truncated": data[:-7], "flipped": flipped, "empty": b""}[damage])
    assert "sha256" in refused(capsys, "net")
    assert "sha256" in refused(capsys, "home/net.safetensors")
    assert run(["models", "verify"]) == 65


def test_64_weights_that_are_not_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = METHODS["neuroreg"].load()
    tensors = method(method.Config()).network.state_dict()
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, "mine.safetensors", metadata={"method": "neuroreg", "config": "{}"})
    assert "not finite" in refused(capsys, "mine.safetensors")


def test_65_another_architecture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {f"block{i}.weight": torch.zeros(2) for i in range(4)}
    save_file(tensors, "mine.safetensors", metadata={"method": "neuroreg", "config": "{}"})
    line = refused(capsys, "mine.safetensors")
    assert "missing encoder" in line
    assert "unexpected block0.weight, block1.weight, block2.weight and 1 more" in line


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "renamed.safetensors"])
@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_66_a_malicious_pickle(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, way: str
) -> None:
    trap = Planted(tmp_path / "ran")
    if way == "torch":
        torch.save(trap, name)
    else:
        Path(name).write_bytes(pickle.dumps(trap))
    assert "pickle" in refused(capsys, name)
    assert not (tmp_path / "ran").exists()
