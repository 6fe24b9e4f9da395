"""The size of an image from its header alone, for estimates; who needs the image itself reads it with its checks."""

from pathlib import Path

import SimpleITK as sitk


def voxels(path: Path) -> int | None:
    """How many voxels the header declares; None where it cannot be read."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    count = 1
    for side in reader.GetSize()[:3]:
        count *= int(side)
    return count
