"""A head that shows every exchange of axes: a large bright ball on the right, a small one at the front, top, left.

Everything is said by world points, RAS mm, and written by SimpleITK or byte by byte: nothing of neuroreg is used, so
that what it reads and writes is held to something that cannot share its mistakes.
"""

import gzip
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nifti_bytes
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Map = Callable[[Array], Array]
"""points (..., 3) LPS mm -> points"""

RIGHT = np.array([31.0, -1.0, 9.0])
"""RAS mm of the large ball: the patient's right"""
FRONT_TOP_LEFT = np.array([-23.0, 32.0, 24.0])
"""RAS mm of the small ball"""
SIGMA_MM = {"right": 6.0, "front top left": 4.0}
_CENTRE = np.array([2.0, 5.0, 7.0])  # RAS mm of the middle of the head and of every grid
_AXES = np.array([50.0, 62.0, 47.0])
_FLIP = np.array([-1.0, -1.0, 1.0])
_BRIGHT = 450.0

RIGHT_ID, LEFT_ID, LARGE_ID = 47, 48, 16_777_217
"""Labels: a ball around RIGHT, its mirror image on the left, and, larger than float32 can hold, FRONT_TOP_LEFT's."""
LABELS = {RIGHT_ID: RIGHT, LEFT_ID: RIGHT * (-1, 1, 1), LARGE_ID: FRONT_TOP_LEFT}
LABEL_RADIUS_MM = 11.0


def lps(ras: Array) -> Array:
    """RAS <-> LPS: x and y change sign."""
    return np.asarray(ras) * _FLIP


def head(points: Array) -> NDArray[np.float32]:
    """Intensities at points (..., 3) LPS mm: up to 300, and 1000 more in the middle of the two balls."""
    q = lps(points)
    about = (q - _CENTRE) / _AXES
    inside = (about**2).sum(-1) < 1
    value = 130.0 + 0.5 * q[..., 0] + 0.8 * q[..., 1] - 0.6 * q[..., 2]
    value = value + 60.0 * np.sin(q[..., 0] / 11.0) * np.cos(q[..., 1] / 13.0 + q[..., 2] / 9.0)
    for name, place in (("right", RIGHT), ("front top left", FRONT_TOP_LEFT)):
        distance = ((q - place) ** 2).sum(-1)
        value = value + 1000.0 * np.exp(-distance / (2 * SIGMA_MM[name] ** 2))
    return np.where(inside, np.maximum(value, 5.0), 0.0).astype(np.float32)


def labels(points: Array, *, large: int = LARGE_ID) -> NDArray[np.int32]:
    """LABELS at points (..., 3) LPS mm, 0 elsewhere; ``large`` instead of the one that ANTs cannot hold."""
    q = lps(points)
    found = np.zeros(q.shape[:-1], np.int32)
    for label, place in LABELS.items():
        found[((q - place) ** 2).sum(-1) < LABEL_RADIUS_MM**2] = large if label == LARGE_ID else label
    return found


def rotation(axis: tuple[float, float, float], degrees: float) -> Array:
    """(3, 3) about an axis."""
    unit = np.asarray(axis) / np.linalg.norm(axis)
    return np.asarray(Rotation.from_rotvec(np.radians(degrees) * unit).as_matrix())


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie."""

    direction: Array
    """(3, 3) LPS cosines; column k is voxel axis k"""
    size: tuple[int, int, int] = (36, 43, 31)
    spacing: tuple[float, float, float] = (3.6, 3.2, 4.1)

    @property
    def matrix(self) -> Array:
        """(4, 4): voxel index (x, y, z, 1) -> LPS mm, the grid around the head's middle."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * self.spacing
        matrix[:3, 3] = lps(_CENTRE) - matrix[:3, :3] @ ((np.array(self.size) - 1) / 2)
        return matrix

    def points(self) -> Array:
        """(Z, Y, X, 3) LPS mm of the voxels."""
        index = np.stack(np.meshgrid(*map(np.arange, self.size[::-1]), indexing="ij"), axis=-1)[..., ::-1]
        return np.asarray(index @ self.matrix[:3, :3].T + self.matrix[:3, 3])


def orders() -> list[Array]:
    """The 48 directions along the world's axes, 24 of each handedness: every order, every sign."""
    return [
        np.eye(3)[:, list(order)] * signs
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]


def grid(order: int, *, degrees: float = 0.0, axis: tuple[float, float, float] = (0.4, -0.3, 0.9)) -> Grid:
    """A grid around the head in one of the 48 orders, turned by ``degrees``; which side is long follows the order."""
    direction = orders()[order % 48]
    along = np.abs(direction).argmax(axis=0)  # the world axis of each voxel axis
    sides, steps = np.array([132.0, 150.0, 128.0]), np.roll([3.6, 3.2, 4.1], order)
    size = [round(sides[a] / s) + k for k, (a, s) in enumerate(zip(along, steps, strict=True))]
    return Grid(
        rotation(axis, degrees) @ direction,
        (size[0], size[1], size[2]),
        (float(steps[0]), float(steps[1]), float(steps[2])),
    )


