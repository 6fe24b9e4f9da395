"""Transforms and resampling: parity with SimpleITK on oblique, anisotropic phantoms, and laws."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from neuroreg import field
from neuroreg.errors import DataError
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform, resample, total_field
from neuroreg.volume import Geometry, Volume


def turned(x: float, y: float, z: float) -> tuple[float, ...]:
    """Nine cosines of three turns in radians, row-major."""
    matrix = np.eye(3)
    for axis, angle in enumerate((x, y, z)):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[j, i], turn[i, j] = math.sin(angle), -math.sin(angle)
        matrix = turn @ matrix
    return tuple(matrix.reshape(-1))


FIXED = Geometry((40, 34, 30), (2.1, 1.6, 2.4), (-40.0, -20.0, -31.0), turned(0.3, -0.2, 0.5))
MOVING = Geometry((36, 44, 28), (1.9, 1.4, 2.6), (-35.0, -25.0, -40.0), turned(-0.2, 0.1, 0.3))
COARSE = Geometry((22, 20, 18), (4.0, 3.7, 4.4), (-45.0, -28.0, -38.0), turned(0.1, 0.1, -0.2))
MATRIX = [[1.05, 0.1, 0.05, 3.0], [-0.1, 0.95, 0.02, -4.0], [0.03, 0.01, 1.02, 5.0], [0.0, 0.0, 0.0, 1.0]]
AFFINE = Affine(torch.tensor(MATRIX, dtype=torch.float64))


def image() -> Volume:
    data = field.smooth(torch.rand((1, 1, *MOVING.shape), generator=torch.Generator().manual_seed(0)), 1.0)[0]
    return Volume((data - data.min()) / (data.max() - data.min()) * 190, MOVING)


def displacement(amplitude_mm: tuple[float, float, float] = (3.0, 2.0, 4.0)) -> DisplacementField:
    u = field.smooth(torch.randn((1, 3, *COARSE.shape), generator=torch.Generator().manual_seed(1)), 2.0)[0]
    scale = torch.tensor(amplitude_mm) / u.std(dim=(1, 2, 3))
    return DisplacementField(u * scale.reshape(3, 1, 1, 1), COARSE)


def as_sitk(volume: Volume) -> sitk.Image:
    converted = sitk.GetImageFromArray(volume.data[0].numpy())
    return placed(converted, volume.geometry)


def placed(converted: sitk.Image, geometry: Geometry) -> sitk.Image:
    converted.SetSpacing(geometry.spacing)
    converted.SetOrigin(geometry.origin)
    converted.SetDirection(geometry.direction)
    return converted


def transform_as_sitk(transform: Transform) -> sitk.Transform:
    if isinstance(transform, Chain):
        composite = sitk.CompositeTransform(3)
        for part in reversed(transform.parts):
            composite.AddTransform(transform_as_sitk(part))
        return composite
    if isinstance(transform, Affine):
        matrix = transform.matrix
        return sitk.AffineTransform(matrix[:3, :3].reshape(-1).tolist(), matrix[:3, 3].tolist())
    assert isinstance(transform, DisplacementField)
    vectors = transform.data.movedim(0, -1).to(torch.float64).numpy()
    return sitk.DisplacementFieldTransform(
        placed(sitk.GetImageFromArray(vectors, isVector=True), transform.geometry)
    )


MAPS: dict[str, Transform] = {
    "identity": Affine(torch.eye(4, dtype=torch.float64)),
    "affine": AFFINE,
    "field": displacement(),
    "field then affine": Chain((displacement(), AFFINE)),
    "affine then field": Chain((AFFINE, displacement())),
    "field, affine, field": Chain((displacement(), AFFINE, displacement((1.0, 3.0, 2.0)))),
    "nested": Chain((Chain((AFFINE, displacement())), Chain((AFFINE.inverse(),)))),
}


@pytest.mark.parametrize("name", MAPS)
def test_linear_parity_with_simpleitk(name: str) -> None:
    ours = resample(image(), MAPS[name], FIXED, fill=-7.0).data[0].numpy()
    onto = placed(sitk.Image(FIXED.size, sitk.sitkFloat32), FIXED)
    theirs = sitk.GetArrayFromImage(sitk.Resample(as_sitk(image()), onto, transform_as_sitk(MAPS[name]),
                                                  sitk.sitkLinear, -7.0))  # fmt: skip
    # The image spans 0 to 190, where single precision counts in steps of 1.5e-5: two of them.
    assert image().data.max() == pytest.approx(190)
    assert np.abs(ours - theirs).max() <= 3.1e-5
    assert 0.3 < (theirs != -7.0).mean() < 1.0  # both inside and outside were met


@pytest.mark.parametrize("name", MAPS)
def test_nearest_parity_with_simpleitk_is_exact(name: str) -> None:
    labels = Volume(
        (image().data * 88_301).to(torch.int32), MOVING, is_label=True
    )  # ids far beyond 2**24: not float
    ours = resample(labels, MAPS[name], FIXED, fill=-7.0)
    onto = placed(sitk.Image(FIXED.size, sitk.sitkInt32), FIXED)
    theirs = sitk.Resample(as_sitk(labels), onto, transform_as_sitk(MAPS[name]), sitk.sitkNearestNeighbor, -7)
    assert ours.data.dtype == torch.int32
    assert np.array_equal(ours.data[0].numpy(), sitk.GetArrayFromImage(theirs))


@pytest.mark.parametrize("name", MAPS)
def test_points_go_where_simpleitk_sends_them(name: str) -> None:
    points = FIXED.points()[::7, ::9, ::11].reshape(-1, 3)
    itk = transform_as_sitk(MAPS[name])
    theirs = np.array([itk.TransformPoint(point) for point in points.tolist()])
    assert MAPS[name](points).numpy() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("name", MAPS)
def test_the_total_field_is_the_map(name: str) -> None:
    written_out = total_field(MAPS[name], FIXED)
    points = FIXED.points()
    assert (written_out.data.movedim(0, -1) - (MAPS[name](points) - points)).abs().max() < 1e-5
    assert (written_out(points) - MAPS[name](points)).abs().max() < 1e-5


def test_a_map_of_another_kind_is_followed_too() -> None:
    class Swirl:
        def __call__(self, points: torch.Tensor) -> torch.Tensor:
            return points + torch.sin(points / 20.0).flip(-1)

        def inverse(self) -> Transform:
            raise NotImplementedError

    chain = Chain((AFFINE, Swirl(), displacement()))
    points = FIXED.points()
    assert (total_field(chain, FIXED)(points) - chain(points)).abs().max() < 1e-5


def test_the_border_is_half_open_as_in_itk() -> None:
    # A 2 mm image on a 1 mm grid: indices -1/2 count as inside, n - 1/2 as outside.
    coarse = Geometry((5, 6, 7), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    fine = Geometry((12, 14, 16), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0))
    volume = Volume(torch.ones((1, *coarse.shape)), coarse)
    ours = resample(volume, MAPS["identity"], fine).data[0].numpy()
    theirs = sitk.Resample(as_sitk(volume), placed(sitk.Image(fine.size, sitk.sitkFloat32), fine), sitk.Transform(),
                           sitk.sitkLinear, 0.0)  # fmt: skip
    assert np.array_equal(ours, sitk.GetArrayFromImage(theirs))
    assert ours[0, 0, 0] == 1
    assert ours[-2, 0, 0] == 0  # z index 14 lies at voxel 6.5


def test_a_thin_volume_can_be_resampled() -> None:
    thin = Geometry((5, 6, 1), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    volume = Volume(torch.arange(30.0).reshape(1, 1, 6, 5), thin)
    assert (resample(volume, MAPS["identity"], thin).data - volume.data).abs().max() < 1e-5


def test_inverses() -> None:
    points = COARSE.points()[5:-5, 5:-5, 5:-5]  # on its nodes the inverse is exact, between them linear
    chain = Chain((AFFINE.inverse(), displacement((1.0, 0.7, 1.3))))
    assert (chain(chain.inverse()(points)) - points).norm(dim=-1).max() < 1e-3
    assert (AFFINE.inverse()(AFFINE(points)) - points).abs().max() < 1e-12
    with pytest.raises(DataError, match="singular"):
        Affine(torch.zeros(4, 4, dtype=torch.float64)).inverse()


def test_the_gate_between_voxels_and_millimetres() -> None:
    # One voxel along the tensor's first axis (z) is the third column of the direction, times its spacing.
    u = torch.zeros((1, 3, *COARSE.shape))
    u[:, 0] = 1.0
    expected = np.array(COARSE.direction).reshape(3, 3)[:, 2] * COARSE.spacing[2]
    there = DisplacementField.from_voxels(u, COARSE)
    assert there.data[:, 4, 5, 6].numpy() == pytest.approx(expected, abs=1e-6)
    assert (there.to_voxels() - u).abs().max() < 1e-6
    assert (
        DisplacementField.from_voxels(displacement().to_voxels(), COARSE).data - displacement().data
    ).abs().max() < 1e-5


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="float64"):
        Affine(torch.eye(4))
    with pytest.raises(DataError, match="expected a field"):
        DisplacementField(torch.zeros(3, *FIXED.shape), COARSE)
