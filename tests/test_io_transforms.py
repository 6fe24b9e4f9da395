"""Transform files: what we write is what we read, what other programs read, and the same bytes every time."""

import gzip
import importlib
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nifti_bytes import AFFINE_RAS, lps, nifti, save
from test_transforms import (
    AFFINE,
    COARSE,
    FIXED,
    MAPS,
    MATRIX,
    as_sitk,
    displacement,
    image,
    transform_as_sitk,
)

from neuroreg import transforms
from neuroreg.errors import DataError, NeuroregError, UsageError
from neuroreg.io.images import read_image, write_image
from neuroreg.io.transforms import read_field, read_transform, write_field, write_transform
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform, resample, total_field

POINTS = FIXED.points()[::5, ::6, ::7].reshape(-1, 3)


@pytest.mark.parametrize("name", MAPS)
def test_a_composite_reads_back_and_simpleitk_agrees(name: str, tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    write_transform(MAPS[name], path)
    assert (read_transform(path)(POINTS) - MAPS[name](POINTS)).abs().max() < 1e-9
    itk = sitk.ReadTransform(str(path))
    theirs = np.array([itk.TransformPoint(point) for point in POINTS.tolist()])
    assert MAPS[name](POINTS).numpy() == pytest.approx(theirs, abs=1e-9)


def test_parts_keep_their_order_and_grid(tmp_path: Path) -> None:
    write_transform(Chain((displacement(), AFFINE)), tmp_path / "t.h5")
    back = read_transform(tmp_path / "t.h5")
    assert isinstance(back, Chain)
    first, last = back.parts
    assert isinstance(first, DisplacementField)
    assert torch.equal(first.data, displacement().data)
    assert first.geometry == COARSE
    assert isinstance(last, Affine)
    assert torch.equal(last.matrix, AFFINE.matrix)


def test_the_same_transform_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transform(MAPS["field then affine"], tmp_path / "a.h5")
    now = time.time()
    monkeypatch.setattr(
        time, "time", lambda: now + 3600.0
    )  # HDF5 libraries stamp their objects with the time
    write_transform(MAPS["field then affine"], tmp_path / "b.h5")
    content = (tmp_path / "a.h5").read_bytes()
    assert content == (tmp_path / "b.h5").read_bytes()
    assert len(content) < displacement().data.numel() * 4 + 8192  # single precision, little around it


@pytest.mark.parametrize("suffix", [".mat", ".tfm", ".txt"])
def test_an_affine_keeps_every_digit_and_its_centre_is_zero(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_transform(AFFINE, path)
    itk = sitk.ReadTransform(str(path))
    assert itk.GetFixedParameters() == (0.0, 0.0, 0.0)
    assert itk.Downcast().GetMatrix() == tuple(v for row in MATRIX[:3] for v in row[:3])
    assert torch.equal(read_transform(path).matrix, AFFINE.matrix)


def test_our_matlab_file_is_simpleitk_s_byte_for_byte(tmp_path: Path) -> None:
    write_transform(AFFINE, tmp_path / "ours.mat")
    sitk.WriteTransform(transform_as_sitk(AFFINE), str(tmp_path / "itk.mat"))
    assert (tmp_path / "ours.mat").read_bytes() == (tmp_path / "itk.mat").read_bytes()


def test_a_chain_of_affines_becomes_one(tmp_path: Path) -> None:
    write_transform(Chain((AFFINE, AFFINE)), tmp_path / "a.mat")
    assert (read_transform(tmp_path / "a.mat").matrix - AFFINE.matrix @ AFFINE.matrix).abs().max() < 1e-12
    with pytest.raises(UsageError, match="affines only"):
        write_transform(displacement(), tmp_path / "b.mat")
    with pytest.raises(UsageError, match="cannot hold"):
        write_transform(displacement(), tmp_path / "b.xfm")


def foreign() -> dict[str, sitk.Transform]:
    """Transforms of other programs, with centres of rotation that must be folded in."""
    centre = (12.0, -30.0, 7.5)
    euler = sitk.Euler3DTransform(centre, 0.2, -0.3, 0.4, (3.0, 4.0, -5.0))
    rigid = sitk.VersorRigid3DTransform((0.1, 0.9, 0.2), 0.4, (1.0, 2.0, 3.0), centre)
    similarity = sitk.Similarity3DTransform()
    similarity.SetCenter(centre)
    similarity.SetRotation((0.3, 0.1, 0.9), 0.6)
    similarity.SetScale(1.2)
    similarity.SetTranslation((-4.0, 2.0, 1.0))
    affine = sitk.AffineTransform([1.1, 0.1, 0, 0, 0.9, 0.2, 0.1, 0, 1.0], [1.0, -2.0, 3.0], centre)
    scale = sitk.ScaleTransform(3, (1.1, 0.9, 1.2))
    scale.SetCenter(centre)
    return {
        "euler": euler, "versor": rigid, "similarity": similarity, "affine": affine, "scale": scale,
        "translation": sitk.TranslationTransform(3, (1.0, 2.0, -3.0)), "identity": sitk.Transform(3, sitk.sitkIdentity),
        "composite": sitk.CompositeTransform([rigid, similarity, euler]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", foreign())
@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat"])
def test_foreign_linear_transforms(kind: str, suffix: str, tmp_path: Path) -> None:
    itk = foreign()[kind]
    if suffix == ".mat" and kind == "composite":
        pytest.skip("MATLAB files hold no composites")
    sitk.WriteTransform(itk, str(tmp_path / f"t{suffix}"))
    ours = read_transform(tmp_path / f"t{suffix}")
    expected = np.array([itk.TransformPoint(point) for point in POINTS.tolist()])
    assert ours(POINTS).numpy() == pytest.approx(expected, abs=1e-9)


def test_the_matrix_offset_transforms_of_ants(tmp_path: Path) -> None:
    text = "#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_double_3_3\n"
    text += "Parameters: 0 -1 0 1 0 0 0 0 1 10 20 30\nFixedParameters: 1 2 3\n"
    (tmp_path / "t.txt").write_text(text)
    # p -> M (p - c) + c + t: the origin goes to M(-1, -2, -3) + (11, 22, 33) = (2, -1, -3) + (11, 22, 33)
    moved = read_transform(tmp_path / "t.txt")(torch.zeros(1, 3, dtype=torch.float64))
    assert moved.tolist() == [[13.0, 21.0, 30.0]]


def test_what_is_no_such_transform_is_refused(tmp_path: Path) -> None:
    spline = sitk.BSplineTransformInitializer(as_sitk(image()), [2, 2, 2])
    sitk.WriteTransform(spline, str(tmp_path / "b.tfm"))
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    singular = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    (tmp_path / "s.tfm").write_text(
        singular + "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0\nFixedParameters: 0 0 0\n"
    )
    for name in ("b.tfm", "flat.tfm", "s.tfm"):
        with pytest.raises(DataError):
            read_transform(tmp_path / name)
    for name, code in (("none.h5", 66), ("t.png", 2)):
        (tmp_path / "t.png").touch()
        with pytest.raises(NeuroregError) as caught:
            read_transform(tmp_path / name)
        assert caught.value.exit_code == code


def test_a_field_file_is_five_dimensional_with_intent_1007(tmp_path: Path) -> None:
    path = tmp_path / "f.nii.gz"
    write_field(displacement(), path)
    head = gzip.decompress(path.read_bytes())[:352]
    assert struct.unpack_from("<8h", head, 40) == (5, 22, 20, 18, 1, 3, 1, 1)
    assert struct.unpack_from("<h", head, 68) == (1007,)
    itk = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    theirs = np.array([itk.TransformPoint(point) for point in POINTS.tolist()])
    assert displacement()(POINTS).numpy() == pytest.approx(
        theirs, abs=1e-4
    )  # the header keeps single precision
    assert torch.equal(read_field(path).data, displacement().data)
    assert isinstance(read_transform(path), DisplacementField)


def test_fields_of_other_conventions(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 18, 17, 1, 3)).astype("f4") * [3, 2, 4]
    as_lps = vectors.astype("f4")
    as_ras = as_lps * np.array([-1, -1, 1], "f4")
    expected = as_lps[..., 0, :].transpose(3, 2, 1, 0)
    written = {
        "1007": (nifti(as_lps, intent_code=1007), None), "1006": (nifti(as_ras, intent_code=1006), None),
        "told lps": (nifti(as_lps[:, :, :, 0]), "lps"), "told ras": (nifti(as_ras), "ras"),
    }  # fmt: skip
    for name, (content, assume) in written.items():
        found = read_field(save(tmp_path / f"{name}.nii.gz", content), assume=assume)
        assert np.array_equal(found.data.numpy(), expected), name
        assert found.geometry.voxel_to_world.numpy() == pytest.approx(lps(AFFINE_RAS), abs=1e-5)
        if assume is not None:
            with pytest.raises(DataError, match="does not say"):
                read_transform(tmp_path / f"{name}.nii.gz")
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "1006.nii.gz")))  # SimpleITK turns 1006 too
    assert np.array_equal(np.moveaxis(by_itk, -1, 0), expected)
    with pytest.raises(DataError, match="expected a displacement field"):
        read_field(save(tmp_path / "image.nii", nifti(as_lps[..., 0, 0])))


