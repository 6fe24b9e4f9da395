"""Faults 64 to 66 by the hundred: flipped bits in what is shipped, and weights, recipes and lists made to do harm."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_phantoms import DESCRIBED, Planted, save_home, save_raw, small_tensors

from neuroreg import checkpoints
from neuroreg.cli import run
from neuroreg.errors import DataError

pytestmark = pytest.mark.faults

FLIPS = 24
MINE = Path("mine.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files to register, and a weights folder of one network."""
    monkeypatch.chdir(tmp_path)
    for name in ("fixed.nii.gz", "moving.nii.gz"):
        Path(name).write_bytes(b"never read: the weights come first")
    monkeypatch.setenv("NEUROREG_HOME", str(save_home(tmp_path / "home")))
    return tmp_path / "home"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 65) -> str:
    """The error line of a command, which must leave with ``code``, one plain line and nothing else."""
    got = run(arguments)
    out, err = capsys.readouterr()
    assert (got, out) == (code, ""), err
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith(f"neuroreg: error[{code}]: ")
    assert lines[0].isprintable()
    assert len(lines[0]) < 700
    return lines[0]


def register(capsys: pytest.CaptureFixture[str], weights: object = MINE, *, code: int = 65) -> str:
    """A registration with these weights, refused before the images are looked at."""
    line = refused(
        capsys, "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", "--weights", str(weights), code=code
    )
    assert "fixed.nii.gz" not in line
    assert not Path("out").exists()
    return line


@pytest.mark.parametrize("record", checkpoints.manifest(), ids=lambda record: record.name)
def test_64_no_flipped_bit_of_a_shipped_file_is_loaded(
    record: checkpoints.WeightRecord, tmp_path: Path
) -> None:
    copy = record.model_copy(update={"folder": tmp_path})
    shutil.copyfile(record.path, copy.path)
    size, draw = copy.path.stat().st_size, random.Random(record.name)
    with copy.path.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
    parts = ((0, 8), (8, header), (header, size))  # the header's length, names and metadata, tensors
    places = [draw.randrange(*parts[k % 3]) * 8 + draw.randrange(8) for k in range(FLIPS)]
    for place in [*places, 0, size * 8 - 1]:
        flip(copy.path, place)
        with pytest.raises(DataError, match=r"sha256|pickle"):
            checkpoints.load_tensors(copy)
        flip(copy.path, place)
    checkpoints.load_tensors(copy)  # and every bit is back


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(bit // 8)
        (byte,) = stream.read(1)
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))


def test_64_damaged_files_are_all_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(checkpoints.weights_home(), home)
    monkeypatch.setenv("NEUROREG_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    for name in ("f.nii.gz", "m.nii.gz"):
        Path(name).write_bytes(b"never read: the weights come first")
    assert run(["models", "verify"]) == 0
    names = [record.name for record in checkpoints.manifest()]
    for number, record in enumerate(checkpoints.manifest()):
        flip(record.path, (8, 200, record.path.stat().st_size - 1)[number % 3] * 8)
    capsys.readouterr()
    assert run(["models", "verify"]) == 65
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"FAILED  {name}" for name in names]
    assert all(name in err for name in names)
    assert run(["doctor"]) == 65
    assert run(["register", "f.nii.gz", "m.nii.gz", "-o", "out"]) == 65
    assert "damaged weights: sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (torch.int32, "no real numbers encoder.0.weight"),
        (torch.bool, "no real numbers encoder.0.weight"),
        (torch.complex64, "no real numbers encoder.0.weight"),
        (torch.float8_e4m3fn, "no real numbers encoder.0.weight"),
    ],
    ids=str,
)
def test_65_numbers_of_another_kind_are_never_converted(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: torch.dtype, says: str
) -> None:
    tensors = small_tensors()
    tensors["encoder.0.weight"] = tensors["encoder.0.weight"].to(kind)
    save_file(tensors, MINE, metadata=DESCRIBED)
    assert says in register(capsys)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300], ids=str)
