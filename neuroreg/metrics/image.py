"""How alike two images on one grid are. Tensors or arrays of one shape in, one number out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.errors import DataError

Image = NDArray[Any] | torch.Tensor


def correlation(fixed: Image, moved: Image, mask: Image | None = None) -> float:
    """Pearson correlation over the mask, -1..1; NaN when one image is constant there."""
    first, second = _values(fixed, moved, mask)
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale > 0 else float("nan")


def root_mean_square(fixed: Image, moved: Image, mask: Image | None = None) -> float:
    """Root mean square difference over the mask, in the images' own units."""
    first, second = _values(fixed, moved, mask)
    return float(np.sqrt(np.mean((first - second) ** 2)))


def normalised_mutual_information(
    fixed: Image, moved: Image, mask: Image | None = None, *, bins: int = 64
) -> float:
    """(H(fixed) + H(moved)) / H(both), 1 for independent images to 2 for a one-to-one relation.

    Histogram of ``bins`` equal steps between the extremes. Studholme et al., Pattern Recognition 1999. NaN when
    both images are constant.
    """
    first, second = _values(fixed, moved, mask)
    joint = np.histogram2d(first, second, bins=bins)[0]
    joint /= joint.sum()
    both = _entropy(joint.ravel())
    return (_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / both if both > 0 else float("nan")


def _entropy(share: NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _values(
    fixed: Image, moved: Image, mask: Image | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both images inside the mask: two arrays (N,)."""
    first, second = _array(fixed), _array(moved)
    inside = np.ones(first.shape, dtype=np.bool_) if mask is None else _array(mask) > 0
    _same_shape((first.shape, second.shape, inside.shape))
    if not inside.any():
        raise DataError("the mask is empty")
    return first[inside].astype(np.float64), second[inside].astype(np.float64)


def _array(image: Image) -> NDArray[Any]:
    return np.asarray(image.cpu()) if isinstance(image, torch.Tensor) else np.asarray(image)


def _same_shape(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(set(shapes)) != 1:
        raise DataError(f"images and mask differ in size: {', '.join(str(shape) for shape in shapes)}")
