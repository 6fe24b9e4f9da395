"""A registration whose pictures show where right, front and top are, and growth on the right alone."""

from collections.abc import Callable
from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pipeline_phantoms import Toy
from torch import Tensor

from neuroreg.cli import run
from neuroreg.methods import METHODS
from neuroreg.methods.base import Prediction
from neuroreg.registry import Entry

FRONT = np.array([8.0, 46.0, 8.0])
TOP = np.array([8.0, 3.0, 36.0])
"""RAS mm: balls in the planes that a report shows by default, besides the one on the right."""
LETTERS = {"Axial": "RLAP", "Coronal": "RLSI", "Sagittal": "APSI"}


def marked(points: phantoms.Array) -> NDArray[np.float32]:
    """The head of the phantoms with a ball in the front and one on top instead of that at the front, top, left."""
    q = phantoms.lps(points)
    value = np.minimum(phantoms.head(points).astype(np.float64), 320.0)
    inside = value > 0
    for place in (phantoms.RIGHT, FRONT, TOP):
        value = value + 2000.0 * np.exp(-((q - place) ** 2).sum(-1) / (2 * 7.5**2))
    return np.where(inside, value, 0.0).astype(np.float32)


class Swell(Toy):
    """Grows in the right half and shrinks in the left: columns of the network's grid run from right to left, as far as
    the file's own axes do."""

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (1, 1, D, H, W) -> a field on level 1."""
        shape = [-(-n // 2) for n in fixed.shape[2:]]
        index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
        u = torch.zeros_like(index)
        for part, factor in ((0.27, 0.25), (0.73, -0.2)):
            middle = torch.tensor([shape[0] / 2, shape[1] / 2, part * shape[2]])[:, None, None, None]
            away = index - middle
            u += factor * away * torch.exp(-(away**2).sum(0) / (2 * 4.0**2))
        return Prediction(u[None], affine=None if start is None else start.affine, level=1)


def finished_run(
    folder: Path,
    fixed: int,
    moving: int,
    *,
    made: Callable[[phantoms.Array], NDArray[np.float32]] = marked,
) -> Path:
    """The folder of a run with everything in it; both heads lie in one place, each in an axis order of its own."""
    words: list[str | Path] = ["register"]
    for side, order, degrees in (("fixed", fixed, -14), ("moving", moving, 23)):
        where = phantoms.grid(order, degrees=degrees)
        image = phantoms.save_nifti(phantoms.image(where, made), folder / f"{side}.nii.gz")
        seg = phantoms.save_nifti(phantoms.image(where, phantoms.labels), folder / f"{side}_seg.nii.gz")
        words += [f"--{side}", image, f"--{side}-labels", seg]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(METHODS, "swell", Entry("left_right_pages:Swell", "for tests"))
        words += ["--method", "swell", "--affine", "none", "--threads", "1", "-q", "-o", folder / "run"]
        assert run([*map(str, words)]) == 0
    return folder / "run"
