"""Left is told from right: on the package's own template, and the sign follows the mirror."""

import pytest
import torch

from neuroreg import field
from neuroreg.errors import DataError, UnavailableError
from neuroreg.methods.affine import AffineMethod
from neuroreg.nn.sides import asymmetry
from neuroreg.pipeline import quality
from neuroreg.pipeline.sides import load_sides, sides_score
from neuroreg.pipeline.template import load_template
from neuroreg.preprocess.conform import conform

ALIGNER = AffineMethod(AffineMethod.Config())


def test_the_symmetric_template_is_its_own_mirror_image() -> None:
    template = load_sides().template
    assert all(n % 2 for n in template.shape[2:])
    assert torch.equal(template, template.flip(-1))
    assert float(asymmetry(template).abs().max()) < 1e-5


def test_the_map_of_a_mirrored_image_has_the_other_sign() -> None:
    image = torch.rand(1, 1, 9, 11, 13, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(asymmetry(image.flip(-1)), -asymmetry(image), atol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 14.0])
def test_an_average_brain_is_recognised_in_any_pose_and_so_is_its_mirror_image(degrees: float) -> None:
    image = load_template().image.data[None]
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(3)
    turn[1:, 1:] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    centre = (torch.tensor(image.shape[2:]) - 1) / 2
    affine = torch.cat((turn, (centre - turn @ centre)[:, None]), dim=1)[None]
    posed = field.sample(image, field.affine_index(affine, field.identity(tuple(image.shape[2:]))), fill=0.0)
    score = sides_score(posed, load_sides(), ALIGNER)
    mirrored = sides_score(posed.flip(-1), load_sides(), ALIGNER)
    assert score is not None
    assert mirrored is not None
    assert score > 0.5
    assert mirrored == pytest.approx(-score, abs=0.1)


def test_what_is_no_brain_has_no_score_and_is_a_doubt() -> None:
    noise = torch.rand(1, 1, 40, 48, 40, generator=torch.Generator().manual_seed(1))
    with pytest.raises(DataError, match="no brain"):
        sides_score(noise, load_sides(), ALIGNER)


def test_a_symmetric_template_is_neither_right_nor_mirrored() -> None:
    sides = load_sides()
    assert sides_score(sides.template, sides, ALIGNER) is None


def test_other_weights_are_refused() -> None:
    with pytest.raises(DataError, match="left from right"):
        load_sides("template-ixi2mm")


def test_without_its_weights_left_and_right_are_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UnavailableError("the weights are not on this machine")

    monkeypatch.setattr(quality, "load_sides", missing)
    image = load_template().image
    pair = conform(image, image, spacing_mm=8.0, divisor=8)
    figures, doubts = quality._sides(pair, lambda: ALIGNER, whole_head=False)
    assert figures == {"sides_fixed": None, "sides_moving": None}
    assert ["left and right could not be checked" in doubt for doubt in doubts] == [True]