def image(
    where: Grid, made: Callable[[Array], NDArray[np.generic]] = head, through: Map | None = None
) -> sitk.Image:
    """What ``made`` has at the grid's points, or at the points to which ``through`` takes them."""
    points = where.points()
    found = sitk.GetImageFromArray(made(points if through is None else through(points)))
    found.SetSpacing(where.spacing)
    found.SetOrigin([float(v) for v in where.matrix[:3, 3]])
    found.SetDirection([float(v) for v in where.direction.reshape(-1)])
    return found


def save(found: sitk.Image, path: Path) -> Path:
    """Through SimpleITK, in the format of the suffix."""
    sitk.WriteImage(found, str(path))
    return path


def save_nifti(found: sitk.Image, path: Path, *, form: str = "both", version: int = 1) -> Path:
    """Byte by byte, .nii or .nii.gz, or for .hdr the pair with .img; ``form``: qform, sform or both."""
    voxels = np.ascontiguousarray(np.transpose(sitk.GetArrayFromImage(found)))
    matrix = np.eye(4)
    axes = np.array(found.GetDirection()).reshape(3, 3) * _FLIP[:, None]
    matrix[:3, :3], matrix[:3, 3] = axes * found.GetSpacing(), lps(np.array(found.GetOrigin()))
    qfac = 1.0 if np.linalg.det(axes) > 0 else -1.0
    quaternion = Rotation.from_matrix(axes * (1.0, 1.0, qfac)).as_quat(canonical=True)[:3]
    codes = {"qform_code": int(form != "sform"), "sform_code": int(form != "qform")}
    if version == 2:
        content = _nifti2(voxels, matrix, quaternion, qfac, codes)
    else:
        pixdim = [qfac, *found.GetSpacing(), 1.0, 1.0, 1.0, 1.0]
        empty = {} if form != "qform" else {"srow": [0.0] * 12}
        content = nifti_bytes.nifti(voxels, matrix, quatern=list(quaternion), pixdim=pixdim, **codes, **empty)
    if path.suffix == ".hdr":
        path.write_bytes(nifti_bytes.patched(content[:348], magic=b"ni1\0", vox_offset=0.0))
        path.with_suffix(".img").write_bytes(content[352:])
        return path
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)
    return path


def _nifti2(
    voxels: NDArray[np.generic], matrix: Array, quaternion: Array, qfac: float, codes: dict[str, int]
) -> bytes:
    """A single-file NIfTI-2, little-endian, by the offsets of the standard."""
    header = bytearray(544)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    code = nifti_bytes.CODES[voxels.dtype.str[1:]]
    for offset, layout, values in (
        (0, "i", [540]), (4, "8s", [b"n+2\0\r\n\x1a\n"]), (12, "hh", [code, voxels.itemsize * 8]),
        (16, "8q", [3, *voxels.shape, 1, 1, 1, 1]), (104, "8d", [qfac, *spacing, 1, 1, 1, 1]), (168, "q", [544]),
        (176, "d", [1.0]), (344, "ii", list(codes.values())), (352, "6d", [*quaternion, *matrix[:3, 3]]),
        (400, "12d", list(matrix[:3].reshape(-1))), (500, "i", [2]),
    ):  # fmt: skip
        struct.pack_into("<" + layout, header, offset, *values)
    return bytes(header) + voxels.tobytes(order="F")


def balls(voxels: NDArray[np.generic], matrix: Array) -> tuple[Array, Array]:
    """Where the large and the small ball are: voxels (Z, Y, X), index (x, y, z, 1) -> world; two world points (3,)."""
    bright = np.maximum(np.asarray(voxels, np.float64) - _BRIGHT, 0.0)
    parts, count = ndimage.label(bright > 0)
    assert count >= 2, f"{count} bright balls"
    sums = ndimage.sum_labels(bright, parts, range(1, count + 1))
    two = np.argsort(sums)[::-1][:2] + 1
    index = np.array(ndimage.center_of_mass(bright, parts, two))[:, ::-1]
    large, small = index @ matrix[:3, :3].T + matrix[:3, 3]
    return large, small


