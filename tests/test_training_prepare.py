"""Packing a folder of whole heads: any axis order or tilt in, one LPS grid of aligned brains out, left still left."""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from neuroreg.errors import DataError, NoInputError
from neuroreg.training import prepare
from neuroreg.training.data import PackedSet, load_pack

NAMES = {2: "Front_L", 3: "Rear", 7: "Front_R", 9: "Top", 11: "Low_R", 30: "Low_L"}
BLOBS = {  # LPS mm about the brain's middle: left is +x, front is -y, up is +z
    2: (9.0, -8.0, 2.0), 7: (-9.0, -8.0, 2.0), 3: (1.0, 12.0, 0.0), 9: (0.0, 0.0, 9.0),
    30: (10.0, 4.0, -8.0), 11: (-10.0, 4.0, -8.0),
}  # fmt: skip
RADII = np.array([20.0, 24.0, 17.0])


def turn(degrees: float) -> NDArray[np.float64]:
    """A rotation about an axis off all three of the world's."""
    axis, a = np.array([0.3, 0.9, -0.3]), math.radians(degrees)
    k = np.cross(np.eye(3), axis / np.linalg.norm(axis))
    return np.asarray(np.eye(3) + math.sin(a) * k + (1 - math.cos(a)) * k @ k)


@dataclass(frozen=True)
class Scan:
    """How one head lies in its file, and where in the world."""

    name: str
    split: str
    axes: NDArray[np.float64]
    """(3, 3) column k is voxel axis k, LPS"""
    centre: tuple[float, float, float]
    spacing: tuple[float, float, float] = (2.0, 2.4, 1.8)
    turned: float = 0.0
    """degrees by which the head itself is turned in the world"""


PSR = np.array([[0, 0, -1.0], [1, 0, 0], [0, 1, 0]])  # first axis to the back, second up, third to the right
LAS = np.diag([1.0, -1.0, 1.0])
SCANS = (
    Scan("a", "train", PSR, (-2.0, 9.0, 16.0)),
    Scan("b", "train", LAS, (80.0, -206.0, 172.0)),
    Scan("c", "train", turn(12.0), (5.0, 40.0, -30.0), (1.8, 2.0, 2.3), 8.0),
    Scan("d", "val", PSR @ turn(-9.0), (0.0, 0.0, 0.0)),
    Scan("e", "val", LAS @ turn(7.0), (-60.0, 3.0, 8.0)),
)


