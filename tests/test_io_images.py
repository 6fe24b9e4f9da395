"""Reading and writing images: the same voxels at the same places as SimpleITK and nibabel see, in every format."""

import itertools
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nifti_bytes import AFFINE_RAS, SPACING, lps, nifti, patched, phantom, rotation, save
from test_transforms import FIXED, placed

from neuroreg import __version__
from neuroreg.errors import NeuroregError, UsageError
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.volume import Geometry, Volume

ODD = Path(__file__).resolve().parents[2] / "shared" / "data" / "odd"
BRAIN = Volume(torch.rand((1, *FIXED.shape), generator=torch.Generator().manual_seed(0)) * 900, FIXED)


def with_spacing(path: Path) -> tuple[np.ndarray, Geometry]:
    """A file as SimpleITK sees it."""
    image = sitk.ReadImage(str(path))
    geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return sitk.GetArrayFromImage(image).astype("f4"), geometry


def axis_orders() -> list[np.ndarray]:
    """All 48 signed permutations of the axes, turned by an odd angle, with their own spacing and origin."""
    turn, _ = rotation((0.2, 0.9, -0.4), 17.0)
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = turn @ (np.eye(3)[:, order] * signs) * SPACING
            affine[:3, 3] = (12.0, -30.0, 45.5)
            found.append(affine)
    return found


@pytest.mark.parametrize("number", range(48))
def test_every_axis_order_oblique(number: int, tmp_path: Path) -> None:
    affine = axis_orders()[number]
    path = save(tmp_path / "a.nii", nifti(phantom((20, 31, 27)), affine, qform_code=0))
    ours = read_image(path)
    voxels, geometry = with_spacing(path)
    assert ours.volume.geometry.voxel_to_world.numpy() == pytest.approx(lps(affine), abs=1e-4)
    assert ours.volume.geometry.same_grid(geometry, tolerance_mm=1e-4)
    assert np.array_equal(ours.volume.data[0].numpy(), voxels)
    write_image(ours.volume, tmp_path / "b.nii.gz")  # and the quaternion we write says the same
    by_qform = read_image(tmp_path / "b.nii.gz", xform="qform").volume
    assert by_qform.geometry.same_grid(geometry, tolerance_mm=1e-3)
    assert with_spacing(tmp_path / "b.nii.gz")[1].same_grid(geometry, tolerance_mm=1e-3)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("pixel_type", ["float32", "float64", "int16", "uint8", "uint16", "int32"])
