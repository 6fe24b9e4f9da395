"""A registration whose answer is known: the template onto a subject made from it. Needs no data from outside.

The subject is the template read through a known map (a tilt, a shift, other sizes, a smooth random deformation) on
another, oblique grid, with another contrast, an uneven receive field and noise. Real files are written and the real
pipeline registers them; what it finds is then compared with the known map, voxel by voxel.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neuroreg.io.files import prepare_folder
from neuroreg.io.images import write_image
from neuroreg.io.tables import write_csv
from neuroreg.io.transforms import read_transform, write_transform
from neuroreg.metrics.segmentation import mean_dice
from neuroreg.pipeline.case import Reporter
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import load_engine
from neuroreg.pipeline.inputs import FILES
from neuroreg.pipeline.record import Progress, RunRecord, silent
from neuroreg.pipeline.register import register
from neuroreg.pipeline.template import Template, load_template
from neuroreg.preprocess import synthesis
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform, resample
from neuroreg.volume import Geometry, Volume

_TILT_DEGREES = (7.0, -4.0, 9.0)  # about x, y, z
_SHIFT_MM = (14.0, -22.0, 31.0)
_SCALE = (1.06, 0.95, 1.03)
_DEFORMATION_MM = 3.5  # root mean square
_SMOOTHNESS_MM = 14.0
_CONTRAST = (0.0, 0.3, 0.42, 0.62, 0.98, 1.1)
_SPACING_MM = (1.9, 2.1, 2.0)
_SIZE = (84, 92, 84)
_OBLIQUE_DEGREES = (-5.0, 3.0, 6.0)


@dataclass(frozen=True)
class Error:
    """Distance from the known map over the subject's brain, mm, and the mean Dice of its regions."""

    mean_mm: float
    p95_mm: float
    dice: float


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found: without any registration, with the affine alone, and at the end."""

    before: Error
    affine: Error
    after: Error
    record: RunRecord
    folder: Path
    """the folder of the registration"""

    @property
    def report(self) -> Path | None:
        """The page, when one was written."""
        path = self.folder / FILES["report"]
        return path if path.is_file() else None


def demo(
    folder: Path,
    *,
    settings: RegisterConfig | None = None,
    template: Template | None = None,
    seed: int = 0,
    progress: Progress = silent,
    reporter: Reporter | None = None,
) -> DemoOutcome:
    """Make the pair in ``folder``, register it into ``folder``/registration, and measure.

    ``settings`` says how to register (method, refinement, threads, overwrite); its files are replaced. The same
    seed makes the same subject. Raises the errors of ``register``, and UnavailableError without the template.
    """
    progress("make the subject")
    template = template or load_template()
    asked = settings or RegisterConfig(fixed=Path(), moving=Path())
    load_engine(asked)  # a missing weight file is found out before anything is written
    prepare_folder(folder)
    subject, labels, mask, truth = synthesise(template, seed=seed)
    files = _write(folder, template, subject, labels, truth, overwrite=asked.overwrite)
    config = asked.model_copy(update={**files, "output": folder / "registration"})
    record = register(config, progress=progress, reporter=reporter, command="demo")
    progress("compare with the truth")
    before, affine, after = (
        measure(found, truth, template.labels, labels, mask)
        for found in (
            Affine(torch.eye(4, dtype=torch.float64)),
            read_transform(config.folder / FILES["affine"]),
            read_transform(config.folder / FILES["transform"]),
        )
    )
    return DemoOutcome(before, affine, after, record=record, folder=config.folder)


def synthesise(template: Template, *, seed: int) -> tuple[Volume, Volume, Volume, Chain]:
    """A subject made from the template: image, labels, mask, and the true map from subject to template (LPS mm)."""
    generator = torch.Generator().manual_seed(seed)
    middle = template.image.geometry.centre_mm
    truth = _known_map(template.image.geometry, generator)
    grid = _subject_grid(truth.parts[1].inverse()(middle[None])[0])
    labels, mask = (resample(volume, truth, grid) for volume in (template.labels, template.mask))
    clean = resample(template.image, truth, grid).data[None]
    shape = grid.shape
    bias = synthesis.bias_field(shape, sigma=16.0, strength=0.12, generator=generator)
    made = synthesis.recontrast(clean.clamp_max(1.2), _CONTRAST) * bias
    made = synthesis.add_rician_noise(made, sd=0.01, generator=generator)
    data = 1000.0 * made[0] * (mask.data > 0)
    return Volume(data.round(), grid), labels, mask, truth


def _known_map(geometry: Geometry, generator: torch.Generator) -> Chain:
    """Subject to template: first a smooth deformation around the subject, then an affine map."""
    middle = geometry.centre_mm
    linear = _turn(_TILT_DEGREES) @ torch.diag(torch.tensor(_SCALE, dtype=torch.float64))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = linear
    matrix[:3, 3] = middle - linear @ (middle + torch.tensor(_SHIFT_MM, dtype=torch.float64))
    affine = Affine(matrix)
    step = 4.0
    size = tuple(math.ceil(1.3 * n * s / step) for n, s in zip(geometry.size, geometry.spacing, strict=True))
    corner = affine.inverse()(middle[None])[0] - step * (torch.tensor(size, dtype=torch.float64) - 1) / 2
    grid = Geometry(
        (size[0], size[1], size[2]), (step,) * 3, (float(corner[0]), float(corner[1]), float(corner[2]))
    )
    u = synthesis.random_displacement(
        grid.shape, sigma=_SMOOTHNESS_MM / step, size=_DEFORMATION_MM / step, generator=generator
    )
    return Chain((DisplacementField.from_voxels(u, grid), affine))


def _subject_grid(centre: Tensor) -> Geometry:
    direction = _turn(_OBLIQUE_DEGREES) @ torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    half = torch.tensor(
        [(n - 1) / 2 * s for n, s in zip(_SIZE, _SPACING_MM, strict=True)], dtype=torch.float64
    )
    x, y, z = (centre - direction @ half).tolist()
    return Geometry(_SIZE, _SPACING_MM, (x, y, z), tuple(direction.reshape(-1).tolist()))


def _turn(degrees: tuple[float, float, float]) -> Tensor:
    """Rotations about x, then y, then z: (3, 3) float64."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = torch.eye(3, dtype=torch.float64)
        one[a, a] = one[b, b] = cosine
        one[a, b], one[b, a] = -sine, sine
        matrix = one @ matrix
    return matrix


