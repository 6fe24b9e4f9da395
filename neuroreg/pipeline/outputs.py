"""Everything a registration leaves behind, in the order of the promise: run.json last."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from neuroreg import field
from neuroreg.io import files
from neuroreg.io.images import ImageFile, write_image
from neuroreg.io.tables import read_label_names, write_csv
from neuroreg.io.transforms import write_field, write_transform
from neuroreg.pipeline.align import Alignment
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.inputs import Inputs
from neuroreg.transforms import Chain, DisplacementField, Transform, resample, total_field
from neuroreg.volume import Geometry, Volume

_ELSEWHERE = frozenset({"rois", "report", "record"})
_SLAB_VOXELS = 2_000_000  # of the Jacobian, at once: about 150 MB of intermediates


@dataclass(frozen=True)
class Maps:
    """The total map on the fixed grid, worked out when an output first needs it."""

    alignment: Alignment
    fixed: Geometry

    @cached_property
    def field(self) -> DisplacementField:
        """The total displacement on the fixed grid, LPS mm."""
        return total_field(self.alignment.transform, self.fixed)

    @cached_property
    def inverse(self) -> Transform:
        """Moving to fixed."""
        return self.alignment.inverse()

    @cached_property
    def jacobian(self) -> Volume:
        """det of the total map on the fixed grid, (1, Z, Y, X) float32."""
        return Volume(jacobian_map(self.field), self.fixed)

    def moved(self, volume: Volume) -> Volume:
        """A volume of the moving side on the fixed grid, read once through the whole map."""
        return resample(volume, self.alignment.transform, self.fixed)


def jacobian_map(displacement: DisplacementField) -> Tensor:
    """det d(p + u)/dp on the field's own grid, central differences, slab by slab: (1, Z, Y, X) float32."""
    depth, height, width = displacement.geometry.shape
    out = torch.empty(1, depth, height, width)
    rows = max(1, _SLAB_VOXELS // (height * width))
    matrix = displacement.geometry.world_to_voxel[:3, :3].to(torch.float32)
    for start in range(0, depth, rows):
        stop = min(start + rows, depth)
        low, high = max(0, start - 1), min(depth, stop + 1)
        low = min(low, max(0, high - 2))
        u = torch.einsum("ij,jzyx->izyx", matrix, displacement.data[:, low:high]).flip(0)[None]
        out[:, start:stop] = field.jacobian_determinant(u)[:, start - low : stop - low]
    return out


@dataclass(frozen=True)
class Writer:
    """Writes the outputs of one run into a folder that holds no others."""

    config: RegisterConfig
    inputs: Inputs
    maps: Maps
    folder: Path

    def write(self, names: Mapping[str, str], *, threads: int) -> list[str]:
        """Write images and transforms; returns what had to be said, in the order of the files.

        The tables, the report and the record come from elsewhere. Compressing takes most of the time, and two files
        can be compressed at once.
        """
        jobs = [
            (self.folder / name, self._job(role)) for role, name in names.items() if role not in _ELSEWHERE
        ]
        if not {"field", "jacobian"}.isdisjoint(names):
            _ = self.maps.field  # worked out once, before two threads ask for it
        with ThreadPoolExecutor(max_workers=min(2, threads)) as pool:
            running = [pool.submit(job, path) for path, job in jobs]
            try:
                return [note for done in running for note in done.result()]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _job(self, role: str) -> Callable[[Path], Sequence[str]]:
        """How one output is written; the call returns notes."""
        maps, images = self.maps, self.inputs.files
        plain: dict[str, Callable[[Path], Sequence[str]]] = {
            "image": lambda path: self._moved(images["moving"], path),
            "field": self._field,
            "transform": lambda path: self._transform(maps.alignment.transform, path),
            "inverse": lambda path: self._transform(maps.inverse, path),
            "affine": lambda path: self._transform(maps.alignment.affine, path),
            "jacobian": lambda path: self._volume(maps.jacobian, path),
            "moved_labels": lambda path: self._moved(images["moving_labels"], path),
        }
        return plain[role] if role in plain else lambda path: self._moved(images[role], path)

    def _moved(self, image: ImageFile, path: Path) -> Sequence[str]:
        return self._volume(self.maps.moved(image.volume), path)

    def _volume(self, volume: Volume, path: Path) -> Sequence[str]:
        return write_image(volume, path)

    def _field(self, path: Path) -> Sequence[str]:
        return write_field(self.maps.field, path)

    def _transform(self, transform: Transform, path: Path) -> Sequence[str]:
        whole = transform if path.suffix == ".mat" or isinstance(transform, Chain) else Chain((transform,))
        write_transform(whole, path)
        return ()

    def regions(self, path: Path) -> tuple[list[dict[str, str | float | None]], float | None]:
        """Compare the labels region by region into ``path``; returns the rows and the mean Dice.

        ``dice_affine`` is what the affine alone would have given.
        """
        from neuroreg.metrics.segmentation import dice  # scipy, only when needed
        from neuroreg.pipeline.evaluate import COLUMNS, Evaluation, compare_labels

        fixed, moving = (self.inputs.files[f"{side}_labels"].volume for side in ("fixed", "moving"))
        names = read_label_names(self.config.label_names) if self.config.label_names else {}
        outcome = Evaluation(compare_labels(fixed, self.maps.moved(moving)), names)
        by_affine = resample(moving, self.maps.alignment.affine, self.maps.fixed)
        first = dice(fixed.data[0], by_affine.data[0], [region.label for region in outcome.regions])
        rows = [row | {"dice_affine": first.get(int(row["id"] or 0))} for row in outcome.rows()]
        write_csv(path, (*COLUMNS, "dice_affine"), rows)
        return rows, outcome.mean("dice")


def describe_outputs(folder: Path, names: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """File name -> sha256 and bytes of every output that is there."""
    present = [folder / name for name in names.values() if (folder / name).is_file()]
    return {path.name: {"sha256": files.sha256(path), "bytes": path.stat().st_size} for path in present}
