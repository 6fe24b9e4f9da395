"""Text headers with a damaged line: refused or said, never read as if the line had not been there."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.errors import DataError
from neuroreg.io.images import read_image

VALUES = np.random.default_rng(0).random((18, 17, 20)).astype("f4")


def written(path: Path, *, compressed: bool = False) -> bytes:
    """An oblique image away from the origin, by SimpleITK."""
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((3.0, 4.0, 5.0))
    image.SetOrigin((-31.0, 22.5, -17.25))
    image.SetDirection((0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path), compressed)
    return path.read_bytes()


def changed(path: Path, old: bytes, new: bytes, *, compressed: bool = False) -> Path:
    content = written(path, compressed=compressed)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    return path


@pytest.mark.parametrize(("old", "said"), [
    (b"Offset", "no Offset"), (b"TransformMatrix", "no TransformMatrix"), (b"CenterOfRotation", "'CxnterOfRotation'"),
])  # fmt: skip
def test_a_damaged_name_in_a_metaimage_is_said(tmp_path: Path, old: bytes, said: str) -> None:
    found = read_image(changed(tmp_path / "a.mha", old, old[:1] + b"x" + old[2:]))
    assert any(said in note for note in found.notes)
    assert any("was not read" in note for note in found.notes)
    assert found.unsure_sides == (old == b"TransformMatrix")


def test_a_damaged_name_in_a_nrrd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no field of NRRD"):
        read_image(changed(tmp_path / "a.nrrd", b"space origin", b"spice origin"))


def test_a_nrrd_without_its_origin_is_said(tmp_path: Path) -> None:
    content = written(tmp_path / "a.nrrd")
    start = content.index(b"space origin")
    (tmp_path / "a.nrrd").write_bytes(content[:start] + content[content.index(b"\n", start) + 1 :])
    found = read_image(tmp_path / "a.nrrd")
    assert found.volume.geometry.origin == (0, 0, 0)
    assert any("no space origin" in note for note in found.notes)


def test_an_axis_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kinds"):
        read_image(changed(tmp_path / "a.nrrd", b"kinds: domain", b"kinds: domai~"))


def test_a_line_of_a_nrrd_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        read_image(changed(tmp_path / "a.nrrd", b"dimension: 3\n", b"dimension: 3\ndimension: 3\n"))


@pytest.mark.parametrize(
    ("value", "big"), [(b"True", True), (b"1", True), (b"t", True), (b"False", False), (b"0", False)]
)
def test_truth_is_spelt_as_metaio_reads_it(tmp_path: Path, value: bytes, big: bool) -> None:
    path = changed(tmp_path / "a.mha", b"MSB = False", b"MSB = " + value)
    if big:
        content = path.read_bytes()
        path.write_bytes(content.replace(VALUES.tobytes(), VALUES.astype(">f4").tobytes()))
    assert np.array_equal(read_image(path).volume.data[0].numpy(), VALUES)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VALUES)


@pytest.mark.parametrize(("old", "new"), [
    (b"MSB = False", b"MSB = 1 2"), (b"MSB = False", b"MSB = "), (b"-31", b"-3_1"), (b"22.5", b"2\x1a.5"),
    (b"CompressedDataSize = ", b"CompressedDataSize = x"), (b"NDims = 3\n", b"NDims = 3\nOffset = 0 0 0\n"),
])  # fmt: skip
def test_a_damaged_value_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    with pytest.raises(DataError):
        read_image(changed(tmp_path / "a.mha", old, new, compressed=True))


def test_a_nifti_beside_its_packed_name_is_not_mixed_up(tmp_path: Path) -> None:
    """ITK gives the voxels of a.nii for a.nii.gz where both are there."""
    for name, values in (("a.nii.gz", VALUES), ("a.nii", VALUES[::-1])):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((3.0, 4.0, 5.0))
        sitk.WriteImage(image, str(tmp_path / name))
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").volume.data[0].numpy(), VALUES)
    assert np.array_equal(read_image(tmp_path / "a.nii").volume.data[0].numpy(), VALUES[::-1])


def test_an_image_a_kilometre_away_is_refused(tmp_path: Path) -> None:
    """NIfTI-2 and NRRD can say so in double precision; NIfTI-1 could not hold it."""
    with pytest.raises(DataError, match="no head is there"):
        read_image(changed(tmp_path / "a.nrrd", b"(-31,", b"(-1e300,"))
