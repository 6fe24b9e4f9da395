"""Wheel and sdist file by file: what the checkout has and the manifest names, and nothing else. Builds both."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from neuroreg import __version__
from neuroreg.tensors import PICKLES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
KINDS = {".py", ".css", ".html", ".js", ".json", ".txt", ".md", ".typed", ".safetensors", ".yaml"}
CODE = {".so", ".pyd", ".dll", ".exe", ".sh", ".pyc", ".npz", ".npy", ".gz", ".zip", *PICKLES}
STARTS = (b"PK\x03\x04", b"\x7fELF", b"MZ", b"#!", b"\x80\x02", b"\x80\x04", b"\x1f\x8b")
"""Of archives, programs and pickles."""


def pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("hatchling, which builds it, is not to be had here")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    assert found.name == f"neuroreg-{__version__}-py3-none-any.whl"
    return found


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert all(entry.external_attr >> 16 & 0o111 == 0 for entry in archive.infolist())
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def tracked(*folders: str) -> set[str]:
    """Files of the checkout; those of git where there is one."""
    done = subprocess.run(
        ["git", "ls-files", "--", *folders], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 0 and done.stdout:
        return set(done.stdout.splitlines())
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_is_the_package_and_the_weights_and_nothing_else(files: dict[str, bytes]) -> None:
    about = f"neuroreg-{__version__}.dist-info/"
    inside = {name for name in files if not name.startswith(about)}
    weights = {name.replace("weights/", "neuroreg/_weights/", 1) for name in tracked("weights")}
    assert inside == tracked("neuroreg") | weights
    assert {name.removeprefix(about) for name in files if name.startswith(about)} == {
        "METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    for name, content in files.items():
        if not name.startswith(about):
            source = name.replace("neuroreg/_weights/", "weights/", 1)
            assert (ROOT / source).read_bytes() == content, name
            assert PurePosixPath(name).suffix in KINDS
        is_weights = name.endswith(".safetensors") and content[8:9] == b"{"
        assert is_weights or not content.startswith(STARTS), name


def test_the_weights_are_those_of_the_manifest(files: dict[str, bytes]) -> None:
    listed = json.loads(files["neuroreg/_weights/manifest.json"])
    wanted = {"manifest.json"}
    for record in listed["models"]:
        for name, digest in {record["file"]: record["sha256"], **record.get("also", {})}.items():
            assert hashlib.sha256(files[f"neuroreg/_weights/{name}"]).hexdigest() == digest
            wanted.add(name)
        assert record["card"]
        assert record.get("recipe") or record.get("kind") != "network"
        wanted |= {record[part] for part in ("card", "recipe") if record.get(part)}
    assert {name.removeprefix("neuroreg/_weights/") for name in files if "/_weights/" in name} == wanted


def test_the_viewer_is_the_one_whose_sha256_is_written_down(files: dict[str, bytes]) -> None:
    said = json.loads(files["neuroreg/report/vendor/niivue.json"])
    digest = hashlib.sha256(files["neuroreg/report/vendor/niivue.umd.js"]).hexdigest()
    assert digest in said.values()


def test_the_sdist_holds_what_the_checkout_has(tmp_path: Path) -> None:
    hatchling = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    pip("install", "--quiet", "--target", str(tmp_path / "tools"), "hatchling>=1.27")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "tools")}
    subprocess.run([sys.executable, "-c", hatchling, str(tmp_path)], cwd=ROOT, env=environment, check=True)
    (found,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        members = archive.getmembers()
    top = f"neuroreg-{__version__}/"
    assert all(
        member.isfile() and member.name.startswith(top) and ".." not in member.name for member in members
    )
    names = {member.name.removeprefix(top) for member in members}
    singles = {
        "constraints.txt", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO",
        ".gitignore",
    }  # fmt: skip
    assert names == tracked("neuroreg", "weights", "examples", "tests") | singles
    assert not {PurePosixPath(name).suffix for name in names} & (CODE - {".sh"})


def test_the_wheel_verifies_its_weights_by_itself(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    environment = {key: value for key, value in os.environ.items() if key != "NEUROREG_HOME"}
    done = subprocess.run(
        [sys.executable, "-m", "neuroreg", "models", "verify", "--json"],
        env={**environment, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = json.loads((ROOT / "weights" / "manifest.json").read_text())["models"]
    assert json.loads(done.stdout)["verified"] == [record["name"] for record in listed]
    code = "import neuroreg.checkpoints as c; print(c.weights_home())"
    home = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert home.stdout.strip() == str(tmp_path / "site" / "neuroreg" / "_weights")
