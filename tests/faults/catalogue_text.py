"""Faults 64 to 67 of the catalogue: weights and manifests."""

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from catalogue_files import MOVING
from safetensors.torch import save_file
from scene import Answer, Fault, Scene

from neuroreg.methods import METHODS

MINE = "register", "fixed.nii.gz", MOVING, "-o", "out", "--weights", "mine.safetensors"
COMMON = "--affine", "none", "--outputs", "image,transform", "--jobs", "2"


def network() -> dict[str, torch.Tensor]:
    """The tensors of a small untrained network of the method neuroreg."""
    method = METHODS["neuroreg"].load()
    return dict(method(method.Config(features=4, width=8)).network.state_dict())


def own(tensors: Mapping[str, torch.Tensor]) -> Callable[[Path], object]:
    """A maker: a weight file of one's own, said to be of the method neuroreg."""
    said = {"method": "neuroreg", "config": json.dumps({"features": 4, "width": 8})}
    return lambda folder: save_file(dict(tensors), folder / "mine.safetensors", metadata=said)


def not_finite() -> Callable[[Path], object]:
    """A maker: one number of the network is NaN."""
    tensors = network()
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    return own(tensors)


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.trace,))


def pickles(scene: Scene) -> None:
    """A pickle is refused by its content, whatever its name, and never opened as one."""
    trap = Planted(scene.folder / "ran")
    for name in ("model.pt", "model.pth", "model.ckpt", "renamed.safetensors"):
        for write in (lambda path: torch.save(trap, path), lambda path: path.write_bytes(pickle.dumps(trap))):
            write(scene.folder / name)
            answer = scene.run(*MINE[:-1], name)
            assert answer.code == 65
            assert "pickle" in answer.error
            assert name in answer.error
    assert not (scene.folder / "ran").exists()
    assert not (scene.folder / "out").exists()


def published(scene: Scene, damage: Callable[[bytes], bytes]) -> Answer:
    """The answer to published weights that were damaged after their sha256 was written down."""
    home = scene.folder / "home"
    home.mkdir(exist_ok=True)
    save_file(network(), home / "net.safetensors")
    whole = (home / "net.safetensors").read_bytes()
    record = {
        "name": "net", "method": "neuroreg", "file": "net.safetensors",
        "sha256": hashlib.sha256(whole).hexdigest(), "config": {"features": 4, "width": 8},
    }  # fmt: skip
    (home / "manifest.json").write_text(json.dumps({"schema": 1, "models": [record]}))
    (home / "net.safetensors").write_bytes(damage(whole))
    scene.patch.setenv("NEUROREG_HOME", str(home))
    return scene.run(*MINE[:-1], "net")


def damaged_weights(scene: Scene) -> None:
    """Cut off, empty, or one bit of one number: the sha256 in the list tells, here and in `models verify`."""
    for damage in (
        lambda whole: whole[:-7],
        lambda whole: b"",
        lambda whole: whole[:-3] + bytes([whole[-3] ^ 0b100]) + whole[-2:],
    ):
        answer = published(scene, damage)
        assert answer.code == 65
        assert "sha256" in answer.error
        assert "net.safetensors" in answer.error
        assert scene.run("models", "verify").code == 65
        assert not (scene.folder / "out").exists()


def manifest(text: str) -> Callable[[Path], object]:
    """A maker: cohort.csv with this text."""
    return lambda folder: (folder / "cohort.csv").write_text(text, encoding="utf-8")


COHORT = "batch", "cohort.csv", "-o", "out", "--method", "toy", *COMMON
WRONG = """id,fixed,moving
../up,fixed.nii.gz,moving.nii.gz
one,fixed.nii.gz,/etc/passwd
two,fixed.nii.gz,none.nii.gz
two,fixed.nii.gz,moving.nii.gz
"""


def odd_tables(scene: Scene) -> None:
    """A byte order mark, semicolons, the ids 001 and NA: three cases called as they are written."""
    text = "\ufeffid;fixed;moving\n001;fixed.nii.gz;moving.nii.gz\nNA;fixed.nii.gz;moving.nii.gz\n"
    (scene.folder / "cohort.csv").write_text(text, encoding="utf-8")
    answer = scene.run(*COHORT, "--dry-run", "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["ids"] == ["001", "NA"]


FAULTS = (
    Fault(64, "weights cut off or with a flipped bit", 65, "named by file and sha256, also by `models verify`",
          play=damaged_weights),
    Fault(64, "weights that are not finite", 65,
          "weights that are not finite numbers in encoder.0.weight; mine.safetensors; train them again, or use "
          "other weights", not_finite(), words=MINE),
    Fault(65, "weights of another network", 65,
          "these weights do not fit this network: missing encoder.0.weight, encoder.0.bias, encoder.2.weight "
          "and 15 more, unexpected block0.weight, block1.weight, block2.weight and 1 more; mine.safetensors; "
          "use the method and options of the recipe that made them",
          own({f"block{i}.weight": torch.zeros(2) for i in range(4)}),
          words=MINE),
    Fault(66, "a pickle, also renamed .safetensors", 65, "refused by what it is, never unpickled", play=pickles),
    Fault(67, "manifest: `../`, absolute, missing, doubled", 2,
          "line 2: the id '../up' is not 1 to 64 of A-Z a-z 0-9 . _ - without a dot in front; line 3: moving: "
          "the file lies outside the folder of the manifest, give --root (passwd); line 4: moving: no such file"
          " (none.nii.gz); line 5: the id 'two' is that of line 4; cohort.csv; nothing was registered: mend the"
          " table", manifest(WRONG), words=COHORT),
    Fault(67, "manifest: no column moving", 2,
          "no column moving; cohort.csv; nothing was registered: mend the table",
          manifest("id,fixed\na,fixed.nii.gz\n"), words=COHORT),
    Fault(67, "manifest: BOM, `;`, ids 001 and NA", 0, "read as they are written", play=odd_tables),
)  # fmt: skip