def matrix_of(found: sitk.Image) -> Array:
    """(4, 4): voxel index -> LPS mm, as SimpleITK has it."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(found.GetDirection()).reshape(3, 3) * found.GetSpacing()
    matrix[:3, 3] = found.GetOrigin()
    return matrix


def check(path: Path, *, through: Map = lambda points: points, tolerance_mm: float = 1.0) -> None:
    """Fail unless SimpleITK finds both balls of ``path`` where ``through`` takes them, and the large one on the right.

    ``through`` maps LPS points of the phantom to those expected in the file.
    """
    found = sitk.ReadImage(str(path))
    seen = balls(sitk.GetArrayFromImage(found), matrix_of(found))
    for name, place, at in zip(("right", "front top left"), (RIGHT, FRONT_TOP_LEFT), seen, strict=True):
        expected = through(lps(place))
        missed = float(np.linalg.norm(at - expected))
        assert missed <= tolerance_mm, f"{path.name}: {name} at LPS {at.round(1)}, not {expected.round(1)}"
    assert seen[0][0] < -5, f"{path.name}: the right ball is on the left"
    assert seen[1][0] > 5, f"{path.name}: the left ball is on the right"


def check_labels(
    path: Path, *, through: Map = lambda points: points, tolerance_mm: float = 1.5, large: int = LARGE_ID
) -> None:
    """Fail unless SimpleITK finds every label of ``path`` where ``through`` takes it, on its side, and no other."""
    found = sitk.ReadImage(str(path))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(sitk.Cast(found, sitk.sitkInt64))
    expected_at = {large if label == LARGE_ID else label: place for label, place in LABELS.items()}
    assert set(shapes.GetLabels()) == set(expected_at), f"{path.name}: labels {shapes.GetLabels()}"
    for label, place in expected_at.items():
        at, expected = np.array(shapes.GetCentroid(label)), through(lps(place))
        missed = float(np.linalg.norm(at - expected))
        assert missed <= tolerance_mm, (
            f"{path.name}: label {label} at LPS {at.round(1)}, not {expected.round(1)}"
        )
        assert np.sign(at[0]) == -np.sign(place[0]), f"{path.name}: label {label} is on the other side"


def mirrored(found: sitk.Image) -> sitk.Image:
    """The data turned over from left to right, the header left as it was: a truly mirrored head."""
    axis = int(np.abs(np.array(found.GetDirection()).reshape(3, 3)[0]).argmax())
    turned = sitk.GetImageFromArray(np.flip(sitk.GetArrayFromImage(found), axis=2 - axis).copy())
    turned.CopyInformation(found)
    return turned


TURN = rotation((0.2, 0.7, -0.5), 14.0) @ np.diag([1.04, 0.97, 1.02])
SHIFT_LPS = np.array([7.0, -9.0, 5.0])


def true_map(points: Array) -> Array:
    """Fixed -> moving LPS mm: a turn, three scales and a shift, unlike along every axis."""
    return np.asarray(points) @ TURN.T + SHIFT_LPS


def true_inverse(points: Array) -> Array:
    """Moving -> fixed LPS mm."""
    return (np.asarray(points) - SHIFT_LPS) @ np.linalg.inv(TURN).T


def itk_affine() -> sitk.AffineTransform:
    """``true_map`` as SimpleITK has it, with a centre that is not 0."""
    found = sitk.AffineTransform(3)
    centre = np.array([11.0, -4.0, 6.0])
    found.SetCenter(centre.tolist())
    found.SetMatrix(TURN.reshape(-1).tolist())
    found.SetTranslation((true_map(centre) - centre).tolist())
    return found


def swollen(points: Array) -> Array:
    """LPS mm -> LPS mm: 1.2 times as long around RIGHT, 0.85 times around FRONT_TOP_LEFT, and there 3 mm aside."""
    moved = np.array(points, np.float64)
    for place, factor, aside in ((RIGHT, 0.2, (0.0, 0.0, 0.0)), (FRONT_TOP_LEFT, -0.15, (3.0, 1.0, -2.0))):
        away = np.asarray(points) - lps(place)
        weight = np.exp(-(away**2).sum(-1, keepdims=True) / (2 * 12.0**2))
        moved += weight * (factor * away + np.array(aside))
    return moved


def itk_field(where: Grid, through: Map) -> sitk.Image:
    """The displacements of a map at the points of a grid, LPS mm, as SimpleITK has fields (float64)."""
    points = where.points()
    found = sitk.GetImageFromArray(through(points) - points, isVector=True)
    found.SetSpacing(where.spacing)
    found.SetOrigin([float(v) for v in where.matrix[:3, 3]])
    found.SetDirection([float(v) for v in where.direction.reshape(-1)])
    return found


def read_itk(path: Path) -> sitk.Transform:
    """A transform file, or a field in a NIfTI file, as SimpleITK reads it."""
    if path.name.endswith((".nii", ".nii.gz")):
        return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    return sitk.ReadTransform(str(path))


def itk_points(transform: sitk.Transform, points: Array) -> Array:
    """Points (N, 3) LPS mm through a transform of SimpleITK."""
    return np.array([transform.TransformPoint([float(v) for v in point]) for point in points])


PLACES = np.array(
    [lps(RIGHT), lps(FRONT_TOP_LEFT), lps(RIGHT * (-1, 1, 1)), [12.3, -20.5, -17.0], [-8.0, 27.5, 30.0]]
)
"""LPS mm: the balls, the right one's mirror image, and two places of no meaning"""
