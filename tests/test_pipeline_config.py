"""Where a setting comes from, and the sentence for each that cannot be."""

import hashlib
import json
from pathlib import Path

import pytest

from neuroreg import checkpoints
from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.pipeline.config import OUTPUTS, read_config, resolve, resolve_shared, stem

PAIR = {"fixed": Path("f.nii.gz"), "moving": Path("m.b.nii.gz")}


def test_flags_beat_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('method = "demons"\nthreads = 1\nseed = 1\n[options]\nlevels = 2\nsigma = 1.5\n')
    monkeypatch.setenv("NEUROREG_THREADS", "2")
    monkeypatch.setenv("NEUROREG_SEED", "2")
    found = resolve({**PAIR, "seed": 3, "options": {"levels": 5}}, file)
    assert (found.method, found.threads, found.seed) == ("demons", 2, 3)
    assert found.options == {"levels": 5, "sigma": 1.5}
    assert resolve(PAIR).method == "neuroreg"


def test_a_flag_left_out_is_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROREG_OUTPUTS", "transform,image")
    monkeypatch.setenv("NEUROREG_STRICT_QC", "true")
    found = resolve({**PAIR, "outputs": None, "strict_qc": None})
    assert found.outputs == ("image", "transform")
    assert found.strict_qc


def test_brains_are_looked_for_when_a_flag_or_a_variable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not resolve(PAIR).find_brain
    assert resolve({**PAIR, "find_brain": True}).find_brain
    monkeypatch.setenv("NEUROREG_FIND_BRAIN", "1")
    assert resolve(PAIR).find_brain
    assert not resolve({**PAIR, "find_brain": False}).find_brain
    assert resolve_shared({}, defaults={"find_brain": False})["find_brain"] is True


def test_outputs_are_put_in_the_order_of_writing() -> None:
    assert resolve({**PAIR, "outputs": "report, image"}).outputs == ("image", "report")
    assert resolve({**PAIR, "outputs": "standard"}).outputs == OUTPUTS


def test_the_folder_is_named_after_both_images() -> None:
    assert resolve(PAIR).folder == Path("m.b_to_f")
    assert stem(Path("a.nii")) == "a"
    assert stem(Path("noend")) == "noend"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"threads": 0}, "option threads: Input should be greater than or equal to 1 .got 0."),
        ({"refine": "hard"}, "option refine: give fast, mid, std, best or a number"),
        ({"refine": "0"}, "option refine"),
        ({"affine": "afine"}, "Did you mean 'affine'"),
        ({"outputs": "image,moved"}, "unknown output moved; known: image"),
        ({"outputs": ""}, "unknown output"),
        ({"xform": "qfrom"}, "option xform"),
        ({"metod": "x"}, "option metod: Extra inputs are not permitted"),
        ({"options": "steps"}, "options must be a table"),
    ],
)
def test_a_setting_that_cannot_be_is_named(flags: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        resolve({**PAIR, **flags})


def test_missing_images_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="the moving image is missing"):
        resolve({"fixed": Path("f.nii")})


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        resolve(PAIR, tmp_path / "none.toml")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not valid TOML or JSON"):
        resolve(PAIR, tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match="a table"):
        resolve(PAIR, tmp_path / "list.json")


def record(folder: Path, text: str = "image") -> Path:
    (folder / "f.nii.gz").write_text(text)
    inputs = {"fixed": {"name": "f.nii.gz", "sha256": hashlib.sha256(b"image").hexdigest()}}
    run = {
        "schema_version": 1,
        "config": {"fixed": "f.nii.gz", "moving": "m.nii.gz", "seed": 9, "output": "o"},
    }
    (folder / "run.json").write_text(json.dumps({**run, "inputs": inputs}))
    return folder / "run.json"


def test_the_inputs_of_a_record_are_known_by_their_hash(tmp_path: Path) -> None:
    found = resolve({"moving": Path("other.nii.gz")}, record(tmp_path))
    assert found.fixed == tmp_path / "f.nii.gz"
    assert found.moving == Path("other.nii.gz")
    assert (found.seed, found.output) == (9, None)


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sha256 differs"):
        resolve({"moving": Path("m.nii.gz")}, record(tmp_path, "another image"))
    (tmp_path / "f.nii.gz").unlink()
    with pytest.raises(NoInputError, match="name every input"):
        resolve({"moving": Path("m.nii.gz")}, tmp_path / "run.json")
    given = resolve({"fixed": Path("x.nii"), "moving": Path("m.nii.gz")}, tmp_path / "run.json")
    assert given.fixed == Path("x.nii")


def test_an_input_named_again_is_not_looked_for(tmp_path: Path) -> None:
    path = record(tmp_path)
    run = json.loads(path.read_text())
    run["inputs"]["fixed_labels"] = {"name": "elsewhere.nii.gz", "sha256": "0"}
    path.write_text(json.dumps(run))
    given = {"moving": Path("m.nii.gz"), "fixed_labels": Path("seg/f.nii.gz")}
    assert resolve(given, path).fixed_labels == Path("seg/f.nii.gz")


def test_a_record_is_not_repeated_with_other_weights(tmp_path: Path) -> None:
    path, moving = record(tmp_path), Path("m.nii.gz")
    known = checkpoints.default_for("neuroreg")
    run = json.loads(path.read_text())
    run["config"]["method"], run["weights"] = "neuroreg", {"name": known.name, "sha256": known.sha256}
    path.write_text(json.dumps(run))
    assert resolve({"moving": moving}, path).method == "neuroreg"
    run["weights"]["sha256"] = "0" * 64
    path.write_text(json.dumps(run))
    with pytest.raises(DataError, match="not those of the recorded run"):
        resolve({"moving": moving}, path)
    assert resolve({"moving": moving, "weights": known.name}, path).weights == known.name


def test_settings_of_many_need_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('method = "demons"\nseed = 1\n[options]\nlevels = 2\nsigma = 1.5\n')
    monkeypatch.setenv("NEUROREG_SEED", "2")
    found = resolve_shared({"threads": 3, "frame": None, "options": {"levels": 5}}, file)
    assert {name: found[name] for name in ("method", "seed", "threads")} == {
        "method": "demons", "seed": 2, "threads": 3,
    }  # fmt: skip
    assert found["options"] == {"levels": 5, "sigma": 1.5}
    assert set(found) == {"method", "seed", "threads", "options"}
    with pytest.raises(UsageError, match="option frame"):
        resolve_shared({"frame": -1})


def test_of_a_record_many_take_the_settings_and_no_images(tmp_path: Path) -> None:
    path = record(tmp_path)
    (tmp_path / "f.nii.gz").unlink()
    assert resolve_shared({}, path) == {"seed": 9, "options": {}}


@pytest.mark.parametrize(
    "inputs", [{"fixed": 1}, {"also:0": {"sha256": "0"}}, {"moving": {"name": "m.nii", "sha256": None}}]
)
def test_a_record_without_its_files_is_none(tmp_path: Path, inputs: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 2, "config": {}, "inputs": inputs}))
    with pytest.raises(DataError, match="not the record"):
        read_config(tmp_path / "run.json", given=set())


def test_a_name_no_file_can_have_is_not_there(tmp_path: Path) -> None:
    inputs = {"fixed": {"name": "x" * 300, "sha256": "0"}}
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 2, "config": {}, "inputs": inputs}))
    with pytest.raises(NoInputError):
        read_config(tmp_path / "run.json", given=set())


def test_a_table_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(DataError):
        read_config(tmp_path / "a.toml", given=set())
