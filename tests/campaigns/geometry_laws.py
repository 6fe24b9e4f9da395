"""Laws of geometry on made-up grids: read, turned, cut, resampled or written, the anatomy stays where it is.

python tests/campaigns/geometry_laws.py [--rounds 2000] [--seed 0]

Grids are oblique, flipped, permuted, anisotropic, anywhere in space. The anatomy is a function of world points known in
closed form: one that is linear, which linear interpolation must reproduce exactly, or landmarks. SimpleITK is asked
where there is something to ask. Hypothesis draws the examples, and shrinks one that breaks a law to its simplest.
"""

import argparse
import itertools
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import SimpleITK as sitk  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from nifti_bytes import nifti, save  # noqa: E402
from record import save as save_record  # noqa: E402

from neuroreg.cli import run  # noqa: E402
from neuroreg.io.images import read_image, read_labels, write_image  # noqa: E402
from neuroreg.io.transforms import read_transform, write_transform  # noqa: E402
from neuroreg.pipeline.doctor_files import orientation  # noqa: E402
from neuroreg.preprocess.conform import conform  # noqa: E402
from neuroreg.transforms import Affine, Chain, DisplacementField, resample, total_field  # noqa: E402
from neuroreg.volume import Geometry, Volume  # noqa: E402

WORST: defaultdict[str, float] = defaultdict(float)
"""the largest error that a law has seen, in its own unit"""
CENTRE, RADII = (12.0, -20.0, 31.0), (40.0, 55.0, 45.0)  # of the brain that is conformed, LPS mm


# ---------------------------------------------------------------------------------------------------- what is drawn


def rotations() -> st.SearchStrategy[np.ndarray]:
    """Proper rotations (3, 3) from quaternions; the simplest is none."""
    part = st.floats(-1, 1, width=32)
    return st.tuples(part, part, part).map(lambda bcd: turned(*bcd))


def turned(b: float, c: float, d: float) -> np.ndarray:
    """The rotation of the quaternion (1, b, c, d), made of length 1."""
    a, b, c, d = np.array([1.0, b, c, d]) / math.sqrt(1 + b * b + c * c + d * d)
    return np.array(
        [[a*a+b*b-c*c-d*d, 2*(b*c-a*d), 2*(b*d+a*c)], [2*(b*c+a*d), a*a+c*c-b*b-d*d, 2*(c*d-a*b)],
         [2*(b*d-a*c), 2*(c*d+a*b), a*a+d*d-b*b-c*c]]
    )  # fmt: skip


