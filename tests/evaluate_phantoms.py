"""Small label files and tables of pairs for the tests of evaluate."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from neuroreg.pipeline.evaluate_scores import Scores, Structure

SHAPE = (16, 17, 20)  # (z, y, x)
SPACING = (2.75, 3.0, 3.5)  # (x, y, z)
LENGTHS = {7: 6, 8: 4}
"""Each region is a bar of 3 x 4 voxels (z, y) and so many along x"""


def bars(shift: int = 0, *, without: Sequence[int] = ()) -> np.ndarray:
    """The two bars, moved by ``shift`` voxels along x."""
    labels = np.zeros(SHAPE, dtype=np.int16)
    for k, (label, length) in enumerate(LENGTHS.items()):
        if label not in without:
            labels[2:5, 1 + 5 * k : 5 + 5 * k, 4 + shift : 4 + shift + length] = label
    return labels


def bar_dice(label: int, shift: int) -> float:
    """Of a bar against itself moved: the share of its length that is left."""
    return max(0, LENGTHS[label] - abs(shift)) / LENGTHS[label]


def save_labels(path: Path, labels: np.ndarray) -> Path:
    """A label file on an anisotropic grid off the origin."""
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(SPACING)
    image.SetOrigin((-11.0, 4.0, 30.0))
    sitk.WriteImage(image, str(path))
    return path


def save_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """A CSV with the columns of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def save_pairs(folder: Path, shifts: dict[str, Sequence[int]]) -> Path:
    """A table of pairs beside its files: method -> the shift of each case s0, s1, ..."""
    (folder / "seg").mkdir()
    save_labels(folder / "seg" / "fixed.nii", bars())
    rows = []
    for method, several in shifts.items():
        for k, shift in enumerate(several):
            moved = save_labels(folder / "seg" / f"moved{shift}.nii", bars(shift))
            names = {"fixed_labels": "seg/fixed.nii", "moved_labels": f"seg/{moved.name}"}
            rows.append({"id": f"s{k}", "method": method, **names})
    return save_table(folder / "pairs.csv", rows)


def scores_of(
    method: str, dice: Sequence[Sequence[float]], names: Sequence[str], kind: str = "roi"
) -> Scores:
    """Scores of which only Dice (cases x structures) is there."""
    from neuroreg.metrics.segmentation import FIGURES

    table = np.asarray(dice, dtype=float)
    values = np.full((*table.shape, len(FIGURES)), np.nan)
    values[:, :, FIGURES.index("dice")] = table
    roi = [str(k) if kind == "roi" else "" for k in range(1, len(names) + 1)]
    structures = tuple(Structure(kind, label, name) for label, name in zip(roi, names, strict=True))
    return Scores(method, tuple(f"s{k}" for k in range(len(table))), structures, values, 1.0)
