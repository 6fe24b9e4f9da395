"""The affine found by a network: alone, before another method, and by a method that brings its own."""

import json
from pathlib import Path
from typing import Any

import pipeline_phantoms as phantoms
import pytest
import torch
from safetensors.torch import save_file

from neuroreg import cli
from neuroreg.errors import DataError, UnavailableError, UsageError
from neuroreg.io.files import sha256
from neuroreg.io.transforms import read_transform
from neuroreg.methods import METHODS
from neuroreg.methods.jointaffine import JointAffine
from neuroreg.pipeline.config import RegisterConfig, resolve
from neuroreg.pipeline.engine import AffinePart, load_engine
from neuroreg.pipeline.register import plan, register
from neuroreg.registry import Entry

OPTIONS = {"widths": [4, 4, 4, 4], "decoder_widths": [4, 4, 4], "regions": [2, 3, 4, 5]}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    phantoms.leave_sides_unjudged(monkeypatch)
    monkeypatch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return phantoms.save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder whose jointaffine is untrained: its pooled head lays centres of mass on each other."""
    folder = tmp_path / "home"
    folder.mkdir()
    torch.manual_seed(0)
    made = JointAffine(JointAffine.Config.model_validate(OPTIONS))
    file = folder / "small.safetensors"
    save_file(made.network.state_dict(), file)
    record = {
        "name": "small",
        "method": "jointaffine",
        "file": file.name,
        "sha256": sha256(file),
        "config": OPTIONS,
    }
    manifest = {"schema": 1, "defaults": {"jointaffine": "small"}, "models": [record]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("NEUROREG_HOME", str(folder))
    return folder


def config(pair: tuple[Path, Path], folder: Path, **settings: Any) -> RegisterConfig:
    given = {
        "threads": 1,
        "fixed": pair[0],
        "moving": pair[1],
        "output": folder,
        "outputs": "affine",
        **settings,
    }
    return RegisterConfig(**given)


def misses_mm(folder: Path) -> float:
    """How far the written affine is from the true shift at the middle of the head."""
    found = read_transform(folder / "affine.mat")
    centre = torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    return float((found(centre) - centre - torch.tensor(phantoms.SHIFT_MM, dtype=torch.float64)).norm())


@pytest.mark.usefixtures("home")
def test_the_affine_alone_by_the_network(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed, moving = map(str, pair)
    words = [
        "affine",
        fixed,
        moving,
        "-o",
        str(tmp_path / "out"),
        "--method",
        "jointaffine",
        "--threads",
        "1",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--outputs", "affine"])
    assert ended.value.code == 0
    capsys.readouterr()
    assert misses_mm(tmp_path / "out") < 1.0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["config"]["method"], record["config"]["affine"]) == ("affine", "jointaffine")
    assert record["weights"]["name"] == "small"
    assert set(record["method_options"]) == {"jointaffine"}
    assert record["method_options"]["jointaffine"]["head"] == "pooled"


def test_a_run_by_the_network_can_be_repeated_with_the_same_weights_alone(
    pair: tuple[Path, Path], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(config(pair, tmp_path / "a", method="affine", affine="jointaffine"))
    register(config(pair, tmp_path / "b", method="toy", affine="jointaffine"))
    monkeypatch.chdir(pair[0].parent)
    for name in "ab":
        assert resolve({}, tmp_path / name / "run.json").affine == "jointaffine"
    file, listed = home / "small.safetensors", json.loads((home / "manifest.json").read_text())
    save_file(JointAffine(JointAffine.Config.model_validate(OPTIONS)).network.state_dict(), file)
    listed["models"][0]["sha256"] = sha256(file)
    (home / "manifest.json").write_text(json.dumps(listed))
    for name in "ab":
        with pytest.raises(DataError, match="not those of the recorded run"):
            resolve({}, tmp_path / name / "run.json")


@pytest.mark.usefixtures("home")
def test_before_another_method(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = register(
        config(pair, tmp_path / "out", method="toy", affine="jointaffine", options={"amplitude": 0.2})
    )
    assert misses_mm(tmp_path / "out") < 1.0
    assert done.weights is None
    assert done.affine_weights is not None
    assert done.affine_weights["name"] == "small"
    assert list(done.method_options) == ["jointaffine", "toy"]
    assert done.method_options["toy"]["amplitude"] == 0.2


@pytest.mark.usefixtures("home")
def test_the_method_brings_its_own_affine_unless_told_otherwise(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert config(pair, tmp_path, method="jointaffine").affine == "jointaffine"
    assert resolve({"fixed": pair[0], "moving": pair[1], "method": "jointaffine"}).affine == "jointaffine"
    assert config(pair, tmp_path, method="jointaffine", affine="none").affine == "none"
    assert config(pair, tmp_path, method="toy").affine == "affine"
    engine = load_engine(config(pair, tmp_path, method="jointaffine"))
    assert isinstance(engine.affine, AffinePart)
    assert engine.affine.whole is engine.method
    assert engine.affine_weights is None
    classical = load_engine(config(pair, tmp_path, method="jointaffine", affine="affine"))
    assert classical.affine is classical.referee
    done = register(config(pair, tmp_path / "out", method="jointaffine"))
    assert misses_mm(tmp_path / "out") < 1.0
    assert list(done.method_options) == ["jointaffine"]
    assert done.qc.figures["folded_percent"] == 0.0


@pytest.mark.usefixtures("home")
def test_the_affine_part_is_described_by_its_method(pair: tuple[Path, Path], tmp_path: Path) -> None:
    part = load_engine(config(pair, tmp_path, method="affine", affine="jointaffine")).affine
    assert isinstance(part, AffinePart)
    assert (part.spacing_mm, part.divisor) == (2.0, part.whole.divisor)
    assert part.network is part.whole.network
    assert part.config is part.whole.config


@pytest.mark.usefixtures("home")
def test_options_and_weights_go_to_what_finds_the_affine(pair: tuple[Path, Path], tmp_path: Path) -> None:
    made = load_engine(config(pair, tmp_path, method="affine", affine="jointaffine", options={"polish": 2}))
    assert isinstance(made.affine, AffinePart)
    assert made.affine.whole.config.polish == 2
    with pytest.raises(UsageError, match="option of method jointaffine"):
        load_engine(config(pair, tmp_path, method="affine", affine="jointaffine", options={"dof": 6}))
    with pytest.raises(UsageError, match="'affine' has no weights"):
        load_engine(config(pair, tmp_path, method="affine", weights="small"))


def test_without_weights_it_says_so(pair: tuple[Path, Path], tmp_path: Path, home: Path) -> None:
    (home / "manifest.json").write_text(json.dumps({"schema": 1, "defaults": {}, "models": []}))
    for settings in ({"method": "affine"}, {"method": "toy"}, {"method": "jointaffine"}):
        with pytest.raises(UnavailableError, match="'jointaffine' has no default weights"):
            plan(config(pair, tmp_path / "out", affine="jointaffine", **settings))


def test_an_unknown_finder_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'jointaffine'"):
        config(pair, tmp_path, affine="jointafine")