@st.composite
def directions(draw: st.DrawFn) -> tuple[float, ...]:
    """Any orthogonal axes: turned or upright, in any order, any of them flipped."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from((1.0, -1.0))] * 3))
    axes = np.eye(3)[:, order] * signs
    turn = draw(st.one_of(st.just(np.eye(3)), rotations()))
    return tuple(map(float, (turn @ axes).reshape(-1)))


@st.composite
def grids(draw: st.DrawFn, low: int = 16, high: int = 22) -> Geometry:
    """Grids that an image may have, also when cut to 16 voxels: sides, voxel sizes and place all different."""
    size = draw(st.tuples(*[st.integers(low, high)] * 3))
    first = draw(st.floats(3.15, 5.0))  # a head is 50 mm long at least
    spacing = (first, draw(st.floats(0.3, 5.0)), draw(st.floats(0.3, 5.0)))
    origin = draw(st.tuples(*[st.floats(-250, 250)] * 3))
    return Geometry(size, spacing, origin, draw(directions()))


@st.composite
def affines(draw: st.DrawFn) -> Affine:
    """A turn, a stretch, a shear and a shift, never near to flat."""
    stretch = np.diag(draw(st.tuples(*[st.floats(0.6, 1.6)] * 3)))
    shear = np.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = draw(st.tuples(*[st.floats(-0.3, 0.3)] * 3))
    matrix = np.eye(4)
    matrix[:3, :3] = draw(rotations()) @ stretch @ shear
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-40, 40)] * 3))
    return Affine(torch.from_numpy(matrix))


@dataclass(frozen=True)
class Ramp:
    """f(p) = slope . p + 100, LPS mm: linear, so that reading it between voxels is exact."""

    slope: tuple[float, float, float]

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """(..., 3) -> (...)."""
        return points @ torch.tensor(self.slope, dtype=torch.float64) + 100.0

    def on(self, grid: Geometry) -> Volume:
        """The image of it."""
        return Volume(self(grid.points()).to(torch.float32)[None], grid)


def ramps() -> st.SearchStrategy[Ramp]:
    """Slopes of all directions, none flat: a millimetre of shift along it shows as 0.5 or more."""
    part = st.one_of(st.floats(0.5, 2.0), st.floats(-2.0, -0.5))
    return st.tuples(part, part, part).map(Ramp)


# ----------------------------------------------------------------------------------------------------------- tools


def told(law: str, error: float, limit: float) -> None:
    """Remember the error; it breaks the law where it is above the limit."""
    WORST[law] = max(WORST[law], float(error))
    assert error <= limit, f"{law}: {error:.6g}, at most {limit:g} is lawful"


def inside(points: torch.Tensor, grid: Geometry, rim: float = 1e-6) -> torch.Tensor:
    """Which points (..., 3) lie between the voxel centres of a grid: there linear interpolation has all it needs."""
    matrix = grid.world_to_voxel
    index = points @ matrix[:3, :3].T + matrix[:3, 3]
    return ((index >= rim) & (index <= torch.tensor(grid.size, dtype=torch.float64) - 1 - rim)).all(dim=-1)


def corners(grid: Geometry) -> torch.Tensor:
    """(8, 3) LPS mm."""
    index = torch.tensor(list(itertools.product(*[(0.0, n - 1.0) for n in grid.size])), dtype=torch.float64)
    return index @ grid.voxel_to_world[:3, :3].T + grid.voxel_to_world[:3, 3]


def gap(one: Geometry, two: Geometry) -> float:
    """The largest distance of a voxel of one grid from the same of the other, mm; infinite where the sizes differ."""
    return math.inf if one.size != two.size else float((corners(one) - corners(two)).norm(dim=1).max())


def by_itk(image: sitk.Image) -> Geometry:
    """The grid of an ITK image."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def to_itk(volume: Volume) -> sitk.Image:
    """The same image for ITK."""
    image = sitk.GetImageFromArray(volume.data[0].numpy())
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    return image