def test_65_values_that_float32_cannot_hold(
    folder: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    tensors = small_tensors()
    tensors["encoder.0.weight"] = tensors["encoder.0.weight"].double()
    tensors["encoder.0.weight"].view(-1)[3] = value
    save_file(tensors, MINE, metadata=DESCRIBED)
    assert "not finite numbers in encoder.0.weight" in register(capsys)
    assert "not finite numbers" in refused_after_listing(capsys, "models", "verify", str(MINE))


def refused_after_listing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line of a command that says which files failed before it leaves with 65."""
    assert run(arguments) == 65
    out, err = capsys.readouterr()
    assert out.startswith("FAILED")
    return err.splitlines()[-1]


def test_a_file_of_ones_own_is_not_called_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(small_tensors(), MINE, metadata=DESCRIBED)
    assert run(["models", "verify", str(MINE)]) == 0
    assert "mine: not published with this program; its numbers alone are checked" in capsys.readouterr().err


def test_65_tensors_missing_and_too_many(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = small_tensors()
    del tensors["encoder.0.bias"]
    tensors |= {name: torch.zeros(1) for name in ("x\x1b[31m\u202e", "y" * 5000, "a", "b", "c")}
    save_file(tensors, MINE, metadata=DESCRIBED)
    line = register(capsys)
    assert "missing encoder.0.bias, unexpected a, b, c and 2 more" in line
    del tensors["a"], tensors["b"], tensors["c"]
    save_file(tensors, MINE, metadata=DESCRIBED)
    assert f"unexpected x?[31m?, {'y' * 79}…; mine" in register(capsys)


F32 = {"dtype": "F32", "shape": [2]}
HEADERS: dict[str, tuple[object, bytes, int | None]] = {
    "huge": (b"{}", b"", 2**63),
    "longer than the file": (b"{}", b"", 99_000_000),
    "overlapping": (
        {"a": {**F32, "data_offsets": [0, 8]}, "b": {**F32, "data_offsets": [4, 12]}},
        bytes(12),
        None,
    ),
    "a gap": ({"a": {**F32, "data_offsets": [0, 8]}, "b": {**F32, "data_offsets": [9, 17]}}, bytes(17), None),
    "past the end": ({"a": {**F32, "data_offsets": [0, 8]}}, bytes(4), None),
    "backwards": ({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8), None),
    "negative": ({"a": {**F32, "data_offsets": [-8, 0]}}, bytes(8), None),
    "bytes after the last": ({"a": {**F32, "data_offsets": [0, 8]}}, bytes(9), None),
    "another size": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8), None),
    "no such type": ({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, bytes(8), None),
    "overflow": ({"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 8]}}, bytes(8), None),
    "nested without end": (b'{"a":' * 100_000, b"", None),
    "no JSON": (b"\xff\xfe{}", b"", None),
    "metadata no texts": ({"__metadata__": {"method": 1}}, b"", None),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_64_headers_that_lie(
    folder: Path, capsys: pytest.CaptureFixture[str], header: tuple[bytes, bytes, int | None]
) -> None:
    save_raw(MINE, header[0], header[1], length=header[2])
    assert "not a readable safetensors file" in register(capsys)


def test_64_more_bytes_than_memory_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = 400_000_000_000  # sparse: it takes no room
    header = {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}, "__metadata__": DESCRIBED}
    save_raw(MINE, header)
    os.truncate(MINE, MINE.stat().st_size + size)
    assert "400.0 GB are more than weights can have" in register(capsys)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[]", "valid dictionary"),
        ('{"features": NaN}', "NaN is no JSON number"),
        ('{"features": 1e999}', "too large a number"),
        ('{"features": 4, "features": 8}', "'features' is there twice"),
        ('{"nonsense": 1}', "option nonsense"),
        ('{"features": "\\u001b[31m"}', "option features"),
        ('{"features": 1000000}', "other shape"),
        ('{"features": 1000000000}', "no network can have the options"),
    ],
    ids=lambda text: text[:24],
)
def test_65_metadata_made_to_do_harm(
    folder: Path, capsys: pytest.CaptureFixture[str], config: str, says: str
) -> None:
    save_file(small_tensors(), MINE, metadata={"method": "neuroreg", "config": config})
    assert says in register(capsys)


LAYER = ", ".join(["x"] * 10)
BOMB = f"a0: &a0 [{LAYER}]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12)
)
"""A thousand bytes that are 10^12 words once they are written out."""

RECIPES = {
    "method: !!python/object/apply:os.system ['touch ran']\n": "python/object",
    "method: neuroreg\nconfig: !!python/object/new:pathlib.Path [ran]\n": "python/object",
    f"{BOMB}method: neuroreg\nconfig: {{features: *a11}}\n": "only texts and numbers may be repeated",
    "method: neuroreg\nconfig: &a {x: *a}\n": "only texts and numbers may be repeated",
    "method: neuroreg\nmethod: dualprnet\n": "'method' is there twice",
    "method: neuroreg\nconfig: [1, 2]\n": "no tables of options",
    "method: neuroreg\nconfig: hello\n": "no tables of options",
    "method: neuroreg\nconfig: {1: 2}\n": "valid string",
    "method: neuroreg\nconfig: {features: 2020-01-01}\n": "valid JSON",
    "method: neuroreg\nconfig: " + "[" * 20_000: "nested too deeply",
    "method: neuroreg\nconfig: {features: .nan}\n": "finite number",
    f"method: {'9' * 5000}\n": "cannot be read",
    "#" * 2**20 + "\nmethod: neuroreg\n": "longer than",
    "config: {}\n": "does not name a method",
}


@pytest.mark.parametrize(("text", "says"), RECIPES.items(), ids=range(len(RECIPES)))
def test_66_recipes_made_to_do_harm(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    save_file(small_tensors(), MINE)
    MINE.with_suffix(".yaml").write_text(text)
    assert says in register(capsys)
    assert "error[65]" in refused(capsys, "train", "mine.yaml", "-o", "trained")
    assert {path.name for path in Path().iterdir()} <= {
        "fixed.nii.gz", "moving.nii.gz", "home", "mine.safetensors", "mine.yaml",
    }  # fmt: skip


def test_65_a_recipe_of_another_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(small_tensors(), MINE)
    assert "put its recipe mine.yaml beside it" in register(capsys)
    MINE.with_suffix(".yaml").write_text("method: voxelmorph\nconfig: {}\n")
    assert "are for method 'voxelmorph', not 'neuroreg'" in register(capsys, code=2)
    MINE.with_suffix(".yaml").write_text("method: neuroreg\nconfig: {features: 6, width: 8}\n")
    assert "other shape encoder.0.weight (4, 2, 3, 3, 3) for (6, 2, 3, 3, 3)" in register(capsys)
    MINE.with_suffix(".yaml").write_text('method: "\\e[31mnone\\u202e"\n')
    register(capsys, code=2)


def test_66_pickles_under_every_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("m.pt", "m.PT", "m.ckpt", "m.bin", "m.pkl", "m.pt2", "m.safetensors", "m.zip", "m"):
        torch.save(Planted(tmp_path / "ran"), name)
        for arguments in (["models", "verify"], ["models", "path"]):
            assert "pickle" in refused(capsys, *arguments, f"./{name}")
        assert "pickle" in register(capsys, f"./{name}")
    shutil.copyfile("m.pt", folder / "net.safetensors")
    assert "pickle" in register(capsys, "net")
    assert not Path("ran").exists()


def test_weights_that_are_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.safetensors")
    Path("folder.safetensors").mkdir()
    Path("zero.safetensors").symlink_to("/dev/zero")
    Path("loop.safetensors").symlink_to("loop.safetensors")
    for name in ("pipe.safetensors", "folder.safetensors", "zero.safetensors"):
        assert "not a file" in register(capsys, name, code=2)
    for name in ("loop.safetensors", "y" * 300 + ".safetensors", "y" * 300, "a\udcff.safetensors", "no/such"):
        register(capsys, name, code=66)


def test_weights_that_are_a_link(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(small_tensors(), MINE, metadata=DESCRIBED)
    Path("link.safetensors").symlink_to(MINE)
    assert run(["models", "verify", "link.safetensors"]) == 0
    (folder / "net.safetensors").rename("elsewhere.safetensors")
    (folder / "net.safetensors").symlink_to(Path("elsewhere.safetensors").resolve())
    assert run(["models", "verify", "net"]) == 0  # the bytes are those of the list
    (folder / "net.safetensors").unlink()
    (folder / "net.safetensors").symlink_to(MINE.resolve())
    capsys.readouterr()
    assert "sha256" in register(capsys, "net")


LISTS: dict[str, object] = {
    "schema": {"schema": 2, "models": []},
    "no models": [],
    "path": {"file": "../net.safetensors"},
    "absolute": {"file": "/etc/passwd"},
    "new line": {"card": "net.md\n"},
    "hidden": {"recipe": ".net.yaml"},
    "NUL": {"file": "a\0b"},
    "long": {"file": "a" * 300},
    "also": {"also": {"../../x": "0" * 64}},
    "name": {"name": "Net\x1b[31m"},
    "path as a name": {"name": "../net"},
    "not hex": {"sha256": "Z" * 64},
    "folder": {"folder": "/"},
    "not finite": b'{"schema": 1, "models": [], "defaults": {}, "x": NaN}',
    "nested": b"[" * 100_000,
    "not UTF-8": b'{"schema": 1, "models": [], "defaults": {"a": "\xff"}}',
    "twice": b'{"schema": 1, "models": [], "models": []}',
    "long text": b" " * (2**20 + 1) + b"{}",
    "empty": b"",
}


@pytest.mark.parametrize("change", LISTS.values(), ids=LISTS.keys())
def test_lists_of_weights_made_to_do_harm(
    folder: Path, capsys: pytest.CaptureFixture[str], change: object
) -> None:
    path = folder / "manifest.json"
    contents = json.loads(path.read_text())
    if isinstance(change, dict) and "schema" not in change:
        contents["models"][0] |= change
        change = contents
    path.write_bytes(change if isinstance(change, bytes) else json.dumps(change).encode())
    for arguments in (["models", "list"], ["models", "verify"], ["models", "path", "net"]):
        assert "the list of weights cannot be read" in refused(capsys, *arguments)
    assert "the list of weights cannot be read" in register(capsys, "net")
    assert run(["doctor"]) == 65
    assert "the list of weights cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "\x1b[31mnone"},
        {"method": None},
        {"kind": "template", "method": None},
        {"config": {"x": [1]}},
    ],
    ids=str,
)
def test_records_that_mean_something_else(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    path = folder / "manifest.json"
    contents = json.loads(path.read_text())
    contents["models"][0] |= changes
    path.write_text(json.dumps(contents))
    register(capsys, "net", code=65 if "config" in changes else 2)


def test_a_hostile_list_is_shown_as_plain_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "<script>alert(1)</script> =cmd|' \x1b]0;title\x07\x9b31m\u202e\u200b [red] {{ 7*7 }} %s\nline\ttab\ud800"
    path = folder / "manifest.json"
    contents = json.loads(path.read_text())
    contents["models"][0] |= {"licence": text, "training_data": text, "method": text, "numbers": {text: text}}
    path.write_text(json.dumps(contents))
    for arguments in (["models", "list"], ["doctor"], ["models", "verify"]):
        assert run(arguments) == 0
        shown = "".join(capsys.readouterr())
        assert all(line.isprintable() for line in shown.replace("\t", "").splitlines())
    assert run(["models", "list", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)["models"][0]["licence"] == text


def test_a_home_that_is_none(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")  # opening it would wait for ever
    for home in (str(folder), "/dev/null", "/proc/self/root/nowhere", "y" * 300, "~nobody-here/x"):
        monkeypatch.setenv("NEUROREG_HOME", home)
        assert "manifest.json is missing" in refused(capsys, "models", "list", code=69)
        assert run(["doctor"]) == 69
        capsys.readouterr()
