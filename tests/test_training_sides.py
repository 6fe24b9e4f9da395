"""Learning left from right: planted asymmetry is found, the grid can be mirrored, the file comes back as it went."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuroreg import checkpoints
from neuroreg.nn.sides import asymmetry, place
from neuroreg.training.data import PackedSet
from neuroreg.training.sides import learn_sides, odd_grid, save_sides, symmetric_template
from neuroreg.volume import Geometry, Volume

GRID = Geometry((24, 22, 20), (2.0, 2.0, 2.0), (-23.0, -21.0, -19.0))


def stay(fixed: Tensor, moving: Tensor) -> Tensor:
    """The affine that lays the middles of two grids on each other, in voxels of both halved: a voxel more is half a
    voxel's shift of the middle, a quarter of a halved one."""
    shift = (torch.tensor(moving.shape[2:]) - torch.tensor(fixed.shape[2:])) / 4
    return torch.cat((torch.eye(3), shift[:, None]), dim=1)[None]


def subject(seed: int) -> Tensor:
    """(1, 1, 20, 22, 24): texture of its own, and on everybody's left a bright stripe."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.3 + 0.2 * torch.rand(1, 1, 20, 22, 24, generator=generator)
    image[..., 8:12, 8:14, 15:19] += 0.4
    inside = torch.zeros_like(image)
    inside[..., 2:-2, 2:-2, 2:-2] = 1.0  # air all around, as about every brain
    return image * inside


def packed(count: int) -> PackedSet:
    images = torch.cat([(subject(k) * 200).round().to(torch.uint8)[0] for k in range(count)])
    return PackedSet(
        images=images, labels=torch.zeros_like(images), ids=tuple(map(str, range(count))), geometry=GRID,
        mirror=torch.arange(256, dtype=torch.uint8),
    )  # fmt: skip


def test_the_odd_grid_has_the_same_middle() -> None:
    odd = odd_grid(GRID)
    assert odd.size == (25, 23, 21)
    assert torch.allclose(odd.centre_mm, GRID.centre_mm)
    assert odd_grid(odd) == odd


def test_what_is_planted_is_learned_and_its_mirror_image_has_the_other_sign() -> None:
    template, grid = symmetric_template(Volume(subject(100)[0], GRID), stay)
    assert torch.equal(template, template.flip(-1))
    assert grid == odd_grid(GRID)
    weights = learn_sides(packed(12), template, stay, varied=1)
    for seed in (201, 202, 203):
        image = subject(seed)
        scores = [float(asymmetry(place(x, template, stay)) @ weights) for x in (image, image.flip(-1))]
        assert scores[0] > 0.5
        assert scores[1] == pytest.approx(-scores[0], abs=1e-3)


def test_the_file_holds_what_was_learned(tmp_path: Path) -> None:
    template, grid = symmetric_template(Volume(subject(1)[0], GRID), stay)
    weights = torch.linspace(-1, 1, 7)
    save_sides(template, weights, grid, tmp_path / "sides.safetensors")
    record = checkpoints.WeightRecord(
        name="sides", kind="sides", file="sides.safetensors", sha256=_sha256(tmp_path / "sides.safetensors"),
        folder=tmp_path,
    )  # fmt: skip
    found = checkpoints.load_tensors(record)
    assert torch.equal(found["template"].float()[None, None] / 200.0, template)
    assert torch.allclose(found["weights"].float(), weights, atol=1e-3)


def _sha256(path: Path) -> str:
    from neuroreg.io.files import sha256

    return sha256(path)