def head(points: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """(intensity, labels) at points (..., 3) LPS mm about the middle: a brain, brighter on the left, in a skull."""
    reach = np.sqrt(((points / RADII) ** 2).sum(-1))
    brain, skull = reach < 1, (reach > 1.15) & (reach < 1.3)
    labels = np.where(brain, 1, 0).astype(np.int16)
    for label, centre in BLOBS.items():
        labels[((points - np.array(centre)) ** 2).sum(-1) < 5.5**2] = label
    image = brain * (600 + 200 * np.tanh(points[..., 0] / 4)) + skull * 3000.0 + 5.0
    return image.astype(np.float32), labels


def write(folder: Path, scan: Scan, *, size: tuple[int, int, int] = (34, 36, 38)) -> None:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1) - (np.array(size) - 1) / 2
    points = index @ (scan.axes * scan.spacing).T
    origin = np.array(scan.centre) - (scan.axes * scan.spacing) @ ((np.array(size) - 1) / 2)
    for kind, data in zip(("t1", "seg"), head(points @ turn(scan.turned)), strict=True):
        image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
        image.SetSpacing(scan.spacing)
        image.SetDirection(scan.axes.flatten().tolist())
        image.SetOrigin(origin.tolist())
        (folder / kind).mkdir(exist_ok=True)
        sitk.WriteImage(image, str(folder / kind / f"{scan.name}.nii.gz"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The heads of SCANS; packs are 20 x 24 x 22 voxels of 2.5 mm."""
    monkeypatch.setattr(prepare, "SHAPE", (20, 24, 22))
    monkeypatch.setattr(prepare, "SPACING_MM", 2.5)
    for scan in SCANS:
        write(tmp_path, scan)
    rows = [["id", "split"], *([scan.name, scan.split] for scan in SCANS)]
    with (tmp_path / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    with (tmp_path / "names.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["label", "name"], *NAMES.items()])
    return tmp_path


Pack = Callable[..., PackedSet]


@pytest.fixture
def packed(folder: Path) -> Pack:
    def make(split: str = "train", progress: Callable[[int, int], None] = lambda done, of: None) -> PackedSet:
        out = folder / "out" / f"{split}.npz"
        prepare.pack(folder, split, out, names=folder / "names.csv", progress=progress)
        return load_pack(out)

    return make


def centroid(mask: torch.Tensor) -> NDArray[np.float64]:
    """(d, h, w) voxels."""
    return np.asarray(mask.nonzero().double().mean(0))


def dice(one: torch.Tensor, two: torch.Tensor) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def test_heads_of_any_axis_order_come_out_aligned_in_lps(packed: Pack) -> None:
    seen: list[tuple[int, int]] = []
    data = packed(progress=lambda done, of: seen.append((done, of)))
    assert data.ids == ("a", "b", "c")
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert data.images.shape == data.labels.shape == (3, 20, 24, 22)
    assert data.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert data.geometry.spacing == (2.5, 2.5, 2.5)
    for labels in data.labels:
        found = {label: centroid(labels == label) for label in BLOBS}
        middle = np.mean(list(found.values()), axis=0)
        mean = np.mean(list(BLOBS.values()), axis=0)
        for label, (x, y, z) in BLOBS.items():
            expected = (np.array([z, y, x]) - mean[::-1]) / 2.5
            # the reference is the mean of three discretised heads, one of them turned: within half a voxel or so
            np.testing.assert_allclose(found[label] - middle, expected, atol=1.0, err_msg=str(label))
    for row in (1, 2):
        for label in BLOBS:
            assert dice(data.labels[0] == label, data.labels[row] == label) > 0.7


def test_left_stays_left_in_image_and_labels(packed: Pack) -> None:
    for split in ("train", "val"):
        data = packed(split)
        for image, labels in zip(data.images.float(), data.labels, strict=True):
            front_left, front_right = image[labels == 2].mean(), image[labels == 7].mean()
            assert float(front_left) > 1.5 * float(front_right)  # the phantom's left is the brighter side
            assert centroid(labels == 2)[2] > centroid(labels == 7)[2]  # and lies at higher x in LPS


def test_the_skull_is_gone_and_intensities_are_scaled_to_the_brain(packed: Pack) -> None:
    data = packed()
    for image, labels in zip(data.images, data.labels, strict=True):
        near = torch.nn.functional.max_pool3d((labels > 0).float()[None], 5, stride=1, padding=2)[0]
        assert int(image[near == 0].max()) == 0
        assert int(image[near > 0].max()) > 0
        assert 190 <= float(image.float().quantile(0.995)) <= 215  # 200 is the 99th percentile of the brain
    middles = [centroid(labels > 0) for labels in data.labels]
    np.testing.assert_allclose(
        middles, [[9.5, 11.5, 10.5]] * 3, atol=1.0
    )  # the brain is in the middle of the grid


def test_the_validation_split_is_aligned_to_the_training_split(packed: Pack) -> None:
    train, val = packed("train"), packed("val")
    assert val.ids == ("d", "e")
    assert val.geometry == train.geometry
    assert dice(val.labels[0] > 0, train.labels[0] > 0) > 0.88


def test_whole_heads_keep_their_skull_and_the_pose_they_were_scanned_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "HEAD_SHAPE", (32, 36, 34))
    out = folder / "heads.npz"
    assert (
        prepare.pack_heads(folder, "train", out, names=folder / "names.csv", progress=lambda a, b: None) == 3
    )
    data = load_pack(out)
    assert data.ids == ("a", "b", "c")
    assert data.images.shape == data.labels.shape == (3, 32, 36, 34)
    assert data.geometry.spacing == (2.5, 2.5, 2.5)
    middle = np.array([15.5, 17.5, 16.5])
    for scan, image, labels in zip(SCANS[:3], data.images, data.labels, strict=True):
        brain = labels > 0
        np.testing.assert_allclose(
            centroid(brain), middle, atol=0.5
        )  # each head lies in the middle of its image
        for label, centre in BLOBS.items():
            x, y, z = turn(scan.turned) @ np.array(centre)  # turned heads stay turned
            expected = middle + np.array([z, y, x]) / 2.5
            np.testing.assert_allclose(centroid(labels == label), expected, atol=0.6, err_msg=str(label))
        far = torch.nn.functional.max_pool3d(brain.float()[None], 3, stride=1, padding=1)[0] == 0
        assert float(image[far].max()) > 1.5 * float(
            image[brain].float().mean()
        )  # the phantom's skull is bright
        assert int(image.max()) == 255 or 190 <= int(image.max()) <= 215
    assert int(data.mirror[2]) == 7


def test_whole_heads_of_an_unknown_split_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match="'test'"):
        prepare.pack_heads(
            folder, "test", folder / "x.npz", names=folder / "names.csv", progress=lambda a, b: None
        )


def test_mirror_partners_are_found_by_name(packed: Pack) -> None:
    table = packed().mirror
    assert {label: int(table[label]) for label in BLOBS} == {2: 7, 7: 2, 3: 3, 9: 9, 11: 30, 30: 11}
    assert torch.equal(table[table.long()], torch.arange(256, dtype=torch.uint8))


def test_names_without_a_partner_or_beyond_a_byte_stay_themselves() -> None:
    table = prepare.mirror_table({5: "Alone_L", 400: "Far_L", 6: "Far_R", 8: "Middle"})
    assert table.tolist() == list(range(256))


def test_the_file_appears_whole_or_not_at_all(folder: Path, packed: Pack) -> None:
    packed()
    assert [path.name for path in (folder / "out").iterdir()] == ["train.npz"]


def test_an_unknown_split_and_a_missing_folder_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'test'"):
        prepare.pack(
            folder, "test", tmp_path / "x.npz", names=folder / "names.csv", progress=lambda a, b: None
        )
    with pytest.raises(NoInputError, match=r"splits\.csv"):
        prepare.pack(
            tmp_path / "none", "val", tmp_path / "x", names=folder / "names.csv", progress=lambda a, b: None
        )


def relabel(path: Path, change: Callable[[NDArray[np.int16]], NDArray[np.int16]]) -> None:
    image = sitk.ReadImage(str(path))
    out = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    out.CopyInformation(image)
    sitk.WriteImage(out, str(path))


def test_labels_that_do_not_fit_a_byte_are_refused(folder: Path, packed: Pack) -> None:
    relabel(folder / "seg" / "a.nii.gz", lambda x: np.where(x == 9, 300, x).astype(np.int16))
    with pytest.raises(DataError, match=r"label 300 is above 255; a\.nii\.gz"):
        packed()


def test_a_label_map_on_another_grid_than_its_image_is_refused(folder: Path, packed: Pack) -> None:
    path = folder / "seg" / "b.nii.gz"
    image = sitk.ReadImage(str(path))
    image.SetOrigin([x + 3.0 for x in image.GetOrigin()])
    sitk.WriteImage(image, str(path))
    with pytest.raises(DataError, match=r"elsewhere in space.*b\.nii\.gz"):
        packed()


def test_too_few_common_regions_are_refused(folder: Path, packed: Pack) -> None:
    relabel(folder / "seg" / "c.nii.gz", lambda x: np.where(x > 3, 1, x).astype(np.int16))
    with pytest.raises(DataError, match="four regions"):
        packed()