def test_written_files_read_back_and_simpleitk_agrees(suffix: str, pixel_type: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    expected = BRAIN.data if pixel_type.startswith("float") else BRAIN.data.round()
    expected = expected.clamp(max=255) if pixel_type == "uint8" else expected
    write_image(BRAIN, path, pixel_type=pixel_type)
    ours, (voxels, geometry) = read_image(path), with_spacing(path)
    assert ours.pixel_type == pixel_type
    assert torch.equal(ours.volume.data, expected)
    assert np.array_equal(voxels, expected[0].numpy())
    assert ours.volume.geometry.same_grid(FIXED, tolerance_mm=1e-4)
    assert geometry.same_grid(FIXED, tolerance_mm=1e-4)


def test_the_header_carries_nothing_of_the_input(tmp_path: Path) -> None:
    secret = {"descrip": b"Doe^John", "aux_file": b"Doe.txt", "intent_name": b"Doe"}
    source = read_image(save(tmp_path / "in.nii", nifti(phantom(), **secret)))
    write_image(source.volume, tmp_path / "out.nii", description="moved image")
    content = (tmp_path / "out.nii").read_bytes()
    assert b"Doe" not in content
    assert content[148:228].rstrip(b"\0").decode() == f"neuroreg {__version__} moved image"
    assert set(content[4:39] + content[228:252] + content[328:344]) == {0, ord("r")}


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(BRAIN, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_header_and_image_pair(order: str, tmp_path: Path) -> None:
    content = nifti(phantom(), order=order)
    (tmp_path / "a.hdr").write_bytes(patched(content[:348], order=order, magic=b"ni1\0", vox_offset=0.0))
    (tmp_path / "a.img").write_bytes(content[352:])
    for name in ("a.hdr", "a.img"):
        ours, (voxels, geometry) = read_image(tmp_path / name), with_spacing(tmp_path / "a.hdr")
        assert np.array_equal(ours.volume.data[0].numpy(), voxels)
        assert ours.volume.geometry.same_grid(geometry, tolerance_mm=1e-4)
    first = read_image(tmp_path / "a.hdr").sha256
    (tmp_path / "a.img").write_bytes(content[352:-1] + b"\7")
    assert read_image(tmp_path / "a.hdr").sha256 != first
    (tmp_path / "a.img").write_bytes(content[352:-9])
    with pytest.raises(NeuroregError, match="truncated"):
        read_image(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(NeuroregError, match=r"\.img file beside the header is missing"):
        read_image(tmp_path / "a.hdr")


@pytest.mark.oracle
def test_nibabel_agrees(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for kind, name in (
        (nibabel.Nifti1Image, "a.nii.gz"),
        (nibabel.Nifti2Image, "b.nii.gz"),
        (nibabel.Nifti2Image, "b.nii"),
    ):
        written = kind(phantom(dtype="f4"), AFFINE_RAS)
        written.header.set_xyzt_units("mm")
        nibabel.save(written, tmp_path / name)
        ours = read_image(tmp_path / name)
        assert np.array_equal(ours.volume.data[0].numpy(), phantom(dtype="f4").T)
        assert ours.volume.geometry.voxel_to_world.numpy() == pytest.approx(lps(), abs=1e-5)
    write_image(BRAIN, tmp_path / "c.nii.gz")
    theirs = nibabel.load(tmp_path / "c.nii.gz")
    assert np.array_equal(np.asanyarray(theirs.dataobj).T, BRAIN.data[0].numpy())
    for affine in (theirs.affine, theirs.get_qform()):
        assert affine == pytest.approx(lps(FIXED.voxel_to_world.numpy()), abs=1e-4)
    scaled = save(tmp_path / "d.nii", nifti(phantom(), scl_slope=0.37, scl_inter=-12.5))
    expected = nibabel.load(scaled).get_fdata().astype("f4").T
    assert read_image(scaled).volume.data[0].numpy() == pytest.approx(expected, rel=1e-6)


def other_format(path: Path, *, compressed: bool = False, space: str = "") -> Path:
    """BRAIN as int16 by SimpleITK; for NRRD, ``space`` renames the frame."""
    image = placed(sitk.GetImageFromArray(BRAIN.data[0].numpy().astype("i2")), FIXED)
    sitk.WriteImage(image, str(path), compressed)
    if space:
        path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_metaimage_and_nrrd(name: str, compressed: bool, tmp_path: Path) -> None:
    ours = read_image(other_format(tmp_path / name, compressed=compressed))
    assert np.array_equal(ours.volume.data[0].numpy(), BRAIN.data[0].numpy().astype("i2").astype("f4"))
    assert ours.volume.geometry.same_grid(FIXED, tolerance_mm=1e-6)
    assert ours.notes == ()


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_metaimage_and_nrrd(name: str, compressed: bool, tmp_path: Path) -> None:
    other_format(tmp_path / name, compressed=compressed)
    data = next((p for p in tmp_path.iterdir() if p.suffix in (".raw", ".zraw", ".gz")), tmp_path / name)
    whole = data.read_bytes()
    damages = [whole[:-50], whole + b"junk", whole[: len(whole) - 5]]
    if compressed:
        damages.append(whole[:-300] + bytes([whole[-300] ^ 4]) + whole[-299:])
    for content in damages:
        data.write_bytes(content)
        with pytest.raises(NeuroregError) as caught:
            read_image(tmp_path / name)
        assert caught.value.exit_code == 65
    data.write_bytes(whole + bytes(7))
    assert "7 zero bytes" in read_image(tmp_path / name).notes[0]
    if data.name != name:
        data.unlink()
        with pytest.raises(NeuroregError, match="missing"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior"])
def test_the_frames_of_nrrd(space: str, tmp_path: Path) -> None:
    path = other_format(tmp_path / "a.nrrd", space=space)
    ours = read_image(path).volume
    assert ours.geometry.same_grid(with_spacing(path)[1], tolerance_mm=1e-4)
    assert not ours.geometry.same_grid(FIXED)


def header_of(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("name", "old", "new", "code"),
    [
        ("a.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd", 65),
        ("a.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = ../x.raw", 65),
        ("a.mha", b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", 65),
        ("a.mha", b"MET_SHORT", b"MET_SHORT_ARRAY", 65),
        ("a.mha", b"MET_SHORT", b"MET_STRANGE", 65),
        ("a.mha", b"DimSize = 40", b"DimSize = 99999", 65),
        ("a.mha", b"DimSize = 40", b"DimSize = -4", 65),
        ("a.mha", b"ElementSpacing = 2.1", b"ElementSpacing = -2.1", 65),
        ("a.mha", b"ElementSpacing = 2.1", b"ElementSpacing = nan", 65),
        ("a.mha", b"TransformMatrix = 0.", b"TransformMatrix = 30.", 65),
        ("a.mha", b"NDims = 3", b"NDims = 2", 65),
        ("a.mha", b"NDims", b"\x89\x01\xff", 65),
        ("a.nrrd", b"type: short", b"type: block", 65),
        ("a.nrrd", b"encoding: raw", b"encoding: bzip2", 65),
        ("a.nrrd", b"endian: little", b"endian: middle", 65),
        ("a.nrrd", b"sizes: 40 34 30", b"sizes: 40 34 0", 65),
        ("a.nrrd", b"NRRD0004", b"NRRD0009", 65),
        ("a.nrrd", b"space origin: (-40,", b"space origin: (nan,", 65),
    ],
)
def test_bad_text_headers(name: str, old: bytes, new: bytes, code: int, tmp_path: Path) -> None:
    with pytest.raises(NeuroregError) as caught:
        read_image(header_of(other_format(tmp_path / name), old, new))
    assert caught.value.exit_code == code


def test_colours_and_vectors_in_other_formats(tmp_path: Path) -> None:
    vectors = sitk.GetImageFromArray(np.zeros((20, 20, 20, 3), "f4"), isVector=True)
    for name in ("v.mha", "v.nrrd"):
        sitk.WriteImage(vectors, str(tmp_path / name))
        with pytest.raises(NeuroregError, match="vectors"):
            read_image(tmp_path / name)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name in ("a.png", "a", "a.hdr", "a.mhd"):
        with pytest.raises(UsageError):
            write_image(BRAIN, tmp_path / name)
    with pytest.raises(UsageError, match="one channel"):
        write_image(Volume(torch.zeros((2, *FIXED.shape)), FIXED), tmp_path / "a.nii")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(not ODD.is_dir(), reason="needs ../shared/data/odd")
def test_the_odd_real_files() -> None:
    refused = {
        "5D_small.nii": "vectors", "complex.nii.gz": "complex", "low_res.nii.gz": "too small",
        "not-nifti.nii": "not a NIfTI", "pcasl.nii.gz": "10 frames", "shear.nii.gz": "sform and qform differ",
    }  # fmt: skip
    for path in sorted(ODD.iterdir()):
        if path.name in refused:
            with pytest.raises(NeuroregError, match=refused[path.name]) as caught:
                read_image(path)
            assert caught.value.exit_code == 65
            continue
        ours, (voxels, geometry) = read_image(path), with_spacing(path)
        assert np.array_equal(ours.volume.data[0].numpy(), voxels), path.name
        assert ours.volume.geometry.same_grid(geometry), path.name
        assert len(ours.notes) == (path.name == "with_extension.nii.gz")
    assert read_image(ODD / "pcasl.nii.gz", frame=3).volume.data.std() > 0
    with pytest.raises(NeuroregError, match="sheared"):
        read_image(ODD / "shear.nii.gz", xform="sform")
    assert read_labels(ODD / "FLAIR.nrrd").volume.data.dtype == torch.int32
    with pytest.raises(NeuroregError, match="whole numbers"):  # a scale slope of 0.0013
        read_labels(ODD / "UINT8.nii.gz")


def test_a_nifti_2_by_hand(tmp_path: Path) -> None:
    # sizeof_hdr 540, magic, datatype int16, 16 bits; dims as int64 from byte 16, pixdim as doubles from 104
    header = bytearray(544)
    struct.pack_into("<i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
    struct.pack_into("<8q", header, 16, 3, 33, 30, 27, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1.0, *SPACING, 0, 0, 0, 0)
    struct.pack_into("<q2d", header, 168, 544, 0.0, 0.0)
    struct.pack_into("<2i", header, 344, 0, 2)
    struct.pack_into("<12d", header, 400, *AFFINE_RAS[:3].reshape(-1))
    struct.pack_into("<2i", header, 496, 0, 2)
    ours = read_image(save(tmp_path / "a.nii.gz", bytes(header) + phantom().tobytes(order="F")))
    assert np.array_equal(ours.volume.data[0].numpy(), phantom().T.astype("f4"))
    assert ours.volume.geometry.voxel_to_world.numpy() == pytest.approx(lps(), abs=1e-9)
    assert ours.notes == ()
