"""Bias field correction: N4 by SimpleITK (Tustison et al. 2010), optional and slow (seconds a brain)."""

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from neuroreg.errors import DataError
from neuroreg.preprocess import brain
from neuroreg.volume import Geometry, Volume


def n4(
    volume: Volume, mask: Volume | None = None, *, shrink: int = 4, iterations: tuple[int, ...] = (50, 50, 30)
) -> Volume:
    """The image (1, Z, Y, X) divided by its bias field, which is estimated on every ``shrink``-th voxel of ``mask``.

    Without a mask the foreground is used. The field's mean logarithm is 0, so intensities keep their scale.
    Raises DataError when image and mask lie on different grids or nothing above 0 lies in the mask.
    """
    if mask is not None and not mask.geometry.same_grid(volume.geometry):
        raise DataError("the mask lies on another grid than the image", remedy="resample it onto the image")
    inside = (brain.foreground(volume) if mask is None else mask.data > 0) & (volume.data > 0)
    if not bool(inside.any()):
        raise DataError("no voxel above 0 lies in the mask", remedy="check the mask")
    image = _to_itk(volume.data.to(torch.float32), volume.geometry)
    where = _to_itk(inside.to(torch.uint8), volume.geometry)
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(list(iterations))
    factor = [min(shrink, n) for n in volume.geometry.size]
    corrector.Execute(sitk.Shrink(image, factor), sitk.Shrink(where, factor))
    log_field = torch.from_numpy(sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)))[None]
    log_field = log_field - log_field[inside].mean()
    return volume.with_data(volume.data / log_field.exp().to(volume.data.dtype))


def _to_itk(data: Tensor, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data[0].numpy()))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image
