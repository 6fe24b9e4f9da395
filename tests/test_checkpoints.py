"""Weights are found from anywhere, verified before use, and loaded strictly or not at all."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neuroreg import checkpoints
from neuroreg.errors import DataError, NoInputError, UnavailableError, UsageError
from neuroreg.methods import METHODS

MakeHome = Callable[..., Path]


def network(width: int = 3) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))


def record_of(file: Path, **more: object) -> dict[str, object]:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"name": file.stem, "method": "neuroreg", "file": file.name, "sha256": sha256, **more}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeHome:
    """Builds a weights folder with the tensors of ``network`` as 'small' and lets NEUROREG_HOME name it."""

    def make(tensors: dict[str, torch.Tensor] | None = None, **more: object) -> Path:
        folder = tmp_path / "home"
        folder.mkdir(exist_ok=True)
        file = folder / "small.safetensors"
        save_file(network().state_dict() if tensors is None else tensors, file)
        listed = {"schema": 1, "defaults": {"neuroreg": "small"}, "models": [record_of(file, **more)]}
        (folder / "manifest.json").write_text(json.dumps(listed))
        monkeypatch.setenv("NEUROREG_HOME", str(folder))
        return folder

    return make


def rewrite(folder: Path, /, **changes: object) -> None:
    """Change fields of the one record in the manifest."""
    listed = json.loads((folder / "manifest.json").read_text())
    listed["models"][0].update(changes)
    (folder / "manifest.json").write_text(json.dumps(listed))


def test_the_package_finds_its_weights_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEUROREG_HOME", raising=False)
    here = checkpoints.weights_home()
    monkeypatch.chdir(tmp_path)
    assert checkpoints.weights_home() == here
    assert here.is_absolute()


@pytest.mark.parametrize("record", checkpoints.manifest(), ids=lambda r: r.name)
def test_every_record_of_the_package_keeps_its_promises(record: checkpoints.WeightRecord) -> None:
    checkpoints.verify(record)
    assert record.path.stat().st_size <= 15_000_000
    companions = [record.recipe, record.card] if record.kind == "network" else [record.card]
    for companion in companions:
        assert companion is not None
        assert (record.folder / companion).is_file()
    assert record.licence != "unknown"
    assert record.training_data != "unknown"
    if record.kind == "network":
        assert record.method in METHODS
        assert checkpoints.load_tensors(record)


def test_every_default_is_a_method_and_a_network() -> None:
    for method in METHODS:
        try:
            record = checkpoints.default_for(method)
        except UnavailableError:
            continue
        assert (record.kind, record.method) == ("network", method)


def test_a_name_is_found_and_its_tensors_arrive_exactly(home: MakeHome) -> None:
    home(config={"steps": 3}, spacing_mm=2.0)
    record = checkpoints.find("small")
    assert (record.method, record.config, record.spacing_mm) == ("neuroreg", {"steps": 3}, 2.0)
    assert checkpoints.default_for("neuroreg") == record
    other = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    checkpoints.load_into(other, record)
    for name, tensor in network().state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_half_precision_files_are_widened(home: MakeHome) -> None:
    home({name: t.half() for name, t in network().state_dict().items()})
    loaded = network()
    checkpoints.load_into(loaded, checkpoints.find("small"))
    assert next(loaded.parameters()).dtype == torch.float32


def test_a_misspelt_name_is_answered_with_the_near_one(home: MakeHome) -> None:
    home()
    with pytest.raises(UsageError, match="'smal'. Did you mean 'small'"):
        checkpoints.find("smal")


def test_a_method_without_weights_says_so(home: MakeHome) -> None:
    home()
    with pytest.raises(UnavailableError, match="'dualprnet' has no default weights.*--weights"):
        checkpoints.default_for("dualprnet")


def test_a_record_whose_file_is_missing_is_unavailable(home: MakeHome) -> None:
    (home() / "small.safetensors").unlink()
    with pytest.raises(UnavailableError, match=r"not on this machine; small\.safetensors"):
        checkpoints.find("small")


def test_a_home_without_manifest_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROREG_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"manifest\.json is missing"):
        checkpoints.manifest()


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../small.safetensors"},
        {"file": "/small.safetensors"},
        {"card": "a/b.md"},
        {"sha256": "abc"},
        {"surprise": 1},
        {"also": {"../x": "0" * 64}},
        {"kind": "other"},
        {"folder": "/"},
    ],
    ids=str,
)
def test_a_manifest_that_is_not_understood_is_refused(home: MakeHome, changes: dict[str, object]) -> None:
    rewrite(home(), **changes)
    with pytest.raises(DataError, match="list of weights cannot be read"):
        checkpoints.manifest()


def test_doubled_names_and_unknown_defaults_are_refused(home: MakeHome) -> None:
    folder = home()
    listed = json.loads((folder / "manifest.json").read_text())
    listed["models"] *= 2
    listed["defaults"]["affine"] = "nothing"
    (folder / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"\['small'\].*\['nothing'\]"):
        checkpoints.manifest()


def test_fault_64_truncated_weights_are_refused(home: MakeHome) -> None:
    file = home() / "small.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"damaged weights: sha256 .*; small\.safetensors"):
        checkpoints.load_tensors(checkpoints.find("small"))


def test_fault_64_one_flipped_bit_is_refused(home: MakeHome) -> None:
    file = home() / "small.safetensors"
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged weights"):
        checkpoints.load_tensors(checkpoints.find("small"))
    with pytest.raises(DataError, match="damaged weights"):
        checkpoints.verify(checkpoints.find("small"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(home: MakeHome, value: float) -> None:
    tensors = network().state_dict()
    tensors["2.weight"][0, 1] = value
    home(tensors)
    with pytest.raises(DataError, match=r"not finite numbers in 2\.weight"):
        checkpoints.load_tensors(checkpoints.find("small"))


def test_fault_65_another_architecture_names_the_first_keys(home: MakeHome) -> None:
    home({f"layer{i}.weight": torch.zeros(1) for i in range(5)})
    with pytest.raises(DataError) as caught:
        checkpoints.load_into(network(), checkpoints.find("small"))
    message = str(caught.value)
    assert "missing 0.weight, 0.bias, 2.weight and 1 more" in message
    assert "unexpected layer0.weight, layer1.weight, layer2.weight and 2 more" in message


def test_fault_65_another_shape_names_both_and_changes_nothing(home: MakeHome) -> None:
    home()
    wider = network(width=4)
    before = {name: t.clone() for name, t in wider.state_dict().items()}
    with pytest.raises(DataError, match=r"other shape 0\.weight \(3, 2\) for \(4, 2\)"):
        checkpoints.load_into(wider, checkpoints.find("small"))
    assert all(torch.equal(before[name], t) for name, t in wider.state_dict().items())


def test_weights_of_another_method_are_refused_by_their_metadata(home: MakeHome) -> None:
    folder = home()
    save_file(network().state_dict(), folder / "small.safetensors", metadata={"method": "dualprnet"})
    rewrite(folder, sha256=hashlib.sha256((folder / "small.safetensors").read_bytes()).hexdigest())
    with pytest.raises(DataError, match="belong to method 'dualprnet', not 'neuroreg'"):
        checkpoints.load_tensors(checkpoints.find("small"))


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "renamed.safetensors"])
@pytest.mark.parametrize("save", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))])
def test_fault_66_a_pickle_is_refused_and_never_opened(
    tmp_path: Path, name: str, save: Callable[[object, Path], None]
) -> None:
    trace = tmp_path / "opened"
    save(Planted(trace), tmp_path / name)
    with pytest.raises(DataError, match="a pickle.*was not opened"):
        checkpoints.find(tmp_path / name)
    assert not trace.exists()


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    lengths = set()
    for padding in range(256):  # headers are padded to multiples of 8: one of these ends in byte 0x80
        metadata = {"method": "voxelmorph", "config": "{}", "name": "x" * padding}
        save_file({"w": torch.ones(2)}, file, metadata=metadata)
        lengths.add(file.read_bytes()[0])
        assert checkpoints.find(file).method == "voxelmorph"
    assert 0x80 in lengths


def test_a_file_is_described_by_the_recipe_beside_it(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "My weights.safetensors", metadata={"method": "neuroreg"})
    recipe = (
        "method: neuroreg\nconfig: {features: 8, spacing_mm: 2.0}\ninference: {spacing_mm: 1.0}\nsteps: 9\n"
    )
    (tmp_path / "My weights.yaml").write_text(recipe)
    record = checkpoints.find(str(tmp_path / "My weights.safetensors"))
    assert (record.name, record.method) == ("my-weights", "neuroreg")
    assert record.config == {"features": 8, "spacing_mm": 1.0}
    checkpoints.load_into(network(), record)


def test_a_file_is_described_by_its_own_metadata(tmp_path: Path) -> None:
    said = {"method": "neuroreg", "config": '{"features": 8}'}
    save_file(network().state_dict(), tmp_path / "a.safetensors", metadata=said)
    assert checkpoints.read_metadata(tmp_path / "a.safetensors") == said
    record = checkpoints.find(tmp_path / "a.safetensors")
    assert (record.method, record.config) == ("neuroreg", {"features": 8})


def test_a_listed_file_keeps_its_record_and_its_checks(home: MakeHome) -> None:
    folder = home(licence="CC0")
    assert checkpoints.find(folder / "small.safetensors").licence == "CC0"


def test_a_file_that_nothing_describes_is_refused(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"which method.*put its recipe a\.yaml beside it"):
        checkpoints.find(tmp_path / "a.safetensors")
    (tmp_path / "a.yaml").write_text("- not\n- a recipe\n")
    with pytest.raises(DataError, match=r"does not name a method; a\.yaml"):
        checkpoints.find(tmp_path / "a.safetensors")


def test_a_file_that_is_not_safetensors_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("hello")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        checkpoints.find(tmp_path / "a.safetensors")
    with pytest.raises(NoInputError, match=r"no such weights file; b\.safetensors"):
        checkpoints.find(tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="not a file"):
        checkpoints.find(tmp_path)
