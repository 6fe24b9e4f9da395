"""What a mask leaves out of an image: lesions inside the brain, the skull around it. Network grid."""

from dataclasses import dataclass

from torch import Tensor

from neuroreg.preprocess import brain, intensity
from neuroreg.volume import Geometry


@dataclass(frozen=True)
class Side:
    """One image on its network grid; tensors (1, 1, D, H, W), all but the image bool."""

    image: Tensor
    """float32, 0..1.275"""
    inside: Tensor
    """the brain or head, as far as it counts"""
    grid: Geometry
    stripped: bool
    lesion: Tensor | None = None
    """what the mask leaves out of the brain, filled in; None without a mask"""
    outer: Tensor | None = None
    """what the mask leaves out around it; None without a mask"""

    @property
    def bare(self) -> bool:
        """Whether the skull is gone or can be taken away."""
        litres = float(self.inside.sum()) * self.grid.voxel_volume_mm3 / 1e6
        return self.stripped or (self.outer is not None and litres <= brain.BRAIN_LITRES[1])

    def leave_out(self, *, bare: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(image, where it counts, what is left out and still seen); with ``bare`` the skull is taken away."""
        if self.lesion is None or self.outer is None:
            return self.image, None, None
        if bare and not self.stripped:
            return self.image * ~self.outer, ~self.lesion, None
        return self.image, ~(self.lesion | self.outer), self.outer


def side(
    image: Tensor, head: Tensor, counts: Tensor | None, grid: Geometry, *, stripped: bool, radius: int
) -> Side:
    """Scale the image and part what ``counts`` leaves out of ``head`` into lesions and surroundings.

    image float32, head and counts bool, all (1, 1, D, H, W); ``radius`` voxels closes the clefts of a mask. Of a
    stripped image all that is left out is lesion, unless the mask picks a small region; of a whole head, what the mask
    encloses. Raises DataError when nothing is above 0.
    """
    inside = head if counts is None else head & counts
    image = intensity.scale(image, inside if bool(inside.any()) else None)
    if counts is None:
        return Side(image, inside, grid, stripped)
    left_out = head & ~counts
    lesion = left_out
    if not stripped or bool(left_out.sum() > inside.sum()):
        lesion = left_out & brain.close_and_fill(inside, radius=radius)
    image = intensity.fill_in(image, lesion, inside, spacing_mm=grid.spacing[0])
    return Side(image, inside, grid, stripped, lesion, left_out & ~lesion)
