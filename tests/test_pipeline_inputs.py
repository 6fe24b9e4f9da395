"""What is refused before anything is computed: a whole head against a brain without its skull."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.errors import DataError
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.inputs import read_inputs

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
    with pytest.raises(DataError, match=f"the {head} image is a whole head.*head.nii.gz.*--{head}-mask"):
        read_inputs(config(files, fixed, moving))


def test_two_of_a_kind_a_mask_and_an_affine_alone_are_not(files: dict[str, Path]) -> None:
    assert not read_inputs(config(files, "brain", "brain")).more_than_brain
    assert len(read_inputs(config(files, "head", "head")).more_than_brain) == 2
    assert not read_inputs(config(files, "brain", "head", moving_mask=files["mask"])).more_than_brain
    assert read_inputs(config(files, "brain", "head", method="affine")).more_than_brain