def reordered(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same image with its voxel axes exchanged and flipped, by numpy alone."""
    data = volume.data.numpy().transpose(0, *(3 - axis for axis in reversed(order)))
    columns = np.array(volume.geometry.direction).reshape(3, 3)[:, list(order)]
    size, spacing = (
        [values[axis] for axis in order] for values in (volume.geometry.size, volume.geometry.spacing)
    )
    origin = np.array(volume.geometry.origin)
    for axis, flip in enumerate(flips):
        if flip:
            data = np.flip(data, 3 - axis)
            origin = origin + columns[:, axis] * spacing[axis] * (size[axis] - 1)
            columns[:, axis] *= -1
    grid = Geometry(tuple(size), tuple(spacing), tuple(origin.tolist()), tuple(columns.reshape(-1).tolist()))
    return Volume(torch.from_numpy(data.copy()), grid, is_label=volume.is_label)


def cropped(volume: Volume, low: tuple[int, ...], high: tuple[int, ...]) -> Volume:
    """Without so many voxels at the low and the high end of the axes x, y, z; below 0: with so many zeros more."""
    grid, data = volume.geometry, volume.data.numpy()
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        data = np.pad(data, [(max(0, -a), max(0, -b)) if k == 3 - axis else (0, 0) for k in range(4)])
        data = np.take(data, range(max(0, a), data.shape[3 - axis] - max(0, b)), axis=3 - axis)
    matrix = grid.voxel_to_world.numpy()
    origin = tuple((matrix[:3, :3] @ low + matrix[:3, 3]).tolist())
    size = tuple(n - a - b for n, a, b in zip(grid.size, low, high, strict=True))
    return Volume(
        torch.from_numpy(data.copy()), replace(grid, size=size, origin=origin), is_label=volume.is_label
    )


def command(*words: str | Path) -> None:
    """One command of the program, which must succeed."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        code = run([str(word) for word in words])
    assert code == 0, said.getvalue()


# ------------------------------------------------------------------------------------------------------------ laws


def geometry_is_itk_s(grid: Geometry, index: tuple[float, float, float], level: int) -> None:
    """Voxel -> world is ITK's, world -> voxel is its inverse, and level l has every 2^l-th voxel."""
    image = to_itk(Volume(torch.zeros(1, *grid.shape), grid))
    ours = grid.voxel_to_world @ torch.tensor([*index, 1.0], dtype=torch.float64)
    theirs = torch.tensor(image.TransformContinuousIndexToPhysicalPoint(index), dtype=torch.float64)
    told("geometry and ITK, mm", float((ours[:3] - theirs).norm()), 1e-6)
    back = grid.world_to_voxel @ ours
    told("there and back, voxels", float((back[:3] - torch.tensor(index, dtype=torch.float64)).norm()), 1e-9)
    coarse = grid.level(level).points()
    step = 2**level
    told("levels, mm", float((coarse - grid.points()[::step, ::step, ::step]).abs().max()), 1e-9)
    told("the middle, mm", float((grid.centre_mm - corners(grid).mean(dim=0)).norm()), 1e-9)


def letters_are_itk_s(grid: Geometry) -> None:
    """The letters of the axes are those of ITK's orientation filter, where no axis is nearly halfway."""
    letters, oblique = orientation(grid)
    if oblique < 40:
        theirs = sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(grid.direction)
        assert letters == theirs, (letters, theirs)


def files_keep_the_place(folder: Path, grid: Geometry, ramp: Ramp, suffix: str) -> None:
    """Written and read, by us and by SimpleITK: the same voxels in the same place.

    Each suffix has a name of its own: of an a.nii.gz beside an a.nii, ITK reads the voxels of the a.nii.
    """
    path, volume = folder / f"a{suffix.replace('.', '_')}{suffix}", ramp.on(grid)
    write_image(volume, path, overwrite=True)
    ours, theirs = read_image(path).volume, sitk.ReadImage(str(path))
    told("voxels in a file", float((ours.data - volume.data).abs().max()), 0)
    told(
        "voxels by SimpleITK", float(np.abs(sitk.GetArrayFromImage(theirs) - volume.data[0].numpy()).max()), 0
    )
    told("written and read, mm", gap(ours.geometry, grid), 1e-3)
    told("read by SimpleITK, mm", gap(by_itk(theirs), grid), 1e-3)
    told(
        "a function of the world, per mm",
        float((ramp(ours.geometry.points()) - ours.data[0]).abs().max()),
        4e-3,
    )


def codes_choose_the_frame(
    folder: Path, grid: Geometry, codes: tuple[int, int], shift: float, xform: str, ramp: Ramp
) -> None:
    """qform and sform, each with its code, the sform shifted along x: the frame asked for, or ITK's, or none."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.voxel_to_world.numpy()
    moved = affine.copy()
    moved[0, 3] += shift
    axes = affine[:3, :3] / grid.spacing
    qfac = float(np.sign(np.linalg.det(axes)))
    data = ramp.on(grid).data[0].numpy().T
    path = save(folder / "a.nii", nifti(
        data, affine, pixdim=[qfac, *grid.spacing, 1, 1, 1, 1], quatern=quaternion(axes * [1, 1, qfac]),
        srow=moved[:3].reshape(-1).tolist(), qform_code=codes[0], sform_code=codes[1],
    ))  # fmt: skip
    frames = {"qform": grid, "sform": replace(grid, origin=(grid.origin[0] - shift, *grid.origin[1:]))}
    found = read_image(path, xform=xform)
    if xform == "auto":
        wanted = by_itk(sitk.ReadImage(str(path)))
        told("the frame that ITK takes, mm", gap(found.volume.geometry, wanted), 2e-3)
    else:
        told("the frame asked for, mm", gap(found.volume.geometry, frames[xform]), 2e-3)
    assert bool(found.notes) == (abs(shift) > 1e-2)


def quaternion(turn: np.ndarray) -> list[float]:
    """(b, c, d) of a proper rotation (3, 3), a >= 0: from the eigenvector of the turn's axis."""
    k = np.array(
        [[turn[0, 0] - turn[1, 1] - turn[2, 2], 0, 0, 0],
         [turn[1, 0] + turn[0, 1], turn[1, 1] - turn[0, 0] - turn[2, 2], 0, 0],
         [turn[2, 0] + turn[0, 2], turn[2, 1] + turn[1, 2], turn[2, 2] - turn[0, 0] - turn[1, 1], 0],
         [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1], np.trace(turn)]]
    ) / 3.0  # fmt: skip
    b, c, d, a = np.linalg.eigh(k)[1][:, -1]  # Bar-Itzhack 2000; eigh reads the lower triangle
    return [float(v) for v in (np.array([b, c, d]) if a >= 0 else -np.array([b, c, d]))]


