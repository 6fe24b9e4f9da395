"""What networks learn from, the template and the tables of names: right structures are on the right everywhere."""

import csv
import json
from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from left_right_sides import check_sides
from numpy.typing import NDArray

from neuroreg.cli import run
from neuroreg.io.images import write_image
from neuroreg.pipeline.template import Template, load_template
from neuroreg.training.data import Augmentation, PackedSet, draw_pair, load_pack

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = {47: "Lobe_R", 48: "Lobe_L", 31: "Front_R", 60: "Front_L", 75: "Low_R", 76: "Low_L", 4: "Middle"}
BLOBS = {47: (31, -1, 9), 48: (-27, -1, 9), 31: (20, 38, 12), 60: (-18, 38, 12), 75: (22, -30, -20),
         76: (-20, -30, -20), 4: (2, 5, 30)}  # fmt: skip
"""RAS mm of the middles of the regions"""


def regions(points: phantoms.Array) -> NDArray[np.int32]:
    found = np.where(phantoms.head(points) > 0, 1, 0).astype(np.int32)
    for label, place in BLOBS.items():
        found[((phantoms.lps(points) - place) ** 2).sum(-1) < 10.0**2] = label
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three heads in unlike axis orders, packed by ``train --prepare --prepare-only``."""
    folder = tmp_path_factory.mktemp("prepare")
    rows = [("id", "split")]
    for number, order in enumerate((5, 26, 43)):
        where = phantoms.grid(order, degrees=6.0 * number - 5)
        for kind, made in (("t1", phantoms.head), ("seg", regions)):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            phantoms.save_nifti(phantoms.image(where, made), folder / "data" / kind / f"s{number}.nii.gz")
        rows.append((f"s{number}", "train" if number < 2 else "val"))
    for name, table in (("data/splits", rows), ("names", [("label", "name"), *NAMES.items()])):
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(table)
    recipe = {
        "name": "toy", "method": "neuroreg", "steps": 6, "seed": 3, "learning_rate": 1e-3,
        "config": {"spacing_mm": 2.0, "plan": [[4, 1], [2, 1]], "features": 4, "width": 8, "dice_rois": 2},
        "data": {"train": str(folder / "train.npz"), "val": str(folder / "val.npz")},
        "precision": "float32", "validate_every": 3, "val_pairs": 2,
    }  # fmt: skip
    (folder / "toy.yaml").write_text(json.dumps(recipe))
    words = ["train", folder / "toy.yaml", "--prepare", folder / "data", "--prepare-only", "-q"]
    assert run([*map(str, words), "--label-names", str(folder / "names.csv")]) == 0
    return folder


def middles(labels: NDArray[np.generic], geometry: dict[str, list[float]]) -> dict[int, phantoms.Array]:
    """Label -> RAS mm of its middle; labels (Z, Y, X) on a grid as the pack says it."""
    matrix = np.reshape(geometry["direction"], (3, 3)) * np.array(geometry["spacing"])
    index = {int(k): np.argwhere(labels == k).mean(axis=0)[::-1] for k in np.unique(labels) if k > 1}
    return {k: phantoms.lps(matrix @ at + geometry["origin"]) for k, at in index.items()}


def apart(found: dict[int, phantoms.Array]) -> dict[str, phantoms.Array]:
    """Name without side -> how far the right one lies from the left one, RAS mm."""
    ids = {name: label for label, name in NAMES.items()}
    return {n[:-2]: found[ids[n]] - found[ids[f"{n[:-2]}_L"]] for n in ids if n.endswith("_R")}


@pytest.mark.faults
@pytest.mark.parametrize("split", ["train", "val"])
def test_packed_heads_have_the_right_on_the_right(folder: Path, split: str) -> None:
    content = np.load(folder / f"{split}.npz", allow_pickle=False)
    geometry = json.loads(str(content["geometry"]))
    for image, labels in zip(content["images"], content["labels"], strict=True):
        found = middles(labels, geometry)
        for name, gap in apart(found).items():
            assert gap[0] > 30, f"{name}: the right one is {gap} mm from the left one"
        bright = {label: image[labels == label].mean() for label in BLOBS}
        assert max(bright, key=bright.__getitem__) == 47  # the ball on the right
    assert {a: b for a, b in enumerate(content["mirror"].tolist()) if a != b} == {
        47: 48, 48: 47, 31: 60, 60: 31, 75: 76, 76: 75
    }  # fmt: skip


@pytest.mark.faults
def test_a_mirror_in_training_keeps_the_names_on_their_sides(folder: Path) -> None:
    data = load_pack(folder / "train.npz")
    assert isinstance(data, PackedSet)
    still = {
        "shared_affine": 0.0,
        "moving_affine": 0.0,
        "moving_shift": 0.0,
        "gamma": 0.0,
        "bias": 0.0,
        "noise": 0.0,
    }
    geometry = {key: getattr(data.geometry, key) for key in ("direction", "spacing", "origin")}
    for mirror in (0.0, 1.0):
        batch = draw_pair(data, Augmentation(mirror=mirror, **still), torch.Generator().manual_seed(1))
        for side in ("fixed", "moving"):
            labels, image = (getattr(batch, name)[0, 0] for name in (f"{side}_labels", side))
            for name, gap in apart(middles(labels.numpy(), geometry)).items():
                assert gap[0] > 30, f"{name}: the right one is {gap} mm from the left one"
            bright = {label: float(image[labels == label].mean()) for label in (47, 48)}
            assert (bright[47] > bright[48]) == (mirror == 0)  # the ball itself has changed sides


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template()


@pytest.mark.faults
def test_right_structures_of_the_template_are_on_the_right(template: Template, tmp_path: Path) -> None:
    write_image(template.labels, tmp_path / "labels.nii.gz")
    check_sides(sitk.ReadImage(str(tmp_path / "labels.nii.gz")), template.names, least=60)
    mirrored = phantoms.mirrored(sitk.ReadImage(str(tmp_path / "labels.nii.gz")))
    with pytest.raises(AssertionError, match="is not to the right of"):
        check_sides(mirrored, template.names, least=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "table", "least"), [("ixi", "dlmuse", 60), ("oasis", "neuromorphometrics", 60)]
)
def test_right_structures_of_the_data_are_on_the_right(data: str, table: str, least: int) -> None:
    if not (DATA / data).is_dir():
        pytest.skip(f"no ../shared/data/{data} here")
    with (DATA / "labels" / f"{table}.csv").open() as stream:
        names = {int(row["label"]): row["name"] for row in csv.DictReader(stream)}
    for path in sorted((DATA / data / "seg").glob("*.nii.gz"))[:: 7 if data == "ixi" else 1]:
        check_sides(sitk.ReadImage(str(path)), names, least=least)


@pytest.mark.slow
def test_the_demo_has_the_right_on_the_right(template: Template, tmp_path: Path) -> None:
    words = ["demo", "-o", tmp_path / "demo", "--method", "gaussnewton", "--threads", 1, "-q"]
    assert run([*map(str, words)]) == 0
    for name in ("subject_labels", "template_labels", "registration/moved_labels"):
        check_sides(sitk.ReadImage(str(tmp_path / "demo" / f"{name}.nii.gz")), template.names, least=60)
