"""Methods on packed pairs: the same figures as validation, affine parts apart, conditions, weights of a recipe."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from training_phantoms import ToyMethod, recipe, toy_set

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.losses.labels import mean_dice
from neuroreg.methods.base import Prediction
from neuroreg.training import measure
from neuroreg.training.recipe import weights_metadata
from neuroreg.training.run import build
from neuroreg.training.validation import validate

CPU = torch.device("cpu")


def test_the_figures_are_those_of_validation() -> None:
    data, method = toy_set(), ToyMethod()
    with torch.no_grad():
        method.network["shift"].copy_(torch.tensor([0.6, -0.4, 0.7]))  # type: ignore[index]
    found = list(measure.measure_pairs(method, data, [(0, 1), (1, 2)]))
    dice, folded = validate(method, data, 2, CPU)
    assert sum(f.dice for f in found) / 2 == pytest.approx(dice)
    assert sum(f.folded_percent for f in found) / 2 == pytest.approx(folded)
    assert [(f.fixed, f.moving) for f in found] == [("s0", "s1"), ("s1", "s2")]
    assert found[0].dice_before == found[0].dice_affine == mean_dice(data.label(0), data.label(1))
    assert found[0].dice != found[0].dice_before
    coarse = list(measure.measure_pairs(method, data, [(0, 1), (1, 2)], coarse=True))
    assert sum(f.dice for f in coarse) / 2 == pytest.approx(validate(method, data, 2, CPU, coarse=True)[0])


class Shifting(ToyMethod):
    """An affine that moves by two voxels along w, and a residual that takes one of them back."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        affine = torch.eye(3, 4)[None].clone()
        affine[0, 2, 3] = 2.0
        u = torch.zeros(1, 3, *fixed.shape[2:])
        u[:, 2] = -1.0
        return Prediction(u, affine=affine)


def test_the_affine_part_is_measured_apart() -> None:
    data = toy_set()
    (found,) = measure.measure_pairs(Shifting(), data, [(0, 1)])
    index = field.identity(tuple(data.label(0).shape[2:]))
    for shift, dice in ((2.0, found.dice_affine), (1.0, found.dice)):
        moved = field.sample(
            data.label(1), index + torch.tensor([0, 0, shift]).reshape(1, 3, 1, 1, 1), mode="nearest", fill=0
        )
        assert dice == mean_dice(data.label(0), moved)
    assert found.folded_percent == 0


class Broken(ToyMethod):
    """No numbers."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        return Prediction(torch.full((1, 3, *fixed.shape[2:]), float("nan")))


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(DataError, match="s1 to s0"):
        list(measure.measure_pairs(Broken(), toy_set(), [(0, 1)]))


def test_fewer_slices_change_the_moving_image_alone() -> None:
    seen: list[Tensor] = []

    class Looking(ToyMethod):
        def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
            seen.extend((fixed, moving))
            return super().predict(fixed, moving)

    data = toy_set()
    (plain,) = measure.measure_pairs(Looking(), data, [(0, 1)])
    (few,) = measure.measure_pairs(Looking(), data, [(0, 1)], change=measure.with_fewer_slices(6))
    assert few.dice == plain.dice  # this method looks at nothing; the labels are whole
    assert torch.equal(seen[0], seen[2])
    known = [round(k * 17 / 5) for k in range(6)]
    assert torch.equal(seen[3][:, :, :, known], seen[1][:, :, :, known])
    assert not torch.equal(seen[3], seen[1])


def test_raw_pairs_are_cut_out_about_their_brains() -> None:
    data = toy_set()
    pair = measure.raw_pair(data, 0, 1)
    assert pair.fixed.shape == pair.fixed_labels.shape == (1, 1, 96, 112, 96)
    for image, labels, row in ((pair.fixed, pair.fixed_labels, 0), (pair.moving, pair.moving_labels, 1)):
        inside = (labels[0, 0] > 0).nonzero().double().mean(0)
        assert torch.allclose(inside, torch.tensor([48.0, 56.0, 48.0]).double(), atol=0.5)
        assert torch.equal(
            torch.bincount(labels.flatten()),
            torch.bincount(data.label(row).flatten())
            + torch.tensor([labels.numel() - data.label(row).numel(), 0, 0, 0, 0, 0]),
        )
        assert not image[labels == 0].any()
        values = image[labels > 0].sort().values
        assert values[round(0.99 * len(values)) - 1] == 1.0
    (found,) = measure.measure_pairs(ToyMethod(), data, [(0, 1)], lie=measure.raw_pair)
    assert found.dice == found.dice_before == mean_dice(pair.fixed_labels, pair.moving_labels)


def test_an_affine_of_coarse_images_is_one_of_fine_ones() -> None:
    class Two(Shifting):
        """Two coarse voxels."""

    data = toy_set()
    (coarse,) = measure.measure_pairs(Two(), data, [(0, 1)], coarse=True)
    index = field.identity(tuple(data.label(0).shape[2:])) + torch.tensor([0, 0, 4.0]).reshape(1, 3, 1, 1, 1)
    moved = field.sample(data.label(1), index, mode="nearest", fill=0)
    assert coarse.dice_affine == mean_dice(data.label(0), moved)


def test_weights_are_measured_as_they_were_trained(tmp_path: Path) -> None:
    asked = recipe(inference={"spacing_mm": 1.0}, coarse_steps=6, gpu={"steps": 9, "config": {"width": 16}})
    trained = asked.on("cuda")
    network = build(trained).network
    file = tmp_path / "best.safetensors"
    save_file(network.state_dict(), file, metadata={**weights_metadata(trained), "budget": "9"})
    method, coarse = measure.trained_method(asked, file)
    assert not coarse  # six of nine steps
    config = method.config  # type: ignore[attr-defined]
    assert (config.width, config.spacing_mm) == (16, 2.0)
    assert all(
        torch.equal(a, b) for a, b in zip(method.network.parameters(), network.parameters(), strict=True)
    )  # type: ignore[attr-defined]
    network = build(asked).network
    save_file(network.state_dict(), file, metadata=weights_metadata(asked))
    assert measure.trained_method(asked, file)[1]


def test_methods_without_weights() -> None:
    method = measure.untrained_method("demons", {"spacing_mm": 2.0})
    assert method.spacing_mm == 2.0
