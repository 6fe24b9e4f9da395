"""The suspicions a good figure can hide."""

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.methods.affine import AffineMethod
from neuroreg.pipeline.quality import mirror_gain, monotone, verdict
from neuroreg.volume import Geometry


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


def test_a_mirrored_head_is_noticed() -> None:
    grid = Geometry((44, 52, 46), (3.0, 3.0, 3.0), (-61.0, -82.0, -52.0))
    points = grid.points()
    image = phantoms.head(points)[None, None] / 800
    points[..., 0] = 10.0 - points[..., 0]
    mirrored = phantoms.head(points)[None, None] / 800
    aligner = AffineMethod(AffineMethod.Config())
    assert mirror_gain(image, image, image > 0, aligner) < 0
    assert mirror_gain(image, mirrored, image > 0, aligner) > 0.03
    shifted = image.roll(4, dims=-1)  # badly aligned is not mirrored
    assert mirror_gain(image, shifted, image > 0, aligner) < 0.03


@pytest.mark.parametrize(
    ("figures", "passed"),
    [
        ({"lncc_before": 0.2, "lncc_after": 0.5, "folded_percent": 0.0}, True),
        ({"lncc_before": 0.2, "lncc_after": 0.5, "folded_percent": 0.6}, False),
        ({"lncc_before": 0.5, "lncc_after": 0.2, "folded_percent": 0.0}, False),
        ({"lncc_before": 0.2, "lncc_after": None, "folded_percent": 0.0}, False),
        ({"lncc_before": 0.2, "lncc_after": 0.5, "folded_percent": None}, False),
    ],
)
def test_the_verdict(figures: dict[str, float | None], passed: bool) -> None:
    found = verdict(figures, ())
    assert found.passed is passed
    assert bool(found.reasons) is not passed
    assert not verdict(figures, ("mirrored",)).passed
