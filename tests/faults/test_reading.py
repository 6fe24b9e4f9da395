"""The fault catalogue, reading: every fault gets the exit code or the note it names, and nothing else."""

import gzip
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nifti_bytes import AFFINE_RAS, QUATERNION, TURN, lps, nifti, patched, phantom, save

from neuroreg.errors import NeuroregError
from neuroreg.io.images import check_same_grid, read_image, read_labels

pytestmark = pytest.mark.faults

IMAGE = nifti(phantom())
GZIPPED = gzip.compress(IMAGE, 1, mtime=0)


def floats(**patches: float) -> bytes:
    data = phantom(dtype="f4")
    return nifti(data, **patches)


def with_nan(share: float) -> bytes:
    data = phantom(dtype="f4")
    data.reshape(-1)[: int(share * data.size)] = np.nan
    data[-1, -1, -1] = np.inf
    return nifti(data)


def sheared(amount: float) -> bytes:
    # the second axis leans towards the first by `amount`, as a cosine
    affine = AFFINE_RAS.copy()
    axes = TURN.copy()
    axes[:, 1] = np.sqrt(1 - amount**2) * TURN[:, 1] + amount * TURN[:, 0]
    affine[:3, :3] = axes * np.linalg.norm(AFFINE_RAS[:3, :3], axis=0)
    return nifti(phantom(), affine, qform_code=0)