def written_out(name: str) -> Transform:
    """The map called ``name``; where it is a field alone, one on the fixed grid, as ``displacement.nii.gz`` is."""
    return MAPS[name] if name != "field" else total_field(MAPS["field then affine"], FIXED)


# The image spans 0 to 180, where single precision counts in steps of 1.5e-5: two of them.
EXACT = 3.1e-5


@pytest.mark.oracle
@pytest.mark.parametrize("suffix", [".mha", ".nii.gz"])
@pytest.mark.parametrize("name", ["affine", "field", "field then affine", "affine then field"])
def test_ants_and_simpleitk_apply_our_files_as_we_do(name: str, suffix: str, tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    write_image(image(), tmp_path / f"moving{suffix}")
    write_image(transforms.Volume(torch.rand(1, *FIXED.shape), FIXED), tmp_path / f"fixed{suffix}")
    path = tmp_path / ("f.nii.gz" if name == "field" else "t.h5")
    write_transform(written_out(name), path)
    fixed, moving = (read_image(tmp_path / f"{which}{suffix}").volume for which in ("fixed", "moving"))
    ours = resample(moving, read_transform(path), fixed.geometry).data[0].numpy()
    assert ours.max() > 170
    paths = [str(tmp_path / f"{which}{suffix}") for which in ("fixed", "moving")]
    by_ants = ants.apply_transforms(*map(ants.image_read, paths), [str(path)]).numpy().T
    itk = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)) if name == "field" \
        else sitk.ReadTransform(str(path))  # fmt: skip
    by_itk = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(paths[1]), sitk.ReadImage(paths[0]), itk))
    assert np.abs(by_ants - ours).max() <= EXACT
    assert np.abs(by_itk - ours).max() <= EXACT


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["affine", "field", "field then affine"])
def test_nitransforms_applies_our_files_as_we_do(name: str, tmp_path: Path) -> None:
    nitransforms, nibabel = pytest.importorskip("nitransforms"), pytest.importorskip("nibabel")
    apply = importlib.import_module("nitransforms.resampling").apply
    # A residual lies on the fixed grid here: nitransforms does not interpolate fields between their voxels as ITK does.
    transform = Chain((total_field(displacement(), FIXED), AFFINE)) if "then" in name else written_out(name)
    path = tmp_path / {"affine": "a.tfm", "field": "f.nii.gz"}.get(name, "t.h5")
    write_transform(transform, path)
    rooms = {"affine": nitransforms.linear, "field": nitransforms.nonlinear}
    theirs = rooms.get(name, nitransforms.manip).load(str(path), fmt="itk")
    write_image(image(), tmp_path / "moving.nii.gz")
    write_image(transforms.Volume(torch.rand(1, *FIXED.shape), FIXED), tmp_path / "fixed.nii.gz")
    fixed, moving = (nibabel.load(tmp_path / f"{which}.nii.gz") for which in ("fixed", "moving"))
    out = apply(
        theirs, moving, reference=fixed, order=1, prefilter=False, mode="nearest", output_dtype="float32"
    )
    ours = resample(image(), transform, FIXED).data[0].numpy()
    inside = ours != 0  # outside, nitransforms goes on with the border
    assert inside.mean() > 0.3
    # nibabel keeps the sform's single precision where ITK and we take the voxel size from pixdim: 2e-6 mm at the far
    # end of an axis, times gradients of up to 90 per mm.
    assert np.abs(np.asanyarray(out.dataobj).T - ours)[inside].max() <= 2e-4


@pytest.mark.oracle
def test_nitransforms_reads_our_files(tmp_path: Path) -> None:
    pytest.importorskip("nitransforms")
    itk = importlib.import_module("nitransforms.io.itk")
    on_fixed = total_field(displacement(), FIXED)
    write_transform(Chain((on_fixed, AFFINE)), tmp_path / "t.h5")
    affine, field = itk.ITKCompositeH5.from_filename(str(tmp_path / "t.h5"))
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert affine.to_ras() == pytest.approx(flip @ AFFINE.matrix.numpy() @ flip, abs=1e-12)
    vectors = np.asanyarray(field.dataobj).squeeze() * [-1, -1, 1]  # nitransforms works in RAS
    assert vectors.transpose(3, 2, 1, 0) == pytest.approx(on_fixed.data.numpy(), abs=1e-6)
    assert field.affine == pytest.approx(flip @ FIXED.voxel_to_world.numpy(), abs=1e-5)


def test_the_transform_protocol_is_met() -> None:
    transform: Transform
    for transform in MAPS.values():
        assert transform(POINTS).shape == POINTS.shape