def _write(
    folder: Path, template: Template, subject: Volume, labels: Volume, truth: Transform, *, overwrite: bool
) -> dict[str, Path]:
    """The pair, its labels, their names and the known map as files; returns the settings that name them."""
    files = {
        "fixed": folder / "subject.nii.gz",
        "fixed_labels": folder / "subject_labels.nii.gz",
        "moving": folder / "template.nii.gz",
        "moving_labels": folder / "template_labels.nii.gz",
    }
    volumes = (subject, labels, template.image, template.labels)
    for path, volume in zip(files.values(), volumes, strict=True):
        write_image(volume, path, overwrite=overwrite)
    names = folder / "label_names.csv"
    rows: list[dict[str, str | int]] = [
        {"label": k, "name": name} for k, name in sorted(template.names.items())
    ]
    write_csv(names, ("label", "name"), rows, overwrite=overwrite)
    write_transform(truth, folder / "truth.h5", overwrite=overwrite)
    return {**files, "label_names": names}


def measure(found: Transform, truth: Transform, moving_labels: Volume, labels: Volume, mask: Volume) -> Error:
    """How far ``found`` is from the known map inside the subject's brain, and how well it carries the labels."""
    points = labels.geometry.points()[mask.data[0] > 0]
    distance = (found(points) - truth(points)).norm(dim=-1)
    moved = resample(moving_labels, found, labels.geometry)
    return Error(
        mean_mm=float(distance.mean()),
        p95_mm=float(distance.quantile(0.95)),
        dice=mean_dice(labels.data, moved.data),
    )
