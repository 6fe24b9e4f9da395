"""What is refused before anything is computed: a whole head against a brain without its skull."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from neuroreg.errors import DataError
from neuroreg.pipeline import head_mask
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.inputs import read_inputs
from neuroreg.volume import Volume

SPACING = 3.0
SIDES = (58, 64, 60)


def save(array: np.ndarray, path: Path) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((SPACING,) * 3)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A brain of 1.3 litres in nothing, a head that fills its image, and the mask of the brain in it."""
    folder = tmp_path_factory.mktemp("kinds")
    at = np.indices(SIDES).astype(float) - np.array(SIDES)[:, None, None, None] / 2
    inside = np.sqrt((at**2).sum(0)) * SPACING < 68.0
    noise = np.random.default_rng(0).uniform(20, 100, SIDES).astype(np.float32)
    return {
        "brain": save(np.where(inside, noise, 0).astype(np.float32), folder / "brain.nii.gz"),
        "head": save(noise, folder / "head.nii.gz"),
        "mask": save(inside.astype(np.uint8), folder / "mask.nii.gz"),
    }


def config(files: dict[str, Path], fixed: str, moving: str, **options: object) -> RegisterConfig:
    return RegisterConfig.model_validate(
        {"fixed": files[fixed], "moving": files[moving], "method": "gaussnewton", **options}
    )


@pytest.mark.parametrize(
    ("fixed", "moving", "head"), [("brain", "head", "moving"), ("head", "brain", "fixed")]
)
def test_a_head_and_a_bare_brain_are_refused(
    files: dict[str, Path], fixed: str, moving: str, head: str
) -> None:
    said = f"the {head} image is a whole head.*head.nii.gz.*--find-brain.*--{head}-mask"
    with pytest.raises(DataError, match=said):
        read_inputs(config(files, fixed, moving))


def test_two_of_a_kind_a_mask_and_an_affine_alone_are_not(files: dict[str, Path]) -> None:
    assert not read_inputs(config(files, "brain", "brain")).more_than_brain
    assert len(read_inputs(config(files, "head", "head")).more_than_brain) == 2
    assert not read_inputs(config(files, "brain", "head", moving_mask=files["mask"])).more_than_brain
    assert read_inputs(config(files, "brain", "head", method="affine")).more_than_brain


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Volume]:
    """Every image whose brain is looked for; it is found in 1.4 litres at the lower end of the first axis."""
    seen: list[Volume] = []

    def find(head: Volume) -> Volume:
        seen.append(head)
        mask = torch.zeros(head.data.shape, dtype=torch.uint8)
        mask[:, : SIDES[0] // 4] = 1
        return Volume(mask, head.geometry, is_label=True)

    monkeypatch.setattr(head_mask, "find_brain", find)
    return seen


@pytest.mark.parametrize("method", ["gaussnewton", "affine"])
def test_a_brain_that_is_found_counts_as_a_given_mask(
    files: dict[str, Path], method: str, searched: list[Volume], tmp_path: Path
) -> None:
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(files["head"])))
    whole[3, 4, 5] = np.nan
    spoilt = {**files, "head": save(whole, tmp_path / "head.nii.gz")}
    found = read_inputs(config(spoilt, "brain", "head", find_brain=True, method=method))
    assert len(searched) == 1
    assert found.fixed_mask is None
    assert found.moving_mask is not None
    expected = torch.zeros(1, *SIDES, dtype=torch.uint8)
    expected[:, : SIDES[0] // 4] = 1
    expected[0, 3, 4, 5] = 0  # a voxel without a number counts nowhere
    assert torch.equal(found.moving_mask.data, expected)
    assert not found.more_than_brain
    (said,) = (text for text in found.warnings if "was found" in text)
    assert "the brain of the moving image head.nii.gz was found" in said
    assert found.brain_weights is not None
    assert found.brain_weights.method == "jointaffine"


def test_stripped_images_and_given_masks_are_left_alone(
    files: dict[str, Path], searched: list[Volume]
) -> None:
    found = read_inputs(config(files, "brain", "brain", find_brain=True))
    assert (found.fixed_mask, found.moving_mask, found.brain_weights) == (None, None, None)
    found = read_inputs(config(files, "brain", "head", find_brain=True, moving_mask=files["mask"]))
    assert found.moving_mask is not None
    assert (
        int(found.moving_mask.data.sum()) == sitk.GetArrayFromImage(sitk.ReadImage(str(files["mask"]))).sum()
    )
    assert not searched
    assert not any("was found" in text for text in found.warnings)
    read_inputs(config(files, "head", "head", find_brain=True))
    assert len(searched) == 2
    read_inputs(config(files, "head", "head"))
    assert len(searched) == 2


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_brain_that_is_not_found_names_the_image_and_the_cure(
    files: dict[str, Path], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(head: Volume) -> Volume:
        raise head_mask.NoBrainError("nothing fits")

    monkeypatch.setattr(head_mask, "find_brain", fail)
    pair = ("head", "brain") if side == "fixed" else ("brain", "head")
    said = f"the brain was not found in the {side} image: .*; head.nii.gz; give --{side}-mask"
    with pytest.raises(DataError, match=said):
        read_inputs(config(files, *pair, find_brain=True))
