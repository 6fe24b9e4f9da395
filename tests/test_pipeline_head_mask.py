"""Brains are found in whole heads: the template with a skull and a scalp around it, and IXI's."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuroreg.io.images import read_image, read_labels
from neuroreg.memory import Memory
from neuroreg.pipeline import head_mask
from neuroreg.pipeline.head_mask import NoBrainError, find_brain
from neuroreg.pipeline.template import load_template
from neuroreg.preprocess import brain
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Geometry, Volume

IXI = Path(__file__).resolve().parents[1] / "../shared/data/ixi"
ROOM_MM = torch.tensor([16.0, 16.0, 16.0], dtype=torch.float64)
RIGHT_HANDED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PSR = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # x to the back, y up, z to the right


def turned(direction: tuple[float, ...], *, about_y: float, about_z: float) -> tuple[float, ...]:
    """The axes after two turns, degrees."""
    y, z = torch.deg2rad(torch.tensor([about_y, about_z], dtype=torch.float64)).tolist()
    skew = [[0.0, -z, y], [z, 0.0, 0.0], [-y, 0.0, 0.0]]
    turn = torch.linalg.matrix_exp(torch.tensor(skew, dtype=torch.float64))
    return tuple((turn @ torch.tensor(direction, dtype=torch.float64).reshape(3, 3)).reshape(-1).tolist())


def grid(spacing: tuple[float, float, float], direction: tuple[float, ...]) -> Geometry:
    """A box of 230 mm about the middle of the template."""
    size = tuple(round(230 / step) for step in spacing)
    half = torch.tensor([(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)], dtype=torch.float64)
    middle = load_template().image.geometry.centre_mm
    corner = middle - torch.tensor(direction, dtype=torch.float64).reshape(3, 3) @ half
    x, y, z = corner.tolist()
    return Geometry((size[0], size[1], size[2]), spacing, (x, y, z), direction)


def pose(degrees: float) -> Affine:
    """From head to template: a roll to the left, smaller by a tenth, and 15 mm to the left, 8 up."""
    matrix = torch.eye(4, dtype=torch.float64)
    roll = torch.tensor(turned(RIGHT_HANDED, about_y=degrees, about_z=degrees / 2), dtype=torch.float64)
    matrix[:3, :3] = roll.reshape(3, 3) * 1.1
    middle = load_template().image.geometry.centre_mm
    moved = middle + torch.tensor([15.0, 0.0, 8.0], dtype=torch.float64)
    matrix[:3, 3] = middle - matrix[:3, :3] @ moved
    return Affine(matrix)


def head(to_template: Affine, where: Geometry, *, empty: bool = False) -> tuple[Volume, Tensor]:
    """The template inside a dark skull and a bright scalp, and where it is; or these around nothing."""
    template = load_template()
    inside = resample(template.mask, to_template, where).data > 0
    brains = resample(template.image, to_template, where).data
    points = to_template(where.points()) - template.image.geometry.centre_mm
    half = torch.tensor([66.0, 84.0, 68.0], dtype=torch.float64)
    reach = (points / (half + ROOM_MM)).norm(dim=-1)[None]
    noise = torch.rand(inside.shape, generator=torch.Generator().manual_seed(0))
    shell = torch.where(reach < 0.9, 0.1, 0.9) * (reach < 1) + 0.05 * noise
    return Volume(shell if empty else torch.where(inside, brains, shell), where), inside


def dice(one: Tensor, other: Tensor) -> float:
    """Overlap of two bool tensors."""
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize(
    ("spacing", "direction", "degrees"),
    [
        ((2.4, 3.0, 4.0), turned(RIGHT_HANDED, about_y=12.0, about_z=-8.0), 20.0),
        ((3.5, 2.6, 3.0), turned(PSR, about_y=-10.0, about_z=15.0), -25.0),
    ],
    ids=["oblique", "sagittal"],
)
def test_the_mask_is_the_brain_in_any_pose(
    spacing: tuple[float, float, float], direction: tuple[float, ...], degrees: float
) -> None:
    image, inside = head(pose(degrees), grid(spacing, direction))
    assert brain.exceeds_brain(image)
    found = find_brain(image)
    assert found.is_label
    assert found.geometry == image.geometry
    assert found.data.dtype == torch.uint8
    mask = found.data > 0
    # the brain and 2 mm around it: a ball of its volume, 1.3 litres, grows to 1.1 times that, Dice 0.95
    assert dice(mask, inside) > 0.9
    assert float((mask & inside).sum()) > 0.97 * float(inside.sum())
    for axis in (1, 2, 3):  # a mask that is mirrored or transposed lies elsewhere
        assert dice(mask.flip(axis), inside) < 0.9


@pytest.mark.parametrize(
    "kind", ["noise", "nothing", *(pytest.param(k, marks=pytest.mark.slow) for k in ("empty", "upside down"))]
)
def test_what_holds_no_brain_is_refused(kind: str) -> None:
    image, _ = head(pose(0.0), grid((3.0, 3.0, 3.0), RIGHT_HANDED), empty=kind == "empty")
    if kind == "noise":
        image = image.with_data(torch.rand(image.data.shape, generator=torch.Generator().manual_seed(1)))
    elif kind == "nothing":
        image = image.with_data(torch.zeros(image.data.shape))
    elif kind == "upside down":  # mirrored, not turned: no head looks so
        image = image.with_data(image.data.flip(1))
    with pytest.raises(NoBrainError) as refused:
        find_brain(image)
    assert refused.value.exit_code == 65


def test_an_image_of_many_pairs_is_searched_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[float] = []

    def search(image: Volume) -> Tensor:
        searched.append(float(image.data.max()))
        return image.data > 0.5 * image.data.max()

    monkeypatch.setattr(head_mask, "_search", search)
    monkeypatch.setattr(head_mask, "_MASKS", Memory(4))
    images = [
        Volume(torch.rand(1, 5, 7, 3) + n, Geometry((3, 7, 5), (1.0, 1.0, 1.0), (0.0,) * 3)) for n in range(6)
    ]
    for image in (images[0], *images[:4], images[0]):
        mask = find_brain(image)
        assert torch.equal(mask.data > 0, image.data > 0.5 * image.data.max())
    assert len(searched) == 4
    moved = Volume(images[0].data, Geometry((3, 7, 5), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)))
    assert find_brain(moved).geometry == moved.geometry  # the same voxels elsewhere are another image
    assert len(searched) == 5
    find_brain(images[5])
    find_brain(images[0])  # used last before these two: kept
    assert len(searched) == 6
    find_brain(images[1])  # gone by now
    assert len(searched) == 7


def ixi() -> list[str]:
    """The first heads of the validation split, and one that is found upside down as well: by a map that mirrors."""
    if not (IXI / "splits.csv").is_file():
        return []
    with (IXI / "splits.csv").open(encoding="utf-8") as table:
        names = [row["id"] for row in csv.DictReader(table) if row["split"] == "val"]
    return [*names[:3], *(name for name in names if name.startswith("IXI609"))]


@pytest.mark.slow
@pytest.mark.skipif(not ixi(), reason="IXI is not in ../shared/data")
@pytest.mark.parametrize("name", ixi())
def test_brains_of_real_heads(name: str) -> None:
    image = read_image(IXI / "t1" / f"{name}.nii.gz").volume
    labels = read_labels(IXI / "seg" / f"{name}.nii.gz").volume
    true = brain.close_and_fill(labels.data > 0, radius=2)
    mask = find_brain(image).data > 0
    assert dice(mask, true) > 0.9
    assert float((mask & true).sum()) > 0.93 * float(true.sum())
    half = image.data.shape[1] // 2  # axes PSR: the right half of the head
    for spoilt in (
        image.data.flip(2),
        torch.cat((image.data[:, :half], torch.zeros_like(image.data[:, half:])), dim=1),
    ):
        with pytest.raises(NoBrainError):
            find_brain(image.with_data(spoilt))
