"""models and doctor: exit codes, what stands on stdout, and what damage looks like."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neuroreg.cli import run
from neuroreg.pipeline import doctor


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with two networks, 'one' being the default of neuroreg."""
    folder = tmp_path / "weights"
    folder.mkdir()
    models = []
    for value, name in enumerate(("one", "two")):
        save_file({"w": torch.full((3,), float(value))}, folder / f"{name}.safetensors")
        sha256 = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
        models.append(
            {
                "name": name,
                "method": "neuroreg",
                "file": f"{name}.safetensors",
                "sha256": sha256,
                "licence": "CC0",
            }
        )
    manifest = {"schema": 1, "defaults": {"neuroreg": "one"}, "models": models}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("NEUROREG_HOME", str(folder))
    return folder


def test_list_shows_every_model_and_the_default(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list"]) == 0
    out, err = capsys.readouterr()
    assert "one (default)" in out
    assert "two" in out
    assert err == ""


def test_list_as_json_is_one_object(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["command"], found["status"]) == ("models list", "ok")
    assert [(m["name"], m["default"], m["licence"]) for m in found["models"]] == [
        ("one", True, "CC0"),
        ("two", False, "CC0"),
    ]
    assert str(home) not in json.dumps(found)


def test_verify_says_ok_of_every_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "verify"]) == 0
    assert capsys.readouterr().out.split() == ["ok", "one", "ok", "two"]
    assert run(["models", "verify", "two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"] == ["two"]


def test_verify_names_the_damaged_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "two.safetensors").write_bytes(b"damaged")
    assert run(["models", "verify"]) == 65
    out, err = capsys.readouterr()
    assert out.split() == ["ok", "one", "FAILED", "two"]
    assert err.startswith("neuroreg: error[65]: damaged weights")
    assert "two.safetensors" in err
    assert run(["models", "verify", "--json"]) == 65
    assert json.loads(capsys.readouterr().out)["code"] == 65


def test_verify_names_all_that_fail(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "one.safetensors").unlink()
    (home / "two.safetensors").write_bytes(b"damaged")
    assert run(["models", "verify"]) == 65
    assert "2 weight files are damaged or missing: one, two" in capsys.readouterr().err


def test_path_prints_where_they_lie(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "path"]) == 0
    assert capsys.readouterr().out == f"{home}\n"
    assert run(["models", "path", "two"]) == 0
    assert capsys.readouterr().out == f"{home / 'two.safetensors'}\n"
    assert run(["models", "path", "two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(home / "two.safetensors")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["models", "path", "tow"], 2, "Did you mean 'two'?"),
        (["models", "path", "no/such.safetensors"], 66, "no such weights file; such.safetensors"),
        (["models"], 2, "Missing command"),
    ],
)
def test_mistakes_are_answered_with_a_remedy(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"neuroreg: error[{code}]: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_missing_weights_folder_is_unavailable(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEUROREG_HOME", str(home / "nowhere"))
    assert run(["models", "list"]) == 69
    assert "NEUROREG_HOME" in capsys.readouterr().err


def test_doctor_looks_at_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    assert {"neuroreg", "torch", "SimpleITK", "devices", "threads", "memory", "disk", "weights one"} <= set(
        checks
    )
    assert checks["torch"]["found"] == torch.__version__
    assert "cpu" in checks["devices"]["found"]
    assert str(Path.home()) not in json.dumps(found)
    assert run(["doctor"]) == 0
    assert "weights two" in capsys.readouterr().out


def test_doctor_leaves_with_the_code_of_the_damage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "two.safetensors").write_bytes(b"damaged")
    assert run(["doctor", "--json"]) == 65
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "error"
    assert [c["name"] for c in found["checks"] if c["status"] == "fail"] == ["weights two"]
    (home / "two.safetensors").unlink()
    assert run(["doctor"]) == 69


def test_doctor_warns_of_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    disk = next(check for check in doctor.examine(tmp_path) if check.name == "disk")
    assert disk.status == "warn"


@pytest.mark.parametrize(("version", "status"), [("2.10.1+cpu", "fail"), ("2.11.0", "ok"), ("3.0", "ok")])
def test_doctor_refuses_a_torch_that_loads_weights_unsafely(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, status: str
) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda package: version)
    torch_check = next(check for check in doctor.examine(tmp_path) if check.name == "torch")
    assert torch_check.status == status