def convert_keeps_the_place(folder: Path, grid: Geometry, ramp: Ramp, suffixes: tuple[str, str]) -> None:
    """``convert`` from any format to any: SimpleITK reads the same in both."""
    one, two = (folder / f"{name}{s.replace('.', '_')}{s}" for name, s in zip("ab", suffixes, strict=True))
    sitk.WriteImage(to_itk(ramp.on(grid)), str(one))
    command("convert", one, two, "--overwrite")
    before, after = sitk.ReadImage(str(one)), sitk.ReadImage(str(two))
    told("convert, mm", gap(by_itk(before), by_itk(after)), 1e-3)
    told(
        "convert, voxels",
        float(np.abs(sitk.GetArrayFromImage(before) - sitk.GetArrayFromImage(after)).max()),
        0,
    )


def another_order_is_the_same_image(
    grid: Geometry, onto: Geometry, ramp: Ramp, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    """Axes exchanged and flipped: read at any point of the world, nothing has changed, to the last digit but one."""
    onto = replace(onto, origin=tuple((grid.centre_mm + torch.tensor(onto.origin) / 20).tolist()))
    volume, identity = ramp.on(grid), Affine(torch.eye(4, dtype=torch.float64))
    one, two = (resample(v, identity, onto).data for v in (volume, reordered(volume, order, flips)))
    within = inside(onto.points(), grid)[None]
    told(
        "another order of the axes, intensity",
        float((one - two)[within].abs().max()) if within.any() else 0,
        1e-3,
    )
    told("the function itself, intensity", error_in(one, ramp(onto.points())[None], within), 2e-3)


def error_in(found: torch.Tensor, expected: torch.Tensor, within: torch.Tensor) -> float:
    """The largest difference where ``within`` is set."""
    return float((found - expected)[within].abs().max()) if bool(within.any()) else 0.0


def crops_and_pads_move_nothing(
    folder: Path, grid: Geometry, ramp: Ramp, low: tuple[int, ...], high: tuple[int, ...]
) -> None:
    """Fewer or more voxels at any end, through a file: what is left lies where it lay."""
    volume = ramp.on(grid)
    cut = cropped(volume, low, high)
    write_image(cut, folder / "a.nii.gz", overwrite=True)
    found = read_image(folder / "a.nii.gz").volume
    within = inside(found.geometry.points(), grid, rim=-1e-3)[None]
    told(
        "cropped and padded, intensity",
        error_in(found.data, ramp(found.geometry.points())[None], within),
        4e-3,
    )
    back = resample(found, Affine(torch.eye(4, dtype=torch.float64)), grid)
    held = (
        inside(grid.points(), found.geometry, rim=1e-2)[None]
        & inside(grid.points(), cropped(cut, *border(low, high)).geometry)[None]
    )
    told("and back on the old grid, intensity", error_in(back.data, volume.data, held), 4e-3)


def border(low: tuple[int, ...], high: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What takes the zeros away that were added."""
    return tuple(max(0, -n) for n in low), tuple(max(0, -n) for n in high)


def resampling_is_itk_s(grid: Geometry, onto: Geometry, affine: Affine, ramp: Ramp) -> None:
    """Linear and nearest, through any affine, onto any grid: as ITK, and as the function itself."""
    onto = replace(onto, origin=tuple((grid.centre_mm + torch.tensor(onto.origin) / 10).tolist()))
    volume = ramp.on(grid)
    found = resample(volume, affine, onto).data
    transform = sitk.AffineTransform(
        affine.matrix[:3, :3].reshape(-1).tolist(), affine.matrix[:3, 3].tolist()
    )
    like = to_itk(Volume(torch.zeros(1, *onto.shape), onto))
    theirs = sitk.GetArrayFromImage(sitk.Resample(to_itk(volume), like, transform, sitk.sitkLinear, 0.0))
    points = affine(onto.points())
    within = inside(points, grid)[None]
    told("resampled, and the function, intensity", error_in(found, ramp(points)[None], within), 2e-3)
    told("resampled, and ITK, intensity", error_in(found, torch.from_numpy(theirs)[None], within), 2e-3)
    ids = torch.arange(volume.data.numel(), dtype=torch.int32).reshape(volume.data.shape)
    nearest = resample(Volume(ids, grid, is_label=True), affine, onto).data
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(
            to_itk(Volume(ids, grid, is_label=True)), like, transform, sitk.sitkNearestNeighbor, 0.0
        )
    )
    matrix = grid.world_to_voxel
    index = points @ matrix[:3, :3].T + matrix[:3, 3]
    clear = ((index - index.floor() - 0.5).abs() > 1e-6).all(dim=-1)[
        None
    ]  # of two that are equally near, either
    assert torch.equal(nearest[clear & within], torch.from_numpy(theirs)[None][clear & within])


def apply_moves_as_told(
    folder: Path, grid: Geometry, onto: Geometry, affine: Affine, ramp: Ramp, suffix: str
) -> None:
    """``apply`` with an affine that ITK wrote: out(p) = f(T(p)), and with its inverse f(T^-1(p))."""
    onto = replace(onto, origin=tuple((grid.centre_mm + torch.tensor(onto.origin) / 10).tolist()))
    write_image(ramp.on(grid), folder / "a.nii.gz", overwrite=True)
    write_image(Ramp((1.0, 1.0, 1.0)).on(onto), folder / "to.nii.gz", overwrite=True)
    transform = sitk.AffineTransform(
        affine.matrix[:3, :3].reshape(-1).tolist(), affine.matrix[:3, 3].tolist()
    )
    sitk.WriteTransform(transform, str(folder / f"t{suffix}"))
    for flag, moves in (((), affine), (("--inverse",), affine.inverse())):
        words = (
            folder / f"t{suffix}",
            "--to",
            folder / "to.nii.gz",
            folder / "a.nii.gz",
            "-o",
            folder / "o.nii.gz",
        )
        command("apply", *words, "--overwrite", *flag)
        found = read_back(folder / "o.nii.gz")
        points = moves(onto.points())
        told(
            "apply, intensity",
            error_in(found.data, ramp(points)[None], inside(points, grid, 1e-3)[None]),
            1e-2,
        )


def read_back(path: Path) -> Volume:
    """An image by SimpleITK."""
    image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    return Volume(torch.from_numpy(sitk.GetArrayFromImage(image))[None], by_itk(image))


def landmarks_stay(
    folder: Path, grid: Geometry, order: tuple[int, ...], flips: tuple[bool, ...], place: int
) -> None:
    """Labels through ``convert --labels`` and ``apply --labels`` onto the same voxels in another order: exact."""
    generator = np.random.default_rng(place)
    ids = generator.integers(0, 2**31 - 1, grid.shape).astype("i4") * (generator.random(grid.shape) < 0.01)
    labels = Volume(torch.from_numpy(ids.astype("i4"))[None], grid, is_label=True)
    other = reordered(labels, order, flips)
    write_image(labels, folder / "a.nii.gz", overwrite=True)
    write_image(Volume(other.data.float() + torch.arange(other.data.shape[-1]), other.geometry), folder / "to.nii.gz",
                overwrite=True)  # fmt: skip
    write_transform(Affine(torch.eye(4, dtype=torch.float64)), folder / "t.mat", overwrite=True)
    command("convert", folder / "a.nii.gz", folder / "b.nrrd", "--labels", "--overwrite")
    command("apply", folder / "t.mat", "--to", folder / "to.nii.gz", folder / "b.nrrd", "-o", folder / "o.nii.gz",
            "--labels", "--overwrite")  # fmt: skip
    found = read_labels(folder / "o.nii.gz").volume
    assert torch.equal(found.data.long(), other.data.long())
    told("landmarks, mm", gap(found.geometry, other.geometry), 1e-3)


def brain_on(grid: Geometry) -> Volume:
    """A stripped ellipsoid whose intensity rises along a slanted line: where its middle of mass lies is known."""
    points = grid.points() - torch.tensor(CENTRE, dtype=torch.float64)
    held = ((points / torch.tensor(RADII, dtype=torch.float64)) ** 2).sum(dim=-1) <= 1
    slope = torch.tensor([0.004, -0.007, 0.002], dtype=torch.float64)
    return Volume(torch.where(held, 1.0 + points @ slope, 0.0).to(torch.float32)[None], grid)


def conforming_keeps_the_place(
    direction: tuple[float, ...], spacing: tuple[float, float, float], shift: tuple[float, ...]
) -> None:
    """The middle of mass of a brain lies on the network grid where it lies in the world, however it was stored.

    Of an ellipsoid with radii r and the intensity 1 + s . (p - c) it is c + r^2 s / 5.
    """
    size = tuple(int(150 / mm) + 1 for mm in spacing)
    axes = torch.tensor(direction, dtype=torch.float64).reshape(3, 3) * torch.tensor(
        spacing, dtype=torch.float64
    )
    middle = torch.tensor(CENTRE, dtype=torch.float64) + torch.tensor(shift, dtype=torch.float64)
    origin = middle - axes @ (torch.tensor(size, dtype=torch.float64) - 1) / 2
    volume = brain_on(Geometry(size, spacing, tuple(origin.tolist()), direction))
    pair = conform(volume, volume, spacing_mm=4.0, divisor=8)
    points, weights = pair.fixed_grid.points(), pair.fixed[0, 0].double()
    found = (points * weights[..., None]).sum(dim=(0, 1, 2)) / weights.sum()
    slope = torch.tensor([0.004, -0.007, 0.002], dtype=torch.float64)
    expected = (
        torch.tensor(CENTRE, dtype=torch.float64) + torch.tensor(RADII, dtype=torch.float64) ** 2 * slope / 5
    )
    told("conformed, the middle of mass, mm", float((found - expected).norm()), 0.35)
    assert torch.equal(pair.fixed, pair.moving)


def maps_join_and_turn_back(
    folder: Path, one: Affine, two: Affine, point: tuple[float, ...], suffix: str
) -> None:
    """``compose`` is one map after the other, ``invert`` undoes it, SimpleITK reads the same map in the files."""
    write_transform(one, folder / f"1{suffix}", overwrite=True)
    write_transform(two, folder / f"2{suffix}", overwrite=True)
    command("compose", folder / f"1{suffix}", folder / f"2{suffix}", "-o", folder / "both.h5", "--overwrite")
    command("invert", folder / "both.h5", "-o", folder / "back.h5", "--overwrite")
    p = torch.tensor(point, dtype=torch.float64)
    there = two(one(p))
    told("compose, mm", float((read_transform(folder / "both.h5")(p) - there).norm()), 1e-9)
    told("invert, mm", float((read_transform(folder / "back.h5")(there) - p).norm()), 1e-6)
    told("the chain's own inverse, mm", float((Chain((one, two)).inverse()(there) - p).norm()), 1e-6)
    theirs = [sitk.ReadTransform(str(folder / name)) for name in ("both.h5", "back.h5")]
    told("compose, by SimpleITK, mm", math.dist(theirs[0].TransformPoint(point), there.tolist()), 1e-6)
    told("invert, by SimpleITK, mm", math.dist(theirs[1].TransformPoint(there.tolist()), point), 1e-6)


def fields_keep_their_map(folder: Path, grid: Geometry, affine: Affine, share: float) -> None:
    """An affine written out as a field moves voxel centres as it does; there and back through voxels, files and ITK."""
    small = torch.eye(4, dtype=torch.float64) + 0.1 * share * (
        affine.matrix - torch.eye(4, dtype=torch.float64)
    )
    field = total_field(Affine(small), grid)
    points = grid.points()[1:-1:3, 1:-1:3, 1:-1:3].reshape(-1, 3)
    told("a field of an affine, mm", float((field(points) - Affine(small)(points)).norm(dim=1).max()), 1e-4)
    again = DisplacementField.from_voxels(field.to_voxels(), grid)
    told("voxels and back, mm", float((again.data - field.data).abs().max()), 1e-4)
    for name in ("f.nii.gz", "f.h5"):
        write_transform(field, folder / name, overwrite=True)
        told(
            "a field in a file, mm",
            float((read_transform(folder / name)(points) - field(points)).norm(dim=1).max()),
            2e-3,
        )
    theirs = sitk.ReadTransform(str(folder / "f.h5"))
    found = torch.tensor([theirs.TransformPoint(p) for p in points.tolist()], dtype=torch.float64)
    told("a field by SimpleITK, mm", float((found - field(points)).norm(dim=1).max()), 1e-4)


SUFFIX = st.sampled_from((".nii.gz", ".nii", ".mha", ".nrrd"))
ORDER, FLIPS = st.permutations(range(3)).map(tuple), st.tuples(*[st.booleans()] * 3)
AFFINE_SUFFIX = st.sampled_from((".mat", ".tfm", ".h5"))
CUT = st.tuples(*[st.integers(-4, 4)] * 3)
BIG = grids(low=24, high=26)
LAWS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "geometry": (geometry_is_itk_s, {
        "grid": grids(), "index": st.tuples(*[st.floats(-5, 30)] * 3), "level": st.integers(0, 3)}),
    "letters": (letters_are_itk_s, {"grid": grids()}),
    "files": (files_keep_the_place, {"grid": grids(), "ramp": ramps(), "suffix": SUFFIX}),
    "qform and sform": (codes_choose_the_frame, {
        "grid": grids(), "codes": st.tuples(st.integers(1, 4), st.integers(1, 4)), "ramp": ramps(),
        "shift": st.one_of(st.just(0.0), st.floats(0.05, 0.9)), "xform": st.sampled_from(("auto", "qform", "sform"))}),
    "convert": (convert_keeps_the_place, {"grid": grids(), "ramp": ramps(), "suffixes": st.tuples(SUFFIX, SUFFIX)}),
    "order of the axes": (another_order_is_the_same_image, {
        "grid": grids(), "onto": grids(), "ramp": ramps(), "order": ORDER, "flips": FLIPS}),
    "crop and pad": (crops_and_pads_move_nothing, {"grid": BIG, "ramp": ramps(), "low": CUT, "high": CUT}),
    "resample": (resampling_is_itk_s, {"grid": grids(), "onto": grids(), "affine": affines(), "ramp": ramps()}),
    "apply": (apply_moves_as_told, {
        "grid": grids(), "onto": grids(), "affine": affines(), "ramp": ramps(), "suffix": AFFINE_SUFFIX}),
    "landmarks": (landmarks_stay, {"grid": grids(), "order": ORDER, "flips": FLIPS, "place": st.integers(0, 99)}),
    "conform": (conforming_keeps_the_place, {
        "direction": directions(), "spacing": st.tuples(*[st.floats(2.0, 4.5)] * 3),
        "shift": st.tuples(*[st.floats(-8, 8)] * 3)}),
    "compose and invert": (maps_join_and_turn_back, {
        "one": affines(), "two": affines(), "point": st.tuples(*[st.floats(-100, 100)] * 3), "suffix": AFFINE_SUFFIX}),
    "fields": (fields_keep_their_map, {"grid": grids(), "affine": affines(), "share": st.floats(0, 1)}),
}  # fmt: skip
"""law -> what must hold, and what is drawn; a law that needs files takes a folder first"""


def hold(law: str, examples: int, number: int) -> int:
    """Try one law on so many examples; how many were tried. Raises what broke it, for the simplest example found."""
    check, drawn = LAWS[law]
    tried = [0]
    with tempfile.TemporaryDirectory() as place:

        def once(**what: object) -> None:
            tried[0] += 1
            check(Path(place), **what) if "folder" in check.__annotations__ else check(**what)

        limits = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        seed(number)(limits(given(**drawn)(once)))()
    return tried[0]


def campaign(rounds: int, number: int) -> tuple[dict[str, int], dict[str, str]]:
    """Every law on its share of the rounds: examples tried, and the laws that broke with the reason."""
    tried, broken = {}, {}
    for law in LAWS:
        start = time.monotonic()
        try:
            tried[law] = hold(law, -(-rounds // len(LAWS)), number)
        except Exception as error:  # noqa: BLE001  # one law that breaks is reported with the others
            tried[law], broken[law] = 0, f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
            print(law, broken[law], file=sys.stderr)
        print(f"{law}: {tried[law]} examples, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
    return tried, broken


def main() -> int:
    """Run it, save the record, leave with 1 where a law did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    start = time.monotonic()
    tried, broken = campaign(asked.rounds, asked.seed)
    found: dict[str, int | float | str] = {
        "examples": sum(tried.values()),
        **{f"examples: {law}": count for law, count in tried.items()},
        **{f"largest error: {what}": float(f"{error:.3g}") for what, error in WORST.items()},
        "laws broken": len(broken),
    }
    law = (
        "On oblique, flipped, permuted and anisotropic grids anywhere in space, the anatomy never moves: read, "
        "written, converted, cropped, padded, re-ordered, conformed, resampled and moved by known maps, a function of "
        "the world keeps its values there, and SimpleITK agrees."
    )
    save_record("geometry_laws", law=law, passed=not broken, found=found, seconds=time.monotonic() - start)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
