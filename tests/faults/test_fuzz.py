"""Damaged files of every kind, at random but seeded: an error with its code, or exactly what the bytes say.

The suite tries a few hundred; ``NEUROREG_FUZZ=10000 pytest -m faults tests/faults/test_fuzz.py`` tries as many.
Where a format has a checksum, no damage may pass. Where it has none, what passes is held to an independent reader.
"""

import gzip
import os
import resource
import signal
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nifti_bytes import AFFINE_RAS, SPACING, nifti, phantom
from numpy.typing import NDArray
from test_writing import CHAIN, FIELD, GRID, MATRIX

from neuroreg.cli import run
from neuroreg.errors import NeuroregError
from neuroreg.io.images import read_image, write_image
from neuroreg.io.transforms import read_transform, write_transform
from neuroreg.transforms import Affine
from neuroreg.volume import Volume

pytestmark = pytest.mark.faults

COUNT = int(os.environ.get("NEUROREG_FUZZ", "1400"))
SECONDS = 5
CODES = {65, 75}  # the data is bad, or would need more memory than there is
POINTS = GRID.points()[::4, ::5, ::6].reshape(-1, 3)


def nifti2() -> bytes:
    """The same phantom with the header of NIfTI-2, by hand."""
    header = bytearray(544)
    struct.pack_into("<i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
    struct.pack_into("<8q", header, 16, 3, 33, 30, 27, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1.0, *SPACING, 0, 0, 0, 0)
    struct.pack_into("<q2d", header, 168, 544, 0.0, 0.0)
    struct.pack_into("<2i", header, 344, 0, 2)
    struct.pack_into("<12d", header, 400, *AFFINE_RAS[:3].reshape(-1))
    struct.pack_into("<2i", header, 496, 0, 2)
    return bytes(header) + phantom().tobytes(order="F")


def written(name: str, write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    """The bytes of a file that ``write`` makes in a folder."""

    def make(folder: Path) -> bytes:
        (folder / name).unlink(missing_ok=True)
        write(folder / name)
        return (folder / name).read_bytes()

    return make


def by_itk(path: Path) -> None:
    """The same chain as ITK writes it, in double precision."""
    grid = FIELD.geometry
    vectors = sitk.GetImageFromArray(FIELD.data.movedim(0, -1).double().numpy(), isVector=True)
    vectors.SetSpacing(grid.spacing)
    vectors.SetOrigin(grid.origin)
    composite = sitk.CompositeTransform(3)
    composite.AddTransform(sitk.AffineTransform(MATRIX[:3, :3].reshape(-1).tolist(), MATRIX[:3, 3].tolist()))
    composite.AddTransform(sitk.DisplacementFieldTransform(vectors))
    sitk.WriteTransform(composite, str(path))


IMAGE = Volume(torch.from_numpy(phantom(dtype="f4").T.copy())[None], GRID)
AFFINE = Affine(MATRIX)


@dataclass(frozen=True)
class Kind:
    """One kind of file to damage."""

    name: str
    make: Callable[[Path], bytes]
    header: int | bytes | None = None
    """damage only this many bytes, or what comes before these: behind lie numbers, with or without a checksum"""
    sealed: bool = False
    """every byte is under a checksum: what is accepted is what was written"""
    packed: bool = False
    """compressed after the damage was done"""


KINDS = {
    "NIfTI-1": Kind("a.nii", lambda _: nifti(phantom()), header=352),
    "NIfTI-1, big": Kind("a.nii", lambda _: nifti(phantom(), order=">"), header=352),
    "NIfTI-1 inside gzip": Kind("a.nii.gz", lambda _: nifti(phantom()), header=352, packed=True),
    "NIfTI-2": Kind("a.nii", lambda _: nifti2(), header=544),
    "gzip": Kind("a.nii.gz", lambda _: gzip.compress(nifti(phantom()), 1, mtime=0), sealed=True),
    "MetaImage": Kind("a.mha", written("a.mha", lambda path: write_image(IMAGE, path))),
    "NRRD": Kind("a.nrrd", written("a.nrrd", lambda path: write_image(IMAGE, path))),
    "MetaImage, header": Kind(
        "a.mha", written("a.mha", lambda path: write_image(IMAGE, path)), header=b"LOCAL"
    ),
    "NRRD, header": Kind("a.nrrd", written("a.nrrd", lambda path: write_image(IMAGE, path)), header=b"\n\n"),
    "field": Kind("f.nii.gz", written("f.nii.gz", lambda path: write_transform(FIELD, path)), sealed=True),
    "HDF5": Kind("t.h5", written("t.h5", lambda path: write_transform(CHAIN, path)), sealed=True),
    "HDF5 of ITK": Kind("t.h5", written("t.h5", by_itk)),
    "MATLAB": Kind("t.mat", written("t.mat", lambda path: write_transform(AFFINE, path))),
    "text": Kind("t.tfm", written("t.tfm", lambda path: write_transform(AFFINE, path))),
}


def damaged(content: bytes, reach: int, generator: np.random.Generator) -> bytes:
    """One to three accidents within the first ``reach`` bytes; the ends of a file are hit more often."""
    out = bytearray(content)
    for _ in range(int(generator.integers(1, 4))):
        end = min(reach, len(out))
        if end < 2:
            break
        edge = min(end, 6000)
        place = int(
            generator.choice(
                [generator.integers(end), generator.integers(edge), end - 1 - generator.integers(edge)]
            )
        )
        length = min(int(generator.integers(1, 40)), end - place)
        match int(generator.integers(7)):
            case 0 | 1:
                out[place] ^= 1 << int(generator.integers(8))
            case 2:
                out[place] = int(generator.integers(256))
            case 3:
                out[place] = int(generator.choice(list(b"0123456789-.eE \n")))
            case 4:
                out[place : place + length] = bytes(length)
            case 5 if reach >= len(content):
                del out[place : place + int(generator.choice([length, len(out)]))]
            case 6 if reach >= len(content):
                out[place:place] = generator.bytes(length)
            case _:
                out[place : place + length] = generator.bytes(length)
    return bytes(out)


class Hang(BaseException):
    """Reading took too long."""


def alarm(_: int, __: FrameType | None) -> None:
    raise Hang


def outcome(path: Path) -> object:
    """What reading ends in: the content, or an error of the family."""
    read = read_image if path.name.startswith("a") else read_transform
    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(SECONDS)
    try:
        return read(path)
    except NeuroregError as error:
        return error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    what = KINDS[kind]
    path = tmp_path / what.name
    content = what.make(tmp_path)
    path.write_bytes(gzip.compress(content, 1) if what.packed else content)
    sound, reach = outcome(path), len(content)
    if what.header is not None:
        reach = what.header if isinstance(what.header, int) else content.index(what.header)
    assert not isinstance(sound, NeuroregError)
    ends: Counter[str] = Counter()
    wrong: list[int] = []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(-(-COUNT // len(KINDS))):
        generator = np.random.default_rng((len(kind), content[0], number))
        broken = damaged(content, reach, generator)
        path.write_bytes(gzip.compress(broken, 1) if what.packed else broken)
        found = outcome(path)
        if isinstance(found, NeuroregError):
            assert found.exit_code in CODES, (number, str(found))
            assert "\n" not in str(found), number
            assert str(tmp_path) not in str(found), number
            ends[str(found.exit_code)] += 1
        elif same(found, sound):
            ends["same"] += 1
        else:
            verdict = "wrong" if what.sealed else judged(path, found)
            ends[verdict] += 1
            wrong += [number] if verdict == "wrong" else []
    record_property("ends", dict(ends))
    print(kind, dict(ends))
    assert wrong == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 150_000  # KiB


def same(found: object, sound: object) -> bool:
    """Whether both are the same image or the same map."""
    if hasattr(found, "volume"):
        one, two = found.volume, sound.volume
        return one.geometry.same_grid(two.geometry) and torch.equal(one.data, two.data)
    return torch.equal(found(POINTS), sound(POINTS))


def judged(path: Path, found: object) -> str:
    """How an accepted file compares to what an independent reader makes of it."""
    if not hasattr(found, "volume"):
        return judged_transform(path, found)
    return judged_nifti(path, found) if "nii" in path.name else judged_by_itk(path, found)


def judged_transform(path: Path, found: object) -> str:
    try:
        theirs = sitk.ReadTransform(str(path))
    except RuntimeError:
        return "ITK refuses it"
    expected = np.array([theirs.TransformPoint(point) for point in POINTS[::9].tolist()])
    return (
        "as ITK reads it"
        if np.allclose(found(POINTS[::9]).numpy(), expected, rtol=1e-6, atol=1e-6)
        else "wrong"
    )


def judged_by_itk(path: Path, found: object) -> str:
    try:
        theirs = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError:
        return "ITK refuses it"
    grid = found.volume.geometry
    numbers = (*theirs.GetSpacing(), *theirs.GetOrigin(), *theirs.GetDirection())
    agree = np.allclose(numbers, (*grid.spacing, *grid.origin, *grid.direction), rtol=1e-4, atol=2e-3)
    agree &= np.array_equal(sitk.GetArrayFromImage(theirs), found.volume.data[0].numpy())
    return "as ITK reads it" if agree else "noted" if found.notes else "wrong"


def judged_nifti(path: Path, found: object) -> str:
    nibabel = pytest.importorskip("nibabel")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = nibabel.load(path)
            voxels = np.asarray(theirs.dataobj, np.float64).squeeze()
            frames = [theirs.header.get_qform(coded=True)[0], theirs.header.get_sform(coded=True)[0]]
    except Exception:  # noqa: BLE001  # whatever another reader does with damaged files
        return "nibabel refuses it"
    with np.errstate(all="ignore"):
        values = np.nan_to_num(voxels.astype("f4"), nan=0.0, posinf=0.0, neginf=0.0)
    if values.T.shape != found.volume.data[0].shape or not np.array_equal(
        values.T, found.volume.data[0].numpy()
    ):
        return "noted" if found.notes else "wrong"
    if any(frame is not None and close(frame, found.volume) for frame in frames):
        return "as nibabel reads it"
    return "noted" if found.notes else "wrong"


def close(frame: NDArray[np.float64], volume: Volume) -> bool:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ frame
    return np.allclose(volume.geometry.voxel_to_world.numpy(), lps, rtol=1e-3, atol=2e-3)


def test_a_damaged_image_stops_the_command_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = gzip.compress(nifti(phantom()), 1, mtime=0)
    (tmp_path / "fixed.nii.gz").write_bytes(content)
    moving = tmp_path / "a.nii.gz"
    words = [
        "register",
        str(tmp_path / "fixed.nii.gz"),
        str(moving),
        "-o",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    codes: Counter[int] = Counter()
    for number in range(-(-COUNT // 40)):
        generator = np.random.default_rng((5, number))
        moving.write_bytes(damaged(content, len(content), generator) if number % 2 else
                           gzip.compress(damaged(nifti(phantom()), 352, generator), 1))  # fmt: skip
        code = run([*words, "--method", "gaussnewton"])
        _, err = capfd.readouterr()
        codes[code] += 1
        assert code in {0, *CODES}, (number, err)
        assert (len([line for line in err.splitlines() if "error[" in line]) == 1) == (code != 0), err
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
    print(dict(codes))
    assert codes[65] > codes[0] > 0
