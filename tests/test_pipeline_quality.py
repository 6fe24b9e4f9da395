"""The figures: each from a case whose answer is known."""

import math

import pytest
import torch

from neuroreg.pipeline.quality import affine_figures, global_part_mm, monotone, worst_region
from neuroreg.transforms import Affine


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A lopsided head (1, 1, 14, 16, 18) and its mask."""
    generator = torch.Generator().manual_seed(seed)
    d, h, w = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (14, 16, 18)), indexing="ij")
    mask = ((d - 6) / 5) ** 2 + ((h - 8) / 6) ** 2 + ((w - 9) / 7) ** 2 < 1
    image = 0.3 + 0.02 * w + 0.03 * h + 0.02 * torch.rand(mask.shape, generator=generator)
    return (image * mask)[None, None], mask[None, None]


def test_one_contrast_rises_with_the_other_and_its_negative_falls() -> None:
    image, mask = images()
    values = image[mask]
    assert monotone(values, values.sqrt()) == pytest.approx(1.0)
    assert monotone(values, 1 - values) == pytest.approx(-1.0)
    generator = torch.Generator().manual_seed(1)
    assert abs(monotone(values, torch.rand(values.shape, generator=generator))) < 0.8


def test_the_worst_region_is_found_inside_the_mask() -> None:
    likeness = torch.full((1, 1, 30, 34, 38), 0.9)
    mask = torch.zeros_like(likeness, dtype=torch.bool)
    mask[..., 4:26, 4:30, 4:34] = True
    likeness[..., 8:15, 10:17, 20:27] = 0.1  # a cube of 7 with its middle at (11, 13, 23)
    likeness[..., :3, :3, :3] = 0.0  # outside
    value, place = worst_region(likeness, mask, 7)
    assert place == (11, 13, 23)
    assert value == pytest.approx(0.1, abs=1e-5)
    empty = torch.zeros_like(mask)
    empty[..., 15, 15, 15] = True
    assert worst_region(likeness, empty, 7) == (pytest.approx(0.9), (15, 17, 19))


def test_the_affine_part_of_a_residual() -> None:
    generator = torch.Generator().manual_seed(3)
    points = 50 * torch.randn(5000, 3, generator=generator, dtype=torch.float64)
    shift = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
    assert global_part_mm(points, shift.expand_as(points)) == pytest.approx(5.0)
    turn = torch.tensor([[0.0, -0.1, 0.0], [0.1, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    around = (points - points.mean(dim=0)) @ turn.T
    assert global_part_mm(points, around) == pytest.approx(float(around.norm(dim=1).mean()))
    waves = torch.stack([(points[:, k] * 0.8).sin() for k in range(3)], dim=1)
    assert global_part_mm(points, waves) < 0.1


def test_scales_rotation_and_shear_of_an_affine() -> None:
    angle = math.radians(30)
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]],
        dtype=torch.float64,
    )
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = turn @ torch.diag(torch.tensor([0.8, 1.0, 1.25], dtype=torch.float64))
    found = affine_figures(Affine(matrix))
    assert found["affine_scale_min"] == pytest.approx(0.8)
    assert found["affine_scale_max"] == pytest.approx(1.25)
    assert found["affine_rotation_deg"] == pytest.approx(30.0)
    assert found["affine_shear_deg"] == pytest.approx(0.0, abs=1e-5)
    assert found["affine_determinant"] == pytest.approx(1.0)
    sheared = torch.eye(4, dtype=torch.float64)
    sheared[0, 1] = math.tan(math.radians(10))
    assert affine_figures(Affine(sheared))["affine_shear_deg"] == pytest.approx(10.0)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    assert affine_figures(Affine(mirror))["affine_determinant"] == pytest.approx(-1.0)