def flipped_bit() -> bytes:
    content = bytearray(GZIPPED)
    content[len(content) // 2] ^= 0x10
    return bytes(content)


def scaled(factor: float, **patches: object) -> bytes:
    affine = AFFINE_RAS.copy()
    affine[:3] *= factor
    return nifti(phantom(), affine, qform_code=0, **patches)


def moved_sform(millimetres: float) -> bytes:
    rows = AFFINE_RAS[:3].copy()
    rows[0, 3] += millimetres
    return nifti(phantom(), srow=list(rows.reshape(-1)))


def mirrored_sform() -> bytes:
    rows = AFFINE_RAS[:3].copy()
    rows[:, 0] *= -1
    return nifti(
        phantom(), srow=list(rows.reshape(-1)), pixdim=[1.0, *np.linalg.norm(rows[:, :3], axis=0), 1, 1, 1, 1]
    )


def bomb() -> bytes:
    # 1000^3 zeros: a megabyte that would become a gigabyte
    header = patched(IMAGE[:352], dim=[3, 1000, 1000, 1000, 1, 1, 1, 1], datatype=2, bitpix=8)
    return (
        gzip.compress(header, 1) + gzip.compress(bytes(1_000_000)) * 1000
    )  # members in a row are one stream


FLAT = [2, 2, 0, 0, 2, 2, 0, 0, 0, 0, 2, 0]
NO_CODES = {"qform_code": 0, "sform_code": 0}
NEGATIVE = [1, -2, 1.7, 2.4, 1, 1, 1, 1]
REFUSED: dict[str, tuple[str, Callable[[], bytes], int, str]] = {
    "02 zero bytes": ("a.nii.gz", lambda: b"", 65, "empty file"),
    "03 text renamed": ("a.nii.gz", lambda: b"subject,age\n1,30\n" * 40, 65, "not a NIfTI"),
    "04 nii.gz cut in half": ("a.nii.gz", lambda: GZIPPED[: len(GZIPPED) // 2], 65, "cut off"),
    "04 nii.gz without its last 4 bytes": ("a.nii.gz", lambda: GZIPPED[:-4], 65, "cut off"),
    "05 nii cut": ("a.nii", lambda: IMAGE[:-100], 65, "truncated"),
    "05 nii cut in its header": ("a.nii", lambda: IMAGE[:200], 65, "truncated"),
    "06 flipped bit": ("a.nii.gz", flipped_bit, 65, "damaged"),
    "06 bad CRC": ("a.nii.gz", lambda: GZIPPED[:-8] + b"\1\2\3\4" + GZIPPED[-4:], 65, "damaged"),
    "08 wrong magic": ("a.nii", lambda: patched(IMAGE, magic=b"abc\0"), 65, "magic"),
    "08 no magic: Analyze": ("a.nii", lambda: patched(IMAGE, magic=bytes(4)), 65, "magic"),
    "08 magic of a pair": ("a.nii", lambda: patched(IMAGE, magic=b"ni1\0"), 65, "magic"),
    "09 vox_offset past the end": ("a.nii", lambda: patched(IMAGE, vox_offset=1e7), 65, "past the end"),
    "09 the same, gzipped": ("b.nii.gz", lambda: gzip.compress(patched(IMAGE, vox_offset=1e7)), 65, "past the end"),
    "09 vox_offset NaN": ("a.nii", lambda: patched(IMAGE, vox_offset=np.nan), 65, "vox_offset"),
    "09 vox_offset inside the header": ("a.nii", lambda: patched(IMAGE, vox_offset=100.0), 65, "vox_offset"),
    "10 bad datatype": ("a.nii", lambda: patched(IMAGE, datatype=99), 65, "datatype"),
    "11 zero dim": ("a.nii", lambda: patched(IMAGE, dim=[3, 33, 0, 27, 1, 1, 1, 1]), 65, "side of 0"),
    "12 negative dim": ("a.nii", lambda: patched(IMAGE, dim=[3, 33, -30, 27, 1, 1, 1, 1]), 65, "side of -30"),
    "12 no dims": ("a.nii", lambda: patched(IMAGE, dim=[0, 33, 30, 27, 1, 1, 1, 1]), 65, "dimensions"),
    "13 huge dims": ("a.nii", lambda: patched(IMAGE, dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), 65, "max-voxels"),
    "13 huge but allowed": ("a.nii", lambda: patched(IMAGE, dim=[3, 300, 300, 200, 1, 1, 1, 1]), 65, "truncated"),
    "14 bomb beyond the declared size": ("a.nii.gz", lambda: gzip.compress(IMAGE + bytes(50_000_000)), 65, "goes on"),
    "15 junk after the voxels": ("a.nii.gz", lambda: gzip.compress(IMAGE + b"junk"), 65, "after the end"),
    "15 junk after the gzip": ("a.nii.gz", lambda: GZIPPED + b"junk", 65, "after the end"),
    "15 junk after a plain file": ("a.nii", lambda: IMAGE + b"junk", 65, "after the end"),
    "16 no extension": ("a", lambda: IMAGE, 2, "file type"),
    "16 another type": ("a.png", lambda: IMAGE, 2, "file type"),
    "20 more than 5 % NaN": ("a.nii", lambda: with_nan(0.06), 65, "NaN"),
    "21 all NaN": ("a.nii", lambda: with_nan(1.0), 65, "NaN"),
    "21 all zero": ("a.nii", lambda: nifti(np.zeros((33, 30, 27), "i2")), 65, "every voxel is 0"),
    "21 constant": ("a.nii", lambda: nifti(np.full((33, 30, 27), 7, "i2")), 65, "every voxel is 7"),
    "23 complex": ("a.nii", lambda: nifti(phantom().astype("c8")), 65, "complex"),
    "26 RGB": ("a.nii", lambda: patched(IMAGE, datatype=128, bitpix=24), 65, "RGB"),
    "27 vector": ("a.nii", lambda: nifti(np.zeros((20, 20, 20, 1, 3), "f4"), intent_code=1007), 65, "vectors"),
    "27 vector without intent": ("a.nii", lambda: nifti(np.zeros((20, 20, 20, 1, 3), "f4")), 65, "vectors"),
    "30 single slice": ("a.nii", lambda: nifti(phantom((33, 30, 1))), 65, "slice"),
    "30 2-D": ("a.nii", lambda: nifti(np.ones((33, 30), "i2")), 65, "2-D"),
    "31 many frames": ("a.nii", lambda: nifti(np.stack([phantom()] * 3, -1)), 65, "--frame"),
    "32 one voxel": ("a.nii", lambda: nifti(np.ones((2, 2, 2), "i2")), 65, "too small"),
    "33 small": ("a.nii", lambda: nifti(phantom((8, 8, 8))), 65, "too small"),
    "35 negative pixdim, no frame": (
        "a.nii", lambda: nifti(phantom(), pixdim=NEGATIVE, **NO_CODES), 65, "unsure",
    ),
    "36 zero spacing": ("a.nii", lambda: nifti(phantom(), pixdim=[1, 2, 0, 2, 1, 1, 1, 1]), 65, "spacing"),
    "36 NaN spacing": ("a.nii", lambda: nifti(phantom(), pixdim=[1, 2, np.nan, 2, 1, 1, 1, 1]), 65, "spacing"),
    "37 shear": ("a.nii", lambda: sheared(0.02), 65, "sheared by 0.02"),
    "38 singular": ("a.nii", lambda: nifti(phantom(), srow=FLAT, qform_code=0), 65, "singular"),
    "38 zero matrix": ("a.nii", lambda: nifti(phantom(), srow=[0] * 12, qform_code=0), 65, "zero"),
    "38 NaN matrix": ("a.nii", lambda: nifti(phantom(), srow=[np.nan] * 12, qform_code=0), 65, "NaN"),
    "38 no rotation": ("a.nii", lambda: nifti(phantom(), quatern=[1.0, 1.0, 1.0], sform_code=0), 65, "no rotation"),
    "39 sform 5 mm from qform": ("a.nii", lambda: moved_sform(5.0), 65, "--xform"),
    "39 mirrored": ("a.nii", mirrored_sform, 65, "handedness"),
    "41 microns that are millimetres": ("a.nii", lambda: nifti(phantom(), xyzt_units=3), 65, "no head"),
    "41 spacing ten times too large": ("a.nii", lambda: scaled(10.0), 65, "no head"),
    "41 spacing a tenth": ("a.nii", lambda: scaled(0.1), 65, "no head"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(fault: str, tmp_path: Path) -> None:
    name, make, code, message = REFUSED[fault]
    path = tmp_path / name
    path.write_bytes(make())
    for read in (read_image, read_labels):
        if read is read_labels and fault[:2] in ("20", "21"):  # NaN and empty label maps are other faults
            continue
        with pytest.raises(NeuroregError) as caught:
            read(path)
        assert caught.value.exit_code == code
        assert message in str(caught.value)
        assert name in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        assert "\n" not in str(caught.value)


ACCEPTED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "07 plain NIfTI named .gz": ("a.nii.gz", lambda: IMAGE, "not compressed"),
    "07 gzip named .nii": ("a.nii", lambda: GZIPPED, "compressed although"),
    "15 zeros after the voxels": ("a.nii.gz", lambda: gzip.compress(IMAGE + bytes(512)), "512 zero bytes"),
    "15 zeros after the gzip": ("a.nii.gz", lambda: GZIPPED + bytes(512), "512 zero bytes"),
    "20 NaN voxels": ("a.nii", lambda: with_nan(0.01), "NaN or infinite"),
    "22 NaN slope": ("a.nii", lambda: patched(IMAGE, scl_slope=np.nan), "unscaled"),
    "31 one frame": ("a.nii", lambda: nifti(phantom()[..., None]), "single frame"),
    "35 negative pixdim": ("a.nii", lambda: patched(IMAGE, pixdim=NEGATIVE), "negative"),
    "37 small shear": ("a.nii", lambda: sheared(8e-4), "sheared by 0.0008"),
    "39 sform 0.3 mm from qform": ("a.nii", lambda: moved_sform(0.3), "differ by up to 0.3"),
    "40 no codes": ("a.nii", lambda: nifti(phantom(), qform_code=0, sform_code=0), "no world frame"),
    "41 microns": ("a.nii", lambda: scaled(1000.0, xyzt_units=3), "microns"),
    "41 metres": ("a.nii", lambda: scaled(0.001, xyzt_units=1), "metres"),
    "a code beyond the standard's": ("a.nii", lambda: patched(IMAGE, sform_code=13879), "0 to 5 only"),
    "41 unknown unit": ("a.nii", lambda: patched(IMAGE, xyzt_units=0), "millimetres assumed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", ACCEPTED)
def test_accepted_with_a_note(fault: str, tmp_path: Path) -> None:
    name, make, note = ACCEPTED[fault]
    path = tmp_path / name
    path.write_bytes(make())
    image = read_image(path)
    assert len(image.notes) == 1
    assert note in image.notes[0]
    assert image.notes[0].startswith(f"{name}: ")
    assert bool(image.volume.data.isfinite().all())
    if fault[:2] not in ("20", "39", "40"):
        assert image.volume.data[0].numpy() == pytest.approx(phantom().T.astype("f4"))
    if fault[:2] not in ("39", "40"):
        tolerance = 0.05 if fault[:2] == "37" else 1e-4
        assert image.volume.geometry.voxel_to_world.numpy() == pytest.approx(lps(), abs=tolerance)


def test_01_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.nii.gz", tmp_path / "none" / "a.nii"):
        with pytest.raises(NeuroregError, match="no such file") as caught:
            read_image(path)
        assert caught.value.exit_code == 66


def test_13_huge_dims_take_no_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", patched(IMAGE, dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in (path, save(tmp_path / "b.nii.gz", patched(IMAGE, dim=[3, 760, 760, 760, 1, 1, 1, 1]))):
        with pytest.raises(NeuroregError):
            read_image(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_14_gzip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(bomb())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NeuroregError, match="max-voxels") as caught:
        read_image(path)
    assert caught.value.exit_code == 65
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_14_a_constant_ratio_is_no_bomb(tmp_path: Path) -> None:
    data = np.zeros((128, 128, 128), "i2")
    data[40:80, 40:80, 40:80] = 1  # packs better than 170:1
    assert (
        read_image(
            save(tmp_path / "a.nii.gz", nifti(data, np.diag([1.5, 1.5, 1.5, 1]), quatern=[0, 0, 0]))
        ).notes
        == ()
    )


def test_16_a_folder(tmp_path: Path) -> None:
    (tmp_path / "full2.nii").mkdir()
    with pytest.raises(NeuroregError, match="folder") as caught:
        read_image(tmp_path / "full2.nii")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "full2.nii"]


@pytest.mark.parametrize(
    "name", ["größe 脳.nii.gz", "a b.nii", "$(touch x);`id`.nii.gz", "[red].nii", "=cmd|x.nii"]
)
def test_17_odd_names(name: str, tmp_path: Path) -> None:
    assert read_image(save(tmp_path / name, IMAGE)).notes == ()


def test_18_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/bad\xff.nii"
    with open(raw, "wb") as stream:
        stream.write(IMAGE)
    with pytest.raises(NeuroregError, match="UTF-8") as caught:
        read_image(Path(os.fsdecode(raw)))
    assert caught.value.exit_code == 2
    str(caught.value).encode("utf-8")  # the message itself can be printed


def test_19_pipes_and_devices(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (tmp_path / "pipe.nii", Path("/dev/zero"), Path("-"), Path("/dev/stdin")):
        with pytest.raises(NeuroregError) as caught:
            read_image(path)
        assert caught.value.exit_code == 2


def test_20_nan_is_counted_and_masked(tmp_path: Path) -> None:
    data = phantom(dtype="f4")
    data[3, 4, 5], data[6, 7, 8], data[1, 2, 3] = np.nan, np.inf, -np.inf
    image = read_image(save(tmp_path / "a.nii.gz", nifti(data)))
    assert "3 NaN or infinite voxels" in image.notes[0]
    assert image.invalid is not None
    assert sorted(map(tuple, image.invalid[0].nonzero().tolist())) == [(3, 2, 1), (5, 4, 3), (8, 7, 6)]
    assert image.volume.data[0, 5, 4, 3] == 0


def test_24_large_labels_are_exact(tmp_path: Path) -> None:
    data = np.zeros((33, 30, 27), "i8")
    data[5, 6, 7], data[8, 9, 10] = 16_777_217, 2**31 - 1
    labels = read_labels(save(tmp_path / "a.nii.gz", nifti(data)))
    assert labels.volume.data[0, 7, 6, 5] == 16_777_217
    assert labels.volume.data[0, 10, 9, 8] == 2**31 - 1
    data[1, 1, 1] = 2**40 + 1
    labels = read_labels(save(tmp_path / "b.nii.gz", nifti(data)))
    assert labels.volume.data[0, 1, 1, 1] == 2**40 + 1


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_25_every_number_type(dtype: str, order: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", nifti(phantom(dtype=dtype), order=order))
    image = read_image(path)
    assert image.pixel_type == np.dtype(dtype).name
    assert image.volume.data[0].numpy() == pytest.approx(phantom(dtype=dtype).T.astype("f8"), rel=1e-6)


def test_29_labels_that_are_no_integers(tmp_path: Path) -> None:
    data = np.rint(phantom(dtype="f4"))
    assert read_labels(save(tmp_path / "a.nii", nifti(data))).volume.data.max() == data.max()
    data[4, 5, 6] += 0.5
    for content in (nifti(data), nifti(phantom(), scl_slope=0.3), nifti(data * np.float32(np.nan))):
        with pytest.raises(NeuroregError, match="whole numbers") as caught:
            read_labels(save(tmp_path / "b.nii", content))
        assert caught.value.exit_code == 65


def test_31_a_chosen_frame(tmp_path: Path) -> None:
    frames = [phantom(seed=seed) for seed in range(3)]
    path = save(tmp_path / "a.nii.gz", nifti(np.stack(frames, -1)))
    image = read_image(path, frame=1)
    assert image.volume.data[0].numpy() == pytest.approx(frames[1].T.astype("f4"))
    assert "frame 1 of 3" in image.notes[0]
    with pytest.raises(NeuroregError) as caught:
        read_image(path, frame=3)
    assert caught.value.exit_code == 2


def test_31_a_frame_of_a_single_volume_is_the_volume(tmp_path: Path) -> None:
    """One --frame serves a pair of which only one side has frames; ``check_frame`` asks that one has."""
    image = read_image(save(tmp_path / "a.nii.gz", nifti(phantom())), frame=1)
    assert image.volume.data[0].numpy() == pytest.approx(phantom().T.astype("f4"))
    assert (image.notes, image.frames) == ((), 1)


@pytest.mark.parametrize(
    ("content", "unsure"),
    [
        (nifti(phantom()), False),
        (nifti(phantom(), sform_code=0), False),
        (nifti(phantom(), qform_code=0), False),
        (nifti(phantom(), qform_code=0, sform_code=0), True),
        (nifti(phantom(), pixdim=NEGATIVE), True),
    ],
)
def test_whether_a_header_leaves_left_and_right_in_doubt(
    content: bytes, unsure: bool, tmp_path: Path
) -> None:
    assert read_image(save(tmp_path / "a.nii", content)).unsure_sides is unsure


def test_39_mirrored_frames_leave_left_and_right_in_doubt_whichever_is_chosen(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", mirrored_sform())
    assert all(read_image(path, xform=xform).unsure_sides for xform in ("sform", "qform"))


def test_35_never_flips(tmp_path: Path) -> None:
    # SimpleITK mirrors this file; the quaternion alone says how the axes lie.
    plain = read_image(save(tmp_path / "a.nii", nifti(phantom(), sform_code=0)))
    negative = read_image(save(tmp_path / "b.nii", nifti(phantom(), sform_code=0, pixdim=NEGATIVE)))
    assert negative.volume.geometry == plain.volume.geometry


def test_37_shear_is_repaired_or_passed(tmp_path: Path) -> None:
    passed = read_image(save(tmp_path / "a.nii", sheared(1e-4)))
    assert passed.notes == ()
    repaired = read_image(save(tmp_path / "b.nii", sheared(9e-4))).volume.geometry
    axes = np.array(repaired.direction).reshape(3, 3)
    assert axes.T @ axes == pytest.approx(np.eye(3), abs=1e-12)


def test_39_the_chosen_form_is_used(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", moved_sform(5.0))
    expected = {"sform": -(AFFINE_RAS[0, 3] + 5.0), "qform": -AFFINE_RAS[0, 3]}
    for xform in ("sform", "qform"):
        image = read_image(path, xform=xform)
        assert image.volume.geometry.origin[0] == pytest.approx(expected[xform], abs=1e-5)
        assert f"the {xform} was used" in image.notes[0]
    with pytest.raises(NeuroregError, match="no qform"):
        read_image(save(tmp_path / "b.nii", nifti(phantom(), qform_code=0)), xform="qform")


@pytest.mark.parametrize(("codes", "used"), [((1, 1), "sform"), ((2, 1), "sform"), ((4, 1), "sform"),
                                             ((1, 2), "qform"), ((1, 4), "qform"), ((2, 4), "qform")])  # fmt: skip
def test_39_itk_s_choice_within_a_millimetre(codes: tuple[int, int], used: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", patched(moved_sform(0.3), qform_code=codes[0], sform_code=codes[1]))
    assert f"the {used} was used" in read_image(path).notes[0]


def test_45_label_grid_differs(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii", IMAGE))
    check_same_grid(read_labels(save(tmp_path / "b.nii", IMAGE)), image)
    for content in (moved_affine(0.01), nifti(phantom((33, 30, 28)))):
        with pytest.raises(NeuroregError, match="grid") as caught:
            check_same_grid(read_labels(save(tmp_path / "c.nii", content)), image)
        assert caught.value.exit_code == 65
    check_same_grid(read_labels(save(tmp_path / "d.nii", moved_affine(0.0005))), image)


def moved_affine(millimetres: float) -> bytes:
    affine = AFFINE_RAS.copy()
    affine[0, 3] += millimetres
    return nifti(phantom(), affine, quatern=list(QUATERNION))


def test_46_an_empty_label_map_is_no_error(tmp_path: Path) -> None:
    assert read_labels(save(tmp_path / "a.nii", nifti(np.zeros((33, 30, 27), "u1")))).volume.data.max() == 0


def test_a_native_crash_is_impossible_for_a_bad_name(tmp_path: Path) -> None:
    code = "import os, sys; from neuroreg.io.images import read_image\n"
    code += "read_image(os.fsdecode(sys.argv[1].encode('latin-1')))"
    done = subprocess.run(
        [sys.executable, "-c", code, "bad\xff.nii"], capture_output=True, check=False, text=True
    )
    assert done.returncode == 1
    assert "UsageError" in done.stderr


def test_labels_in_unsigned_64_bits(tmp_path: Path) -> None:
    data = np.zeros((33, 30, 27), "u8")
    data[3, 3, 3] = 2**63 + 5
    with pytest.raises(NeuroregError, match="64 bits"):
        read_labels(save(tmp_path / "a.nii", nifti(data)))


def test_header_extension_is_passed_over(tmp_path: Path) -> None:
    extension = struct.pack("<2i", 48, 6) + b"PatientName^Secret".ljust(40, b"\0")
    content = patched(IMAGE[:348] + b"\1\0\0\0" + extension + IMAGE[352:], vox_offset=400.0)
    image = read_image(save(tmp_path / "a.nii.gz", content))
    assert image.volume.data[0].numpy() == pytest.approx(phantom().T.astype("f4"))
    assert image.notes == ()
